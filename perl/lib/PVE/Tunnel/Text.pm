package PVE::Tunnel::Text;

use v5.36;

our $VERSION = '0.1.0';

# Characters of one line.
use constant MAX_TEXT => 1000;

# Invisible characters, and those that change the direction or the place of others. The braille
# pattern is empty. Together with control characters, the same as in the library (scalar.rs).
my $INVISIBLE = qr/(?!\x20)[\p{Cf}\p{Cn}\p{Co}\p{Cs}\p{Z}\p{Default_Ignorable_Code_Point}\x{2800}]/;

sub one_line ($text) {
    # Either characters or the bytes of UTF-8, and the result is the same. Text that is not valid
    # UTF-8 consists of characters up to U+00FF.
    my $bytes = $text !~ /[^\x00-\xff]/ && utf8::decode($text);
    $text =~ s/[\x20\p{Cc}]+/ /g;
    $text =~ s/\A | \z//g;
    my $cut = length($text) > MAX_TEXT;
    $text = substr($text, 0, MAX_TEXT) if $cut;
    $text =~ s/($INVISIBLE)/sprintf '\\u{%x}', ord $1/ge;
    utf8::encode($text) if $bytes;
    return $cut ? "$text..." : $text;
}

sub character_line ($text) {
    my $line = one_line($text);
    # Text that is not valid UTF-8 consists of characters up to U+00FF.
    utf8::decode($line);
    return $line;
}

# The library's messages begin with the name of the function, which operators do not need.
sub reason ($error) {
    return one_line($error =~ s/\Apve_tunnel_\w+: //r);
}

1;

__END__

=encoding utf8

=head1 NAME

PVE::Tunnel::Text - foreign text in messages

=head1 DESCRIPTION

Converts text of other programs, nodes and users into a part of a message.

=head1 FUNCTIONS

=head2 one_line

C<one_line($text)>: the text with a space for each sequence of control characters. An invisible
character, and one that changes the direction or the place of others, becomes an escape sequence
such as C<\u{202e}>: a terminal and a browser must not show another text than the one that was
logged. Text of more than 1000 characters is shortened and ends with three dots.

Takes characters, or the bytes of their UTF-8, and returns the same kind.

=head2 character_line

C<character_line($text)>: as C<one_line>, and always characters, as a JSON encoder expects them.

=head2 reason

C<reason($error)>: an error of L<PVE::Tunnel::Native> without the name of the function, as
C<one_line>.

=cut
