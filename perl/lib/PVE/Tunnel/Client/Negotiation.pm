package PVE::Tunnel::Client::Negotiation;

use v5.36;

use JSON ();

use PVE::Tunnel::Configuration;
use PVE::Tunnel::Native;
use PVE::Tunnel::Text;

use PVE::Tunnel::Client::Lines;

our $VERSION = '0.1.0';

# Variable for tests, and for a file in another place.
our $CONFIGURATION = $PVE::Tunnel::Configuration::FILE;

use constant {
    # Seconds for the whole negotiation. The connector's own limits for the worker's answers and for
    # its addresses are shorter, so that the error contains the connector's reason.
    DIRECT_LIMIT => 120,
};

# Default of the planes: every caller supports them. Plane qemu requires a caller that starts QEMU
# on TCP.
my @PLANES = qw(tls tcp);

# Every capability: the offer of a target that supports everything.
my @ALL_CAPS = qw(insecure-remote direct-tls direct-tcp);

sub wish ($conn, $tunnel_params) {
    my ($type, $network, $planes) =
        delete @$tunnel_params{qw(migration_type migration_network planes)};
    $planes //= [@PLANES];
    die "planes is not an array\n" if ref($planes) ne 'ARRAY';

    my $text = PVE::Tunnel::Configuration::read_file($CONFIGURATION);
    my %call = (migration_type => $type, migration_network => $network);
    my %source = (side => 'source', remote => $conn->{host}, %call);
    my $request = eval { PVE::Tunnel::Native::configuration_select($text, \%source) }
        // die "$CONFIGURATION: " . PVE::Tunnel::Text::reason($@) . "\n";

    # A migration that no target could do is refused before the first request to the target.
    my %known = map { $_ => $request->{$_} }
        qw(migration_type migration_network configured require_encryption);
    my $best =
        eval { PVE::Tunnel::Native::plan({ %known, planes => $planes, caps => [@ALL_CAPS] }) }
        // die PVE::Tunnel::Text::reason($@) . "\n";
    for my $needed (@{ $best->{privileges} }) {
        _require_privilege($request, @$needed{qw(privilege path)})
            if grep { $_ eq 'source' } @{ $needed->{on} };
    }
    return { %$request, planes => $planes };
}

sub _require_privilege ($request, $privilege, $path) {
    my $refusal = _refusal($privilege, $path) // return;
    my $what =
        $request->{migration_type} eq 'insecure'
        ? 'migration_type=insecure'
        : "migration_network=$request->{migration_network}";
    die "$what needs the privilege $privilege on '$path' at this node, and $refusal: ask an"
        . " administrator for it, omit $what, or have a network configured in $CONFIGURATION\n";
}

# Why the caller lacks the privilege, or undef. In Proxmox VE's daemons and commands
# PVE::RPCEnvironment has the API user. In other programs only the user of the process is known.
sub _refusal ($privilege, $path) {
    if (!PVE::RPCEnvironment->can('get')) {
        return if $> == 0;
        return 'only root has it outside of Proxmox VE\'s own programs';
    }
    my $environment = PVE::RPCEnvironment->can('get')->();
    my $user = $environment->get_user();
    return if $environment->check($user, $path, [$privilege], 1);
    return "user '$user' does not have it";
}

sub negotiate ($tunnel, $request) {
    my %data = (%$request, caps => [@{ $tunnel->{caps} }, @{ $tunnel->{unknown_caps} }]);
    $data{api} = $tunnel->{params} if @{ $data{planes} };
    my $origin = delete $data{reason};
    my $command = { control => JSON::true, cmd => 'direct', data => \%data };
    my $answer = PVE::Tunnel::Client::Lines::ask($tunnel, DIRECT_LIMIT, $command);
    my ($plan, $direct) = @$answer{qw(plan direct)};
    die "the connector's answer has no plan\n" if ref($plan) ne 'HASH';
    @$tunnel{qw(plan direct rules)} = ($plan, $direct, $answer->{rules});

    my $log = $tunnel->{log};
    for my $warning (@{ $plan->{warnings} }) {
        # Some logs do not show levels.
        my $text = $warning =~ /\AWARNING\b/ ? $warning : "WARNING: $warning";
        PVE::Tunnel::Client::Lines::log_line($log, 'warn', $text);
    }
    my $decision = join(': ', _description($plan, $direct), join('; ', $plan->{reason}, $origin));
    PVE::Tunnel::Client::Lines::log_line($log, 'info', $decision);
    return;
}

sub _description ($plan, $direct) {
    my $forwards = $direct ? _listener($direct) : 'through the target\'s API, encrypted';
    my $network = defined($plan->{network}) ? ", network $plan->{network}" : '';
    return "guest data uses plane '$plan->{plane}' $forwards$network"
        if $plan->{plane} ne 'qemu';
    return "guest data uses plane 'qemu' from QEMU to QEMU, UNENCRYPTED$network, and offline"
        . " volumes use plane '$plan->{offline}' $forwards";
}

sub _listener ($direct) {
    my ($address, $port) = @$direct{qw(address port)};
    $address = "[$address]" if $address =~ /:/;
    my $to = $direct->{plane} eq 'websocket' ? "through the target's API at" : 'to';
    return "$to $address:$port, $direct->{cipher}";
}

1;

__END__

=encoding utf8

=head1 NAME

PVE::Tunnel::Client::Negotiation - the negotiation of a migration's plane

=head1 DESCRIPTION

A part of L<PVE::Tunnel::Client>, in two steps: C<wish> makes a request of the caller's parameters
and this node's configuration, before anything is sent to the target; C<negotiate> has the connector
negotiate it with the target.

=head2 $CONFIGURATION

Path of the configuration, F</etc/pve/remote-migration.cfg>. A missing file is the same as an empty
one. A file that cannot be read or parsed is an error, because it may forbid the migration.

=head1 FUNCTIONS

=head2 wish

C<wish($conn, $tunnel_params)>: removes C<migration_type>, C<migration_network> and C<planes> from
C<$tunnel_params>, and returns the data of the connector's C<direct> command without C<caps>.

Dies if the configuration forbids the migration, if no target could do it, or if the caller lacks a
privilege. C<migration_type=insecure> and an explicit network require C<Sys.Modify> on F</>, unless
they are configured. C<PVE::RPCEnvironment> provides the caller's user if it is loaded. Otherwise
root has the privilege, and other users do not.

=head2 negotiate

C<negotiate($tunnel, $request)>: sends that command (120 s), and stores C<plan> and C<direct> of its
answer in C<$tunnel>. Logs each warning of the plan as a C<warn> line, and one C<info> line with
plane, endpoint, cipher, network and reason. Dies if the request cannot be met. The target has then
created nothing but its listener, which ends with the tunnel.

=cut
