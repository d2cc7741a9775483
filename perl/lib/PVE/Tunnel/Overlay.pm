package PVE::Tunnel::Overlay;

use v5.36;

use POSIX ();

use PVE::Tunnel::Client;
use PVE::Tunnel::Overlay::Shape;

our $VERSION = '0.1.0';

my %REPLACEMENT = (
    fork_websocket_tunnel => \&_fork_websocket_tunnel,
    forward_unix_socket => \&_forward_unix_socket,
    finish_tunnel => \&_finish_tunnel,
);

# What was there before, by name; empty while nothing is replaced.
my %stock;

sub install () {
    if (%stock) {
        my $found = _functions();
        my @ours = grep { $found->{$_} eq 'overlay' } sort keys %$found;
        return if @ours == keys %REPLACEMENT;
        die _wrapped($found) if @ours;
        # The module was loaded anew.
        %stock = ();
    }
    if (my $reason = _refusal()) {
        die "PVE::Tunnel is left as it is: $reason\n";
    }
    %stock = map { $_ => PVE::Tunnel->can($_) } keys %REPLACEMENT;
    _put(%REPLACEMENT);
    return;
}

sub uninstall () {
    return if !%stock;
    my $found = _functions();
    die _wrapped($found) if grep { $_ ne 'overlay' } values %$found;
    _put(%stock);
    %stock = ();
    return;
}

sub status () {
    my $found = _functions();
    my $installed = !grep { $_ ne 'overlay' } values %$found;
    # This may load it.
    my $refusal = $installed ? undef : _refusal();
    return {
        installed => $installed ? 1 : 0,
        module => $INC{'PVE/Tunnel.pm'},
        functions => $found,
        refusal => $refusal,
    };
}

# Each of the three: 'overlay', 'stock' or, if it is neither, 'other'.
sub _functions () {
    my %found;
    for my $name (keys %REPLACEMENT) {
        my $now = PVE::Tunnel->can($name) // 0;
        $found{$name} =
              $now == $REPLACEMENT{$name} ? 'overlay'
            : !%stock || $now == $stock{$name} ? 'stock'
            : 'other';
    }
    return \%found;
}

sub _wrapped ($found) {
    my @names = grep { $found->{$_} ne 'overlay' } sort keys %$found;
    return
          'somebody has replaced '
        . join(', ', map { "PVE::Tunnel::$_" } @names)
        . " since the overlay was installed: that has to be undone first\n";
}

# Why PVE::Tunnel is not one to touch, or undef. Loads it.
sub _refusal () {
    if (!PVE::Tunnel->can('fork_websocket_tunnel') && !eval { require PVE::Tunnel; 1 }) {
        return PVE::Tunnel::Text::one_line("it cannot be loaded: $@");
    }
    return PVE::Tunnel::Overlay::Shape::fault('PVE::Tunnel');
}

sub _put (%code) {
    no strict 'refs'; ## no critic (ProhibitNoStrict)
    no warnings 'redefine'; ## no critic (ProhibitNoWarnings)
    *{"PVE::Tunnel::$_"} = $code{$_} for keys %code;
    return;
}

sub _fork_websocket_tunnel ($conn, $url, $req_params, $tunnel_params, $log) {
    return PVE::Tunnel::Client::open_tunnel(
        \&_read_line, $conn, $url, $req_params, $tunnel_params,
        $log
    );
}

sub _forward_unix_socket ($tunnel, $local, $remote) {
    return $stock{forward_unix_socket}->($tunnel, $local, $remote) if !defined $tunnel->{connector};
    return PVE::Tunnel::Client::forward_unix_socket($tunnel, $local, $remote);
}

# Those of fork_ssh_tunnel come here too, and those opened before we were there.
sub _finish_tunnel ($tunnel, $cleanup = 0) {
    return $stock{finish_tunnel}->($tunnel, $cleanup) if !defined $tunnel->{connector};
    return PVE::Tunnel::Client::finish_tunnel($tunnel, $cleanup);
}

# The stock function reads ahead into the handle's buffer, so whoever read past it would lose what
# it holds. It may be replaced itself, so it is called by its name. Whole seconds, as alarm may be
# the one that knows no others.
sub _read_line ($tunnel, $limit) {
    my $line = PVE::Tunnel::read_tunnel($tunnel, POSIX::ceil($limit));
    return $line // die "the tunnel has ended\n";
}

1;

__END__

=encoding utf8

=head1 NAME

PVE::Tunnel::Overlay - the native tunnel under an unchanged PVE::Tunnel

=head1 SYNOPSIS

    use PVE::Tunnel;
    use PVE::Tunnel::Overlay;

    PVE::Tunnel::Overlay::install();
    my $tunnel = PVE::Tunnel::fork_websocket_tunnel(
        $conn, $url, $req_params, $tunnel_params, $log,
    );
    ...
    PVE::Tunnel::Overlay::uninstall();

=head1 DESCRIPTION

qemu-server, pve-container and C<PVE::StorageTunnel> call C<PVE::Tunnel> by the full names of its
functions. This module replaces three of them in the running program: C<fork_websocket_tunnel>,
C<forward_unix_socket> and C<finish_tunnel>. Their callers are not changed and get what they got:
the same arguments, the same hash, and L<PVE::Tunnel::Client> behind it. No file is changed.

Everything else stays as it is. C<read_tunnel> and C<write_tunnel> of C<PVE::Tunnel> read and write
our tunnels, too. Tunnels over ssh (C<fork_ssh_tunnel>) and those that were opened before go to the
stock functions: ours are known by the key C<connector> in their hash. A reference to a function that
somebody took before stays what it was.

Beyond what C<PVE::Tunnel> does, C<fork_websocket_tunnel> takes three optional keys in
C<$tunnel_params>, reads the configuration, and negotiates the way of the guest's data; see
L<PVE::Tunnel::Client/fork_websocket_tunnel>. C<forward_unix_socket> dies if the connector cannot
forward, where the stock one ignores the answer and its callers fail at the socket that is not there.

Nothing of Proxmox VE is loaded before C<install> or C<status> is called, and then C<PVE::Tunnel>
alone.

=head1 FUNCTIONS

=head2 install

    PVE::Tunnel::Overlay::install();

Replaces the three functions; loads C<PVE::Tunnel> if nobody has. Does nothing if they are replaced
already. Dies, and changes nothing, with the reason if C<PVE::Tunnel> cannot be loaded; if one of
the functions that are replaced or relied on is missing, comes from another package, or takes other
parameters than those this module was written for (L<PVE::Tunnel::Overlay::Shape>); or if somebody
else has replaced some of the three since.

=head2 uninstall

    PVE::Tunnel::Overlay::uninstall();

Puts back what was there. Does nothing if nothing is replaced. Dies, and changes nothing, if
somebody has replaced one of the three since: what they put there may call ours. Tunnels that are open
can be used and finished by the stock functions, but their end leaves no record.

=head2 status

    my $status = PVE::Tunnel::Overlay::status();

A hash that says how things are:

=over

=item C<installed>

1 if all three functions are ours, else 0

=item C<module>

where C<PVE::Tunnel> was loaded from; undef if it was not, or not from a file

=item C<functions>

hash of the three names to C<overlay>, C<stock>, or C<other> for what somebody put there since

=item C<refusal>

why C<install> would refuse now, one line; undef if it would not

=back

=head1 SEE ALSO

L<PVE::Tunnel::Client>, F<docs/perl.md>

=cut
