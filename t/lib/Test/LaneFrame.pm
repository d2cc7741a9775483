package Test::LaneFrame;

# The frames of lanes, written from docs/protocol.md alone.

use v5.36;

use Exporter 'import';

our @EXPORT_OK = (
    qw(frame header $HEADER),
    qw($KIND_DATA $KIND_ZEROS $KIND_END $KIND_ACKNOWLEDGEMENT $KIND_ABORT $KIND_COMPRESSED),
    qw(zstd_frame),
);

=head1 NAME

Test::LaneFrame - the format of the frames of protocol 2

=head1 FUNCTIONS

=head2 frame($kind, $count, $offset, $payload = '')

The bytes of a frame.

=head2 header($bytes)

Kind, the three bytes of zero, count and offset of the frame that begins there.

=head2 zstd_frame($bytes)

A frame of Zstandard (RFC 8878) with its content size and these bytes, at most 255, in one block that is not
compressed.

=head2 $KIND_DATA, $KIND_ZEROS, $KIND_END, $KIND_ACKNOWLEDGEMENT, $KIND_ABORT, $KIND_COMPRESSED

The kinds.

=head2 $HEADER

The length of a header.

=cut

our ($KIND_DATA, $KIND_ZEROS, $KIND_END, $KIND_ACKNOWLEDGEMENT, $KIND_ABORT, $KIND_COMPRESSED) =
    1 .. 6;
our $HEADER = 16;

sub frame ($kind, $count, $offset, $payload = '') {
    return pack('C x3 N Q>', $kind, $count, $offset) . $payload;
}

sub header ($bytes) {
    return unpack 'C a3 N Q>', $bytes;
}

# Magic number; a descriptor: one segment, a content size of one byte; and the header of the last block, which is raw.
sub zstd_frame ($bytes) {
    my $block = substr pack('V', 1 | length($bytes) << 3), 0, 3;
    return pack('V C C', 0xfd2fb528, 0x20, length $bytes) . $block . $bytes;
}

1;
