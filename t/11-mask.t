#!/usr/bin/perl

# mask: RFC 6455 section 5.3 in place, on every kind of scalar that Perl has for a buffer.

use v5.36;

use Test::More;

use PVE::Tunnel::Native;

my $KEY = pack('H*', '37fa213d');

# What the RFC says, byte by byte.
sub masked ($data, $key, $phase = 0) {
    my @key = unpack('C4', $key);
    my $i = $phase;
    return pack('C*', map { $_ ^ $key[$i++ % 4] } unpack('C*', $data));
}

sub mask { return PVE::Tunnel::Native::mask(@_) }

sub refused ($what, $pattern, $call) {
    ok(!eval { $call->(); 1 }, "$what is refused");
    like($@, qr/\Apve_tunnel_mask: $pattern.*\n\z/, 'and told');
    return;
}

subtest 'the example of RFC 6455 section 5.7' => sub {
    my $data = 'Hello';
    mask($data, $KEY);
    is(unpack('H*', $data), '7f9f4d5158', 'masked');
    mask($data, $KEY);
    is($data, 'Hello', 'and back');
};

subtest 'every length, alignment and phase' => sub {
    my $bytes = join('', map { chr($_ * 7 % 256) } 0 .. 300);
    my $wrong = 0;
    for my $length (0 .. 130) {
        for my $phase (0 .. 5) {
            my $data = substr($bytes, $phase, $length);
            my $expected = masked($data, $KEY, $phase);
            mask($data, $KEY, $phase);
            $wrong++ if $data ne $expected;
        }
    }
    is($wrong, 0, 'as byte by byte');

    my $whole = $bytes x 1000;
    my $expected = masked($whole, $KEY);
    my ($first, $second) = (substr($whole, 0, 12_345), substr($whole, 12_345));
    mask($first, $KEY);
    mask($second, $KEY, length($first));
    ok($first . $second eq $expected, 'a payload in two parts, with the phase in between');

    my $far = 'abcdef';
    mask($far, $KEY, ~0);
    is($far, masked('abcdef', $KEY, 3), 'the largest phase counts modulo 4');
};

subtest 'only the buffer that was given changes' => sub {
    my $original = 'x' x 5000;
    my $copy = $original; # shares its buffer until one of them is written
    mask($copy, $KEY);
    is($original, 'x' x 5000, 'a copy made before keeps its bytes');
    is($copy, masked('x' x 5000, $KEY), 'the one given is masked');

    my %buffer = (in => 'abcd');
    mask($buffer{in}, $KEY);
    is($buffer{in}, masked('abcd', $KEY), 'an element of a hash');

    my $frame = 'headerpayloadtrailer';
    mask(substr($frame, 6, 7), $KEY);
    is($frame, 'header' . masked('payload', $KEY) . 'trailer', 'part of a buffer, by substr');

    my $self = 'abcd';
    mask($self, $self);
    is($self, "\0\0\0\0", 'key and data may be the same scalar');

    my $empty = '';
    mask($empty, $KEY);
    is($empty, '', 'nothing stays nothing');
};

subtest 'bytes, however Perl stores them' => sub {
    my $latin = "caf\xe9 \xff";
    utf8::upgrade(my $upgraded = $latin);
    mask($upgraded, $KEY);
    is($upgraded, masked($latin, $KEY), 'characters up to 255 are bytes');
    ok(!utf8::is_utf8($upgraded), 'and are bytes afterwards');

    utf8::upgrade(my $key = "\xe9\xff\0\1");
    my $data = 'abcde';
    mask($data, $key);
    is($data, masked('abcde', "\xe9\xff\0\1"), 'the same for the key');
    ok(utf8::is_utf8($key), 'which is not changed');

    my $number = 1234;
    mask($number, "\1\1\1\1");
    is($number, '0325', 'a number is its digits');
    is($number + 0, 325, 'and no stale number stays behind');

    my $wide = "snow \x{2603}";
    refused('a wide character', 'data contains wide characters', sub { mask($wide, $KEY) });
    is($wide, "snow \x{2603}", 'and the data is as it was');
    refused('a wide key', 'key contains wide characters', sub { mask($data, "\x{2603}abc") });
};

subtest 'magic' => sub {
    tie(my $tied, 'Tied::Buffer', 'abcd');
    mask($tied, $KEY);
    is_deeply(tied($tied)->{log}, ['read', 'write'], 'a tied buffer is read once and written once');
    is(tied($tied)->{value}, masked('abcd', $KEY), 'with the masked bytes');

    tie(my $key, 'Tied::Buffer', $KEY);
    tie(my $phase, 'Tied::Buffer', 2);
    my $data = 'abcd';
    mask($data, $key, $phase);
    is($data, masked('abcd', $KEY, 2), 'a tied key and a tied phase');
    is_deeply([tied($key)->{log}, tied($phase)->{log}], [['read'], ['read']], 'are read once');
};

subtest 'what cannot be masked' => sub {
    my $data = 'abcd';
    refused('a literal', 'data is read-only', sub { mask('literal', $KEY) });
    refused('undef', 'data is (?:undefined|read-only)', sub { mask(undef, $KEY) });
    refused('an undefined buffer', 'data is undefined', sub { mask(my $none, $KEY) });
    refused('a reference', 'data is a reference', sub { my $r = []; mask($r, $KEY) });
    refused('a short key', 'key is 3 bytes, not 4', sub { mask($data, 'abc') });
    refused('a long key', 'key is 5 bytes, not 4', sub { mask($data, 'abcde') });
    refused('an undefined key', 'key is undefined', sub { mask($data, undef) });
    refused('a negative phase', 'phase is not', sub { mask($data, $KEY, -1) });
    refused('a phase in words', 'phase is not', sub { mask($data, $KEY, 'two') });
    refused('an undefined phase', 'phase is not', sub { mask($data, $KEY, undef) });
    is($data, 'abcd', 'and nothing was masked by halves');

    ok(!eval { PVE::Tunnel::Native::mask($data); 1 }, 'too few arguments');
    like($@, qr/Usage: .*mask\(.*\n\z/, 'show the usage');
};

package Tied::Buffer;

sub TIESCALAR ($class, $value) { return bless({ value => $value, log => [] }, $class) }
sub FETCH ($self) { push($self->{log}->@*, 'read'); return $self->{value} }
sub STORE ($self, $value) { push($self->{log}->@*, 'write'); return $self->{value} = $value }

package main;

done_testing();
