package Test::Pattern;

# Bytes that are fast to generate, do not repeat, and are the same in every process: a test compares
# the digest of the sent bytes with the digest of the received bytes.

use v5.36;

use Digest::SHA ();
use Exporter 'import';

our @EXPORT_OK = qw(pattern_block pattern_sha256 $BLOCK);

=head1 NAME

Test::Pattern - a deterministic stream of bytes

=head1 DESCRIPTION

The stream consists of blocks of 1 MiB. A block is the concatenation of SHA-256(0), SHA-256(1), ...
SHA-256(32767), where each number is hashed as 8 bytes big endian. The index of the block, 8 bytes
big endian, then replaces its first 8 bytes. A stream of N bytes is the first N bytes of this
sequence.

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
