#!/usr/bin/perl

# The manual: man and mandoc accept the pages of the manual and of the modules without a warning,
# and every line fits a terminal. The functions and messages that the pages name exist.

use v5.36;

use File::Basename qw(basename);
use File::Find;
use File::Temp qw(tempdir);
use FindBin;
use Path::Tiny qw(path);
use Test::More;

my $ROOT = "$FindBin::Bin/..";
my $COLUMNS = 80;
my $DATE = '1970-01-02';

# Readable for man, which may drop root's privileges.
my $DIR = tempdir(CLEANUP => 1);
chmod(0755, $DIR) or die "cannot open '$DIR' to man: $!\n";
my $SHARE = "$DIR/root/usr/share";

delete local @ENV{qw(MAKEFLAGS MAKELEVEL MFLAGS MANPAGER MANOPT)};
local @ENV{qw(LC_ALL MANWIDTH)} = ('C.UTF-8', $COLUMNS);

# The output of a command as text, standard error included.
sub output (@command) {
    my $pid = open(my $from, '-|') // die "cannot fork: $!\n";
    if ($pid == 0) {
        open(STDERR, '>&', \*STDOUT) or die "cannot redirect: $!\n";
        chdir($ROOT) or die "cannot enter $ROOT: $!\n";
        exec(@command) or die "cannot run $command[0]: $!\n";
    }
    binmode($from, ':encoding(UTF-8)');
    local $/ = undef;
    my $text = readline($from) // '';
    close($from);
    return $text;
}

sub is_installed ($program) {
    return scalar(grep { -x "$_/$program" } split(m/:/, $ENV{PATH}));
}

sub files_below ($dir) {
    my @files;
    find({ no_chdir => 1, wanted => sub { push @files, $_ if -f } }, $dir);
    @files = sort @files;
    return @files;
}

# Only the pages that need no Rust: if SOURCE_DATE_EPOCH differed from the build, cargo would compile the library again.
my @make = (qw(make -s -f docs/man/Makefile), "MANUAL=$DIR/manual");
my $made = output(qw(env SOURCE_DATE_EPOCH=86400), @make, 'manual-pages');
is($?, 0, 'the pages that are written by hand are made') or BAIL_OUT("there is no manual: $made");
$made .= output(
    @make, qw(manual-command install-manual MANUAL_EPOCH=86400 PREFIX=/usr),
    "DESTDIR=$DIR/root"
);
is($?, 0, 'the manual is built and installed') or BAIL_OUT("there is no manual: $made");
is($made, '', '... without output');

# MakeMaker builds the installed pages of the modules; this test checks their POD.
my @modules = grep { m/\.pm\z/ } files_below("$ROOT/perl/lib");
cmp_ok(scalar(@modules), '>', 5, scalar(@modules) . ' modules');
mkdir("$DIR/man3pm") or die "cannot make a directory: $!\n";
for my $file (@modules) {
    my $name = substr($file, length("$ROOT/perl/lib/")) =~ s/\.pm\z//r =~ s{/}{::}gr;
    my @options = ('--section=3pm', "--name=$name", "--date=$DATE", '--center=Perl');
    my $output = output(qw(pod2man --utf8 --errors=die), @options, $file, "$DIR/man3pm/$name.3pm");
    is($output, '', "pod2man of $name reports nothing");
}

my @manual = grep { m/\.[1357]\z/ } files_below("$SHARE/man");
my @pages = (@manual, files_below("$DIR/man3pm"));

subtest 'the installed files' => sub {
    my @installed = map { substr($_, length("$SHARE/")) } files_below("$DIR/root");
    my @fixed = qw(
        bash-completion/completions/pve-tunnel
        fish/vendor_completions.d/pve-tunnel.fish
        man/man1/pve-tunnel.1
        man/man1/pve-tunnel-connect.1
        man/man3/pve_tunnel.3
        man/man5/remote-migration.cfg.5
        man/man7/pve-tunnel-first-migration.7
        man/man7/pve-tunnel-planes.7
        zsh/vendor-completions/_pve-tunnel
    );

    for my $file (@fixed) {
        ok((grep { $_ eq $file } @installed), $file);
    }
    # One page for each subcommand, whichever subcommands there are.
    my %known = map { $_ => 1 } @fixed;
    my @other = grep { !$known{$_} && !m{\Aman/man1/pve-tunnel-[a-z-]+\.1\z} } @installed;
    is("@other", '', 'no other file is installed');
    my @sources = map { basename($_, '.pod') } glob("$ROOT/docs/man/*.pod");
    for my $name (@sources) {
        ok((grep { m{/\Q$name\E\.[357]\z} } @manual), "$name.pod has a page");
    }
};

subtest 'title, sections, date' => sub {
    for my $page (@pages) {
        my ($name, $section) = basename($page) =~ m/\A(.+)\.([^.]+)\z/;
        my $text = path($page)->slurp_utf8;
        my ($title) = $text =~ m/^\.TH +(.+)$/m;
        my @title = map { s/"//gr =~ s/\\-/-/gr } ($title // '') =~ m/"[^"]*"|\S+/g;
        is("@title[0 .. 2]", "$name $section $DATE", "$name($section): title, section and date");
        my @headings = map { s/"//gr } $text =~ m/^\.SH +(.+)$/gm;
        is($headings[0], 'NAME', '... NAME comes first');
        ok(
            (grep { m/\A(?:SYNOPSIS|DESCRIPTION)\z/ } @headings),
            '... SYNOPSIS or DESCRIPTION follows'
        );
        my ($named) = $text =~ m/^\.SH +"?NAME"?\n(?:\.[^\n]*\n)*([^\n]+)$/m;
        like(
            ($named // '') =~ s/\\-/-/gr,
            qr/\A\Q$name\E +- +\S/, '... NAME has the name and a description for whatis'
        );
    }
};

subtest 'examples' => sub {
    for my $page (@manual) {
        like(path($page)->slurp_utf8, qr/^\.SH +"?EXAMPLES"?$/m, basename($page) . ' has examples');
    }
};

subtest 'man' => sub {
    plan(skip_all => 'man is not installed') if !is_installed('man');
    for my $page (@pages) {
        my $name = basename($page);
        my $warnings = output(
            qw(sh -c),
            'man --warnings -E UTF-8 -l -Tutf8 -Z "$1" 2>&1 >/dev/null',
            'sh', $page
        );
        is($warnings, '', "$name: no warning");
        my $shown = output(qw(man -E UTF-8 -l), $page) =~ s/.\x08//gr;
        cmp_ok(scalar(my @lines = split(m/\n/, $shown)), '>', 10, '... man shows it');
        my @long = grep { length > $COLUMNS } @lines;
        is(join("\n", @long), '', "... in $COLUMNS columns");
    }
};

subtest 'mandoc' => sub {
    plan(skip_all => 'mandoc is not installed') if !is_installed('mandoc');
    for my $page (@pages) {
        is(output(qw(mandoc -Tlint -W warning), $page), '', basename($page) . ': no warning');
    }
};

subtest 'the pages that pages refer to exist' => sub {
    my %exists = map { basename($_) => 1 } @manual;
    my $count = 0;
    for my $file (glob("$ROOT/docs/man/*.pod")) {
        for my $page (
            path($file)->slurp_utf8 =~ m/L<(pve[-_]tunnel[\w.-]*\(\d\)|remote-[\w.-]+\(\d\))>/g)
        {
            $count++;
            ok($exists{ $page =~ s/\((\d)\)/.$1/r }, basename($file) . ": $page");
        }
    }
    cmp_ok($count, '>=', 6, "$count references");
};

subtest 'docs/first-migration.md' => sub {
    my $page = 'pve-tunnel-first-migration';
    my $made = output('docs/man/markdown.pl', "docs/man/$page.pod");
    ok(
        $made eq path("$ROOT/docs/first-migration.md")->slurp_utf8,
        "is made of $page.pod: if not, run make manual-markdown"
    );
    my %sections = map { lc($_) =~ s/[^\w -]//gr =~ tr/ /-/r => 1 } $made =~ m/^##+ (.+)$/gm;
    my @links = $made =~ m/\]\(#([^)]+)\)/g;
    cmp_ok(scalar(@links), '>=', 4, scalar(@links) . ' links inside the page');
    ok($sections{$_}, "the section #$_ exists") for @links;
};

subtest 'completions' => sub {
    my @commands = map { m{/pve-tunnel-([a-z-]+)\.1\z} } @manual;
    my %shell = (
        bash => 'bash-completion/completions/pve-tunnel',
        zsh => 'zsh/vendor-completions/_pve-tunnel',
        fish => 'fish/vendor_completions.d/pve-tunnel.fish',
    );
    for my $shell (sort keys %shell) {
        my $file = "$SHARE/$shell{$shell}";
        my $text = path($file)->slurp_utf8;
        like($text, qr/\b\Q$_\E\b/, "$shell completes $_") for @commands;
        SKIP: {
            skip("$shell is not installed", 1) if !is_installed($shell);
            is(output($shell, '-n', $file), '', "$shell parses the file");
        }
    }

    # The same as pressing Tab after these words.
    my $script = <<'END';
. "$1"
shift
function=$(complete -p pve-tunnel | sed 's/.* -F \([^ ]*\) .*/\1/')
COMP_WORDS=(pve-tunnel "$@") COMP_CWORD=$#
"$function" pve-tunnel "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
printf '%s\n' "${COMPREPLY[@]}"
END
    my $offered = sub (@words) {
        return split(
            m/\n/,
            output('bash', '-c', $script, 'bash', "$SHARE/$shell{bash}", @words)
        );
    };
    my %offered = map { $_ => 1 } $offered->('');
    ok($offered{$_}, "bash offers $_") for @commands;
    is_deeply([$offered->('enable', '--helper')], ['--helper-only'], 'bash completes an option');
    my %options = map { $_ => 1 } $offered->('check', '--');
    ok($options{$_}, "bash offers $_ of check") for qw(--to --read-only --json);
};

subtest 'pve_tunnel(3) and the header' => sub {
    my $header = path("$ROOT/include/pve_tunnel.h")->slurp_utf8;
    $header =~ s{/\*.*?\*/|//[^\n]*}{}gs;
    my $page = path("$ROOT/docs/man/pve_tunnel.pod")->slurp_utf8;

    my @declared = map { s/\s+/ /gr } $header =~ m/^([a-z][^\n({;]*\bpve_tunnel_\w+\([^;]*\);)/gm;
    my @described = $page =~ m/^=item B<([^>]*\([^>]*\);)>$/gm;
    cmp_ok(scalar(@declared), '>=', 20, scalar(@declared) . ' functions');
    is(join("\n", sort @described), join("\n", sort @declared), 'the manual has their prototypes');

    my %number = $header =~ m/^\s*(PVE_TUNNEL_STATUS_\w+) = (-?\d+),$/gm;
    my %given = $page =~ m/^=item B<(PVE_TUNNEL_STATUS_\w+)> \((-?\d+)\)$/gm;
    cmp_ok(scalar(keys %number), '>=', 10, scalar(keys %number) . ' statuses');
    is_deeply(\%given, \%number, 'the manual has their numbers');

    my %known = map { $_ => 1 } $header =~ m/\b(pve_tunnel_\w+|PVE_TUNNEL_\w+)/g;
    my %named = map { $_ => 1 } $page =~ m/\b(pve_tunnel_\w+|PVE_TUNNEL_\w+)/g;
    is(
        join(' ', sort grep { !$known{$_} } keys %named), '',
        'the manual names only what the header declares'
    );
};

# The fixed parts of each message in the manual also stand in the source code.
subtest 'the messages of pve-tunnel-planes(7)' => sub {
    my $sources = join("\n", map { path($_)->slurp_utf8 } files_below("$ROOT/src"), @modules);
    my ($section) =
        path("$ROOT/docs/man/pve-tunnel-planes.pod")->slurp_utf8 =~
        m/^=head1 TROUBLESHOOTING\n(.*?)^=head1 /ms;
    my @messages = grep { !m/\Athere is no / } $section =~ m/^=item (.+)$/gm;
    cmp_ok(scalar(@messages), '>=', 20, scalar(@messages) . ' messages');
    for my $message (@messages) {
        my @fixed = grep { length > 5 } split(m/I<[^>]*>/, $message);
        my @unknown = grep { index($sources, $_) < 0 } @fixed;
        ok(@fixed && !@unknown, $message) or diag("not in the source code: @unknown");
    }
};

done_testing();
