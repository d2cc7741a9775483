package PVE::Tunnel::Overlay::Shape;

use v5.36;

# It defines _parameters and _package in this package.
use PVE::Tunnel::Native;

our $VERSION = '0.1.0';

# The functions that the overlay replaces or calls, with their parameters in order.
my %PARAMETERS = (
    fork_websocket_tunnel => [qw($conn $url $req_params $tunnel_params $log)],
    forward_unix_socket => [qw($tunnel $local $remote)],
    finish_tunnel => [qw($tunnel $cleanup)],
    read_tunnel => [qw($tunnel $timeout)],
    write_tunnel => [qw($tunnel $timeout $command $params)],
);

sub fault ($package) {
    for my $name (sort keys %PARAMETERS) {
        my $code = $package->can($name) // return "it has no function '$name'";
        my @found = _parameters($code)
            or return "the parameters of its function '$name' cannot be determined";
        my ($has, $known) = map { join(', ', @$_) } \@found, $PARAMETERS{$name};
        return "its function '$name' takes ($has), and the overlay supports ($known)"
            if $has ne $known;
        my $home = _package($code) // 'nowhere';
        return "its function '$name' comes from $home" if $home ne $package;
    }
    return;
}

1;

__END__

=encoding utf8

=head1 NAME

PVE::Tunnel::Overlay::Shape - whether the overlay supports a PVE::Tunnel

=head1 DESCRIPTION

A part of L<PVE::Tunnel::Overlay>. It cannot check what a function does, but it can check its
parameters, which change if the callers have to change. The package itself must define these
functions with these parameters, in a signature or by C<my (...) = @_> at the beginning:

    fork_websocket_tunnel  $conn, $url, $req_params, $tunnel_params, $log
    forward_unix_socket    $tunnel, $local, $remote
    finish_tunnel          $tunnel, $cleanup
    read_tunnel            $tunnel, $timeout
    write_tunnel           $tunnel, $timeout, $command, $params

Other functions are not checked. The XS part of L<PVE::Tunnel::Native> derives the parameters from
the function's operations (F<perl/parameters.h>). The core module B can do the same, but takes 0.4
MB in each process.

=head1 FUNCTIONS

=head2 fault

C<fault($package)>: the first difference, worded to follow the name of the package; nothing if there
is none.

=cut
