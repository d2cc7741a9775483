#!/usr/bin/perl

# Writes debian/copyright in the machine-readable format: the copyright of this project, and of every
# crate in vendor/ of the source package. Uses `cargo metadata` and the files of the crates.
#
#   debian/copyright.pl >debian/copyright
#
# Fails if a crate has no license, or one that is not in the table below: a developer must read such
# a license before it is added.

use v5.36;

use FindBin;
use JSON qw(decode_json);

my $TOP = "$FindBin::RealBin/..";
my $USAGE = "usage: debian/copyright.pl >debian/copyright\n";

if (@ARGV) {
    my $help = "@ARGV" eq '--help';
    print { $help ? *STDOUT : *STDERR } $USAGE;
    exit($help ? 0 : 2);
}

# The licenses of the crates, and the source of each text: a file of Debian, or a file of a crate.
my %TEXT = (
    'Apache-2.0' => 'debian',
    'LGPL-2.1-or-later' => 'debian LGPL-2.1',
    'MPL-2.0' => 'debian',
    'Apache-2.0 WITH LLVM-exception' => 'linux-raw-sys LICENSE-Apache-2.0_WITH_LLVM-exception',
    'BSD-2-Clause' => 'zerocopy LICENSE-BSD',
    'BSD-3-Clause' => 'subtle LICENSE',
    'ISC' => 'untrusted LICENSE.txt',
    'MIT' => 'httparse LICENSE-MIT',
    'Unicode-3.0' => 'unicode-ident LICENSE-UNICODE',
    'Unlicense' => 'memchr UNLICENSE',
);

# Names of the files with copyright notices.
my $NOTICE = qr/\A(?:LICEN[CS]E|COPYRIGHT|COPYING|NOTICE|UNLICENSE)/i;

binmode(STDOUT, ':encoding(UTF-8)') or die "cannot set the encoding of standard output: $!\n";

my %crate;
for my $package (metadata()->{packages}->@*) {
    next if !defined $package->{source};
    $package->{directory} = $package->{manifest_path} =~ s{/[^/]*\z}{}r;
    push $crate{ $package->{name} }->@*, $package;
}

my $own = slurp("$TOP/LICENSE");
say 'Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/';
say 'Upstream-Name: pve-tunnel';
say 'Comment: written by debian/copyright.pl; `make copyright` writes it anew';
stanza('*', ['2026 the pve-tunnel developers'], 'AGPL-3.0-or-later');
my %used;
for my $package (
    map {
        sort { $a->{version} cmp $b->{version} }
            $crate{$_}->@*
    } sort keys %crate
    )
{
    my $expression = $package->{license} // die "crate '$package->{name}' has no license\n";
    $used{$_} = 1 for parts($expression, $package->{name});
    stanza(
        "vendor/$package->{name}-$package->{version}/*",
        [holders($package)], debian_expression($expression)
    );
}
text('AGPL-3.0-or-later', $own);
text(debian_expression($_), license_text($_)) for sort keys %used;

sub metadata () {
    open(
        my $cargo, '-|', 'cargo', 'metadata', '--locked', '--format-version', '1',
        '--manifest-path', "$TOP/Cargo.toml"
    ) or die "cannot run cargo: $!\n";
    my $json = do { local $/ = undef; <$cargo> };
    close($cargo) or die "cargo metadata failed\n";
    return decode_json($json);
}

# The licenses in an SPDX expression.
sub parts ($expression, $name) {
    my @parts = split(m{\s+(?:OR|AND)\s+|/}, $expression =~ tr/()//dr);
    for my $part (@parts) {
        die "crate '$name' has the license '$part', which is not in the table of $0\n"
            if !$TEXT{$part};
    }
    return @parts;
}

# Converts an SPDX expression. SPDX has parentheses. Debian's format has a comma instead, which has a
# lower precedence than "and" and "or".
sub debian_expression ($expression) {
    return $expression =~ s{\((.*?)\) AND }{$1, and }r =~ s{/| OR }{ or }gr =~ s/ AND / and /gr =~
        s/WITH (\S+)-exception/with $1 exception/r;
}

sub holders ($package) {
    my %seen;
    my @holders;
    for my $file (sort glob("$package->{directory}/*")) {
        next if $file !~ m{/([^/]*)\z} || $1 !~ $NOTICE || !-f $file;
        push @holders, grep { !$seen{ lc($_) =~ s/\W//gr }++ } notices(slurp($file));
    }
    return @holders if @holders;
    my @authors = $package->{authors}->@*;
    return @authors if @authors;
    return "the $package->{name} developers <" . ($package->{repository} // 'crates.io') . '>';
}

# Lines with a copyright notice, without the word "copyright". The forms in the appendix of the Apache
# license and sentences about notices are omitted.
sub notices ($text) {
    my @found;
    while ($text =~ m{^[\s/*#]*copyright\s+(?=\S)(?:\(c\)\s*|©\s*)?(.*?)\s*$}gim) {
        my $claim = $1 =~ s/\.?\s*All rights reserved\.?//ir;
        next
            if $claim !~ /\A(?:\d{4}|\p{Lu}[\p{Ll}\w]+ )/
            || $claim eq uc($claim) && $claim =~ /\p{L}/;
        next if $claim =~ /\A(?:License|Notice)\b/i;
        push @found, $claim =~ /\p{L}/ ? $claim : "$claim, its contributors";
    }
    return @found;
}

sub license_text ($license) {
    my ($where, $file) = split(/ /, $TEXT{$license});
    if ($where eq 'debian') {
        my $path = '/usr/share/common-licenses/' . ($file // $license);
        return "On Debian systems, the text of this license is in $path.\n";
    }
    my $package = ($crate{$where} // die "the text of '$license' was in crate '$where'\n")->[0];
    my $text = slurp("$package->{directory}/$file");
    # Debian has the text of the license without the exception.
    if ($license =~ /\A(.*) WITH /) {
        my $debian = license_text($1);
        $text =~ /^(-+ [^\n]* Exceptions? .*)/ms or die "'$file' of '$where' has no exception\n";
        return "$debian\n$1";
    }
    return join('', grep { !notices($_) } $text =~ m{^.*\n?}gm) =~ s{^//[ ]?}{}gmr;
}

sub stanza ($files, $holders, $license) {
    print "\n";
    say "Files: $files";
    say 'Copyright: ' . join("\n           ", @$holders);
    say "License: $license";
    return;
}

sub text ($license, $text) {
    $text =~ s/\A\s+|\s+\z//g;
    print "\n";
    say "License: $license";
    say join("\n", map { /\S/ ? " $_" : ' .' } map { s/\s+\z//r } split(/\n/, $text));
    return;
}

sub slurp ($path) {
    open(my $file, '<:encoding(UTF-8)', $path) or die "cannot open $path: $!\n";
    my $text = do { local $/ = undef; <$file> };
    close($file) or die "cannot read $path: $!\n";
    return $text;
}
