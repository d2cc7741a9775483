package TestNode::Ticket;

use v5.36;

use Digest::SHA ();
use Exporter 'import';

our @EXPORT_OK = qw(make_ticket);

=head1 NAME

TestNode::Ticket - tickets that authorize one user for one socket of the test node

=head1 DESCRIPTION

A ticket is C<PVETUNNEL:TIME::TAG>, where TIME is the UNIX time as eight upper-case hex digits and
TAG the lower-case hex HMAC-SHA-256 of user, socket path and TIME, joined by newlines. A ticket is
valid from 20 s before to 40 s after that time, like a tunnel ticket of Proxmox VE.

=head1 FUNCTIONS

=head2 make_ticket($key, $user, $path, $time = time)

Returns a ticket. C<$key> has 32 bytes. C<$user> does not contain the name of an API token.

=cut

sub make_ticket ($key, $user, $path, $time = time) {
    my $stamp = sprintf '%08X', $time;
    return "PVETUNNEL:${stamp}::" . Digest::SHA::hmac_sha256_hex("$user\n$path\n$stamp", $key);
}

1;
