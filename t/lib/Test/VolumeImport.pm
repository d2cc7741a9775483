package Test::VolumeImport;

# A volume that a test sends through a forward to an import at the target.

use v5.36;

use Digest::SHA qw(sha256_hex);
use Exporter qw(import);
use IO::Handle ();
use Socket qw(SHUT_WR);
use Test::More;

use TestNode::Node;

our @EXPORT_OK = qw(send_volume volume_arrived);

=head1 NAME

Test::VolumeImport - sends a volume and compares what the target has written

=head1 FUNCTIONS

=head2 send_volume($socket, $data, $query)

Writes the volume to a connected socket as the format C<raw+size> has it, the length as 8 bytes
little endian and then C<$data>, and shuts down the writing side. Calls C<$query>, which returns the
answer to C<query-disk-import>, until the import has ended, and tests that it is complete. The
socket is still open then.

=head2 volume_arrived($file, $data)

Tests that the target's file has exactly these bytes.

=cut

sub send_volume ($socket, $data, $query) {
    print {$socket} pack('Q<', length $data), $data;
    $socket->flush;
    shutdown($socket, SHUT_WR);
    my $status;
    do { $status = $query->() } while $status->{status} eq 'pending';
    is($status->{status}, 'complete', 'the import is complete while the socket is open')
        or diag(explain($status));
    return;
}

sub volume_arrived ($file, $data) {
    is(sha256_hex(TestNode::Node::slurp($file)), sha256_hex($data), 'the volume is unchanged');
    return;
}

1;
