package Demo::Hosts;

=head1 NAME

Demo::Hosts - two nodes on one machine: network namespaces as root, loopback otherwise

=head1 SYNOPSIS

    Demo::Hosts::enter(@ARGV);
    my $hosts = Demo::Hosts->new;
    my @command = ($hosts->at_target, 'ip', 'address');

=head1 DESCRIPTION

As root, the demo restarts itself in a new network namespace, which is the source node. A second
namespace is the target, and a veth pair connects them. They have no other network. The namespaces
have no names. The kernel removes each with its last process, however the demo ends.

=cut

use v5.36;

use Cwd qw(abs_path);
use File::Basename qw(dirname);
use IO::Select;
use POSIX ();

use constant {
    # These addresses exist only in the two namespaces.
    SOURCE => '10.99.1.1',
    TARGET => '10.99.1.2',
    NETWORK => '10.99.1.0/24',
    NETWORK_ID => 'demo',
    LANES_NETWORK_ID => 'demo-lanes',
    START_LIMIT => 30,
};

my $ROOT = abs_path(dirname(__FILE__) . '/../../..');

# Set if the program was restarted in the namespace: the ID of that process.
my $MARK = 'PVE_TUNNEL_DEMO_NAMESPACE';

=head1 FUNCTIONS AND METHODS

=head2 enter

C<enter(@arguments)>: restarts the program in a new network namespace, if this is possible and has
not been done. Must be called before the program creates anything.

=cut

sub enter (@arguments) {
    return if $ENV{$MARK} || $>;
    # In a container, root may not be allowed to do this. The demo then uses loopback.
    return if system('unshare --net true 2>/dev/null') || system('ip -V >/dev/null 2>&1');
    local $ENV{$MARK} = $$;
    exec('unshare', '--net', $^X, $0, @arguments) or die "cannot run unshare: $!\n";
}

=head2 link_conditions

C<link_conditions($text)>: a hash for C<new> from a text such as C<40ms> or C<20ms,1%>, with
C<round_trip> (ms), C<loss> (percent) and C<text>; undef for undef. Dies if it is not such a text.

=cut

sub link_conditions ($text) {
    return if !defined $text;
    my ($round_trip, $loss) = $text =~ /\A(\d{1,4}(?:\.\d+)?)ms(?:,(\d{1,2}(?:\.\d+)?)%)?\z/
        or die "demo: LINK must be like 40ms or 20ms,1%, not '$text'\n";
    $loss //= 0;
    return {
        round_trip => $round_trip,
        loss => $loss,
        text => "a round trip of $round_trip ms and $loss % loss",
    };
}

=head2 new

Class method: creates the target's namespace and the veth pair. Uses loopback if C<enter> has not
created a namespace. Option: C<link>, a hash of C<link_conditions>. An emulated link then takes the
place of the veth pair.

=cut

sub new ($class, %option) {
    my $self = bless { owner => $$, processes => [] }, $class;
    # unshare keeps the process ID. If the mark was inherited, it is the ID of another process.
    if (($ENV{$MARK} // '') ne $$) {
        die "an emulated link requires root\n" if $option{link};
        return $self;
    }
    $self->{namespaces} = 1;
    $self->hold_target;
    my $pid = $self->{pid};
    run(qw(ip link set lo up));
    if ($option{link}) {
        $self->emulate_link($option{link});
    } else {
        run(qw(ip link add to-target type veth peer name to-source netns), $pid);
    }
    run(qw(ip address add), SOURCE . '/24', qw(dev to-target));
    run(qw(ip link set to-target up));
    run($self->at_target, qw(ip link set lo up));
    run($self->at_target, qw(ip address add), TARGET . '/24', qw(dev to-source));
    run($self->at_target, qw(ip link set to-source up));
    $self->use_cubic if $option{link};
    return $self;
}

=head2 namespaces

True if each node is a namespace, false if both use loopback.

=head2 source, target, network

The addresses of the nodes, and the migration network as CIDR.

=head2 configuration

The content of F</etc/pve/remote-migration.cfg> at the source: the migration network with the ID
C<NETWORK_ID>, for both types of migration, and the same network with several connections for a stream with the ID
C<LANES_NETWORK_ID>. A configured network requires no privilege, so the demonstration does not require root.

=head2 at_target

The words that precede a command to run it at the target.

=cut

sub namespaces ($self) { return $self->{namespaces} }
sub source ($self) { return $self->{namespaces} ? SOURCE : '127.0.0.1' }
sub target ($self) { return $self->{namespaces} ? TARGET : '127.0.0.1' }
sub network ($self) { return $self->{namespaces} ? NETWORK : '127.0.0.0/8' }

sub configuration ($self) {
    my $network = $self->network;
    return <<"END";
network: ${\NETWORK_ID}
\tcomment Between the two nodes of the demonstration
\tsource $network
\ttarget $network
\tallow secure,insecure

network: ${\LANES_NETWORK_ID}
\tcomment The same, with several connections for a stream
\tsource $network
\ttarget $network
\tlanes 8
END
}

sub at_target ($self) {
    return $self->{namespaces} ? ('nsenter', "--net=/proc/$self->{pid}/ns/net", '--') : ();
}

# Starts a process that keeps the target's namespace.
sub hold_target ($self) {
    my @command = ('unshare', '--net', 'sh', '-c', 'echo ready && exec cat');
    $self->{pid} = $self->start_process(@command)
        // die "cannot create a network namespace for the target\n";
    return;
}

# Starts the program that connects the two namespaces in place of a veth pair.
sub emulate_link ($self, $link) {
    my $program = "$ROOT/target/" . ($ENV{CARGO_PROFILE} // 'release') . '/emulated-link';
    die "'$program' is missing: build it with cargo build --release -p testing\n" if !-e $program;
    my @command = ($program, 'to-target', $self->{pid}, 'to-source', @$link{qw(round_trip loss)});
    $self->start_process(@command) // die "cannot emulate a link\n";
    return;
}

# The default of most nodes, whatever this machine uses. A connection starts without what the kernel
# has learnt from an earlier one.
sub use_cubic ($self) {
    for my $end (['to-target', SOURCE], ['to-source', TARGET, $self->at_target]) {
        my ($device, $address, @where) = @$end;
        my @route = (NETWORK, dev => $device, src => $address, congctl => 'cubic');
        run(@where, qw(ip route replace), @route);
        run(@where, qw(sh -c), 'echo 1 >/proc/sys/net/ipv4/tcp_no_metrics_save');
    }
    return;
}

# Starts a program that prints C<ready> and ends at the end of its input, when the demo ends. Returns
# its process ID, or undef if it is not ready.
sub start_process ($self, @command) {
    pipe(my $input, my $writer) or die "pipe: $!\n";
    pipe(my $reader, my $output) or die "pipe: $!\n";
    my $pid = fork() // die "fork: $!\n";
    if (!$pid) {
        open(STDIN, '<&', $input) or POSIX::_exit(127);
        open(STDOUT, '>&', $output) or POSIX::_exit(127);
        exec(@command) or POSIX::_exit(127);
    }
    push $self->{processes}->@*, [$pid, $writer];
    close($_) for $input, $output;
    my $line = IO::Select->new($reader)->can_read(START_LIMIT) ? readline($reader) : undef;
    return ($line // '') eq "ready\n" ? $pid : undef;
}

sub run (@command) {
    system(@command) == 0 or die "'@command' failed\n";
    return;
}

sub DESTROY ($self) {
    return if $self->{owner} != $$;
    local ($@, $?, $!);
    for my $process (reverse $self->{processes}->@*) {
        my ($pid, $writer) = @$process;
        close($writer);
        waitpid($pid, 0);
    }
    return;
}

1;
