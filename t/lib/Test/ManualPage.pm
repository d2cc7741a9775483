package Test::ManualPage;

use v5.36;

use Exporter qw(import);
use Path::Tiny qw(path);
use Pod::Simple::SimpleTree;

our @EXPORT_OK = qw(blocks missing_lines);

=head1 NAME

Test::ManualPage - the commands, files and outputs in a page of the manual

=head1 DESCRIPTION

Each indented block of such a page has a mark before it, which formatters of POD ignore:

=over

=item C<=for command NODE [NODE...] [CODE...]>

Commands for a shell on these nodes, and the exit codes that are expected of the last one (default
0).

=item C<=for output>

Lines that the commands before it print, in this order, between others.

=item C<=for log>

Lines in the log of the last migration, in this order, between others.

=item C<=for file NODE PATH>, C<=for line NODE PATH>

The content of a file; C<line>: broken in the page, and one line in the file.

=item C<=for text>

Neither.

=back

=head1 FUNCTIONS

=head2 blocks($file, $chapter = undef)

The blocks of a page, or of one chapter of it (a heading of the first level), a list of hashes: C<kind>, C<words> (an array, the rest of the mark),
C<section> (the heading before it) and C<text>. Dies if a block has no mark.

=head2 missing_lines($expected, $actual)

The lines of C<$expected> that do not follow each other in C<$actual>, each with other lines between
them or not. A line that begins with a space continues the one before. Numbers, units of size,
identifiers and the directories of sockets may differ; C<...> is any text.

=cut

my %KIND = map { $_ => 1 } qw(command output log file line text);

sub blocks ($file, $chapter = undef) {
    my $parser = Pod::Simple::SimpleTree->new;
    $parser->accept_targets('*');
    my (undef, undef, @parts) = $parser->parse_file("$file")->root->@*;
    my ($section, $of_chapter, $mark, @blocks) = ('', !defined $chapter);
    for my $part (@parts) {
        my ($name, $attributes, @inside) = @$part;
        if ($name =~ /\Ahead/) {
            $section = join('', map { ref ? $_->[2] : $_ } @inside);
            $of_chapter = $section eq $chapter if $name eq 'head1' && defined $chapter;
        } elsif ($name eq 'for') {
            my $words = $inside[0] ? $inside[0][2] : '';
            $mark = { kind => $attributes->{target}, words => [split(' ', $words)] };
            die "$file: unknown mark '=for $mark->{kind}'\n" if !$KIND{ $mark->{kind} };
        } elsif ($name eq 'Verbatim' && $of_chapter) {
            my $text = join('', @inside) =~ s/^    //gmr;
            die "$file: no mark before '$text'\n" if !$mark;
            push @blocks, { %$mark, section => $section, text => "$text\n" };
            undef $mark;
        }
    }
    return @blocks;
}

sub missing_lines ($expected, $actual) {
    my @lines = split(/\n/, $expected =~ s/\n\s+/ /gr);
    my @rest = split(/\n/, $actual);
    my @missing;
    for my $line (@lines) {
        my $pattern = pattern($line);
        my @after = @rest;
        shift @after while @after && $after[0] !~ $pattern;
        if (@after) {
            @rest = @after[1 .. $#after];
        } else {
            push @missing, $line;
        }
    }
    return @missing;
}

# What may differ in each run, and the pattern for it.
my @VARIABLE = (
    # Missing if the data took less than a second.
    [qr/, limited by [a-z ]+/, '(?:, limited by [A-Za-z ]+)?'],
    [qr/\.\.\./, '.*'],
    [qr/[0-9A-F]{2}(?::(?:[0-9A-F]{2}|\.\.\.))+/, '[0-9A-F:]+'],
    [qr/\d{1,3}(?:\.\d{1,3}){3}:\d+/, undef],
    [qr/\d{1,3}(?:\.\d{1,3}){3}/, undef],
    [qr{'/\S*/}, q{'/\S*/}],
    [qr/TLS\d+_\w+/, undef],
    [qr/[\d.]+ (?:B|[KMG]iB)\b/, '[\d.]+ (?:B|[KMG]iB)'],
    [qr/[0-9]+(?:\.[0-9]+)?/, '[0-9]+(?:\.[0-9]+)?'],
    [qr/\s+/, '\s+'],
);
my $VARIABLE = join('|', map { "($_->[0])" } @VARIABLE);

sub pattern ($line) {
    my $pattern = '';
    while ($line =~ /\G(?:$VARIABLE|(.))/g) {
        my @found = @{^CAPTURE};
        my ($number) = grep { defined $found[$_] } 0 .. $#found;
        $pattern .= ($VARIABLE[$number] // [])->[1] // quotemeta($found[$number]);
    }
    return qr/\A\s*$pattern\s*\z/;
}

1;
