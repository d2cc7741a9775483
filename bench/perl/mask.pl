#!/usr/bin/perl

# Masking from Perl, call included: ours, and what there is otherwise.
#
#   mask.pl SECONDS
#
# Says `ready` first. Then each line of input is a turn, `NAME LENGTH`: that contender masks a scalar
# of that many bytes for SECONDS, and the answer is how many megabytes (10^6) a second that was.

use v5.36;

use Protocol::WebSocket::Frame;
use Time::HiRes qw(CLOCK_MONOTONIC clock_gettime);

use PVE::Tunnel::Native;

my ($SECONDS) = @ARGV;
my $KEY = pack('H*', '37fa213d');
my $BATCH = 16; # calls between two looks at the clock

# Each gets a buffer, which it may change, and returns what is masked. A length is a multiple of the
# key's, which spares Perl's own operators a substr.
my %CONTENDERS = (
    'native' => sub ($data) {
        return sub { PVE::Tunnel::Native::mask($$data, $KEY); return $data };
    },
    # The idiom at its best: in place. A key is good for one frame, so repeating it is part of it.
    'perl-xor' => sub ($data) {
        return sub { $$data ^.= $KEY x (length($$data) / length($KEY)); return $data };
    },
    # The same if it were not: what the operator alone does.
    'perl-xor-cached' => sub ($data) {
        my $mask = $KEY x (length($$data) / length($KEY));
        return sub { $$data ^.= $mask; return $data };
    },
    # Its cheapest way: reading a masked frame takes it about twice as long. It masks a copy, and
    # puts a header before it.
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

# Whoever masks wrongly is in no contest.
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
