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

# The stock functions by name; empty if none is replaced.
my %stock;

sub install () {
    if (%stock) {
        my $found = _functions();
        my @installed = grep { $found->{$_} eq 'overlay' } sort keys %$found;
        return if @installed == keys %REPLACEMENT;
        die _wrapped($found) if @installed;
        # The module was loaded again.
        %stock = ();
    }
    if (my $reason = _refusal()) {
        die "PVE::Tunnel is not changed: $reason\n";
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
    # This may load PVE::Tunnel.
    my $refusal = $installed ? undef : _refusal();
    return {
        installed => $installed ? 1 : 0,
        module => $INC{'PVE/Tunnel.pm'},
        functions => $found,
        refusal => $refusal,
    };
}

# The origin of each of the three functions: 'overlay', 'stock' or 'other'.
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
          'another module has replaced '
        . join(', ', map { "PVE::Tunnel::$_" } @names)
        . " since the overlay was installed: undo that first\n";
}

# Why the overlay cannot replace functions of PVE::Tunnel, or undef. Loads PVE::Tunnel.
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

# Also called for tunnels of fork_ssh_tunnel, and for those opened before the installation.
sub _finish_tunnel ($tunnel, $cleanup = 0) {
    return $stock{finish_tunnel}->($tunnel, $cleanup) if !defined $tunnel->{connector};
    return PVE::Tunnel::Client::finish_tunnel($tunnel, $cleanup);
}

# The stock function reads ahead into the handle's buffer, so another reader would lose these bytes.
# It is called by its name, because it may have been replaced. The limit is rounded up to whole
# seconds, because the stock function may use the built-in alarm.
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
C<forward_unix_socket> and C<finish_tunnel>. Callers are not changed: arguments and the returned
hash are the same, and L<PVE::Tunnel::Client> does the work. No file is changed.

All other functions stay. C<read_tunnel> and C<write_tunnel> of C<PVE::Tunnel> also work with
tunnels of the overlay, which have the key C<connector> in their hash. Tunnels over ssh
(C<fork_ssh_tunnel>) and tunnels that were opened before the installation use the stock functions. A
code reference that was taken before the installation still refers to the stock function.

There are two differences. C<fork_websocket_tunnel> accepts three optional keys in
C<$tunnel_params>, reads the configuration, and negotiates the plane of the guest's data; see
L<PVE::Tunnel::Client/fork_websocket_tunnel>. C<forward_unix_socket> dies if the connector cannot
forward; the stock function ignores the answer, and its callers fail later because the socket does
not exist.

The module loads no module of Proxmox VE before C<install> or C<status> is called, and then only
C<PVE::Tunnel>. Together with L<PVE::Tunnel::Seam> and the library it adds less than 2 MB of private
memory to a process. HTTP::Tiny, about 1 MB, is loaded only in a process that opens a tunnel.

=head1 FUNCTIONS

=head2 install

    PVE::Tunnel::Overlay::install();

Replaces the three functions. Loads C<PVE::Tunnel> if it is not loaded. Does nothing if the
functions are already replaced. Dies with the reason, and changes nothing, if C<PVE::Tunnel> cannot
be loaded; if a function that it replaces or calls is missing, comes from another package, or has
unsupported parameters (L<PVE::Tunnel::Overlay::Shape>); or if another module has replaced some of
the three since.

=head2 uninstall

    PVE::Tunnel::Overlay::uninstall();

Restores the stock functions. Does nothing if none is replaced. Dies, and changes nothing, if
another module has replaced one of the three since, because its function may call the overlay's.
Open tunnels can be used and finished with the stock functions, but their end leaves no record.

=head2 status

    my $status = PVE::Tunnel::Overlay::status();

Returns a hash:

=over

=item C<installed>

1 if all three functions are the overlay's, else 0

=item C<module>

the file that C<PVE::Tunnel> was loaded from; undef if it is not loaded, or not from a file

=item C<functions>

hash from the three names to C<overlay>, C<stock>, or C<other> for a function of another module

=item C<refusal>

why C<install> would fail now, one line; undef if it would not

=back

=head1 SEE ALSO

L<PVE::Tunnel::Client>, F<docs/perl.md>

=cut
