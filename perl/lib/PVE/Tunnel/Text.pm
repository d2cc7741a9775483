package PVE::Tunnel::Text;

use v5.36;

our $VERSION = '0.1.0';

# Characters of foreign text in one line.
use constant MAX_TEXT => 1000;

sub one_line ($text) {
    $text =~ s/[\x00-\x20\x7f]+/ /g;
    $text =~ s/\A | \z//g;
    return length($text) > MAX_TEXT ? substr($text, 0, MAX_TEXT) . '...' : $text;
}

sub ascii_line ($text) {
    return one_line($text =~ s/[^\x20-\x7e]+/ /gr);
}

# The functions of the library begin their messages with their name, which is for programmers.
sub reason ($error) {
    return one_line($error =~ s/\Apve_tunnel_\w+: //r);
}

1;

__END__

=encoding utf8

=head1 NAME

PVE::Tunnel::Text - foreign text in messages

=head1 DESCRIPTION

How text of other programs, nodes and users becomes part of a message.

=head1 FUNCTIONS

=head2 one_line

C<one_line($text)>: the text as a part of one line: control characters become spaces, and above 1000
characters it is shortened and ends with three dots.

=head2 ascii_line

C<ascii_line($text)>: as C<one_line>, and all characters outside of printable ASCII become spaces. For
messages that a worker sends to the source.

=head2 reason

C<reason($error)>: an error of L<PVE::Tunnel::Native> without the name of the function, as such a line.

=cut
