package Test::Pattern;

# Bytes that are fast to generate, do not repeat, and are the same in every process: a test compares
# the digest of the sent bytes with the digest of the received bytes.

use v5.36;

use Digest::SHA ();
use Exporter 'import';
use File::Basename ();

use lib File::Basename::dirname(__FILE__) . '/../../../testnode/lib';
use TestNode::Sha256;

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

=head2 pattern_sha256($bytes, $first = 0)

Lower-case hex SHA-256 of $bytes bytes of the stream, from the beginning of block $first.

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

my %sha256;

sub pattern_sha256 ($bytes, $first = 0) {
    return $sha256{"$bytes from $first"} //= do {
        my $sha = TestNode::Sha256->new;
        my $left = $bytes;
        for (my $index = $first; $left > 0; $index++) {
            my $length = $left < $BLOCK ? $left : $BLOCK;
            $sha->add(substr pattern_block($index), 0, $length);
            $left -= $length;
        }
        $sha->hexdigest;
    };
}

1;
