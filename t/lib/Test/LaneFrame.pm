package Test::LaneFrame;

# The frames of lanes, written from docs/protocol.md alone.

use v5.36;

use Exporter 'import';

our @EXPORT_OK = (
    qw(frame header $HEADER),
    qw($KIND_DATA $KIND_ZEROS $KIND_END $KIND_ACKNOWLEDGEMENT $KIND_ABORT),
);

=head1 NAME

Test::LaneFrame - the format of the frames of protocol 2

=head1 FUNCTIONS

=head2 frame($kind, $count, $offset, $payload = '')

The bytes of a frame.

=head2 header($bytes)

Kind, the three bytes of zero, count and offset of the frame that begins there.

=head2 $KIND_DATA, $KIND_ZEROS, $KIND_END, $KIND_ACKNOWLEDGEMENT, $KIND_ABORT

The kinds.

=head2 $HEADER

The length of a header.

=cut

our ($KIND_DATA, $KIND_ZEROS, $KIND_END, $KIND_ACKNOWLEDGEMENT, $KIND_ABORT) = 1 .. 5;
our $HEADER = 16;

sub frame ($kind, $count, $offset, $payload = '') {
    return pack('C x3 N Q>', $kind, $count, $offset) . $payload;
}

sub header ($bytes) {
    return unpack 'C a3 N Q>', $bytes;
}

1;
