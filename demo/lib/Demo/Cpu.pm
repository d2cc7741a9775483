package Demo::Cpu;

=head1 NAME

Demo::Cpu - the CPU time of the processes on the way

=head1 SYNOPSIS

    my $cpu = Demo::Cpu->new($node);
    ...
    my $seconds = $cpu->seconds($tunnel);    # { connector => 0.41, listener => 0.38, pveproxy => 0.02 }

=head1 DESCRIPTION

User and system time, from the kernel's accounts. QEMU's and the worker's are not counted: they do
the same work on every plane.

=cut

use v5.36;

use List::Util qw(sum);
use Time::HiRes qw(clock_gettime);

=head1 METHODS

=head2 new

Class method: C<< Demo::Cpu->new($node) >> for a L<TestNode::Node>. To be called before the tunnel
is opened.

=head2 seconds

C<< $cpu->seconds($tunnel) >>: to be called when everything has moved, and before the tunnel is
finished, as connector and listener end with it. Returns a hash of seconds: C<connector>;
C<listener>, 0 if there is none; C<pveproxy>, which is the test node in its place.

=cut

sub new ($class, $node) {
    my $pid = $node->{pid};
    return bless { node => $pid, before => of_process($pid) }, $class;
}

sub seconds ($self, $tunnel) {
    my %process = processes();
    my $of_children = sub ($is_parent) {
        return sum(
            0, map { of_process($_) }
                grep { $is_parent->($process{$_}{parent}) && $process{$_}{name} !~ /\Aqemu/ }
                keys %process
        );
    };
    return {
        connector => $of_children->(sub ($pid) { $pid == $tunnel->{pid} }),
        # A listener is its worker's child, and a worker the node's.
        listener => $of_children->(sub ($pid) { ($process{$pid}{parent} // 0) == $self->{node} }),
        pveproxy => of_process($self->{node}) - $self->{before},
    };
}

# Every process has a clock of its CPU time, whose number is made of the process ID: that is what
# clock_getcpuclockid(3) does. Unlike the times in /proc it counts nanoseconds.
sub of_process ($pid) {
    my $seconds = clock_gettime(-8 * ($pid + 1) + 2);
    return $seconds < 0 ? 0 : $seconds;
}

# Process ID to name and parent.
sub processes () {
    my %process;
    for my $file (glob '/proc/[0-9]*/stat') {
        # It may have ended since.
        open(my $in, '<', $file) or next;
        local $/ = undef;
        my ($pid, $name, $parent) = (readline($in) // '') =~ /\A(\d+) \((.*)\) \S (\d+) /s or next;
        $process{$pid} = { name => $name, parent => $parent };
    }
    return %process;
}

1;
