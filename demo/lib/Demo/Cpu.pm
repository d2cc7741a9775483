package Demo::Cpu;

=head1 NAME

Demo::Cpu - the CPU time of the processes that transfer the data

=head1 SYNOPSIS

    my $cpu = Demo::Cpu->new($node);
    ...
    my $seconds = $cpu->seconds($tunnel);
    # { connector => 0.41, listener => 0.38, pveproxy => 0.02 }

=head1 DESCRIPTION

User and system time, as the kernel counts it. QEMU and the worker are not included: they do the
same work on every plane.

=cut

use v5.36;

use List::Util qw(sum);
use Time::HiRes qw(clock_gettime);

=head1 METHODS

=head2 new

Class method: C<< Demo::Cpu->new($node) >> for a L<TestNode::Node>. Must be called before the tunnel
is opened.

=head2 seconds

C<< $cpu->seconds($tunnel) >>: must be called after the migration and before C<finish_tunnel>, which
ends connector and listener. Returns a hash of seconds: C<connector>; C<listener>, 0 if there is
none; C<pveproxy>, the time of the test node, which replaces it.

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
        # A listener is a child of a worker, and a worker is a child of the node.
        listener => $of_children->(sub ($pid) { ($process{$pid}{parent} // 0) == $self->{node} }),
        pveproxy => of_process($self->{node}) - $self->{before},
    };
}

# The CPU-time clock of a process. Its ID is computed from the process ID, as clock_getcpuclockid(3)
# does. It counts nanoseconds, unlike the times in /proc.
sub of_process ($pid) {
    my $seconds = clock_gettime(-8 * ($pid + 1) + 2);
    return $seconds < 0 ? 0 : $seconds;
}

# Returns a hash: process ID to name and parent.
sub processes () {
    my %process;
    for my $file (glob '/proc/[0-9]*/stat') {
        # The process may have ended meanwhile.
        open(my $in, '<', $file) or next;
        local $/ = undef;
        my ($pid, $name, $parent) = (readline($in) // '') =~ /\A(\d+) \((.*)\) \S (\d+) /s or next;
        $process{$pid} = { name => $name, parent => $parent };
    }
    return %process;
}

1;
