#!/usr/bin/perl

# Text of other programs in messages: on one line, and without invisible characters.

use v5.36;

use Encode ();
use Test::More;

use PVE::Tunnel::Text;

# Name, text, and what is shown. Texts are characters; bytes of UTF-8 must give bytes of the same.
my @lines = (
    ['control characters', "a\r\n\tb\x{7f}c\x{85}d\x{9b}e", 'a b c d e'],
    ['soft hyphen', "a\x{ad}b", 'a\u{ad}b'],
    ['no-break space', "a\x{a0}b", 'a\u{a0}b'],
    ['Arabic letter mark', "a\x{61c}b", 'a\u{61c}b'],
    ['zero width space', "a\x{200b}b", 'a\u{200b}b'],
    ['zero width joiner', "a\x{200d}b", 'a\u{200d}b'],
    ['right-to-left mark', "a\x{200f}b", 'a\u{200f}b'],
    ['line separator', "a\x{2028}b", 'a\u{2028}b'],
    ['paragraph separator', "a\x{2029}b", 'a\u{2029}b'],
    ['right-to-left override', "a\x{202e}b", 'a\u{202e}b'],
    ['first strong isolate', "a\x{2068}b", 'a\u{2068}b'],
    ['ideographic space', "a\x{3000}b", 'a\u{3000}b'],
    ['Hangul filler', "a\x{3164}b", 'a\u{3164}b'],
    ['variation selector', "a\x{fe0f}b", 'a\u{fe0f}b'],
    ['empty Braille pattern', "a\x{2800}b", 'a\u{2800}b'],
    ['byte order mark', "\x{feff}b", '\u{feff}b'],
    ['private use', "a\x{e000}b", 'a\u{e000}b'],
    ['tag', "a\x{e0041}b", 'a\u{e0041}b'],
    ['visible', "\x{e9} e\x{301} \x{5e9}\x{5dc} \x{4e2d} \x{1f600}", undef],
);
for my $case (@lines) {
    my ($name, $text, $shown) = @$case;
    $shown //= $text;
    is(PVE::Tunnel::Text::one_line($text), $shown, "$name, as characters");
    is(
        PVE::Tunnel::Text::one_line(Encode::encode('UTF-8', $text)),
        Encode::encode('UTF-8', $shown),
        "$name, as bytes"
    );
}

is(PVE::Tunnel::Text::one_line("\xff\xfe\xe9"), "\xff\xfe\xe9", 'bytes that are not UTF-8');
is(PVE::Tunnel::Text::one_line("  a  b \n"), 'a b', 'spaces');
is(PVE::Tunnel::Text::one_line('x' x 1001), 'x' x 1000 . '...', 'long text is cut');
is(
    PVE::Tunnel::Text::character_line("b\xc3\xbcro \xe2\x98\xba\n"), "b\x{fc}ro \x{263a}",
    'one line of characters',
);

done_testing();
