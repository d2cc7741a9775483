package Demo::Plane;

=encoding utf8

=head1 NAME

Demo::Plane - the planes of the demo: the request for each, and the expected plan

=head1 DESCRIPTION

A caller does not select a plane. pve-tunnel decides on a plane from the request, the capabilities
of both nodes, and the configuration. Each row of this table has a request and the plane that must
result from it. Any other plane is an error of the demo.

=cut

use v5.36;

# In the order of the demo.
my @PLANES = (
    {
        name => 'websocket',
        wire => 'encrypted',
        request => { migration_type => 'secure', planes => [] },
        offline => 'websocket',
    },
    {
        name => 'tls',
        wire => 'encrypted',
        request => { migration_type => 'secure', planes => ['tls'] },
        on_network => 1,
        offline => 'tls',
    },
    {
        name => 'tls-lanes',
        plane => 'tls',
        wire => 'encrypted',
        request => { migration_type => 'secure', planes => ['tls'] },
        on_network => 1,
        lanes => 1,
        offline => 'tls',
    },
    {
        name => 'tcp',
        wire => 'clear',
        request => { migration_type => 'insecure', planes => ['tcp'] },
        on_network => 1,
        offline => 'tcp',
    },
    {
        name => 'qemu',
        wire => 'clear',
        request => { migration_type => 'insecure', planes => [qw(tcp qemu)] },
        on_network => 1,
        # QEMU does not send offline disks.
        offline => 'tcp',
    },
);

=head1 FUNCTIONS

=head2 names

The names of all rows, in the order of the demo.

=head2 defaults

C<defaults($link)>: the names of those that the demo uses by default: without the ones for a bad link, unless
C<$link> is true.

=head2 get

C<get($name)>: the row of this plane, or undef if the plane is unknown. A hash:

=over

=item name

=item plane

the expected plane for RAM and the disk of the running guest

=item wire

C<encrypted> or C<clear>

=item request

hash with C<migration_type> and C<planes>, as in the C<$tunnel_params> of
L<PVE::Tunnel::Client/fork_websocket_tunnel>

=item on_network

true if the request must contain a migration network

=item lanes

true if that is the network with several connections for a stream

=item offline

the expected plane for offline disks

=back

=cut

sub names () {
    return map { $_->{name} } @PLANES;
}

sub defaults ($link) {
    return map { $_->{name} } grep { $link || !$_->{lanes} } @PLANES;
}

sub get ($name) {
    my ($row) = grep { $_->{name} eq $name } @PLANES;
    return $row && { plane => $name, %$row };
}

1;
