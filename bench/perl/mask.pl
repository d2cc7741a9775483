#!/usr/bin/perl

# Masking from Perl, including the call: pve-tunnel and its peers.
#
#   mask.pl SECONDS
#
# Prints `ready` first. Each line of input is one turn, `NAME LENGTH`: the contender NAME masks a
# scalar of LENGTH bytes for SECONDS. Then the program prints the rate in MB/s (10^6 bytes per
# second).

use v5.36;

use Protocol::WebSocket::Frame;
use Time::HiRes qw(CLOCK_MONOTONIC clock_gettime);

use PVE::Tunnel::Native;

my ($SECONDS) = @ARGV;
my $KEY = pack('H*', '37fa213d');
my $BATCH = 16; # calls between two readings of the clock

# Each contender gets a reference to a buffer, which it may change, and returns a reference to the
# masked bytes. The length is a multiple of the key's length, so Perl's own operators need no substr.
my %CONTENDERS = (
    'native' => sub ($data) {
        return sub { PVE::Tunnel::Native::mask($$data, $KEY); return $data };
    },
    # The fastest form of this idiom: in place. Each frame has a new key, so the repetition of the
    # key is part of the work.
    'perl-xor' => sub ($data) {
        return sub { $$data ^.= $KEY x (length($$data) / length($KEY)); return $data };
    },
    # The operator alone, without the repetition of the key.
    'perl-xor-cached' => sub ($data) {
        my $mask = $KEY x (length($$data) / length($KEY));
        return sub { $$data ^.= $mask; return $data };
    },
    # The module's fastest function: reading a masked frame takes about twice as long. It masks a
    # copy, and adds a header.
    'Protocol::WebSocket' => sub ($data) {
        my %options = (type => 'binary', masked => 1, mask => unpack('N', $KEY));
        return sub {
            my $frame = Protocol::WebSocket::Frame->new(
                %options,
                max_payload_size => 0,
                buffer => $$data,
            );
            return \$frame->to_bytes();
        };
    },
);

# Checks that a contender masks correctly.
sub check ($name, $length) {
    my @key = unpack('C*', $KEY);
    my @bytes = map { $_ % 251 } 1 .. $length;
    my $data = pack('C*', @bytes);
    my $masked = $CONTENDERS{$name}->(\$data)->();
    my $expected = pack('C*', map { $bytes[$_] ^ $key[$_ % @key] } 0 .. $#bytes);
    die "$name masks wrongly\n" if substr($$masked, -$length) ne $expected;
    return;
}

sub now() { return clock_gettime(CLOCK_MONOTONIC) }

sub turn ($name, $length) {
    my $data = 'x' x $length;
    my $mask = $CONTENDERS{$name}->(\$data);
    my $calls = 0;
    my $start = now();
    my $elapsed = 0;
    while ($elapsed < $SECONDS) {
        $mask->() for 1 .. $BATCH;
        $calls += $BATCH;
        $elapsed = now() - $start;
    }
    return $calls * $length / 1e6 / $elapsed;
}

STDOUT->autoflush(1);
check($_, 1000) for sort keys %CONTENDERS;
say('ready');
while (my $line = readline(STDIN)) {
    my ($name, $length) = split(' ', $line);
    say(turn($name, $length));
}
