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
    # Seconds for the whole negotiation: the connector's own limits for three answers of the worker
    # (15 each) and for the way to its addresses come first, so that its reason is heard.
    DIRECT_LIMIT => 120,
};

# What this side can do unless the caller says otherwise: QEMU on TCP needs a caller that starts it
# so.
my @PLANES = qw(tls tcp);

# Every capability there is: what the best of targets would offer.
my @ALL_CAPS = qw(insecure-remote direct-tls direct-tcp);

sub wish ($conn, $tunnel_params) {
    my ($type, $network, $planes) =
        delete @$tunnel_params{qw(migration_type migration_network planes)};
    $planes //= [@PLANES];
    die "planes is not an array\n" if ref($planes) ne 'ARRAY';

    my $text = PVE::Tunnel::Configuration::read_file($CONFIGURATION);
    my %call = (migration_type => $type, migration_network => $network);
    my %source = (side => 'source', remote => $conn->{host}, %call);
    my $wish = eval { PVE::Tunnel::Native::configuration_select($text, \%source) }
        // die "$CONFIGURATION: " . PVE::Tunnel::Text::reason($@) . "\n";

    # What even the best of targets could not do is refused before the target hears of it.
    my %known = map { $_ => $wish->{$_} }
        qw(migration_type migration_network configured require_encryption);
    my $best =
        eval { PVE::Tunnel::Native::plan({ %known, planes => $planes, caps => [@ALL_CAPS] }) }
        // die PVE::Tunnel::Text::reason($@) . "\n";
    for my $needed (@{ $best->{privileges} }) {
        _require_privilege($wish, @$needed{qw(privilege path)})
            if grep { $_ eq 'source' } @{ $needed->{on} };
    }
    return { %$wish, planes => $planes };
}

sub _require_privilege ($wish, $privilege, $path) {
    my $refusal = _refusal($privilege, $path) // return;
    my $what =
        $wish->{migration_type} eq 'insecure'
        ? 'migration_type=insecure'
        : "migration_network=$wish->{migration_network}";
    die "$what needs the privilege $privilege on '$path' at this node, and $refusal: ask an"
        . " administrator for it, omit $what, or have a network configured in $CONFIGURATION\n";
}

# Why the caller may not, or undef. The environment is there in Proxmox VE's daemons and commands,
# and knows who calls; elsewhere only the process's own user is known.
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

sub negotiate ($tunnel, $wish) {
    my %data = (%$wish, caps => [@{ $tunnel->{caps} }, @{ $tunnel->{unknown_caps} }]);
    my $origin = delete $data{reason};
    my $command = { control => JSON::true, cmd => 'direct', data => \%data };
    my $answer = PVE::Tunnel::Client::Lines::ask($tunnel, DIRECT_LIMIT, $command);
    my ($plan, $direct) = @$answer{qw(plan direct)};
    die "the connector gave no plan\n" if ref($plan) ne 'HASH';
    @$tunnel{qw(plan direct)} = ($plan, $direct);

    my $log = $tunnel->{log};
    for my $warning (@{ $plan->{warnings} }) {
        # Not every log shows levels.
        my $text = $warning =~ /\AWARNING\b/ ? $warning : "WARNING: $warning";
        PVE::Tunnel::Client::Lines::log_line($log, 'warn', $text);
    }
    my $decision = join(': ', _way($plan, $direct), join('; ', $plan->{reason}, $origin));
    PVE::Tunnel::Client::Lines::log_line($log, 'info', $decision);
    return;
}

sub _way ($plan, $direct) {
    my $forwards = $direct ? _listener($direct) : 'through the target\'s API, encrypted';
    my $network = defined($plan->{network}) ? ", network $plan->{network}" : '';
    return "guest data goes by plane '$plan->{plane}' $forwards$network"
        if $plan->{plane} ne 'qemu';
    return "guest data goes by plane 'qemu' from QEMU to QEMU, UNENCRYPTED$network, and offline"
        . " volumes by plane '$plan->{offline}' $forwards";
}

sub _listener ($direct) {
    my ($address, $port) = @$direct{qw(address port)};
    $address = "[$address]" if $address =~ /:/;
    return "to $address:$port, $direct->{cipher}";
}

1;

__END__

=encoding utf8

=head1 NAME

PVE::Tunnel::Client::Negotiation - how the guest's data will travel

=head1 DESCRIPTION

A part of L<PVE::Tunnel::Client>. Two steps: what the caller and this side's configuration ask for,
before the target hears of anything; and what comes of it with that target, which the connector finds
out.

=head2 $CONFIGURATION

Path of the configuration, F</etc/pve/remote-migration.cfg>. No such file: as if it were empty. One
that cannot be read or parsed is an error, since it may forbid something.

=head1 FUNCTIONS

=head2 wish

C<wish($conn, $tunnel_params)>: takes C<migration_type>, C<migration_network> and C<planes> out of
C<$tunnel_params> and returns the data of the connector's C<direct> command, all but C<caps>.

Dies if the configuration forbids what is asked for, if no target could do it, or if the caller lacks
the privilege for it. C<migration_type=insecure> and an explicit network need C<Sys.Modify> on F</>,
unless the configuration has them. Who the caller is, says C<PVE::RPCEnvironment> where it is loaded;
elsewhere root is allowed and others are not.

=head2 negotiate

C<negotiate($tunnel, $wish)>: sends that command (120 s), and keeps C<plan> and C<direct> of its answer
in C<$tunnel>. Logs each of the plan's warnings as a C<warn> line of its own, and one C<info> line that
says plane, endpoint, protection, network and reason. Dies if what is asked for cannot be had; then
nothing was created at the target but its listener, which ends with the tunnel.

=cut
