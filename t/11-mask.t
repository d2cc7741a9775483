#!/usr/bin/perl

# mask: the masking of RFC 6455 section 5.3, in place, on every kind of Perl scalar that can be a
# buffer.

use v5.36;

use Test::More;

use PVE::Tunnel::Native;

my $KEY = pack('H*', '37fa213d');

# The definition in the RFC, byte by byte.
sub masked ($data, $key, $phase = 0) {
    my @key = unpack('C4', $key);
    my $i = $phase;
    return pack('C*', map { $_ ^ $key[$i++ % 4] } unpack('C*', $data));
}

sub mask { return PVE::Tunnel::Native::mask(@_) }

sub refused ($what, $pattern, $call) {
    ok(!eval { $call->(); 1 }, "$what is refused");
    like($@, qr/\Apve_tunnel_mask: $pattern.*\n\z/, '... with a reason');
    return;
}

subtest 'the example of RFC 6455 section 5.7' => sub {
    my $data = 'Hello';
    mask($data, $KEY);
    is(unpack('H*', $data), '7f9f4d5158', 'masked');
    mask($data, $KEY);
    is($data, 'Hello', 'masking again gives the original');
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
    is($wrong, 0, 'the result equals byte by byte masking');

    my $whole = $bytes x 1000;
    my $expected = masked($whole, $KEY);
    my ($first, $second) = (substr($whole, 0, 12_345), substr($whole, 12_345));
    mask($first, $KEY);
    mask($second, $KEY, length($first));
    ok(
        $first . $second eq $expected,
        'a payload may be masked in two parts with the phase of the second'
    );

    my $far = 'abcdef';
    mask($far, $KEY, ~0);
    is($far, masked('abcdef', $KEY, 3), 'the largest phase is taken modulo 4');
};

subtest 'only the given buffer changes' => sub {
    my $original = 'x' x 5000;
    my $copy = $original; # shares its buffer until one of the two is written
    mask($copy, $KEY);
    is($original, 'x' x 5000, 'an earlier copy keeps its bytes');
    is($copy, masked('x' x 5000, $KEY), 'the given scalar is masked');

    my %buffer = (in => 'abcd');
    mask($buffer{in}, $KEY);
    is($buffer{in}, masked('abcd', $KEY), 'an element of a hash can be masked');

    my $frame = 'headerpayloadtrailer';
    mask(substr($frame, 6, 7), $KEY);
    is(
        $frame, 'header' . masked('payload', $KEY) . 'trailer',
        'a part of a buffer can be masked through substr'
    );

    my $self = 'abcd';
    mask($self, $self);
    is($self, "\0\0\0\0", 'key and data may be the same scalar');

    my $empty = '';
    mask($empty, $KEY);
    is($empty, '', 'an empty buffer stays empty');
};

subtest 'bytes in both internal forms of Perl' => sub {
    my $latin = "caf\xe9 \xff";
    utf8::upgrade(my $upgraded = $latin);
    mask($upgraded, $KEY);
    is($upgraded, masked($latin, $KEY), 'characters up to 255 are taken as bytes');
    ok(!utf8::is_utf8($upgraded), '... and the result is stored as bytes');

    utf8::upgrade(my $key = "\xe9\xff\0\1");
    my $data = 'abcde';
    mask($data, $key);
    is($data, masked('abcde', "\xe9\xff\0\1"), 'the key may be stored as UTF-8, too');
    ok(utf8::is_utf8($key), '... and is not changed');

    my $number = 1234;
    mask($number, "\1\1\1\1");
    is($number, '0325', 'a number is masked as its digits');
    is($number + 0, 325, '... and its numeric value follows');

    my $wide = "snow \x{2603}";
    refused('a wide character', 'data contains wide characters', sub { mask($wide, $KEY) });
    is($wide, "snow \x{2603}", '... and the data is unchanged');
    refused('a wide key', 'key contains wide characters', sub { mask($data, "\x{2603}abc") });
};

subtest 'magic' => sub {
    tie(my $tied, 'Tied::Buffer', 'abcd');
    mask($tied, $KEY);
    is_deeply(tied($tied)->{log}, ['read', 'write'], 'a tied buffer is read once and written once');
    is(tied($tied)->{value}, masked('abcd', $KEY), '... with the masked bytes');

    tie(my $key, 'Tied::Buffer', $KEY);
    tie(my $phase, 'Tied::Buffer', 2);
    my $data = 'abcd';
    mask($data, $key, $phase);
    is($data, masked('abcd', $KEY, 2), 'a tied key and a tied phase are used');
    is_deeply(
        [tied($key)->{log}, tied($phase)->{log}], [['read'], ['read']],
        '... and read once each'
    );
};

subtest 'refused arguments' => sub {
    my $data = 'abcd';
    refused('a literal', 'data is read-only', sub { mask('literal', $KEY) });
    refused('undef', 'data is (?:undefined|read-only)', sub { mask(undef, $KEY) });
    refused('an undefined buffer', 'data is undefined', sub { mask(my $none, $KEY) });
    refused('a reference', 'data is a reference', sub { my $r = []; mask($r, $KEY) });
    refused('a short key', 'key is 3 bytes, not 4', sub { mask($data, 'abc') });
    refused('a long key', 'key is 5 bytes, not 4', sub { mask($data, 'abcde') });
    refused('an undefined key', 'key is undefined', sub { mask($data, undef) });
    refused('a negative phase', 'phase is not', sub { mask($data, $KEY, -1) });
    refused('a phase that is a word', 'phase is not', sub { mask($data, $KEY, 'two') });
    refused('an undefined phase', 'phase is not', sub { mask($data, $KEY, undef) });
    is($data, 'abcd', 'the data is unchanged after all of them');

    ok(!eval { PVE::Tunnel::Native::mask($data); 1 }, 'too few arguments are refused');
    like($@, qr/Usage: .*mask\(.*\n\z/, '... with the usage');
};

package Tied::Buffer;

sub TIESCALAR ($class, $value) { return bless({ value => $value, log => [] }, $class) }
sub FETCH ($self) { push($self->{log}->@*, 'read'); return $self->{value} }
sub STORE ($self, $value) { push($self->{log}->@*, 'write'); return $self->{value} = $value }

package main;

done_testing();
