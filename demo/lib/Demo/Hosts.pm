package Demo::Hosts;

=head1 NAME

Demo::Hosts - two nodes on one machine: network namespaces as root, loopback otherwise

=head1 SYNOPSIS

    Demo::Hosts::enter(@ARGV);
    my $hosts = Demo::Hosts->new;
    my @command = ($hosts->at_target, 'ip', 'address');

=head1 DESCRIPTION

As root, the demo itself moves into a fresh network namespace, which is the source node; a second
one is the target, and a veth pair is the wire. Neither has a way out. Both are nameless: they go
with the last process in them, so that nothing is left behind however the demo ends.

=cut

use v5.36;

use IO::Select;
use POSIX ();

use constant {
    # Only ever seen inside the two namespaces.
    SOURCE => '10.99.1.1',
    TARGET => '10.99.1.2',
    NETWORK => '10.99.1.0/24',
    NETWORK_ID => 'demo',
    START_LIMIT => 30,
};

# Set in the second life of the program, the one inside the namespace.
my $MARK = 'PVE_TUNNEL_DEMO_NAMESPACE';

=head1 FUNCTIONS AND METHODS

=head2 enter

C<enter(@arguments)>: starts the program again in a network namespace of its own if that is possible
and not done yet. To be called before anything is created.

=cut

sub enter (@arguments) {
    return if $ENV{$MARK} || $>;
    # In a container root may be refused this; loopback does then.
    return if system('unshare --net true 2>/dev/null') || system('ip -V >/dev/null 2>&1');
    local $ENV{$MARK} = $$;
    exec('unshare', '--net', $^X, $0, @arguments) or die "cannot run unshare: $!\n";
}

=head2 new

Class method: makes the target's namespace and the wire, or settles for loopback.

=cut

sub new ($class) {
    my $self = bless { owner => $$ }, $class;
    # unshare keeps the process ID: a mark that was merely inherited names another process.
    return $self if ($ENV{$MARK} // '') ne $$;
    $self->{namespaces} = 1;
    $self->hold_target;
    my $pid = $self->{pid};
    run(qw(ip link set lo up));
    run(qw(ip link add to-target type veth peer name to-source netns), $pid);
    run(qw(ip address add), SOURCE . '/24', qw(dev to-target));
    run(qw(ip link set to-target up));
    run($self->at_target, qw(ip link set lo up));
    run($self->at_target, qw(ip address add), TARGET . '/24', qw(dev to-source));
    run($self->at_target, qw(ip link set to-source up));
    return $self;
}

=head2 namespaces

True if the nodes are namespaces, false if they share loopback.

=head2 target, network

The target node's address, and the migration network as CIDR.

=head2 configuration

What an administrator of the source would write into F</etc/pve/remote-migration.cfg>: the migration
network by the name of C<NETWORK_ID>, for both kinds of migration. Who migrates needs no privilege
for a network that is configured, so the demonstration needs no root.

=head2 at_target

What to put in front of a command to run it at the target.

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
END
}

sub at_target ($self) {
    return $self->{namespaces} ? ('nsenter', "--net=/proc/$self->{pid}/ns/net", '--') : ();
}

# A namespace lives while a process is in it: this one waits for the end of its input, which is our
# end.
sub hold_target ($self) {
    pipe(my $input, my $writer) or die "pipe: $!\n";
    pipe(my $reader, my $output) or die "pipe: $!\n";
    my $pid = fork() // die "fork: $!\n";
    if (!$pid) {
        open(STDIN, '<&', $input) or POSIX::_exit(127);
        open(STDOUT, '>&', $output) or POSIX::_exit(127);
        exec('unshare', '--net', 'sh', '-c', 'echo ready && exec cat') or POSIX::_exit(127);
    }
    @$self{qw(pid writer)} = ($pid, $writer);
    close($_) for $input, $output;
    my $line = IO::Select->new($reader)->can_read(START_LIMIT) ? readline($reader) : undef;
    die "cannot make a network namespace for the target\n" if ($line // '') ne "ready\n";
    return;
}

sub run (@command) {
    system(@command) == 0 or die "'@command' failed\n";
    return;
}

sub DESTROY ($self) {
    return if !$self->{pid} || $self->{owner} != $$;
    local ($@, $?, $!);
    close($self->{writer});
    waitpid($self->{pid}, 0);
    return;
}

1;
