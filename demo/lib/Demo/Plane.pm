package Demo::Plane;

=encoding utf8

=head1 NAME

Demo::Plane - the planes that are demonstrated: what to wish for, and what must come of it

=head1 DESCRIPTION

A plane is not ordered but comes out of what the caller wishes, what both ends can do, and what the
configuration allows. To see each of them, a row of this table says what is wished and allowed, and
which plane that has to lead to: anything else is an error of the demonstration.

=cut

use v5.36;

# In the order of demonstration.
my @PLANES = (
    {
        name => 'websocket',
        wire => 'encrypted',
        wish => { migration_type => 'secure', planes => [] },
        offline => 'websocket',
    },
    {
        name => 'tls',
        wire => 'encrypted',
        wish => { migration_type => 'secure', planes => ['tls'] },
        on_network => 1,
        offline => 'tls',
    },
    {
        name => 'tcp',
        wire => 'clear',
        wish => { migration_type => 'insecure', planes => ['tcp'] },
        on_network => 1,
        offline => 'tcp',
    },
    {
        name => 'qemu',
        wire => 'clear',
        wish => { migration_type => 'insecure', planes => [qw(tcp qemu)] },
        on_network => 1,
        # No QEMU has it open.
        offline => 'tcp',
    },
);

=head1 FUNCTIONS

=head2 names

The planes' names, in the order of demonstration.

=head2 get

C<get($name)>: a hash, or undef if there is no such plane:

=over

=item name

=item wire

C<encrypted> or C<clear>

=item wish

hash with C<migration_type> and C<planes>, as in the C<$tunnel_params> of
L<PVE::Tunnel::Client/fork_websocket_tunnel>

=item on_network

true if the wish is to name the migration network

=item offline

the plane that offline disks take then

=back

=cut

sub names () {
    return map { $_->{name} } @PLANES;
}

sub get ($name) {
    my ($row) = grep { $_->{name} eq $name } @PLANES;
    return $row;
}

1;
