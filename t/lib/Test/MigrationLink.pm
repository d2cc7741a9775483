package Test::MigrationLink;

# The link of a migration network between two nodes, whose packets and connections a test can lose.

use v5.36;

use IO::Socket::IP;

use Demo::Hosts;
use Test::Processes qw(connections_to);

=head1 NAME

Test::MigrationLink - a link between two nodes that can lose packets and connections

=head1 SYNOPSIS

    use Test::PrivateNetwork;

    my $link = Test::MigrationLink->new;
    plan skip_all => $link->missing if $link->missing;
    my $node = TestNode::Node->start(listen => $link->node, wrap => [$link->at_target], ...);
    ...
    $link->drop;
    $link->reset(map { $_->{port} } $link->connections);
    $link->deliver;

=head1 DESCRIPTION

Source and target are network namespaces. The veth pair between them has two networks: one for the
API of the target, and the migration network. Only packets and connections of the migration network
are lost, as if another switch carried it.

The kernel drops packets in a BPF filter at the receiving interface, which also works on kernels
without netem and without nftables. It resets connections as C<ss -K> requests.

=head1 METHODS

=head2 new

Class method. Creates the link, in a namespace of L<Test::PrivateNetwork>.

=head2 missing

What this system lacks for such a link, or undef. No other method may be called if it is not undef.

=head2 node, network, at_target

The address of the target for its API; the migration network; and the words that precede a command
to run it at the target.

=head2 listener($port)

The port of the listener, to be set before the methods below are called.

=head2 connections

The source's connections to the listener, as L<Test::Processes/connections_to> returns them.

=head2 drop, drop_only($port), deliver

C<drop> drops all packets of the migration network in both directions, without an error at either
node. C<drop_only> continues to drop those of the source's connection with that port, and delivers
all others. C<deliver> delivers all packets.

=head2 reset(@ports)

Resets the connections with these ports of the source, at both nodes. Each program receives an error
from its socket, and the data in the buffers of the kernel is lost.

=cut

use constant {
    SOURCE => '10.99.2.1',
    TARGET => '10.99.2.2',
    NETWORK => '10.99.2.0/24',
};

# The interfaces of Demo::Hosts.
use constant { AT_SOURCE => 'to-target', AT_TARGET => 'to-source' };

# Preferences of the filters.
use constant { ALL => 1, ONE => 2 };

# Offsets from the start of an Ethernet frame: the destination address of IPv4, and the ports of TCP
# behind a header without options.
use constant { DESTINATION => 30, PORTS => 34 };

sub new ($class) {
    my $self = bless {}, $class;
    $self->{missing} = $self->create;
    return $self;
}

# Returns what is missing.
sub create ($self) {
    return 'only root can create network namespaces' if $>;
    for my $command (qw(tc ss)) {
        return "no command '$command': install iproute2" if system("$command -V >/dev/null 2>&1");
    }
    $self->{hosts} = Demo::Hosts->new;
    return 'network namespaces cannot be created here' if !$self->{hosts}->namespaces;
    run(qw(ip address add), SOURCE . '/24', 'dev', AT_SOURCE);
    run($self->at_target, qw(ip address add), TARGET . '/24', 'dev', AT_TARGET);
    my $filtered = eval {
        for my $end ([AT_SOURCE], [AT_TARGET, $self->at_target]) {
            my ($device, @where) = @$end;
            run(@where, qw(tc qdisc add dev), $device, 'clsact');
        }
        $self->drop;
        $self->deliver;
        1;
    };
    return 'the kernel has no BPF filters at interfaces (cls_bpf, sch_ingress)' if !$filtered;
    return 'the kernel does not reset connections (CONFIG_INET_DIAG_DESTROY)' if !can_reset();
    return;
}

sub missing ($self) { return $self->{missing} }
sub node ($self) { return $self->{hosts}->target }
sub network ($) { return NETWORK }
sub at_target ($self) { return $self->{hosts}->at_target }

sub listener ($self, $port) {
    $self->{listener} = $port;
    return;
}

sub connections ($self) { return connections_to($self->{listener}) }

sub drop ($self) {
    # First at the target: otherwise data would arrive whose acknowledgement is lost.
    filter(AT_TARGET, ALL, DESTINATION, number(TARGET), $self->at_target);
    filter(AT_SOURCE, ALL, DESTINATION, number(SOURCE));
    return;
}

sub drop_only ($self, $port) {
    my $listener = $self->{listener};
    filter(AT_SOURCE, ONE, PORTS, $listener << 16 | $port);
    filter(AT_TARGET, ONE, PORTS, $port << 16 | $listener, $self->at_target);
    $self->remove_filters('pref', ALL);
    return;
}

sub deliver ($self) {
    $self->remove_filters;
    return;
}

sub reset ($self, @ports) { ## no critic (ProhibitBuiltinHomonyms)
    my $listener = $self->{listener};
    destroy("dport = :$listener and ( " . join(' or ', map { "sport = :$_" } @ports) . ' )');
    destroy(
        "sport = :$listener and ( " . join(' or ', map { "dport = :$_" } @ports) . ' )',
        $self->at_target
    );
    return;
}

# Drops packets that have this value of 32 bits at the offset.
sub filter ($device, $preference, $offset, $value, @where) {
    # Load the value; compare; 2 is TC_ACT_SHOT, and -1 leaves the packet to the next filter.
    my $program = "4,32 0 0 $offset,21 0 1 $value,6 0 0 2,6 0 0 4294967295";
    run(
        @where, qw(tc filter add dev), $device, 'ingress', 'pref', $preference,
        qw(protocol ip bpf direct-action bytecode), $program
    );
    return;
}

sub remove_filters ($self, @which) {
    run(qw(tc filter del dev), AT_SOURCE, 'ingress', @which);
    run($self->at_target, qw(tc filter del dev), AT_TARGET, 'ingress', @which);
    return;
}

sub destroy ($expression, @where) {
    run(@where, qw(ss -HtnK), $expression);
    return;
}

# ss reports success on a kernel that ignores the request.
sub can_reset () {
    my $listener = IO::Socket::IP->new(LocalHost => '127.0.0.1', Listen => 1) or return 0;
    my $port = $listener->sockport;
    my $client = IO::Socket::IP->new(PeerHost => '127.0.0.1', PeerPort => $port) or return 0;
    destroy("dport = :$port");
    return !connections_to($port);
}

sub number ($address) { return unpack('N', pack('C4', split(/[.]/, $address))) }

sub run (@command) {
    my $pid = fork() // die "fork: $!\n";
    if (!$pid) {
        open(STDOUT, '>', '/dev/null') or die "/dev/null: $!\n";
        exec(@command) or die "cannot run '@command': $!\n";
    }
    waitpid($pid, 0);
    die "'@command' failed\n" if $?;
    return;
}

1;
