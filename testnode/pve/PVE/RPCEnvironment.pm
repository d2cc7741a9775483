package PVE::RPCEnvironment;

=head1 NAME

PVE::RPCEnvironment - a fake of the Proxmox VE module with this name

=head1 SYNOPSIS

    PVE::RPCEnvironment::init('root@pam');
    my $user = PVE::RPCEnvironment::get()->get_user;

=head1 DESCRIPTION

Contains the part that L<PVE::Tunnel::Seam> uses in the test node's worker: the API user, whose
listeners are counted. The worker checks privileges by itself. See the fake L<PVE::StorageTunnel>
for the directory.

=head1 FUNCTIONS

=head2 init($user)

Sets the user of this process.

=head2 get, get_user

C<get> returns the environment, and its method C<get_user> the user, undef if none was set.

=cut

use v5.36;

our $VERSION = '0.1.0';

my $environment = bless {}, __PACKAGE__;

sub init ($user) {
    $environment->{user} = $user;
    return;
}

sub get () { return $environment }

sub get_user ($self) { return $self->{user} }

1;
