#!/usr/bin/perl

# Prints a manual page as Markdown, for readers of the repository:
#
#   docs/man/markdown.pl docs/man/pve-tunnel-first-migration.pod >docs/first-migration.md
#
# It supports the part of POD that these pages use, and dies at anything else. Not Pod::Markdown: its
# output depends on its version, and the result is committed and compared.

use v5.36;

use utf8;

use File::Basename qw(dirname);
use Pod::Simple::SimpleTree;
use Text::Wrap ();

my ($file) = @ARGV;
if (@ARGV != 1 || $file =~ m/\A-/) {
    my $help = "@ARGV" eq '--help';
    print { $help ? *STDOUT : *STDERR } "usage: docs/man/markdown.pl FILE.pod\n";
    exit($help ? 0 : 2);
}
my $PAGES = dirname($file);
# Words of headings that are not lower case.
my %UPPER = (nat => 'NAT', ve => 'VE', proxmox => 'Proxmox');

use constant COLUMNS => 120;

binmode(STDOUT, ':encoding(UTF-8)');
my $parser = Pod::Simple::SimpleTree->new;
$parser->accept_targets('*');
my (undef, undef, @blocks) = $parser->parse_file($file)->root->@*;
die "$file: errors in the POD\n" if $parser->any_errata_seen;

my $titled = 0;
my ($language, @parts) = ('text', "<!-- Generated from docs/man by `make manual-markdown`. -->");
push @parts, map { block($_) } @blocks;
print join("\n\n", @parts), "\n";

# The text of a block, or nothing.
sub block ($block) {
    my ($name, $attributes, @inside) = @$block;
    if ($name eq 'for') {
        my $target = $attributes->{target};
        $language = $target eq 'command' ? 'sh' : 'text';
        return;
    }
    return if $name eq 'encoding';
    return heading(1, inline(@inside)) if $name eq 'head1';
    return heading(2, inline(@inside)) if $name eq 'head2';
    return paragraph('', inline(@inside)) if $name eq 'Para';
    return list(@inside) if $name =~ /\Aover-/;
    if ($name eq 'Verbatim') {
        my $text = join('', @inside) =~ s/^    //gmr;
        my $fence = $language;
        $language = 'text';
        return "```$fence\n$text\n```";
    }
    die "$file: the POD command '$name' is not supported\n";
}

sub paragraph ($first, $text) {
    # The first paragraph is the line of NAME, and becomes the title.
    return "# \u$1" if !$titled++ && $text =~ m/ - (.+)/;
    local $Text::Wrap::columns = COLUMNS + 1;
    local $Text::Wrap::huge = 'overflow';
    return Text::Wrap::wrap($first, ' ' x length($first), $text);
}

sub heading ($level, $text) {
    return if $text eq 'NAME';
    return ('#' x ($level + 1)) . ' ' . title($text);
}

sub title ($text) {
    my $lower = $text =~ /[a-z]/ ? $text : lc $text;
    $lower =~ s/\b(\w+)\b/$UPPER{$1} \/\/ $1/ge if $lower ne $text;
    return $lower =~ s/\A((?:\d+\. )?)(?!pve-)(.)/$1\u$2/r;
}

# A list whose items have a text, or a bullet. Paragraphs of an item follow it, indented.
sub list (@inside) {
    my @items;
    for my $inside (@inside) {
        my ($name, undef, @text) = @$inside;
        if ($name eq 'item-bullet' || $name eq 'item-text') {
            push @items, paragraph('- ', inline(@text));
        } elsif ($name eq 'Para') {
            push @items, paragraph('  ', inline(@text));
        } else {
            push @items, map { s/^(?=.)/  /gmr } block($inside);
        }
    }
    return @items;
}

sub inline (@inside) {
    return join('', map { ref ? code(@$_) : plain($_) } @inside);
}

sub plain ($text) { return $text =~ s/([*_`<>\[\]\\])/\\$1/gr }

sub code ($name, $attributes, @inside) {
    my $text = join('', map { ref ? inline($_) : $_ } @inside);
    return "**" . inline(@inside) . "**" if $name eq 'B';
    return '*' . inline(@inside) . '*' if $name eq 'I';
    return "`$text`" if $name eq 'C' || $name eq 'F';
    return link_to($attributes, $text) if $name eq 'L';
    die "$file: the POD code $name<> is not supported\n";
}

sub link_to ($attributes, $text) {
    my ($page, $section) = map { defined ? "$_" : undef } @$attributes{qw(to section)};
    if (!defined $page) {
        my $title = title($section);
        return "[$title](#" . (lc($title) =~ s/[^\w -]//gr =~ tr/ /-/r) . ')';
    }
    my ($source) = glob("$PAGES/" . ($page =~ s/\(.\)\z//r) . '.pod');
    return $page if !-e $source;
    return "[$page](man/" . ($source =~ s{.*/}{}r) . ')';
}
