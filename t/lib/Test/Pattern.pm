package Test::Pattern;

# Bytes that are quick to make, never repeat, and are the same everywhere: tests compare digests
# of what one end made with what the other end got.

use v5.36;

use Digest::SHA ();
use Exporter 'import';

our @EXPORT_OK = qw(pattern_block pattern_sha256 $BLOCK);

=head1 NAME

Test::Pattern - a deterministic stream of bytes

=head1 DESCRIPTION

The stream is made of blocks of 1 MiB. A block's bytes are SHA-256(0), SHA-256(1), ...
SHA-256(32767) one after another, where each number is hashed as 8 bytes big endian; its first 8
bytes are then replaced by the block's index, 8 bytes big endian. A stream of N bytes is the first N
bytes of that.

=head1 FUNCTIONS

=head2 pattern_block($index)

The block with that index, 1048576 bytes.

=head2 pattern_sha256($bytes)

Lower-case hex SHA-256 of the first $bytes bytes of the stream.

=head2 $BLOCK

1048576.

=cut

our $BLOCK = 1024 * 1024;

my $base;

sub pattern_block ($index) {
    $base //= join '', map { Digest::SHA::sha256(pack 'Q>', $_) } 0 .. $BLOCK / 32 - 1;
    my $block = $base;
    substr $block, 0, 8, pack('Q>', $index);
    return $block;
}

sub pattern_sha256 ($bytes) {
    my $sha = Digest::SHA->new(256);
    for (my $index = 0; $bytes > 0; $index++) {
        my $length = $bytes < $BLOCK ? $bytes : $BLOCK;
        $sha->add(substr pattern_block($index), 0, $length);
        $bytes -= $length;
    }
    return $sha->hexdigest;
}

1;
