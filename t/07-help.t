#!/usr/bin/perl

# Every program of the tree prints its usage: with --help to standard output, exit code 0; for an option that it does
# not know to standard error, exit code 2. It fits 80 columns, and so does the list of targets of make. A new program is
# found by its mode in git, or by its name.

use v5.36;

use FindBin;
use Path::Tiny ();
use Test::More;

my $ROOT = Path::Tiny::path("$FindBin::Bin/..")->realpath;
my $PROFILE = $ENV{CARGO_PROFILE} // 'release';
# A script that ignores the option could run for hours.
my @LIMIT = qw(timeout --kill-after=5 60);

# Files that are started by another program only, and have no usage.
my %INTERNAL = (
    'debian/rules' => 'a makefile',
    'debian/check.d/listing' => 'debian/check starts it',
    'debian/check.d/suite' => 'debian/check starts it',
    'debian/tests/*' => 'autopkgtest and other tests start them',
    'bench/perl/*.pl' => 'the benchmarks start them',
    'cli/src/activation/probe.pl' => 'a part of pve-tunnel',
    't/lib/*' => 'tests start them',
    'testnode/worker.pl' => 'the test node starts it, and sends its settings',
);

chdir $ROOT or die "$ROOT: $!\n";
my %mode = map { m/\A(\d+) \S+ \d\t(.+)\z/ ? ($2 => $1) : () } split m/\n/,
    `git ls-files --stage 2>&1`;
plan(skip_all => 'this tree is not a git repository, which lists the programs') if !%mode;

my (@scripts, %used);
for my $file (sort grep { $mode{$_} eq '100755' || m/\.pl\z/ } keys %mode) {
    my ($pattern) = grep { $file =~ as_regex($_) } sort keys %INTERNAL;
    if ($pattern) {
        $used{$pattern} = 1;
        next;
    }
    push @scripts, $file;
}
is_deeply([grep { !$used{$_} } sort keys %INTERNAL], [], 'every exception exists');
cmp_ok(scalar @scripts, '>=', 10, scalar(@scripts) . ' scripts');
for my $file (@scripts) {
    shows_usage($file, $mode{$file} eq '100755' ? () : $^X, "./$file");
}

my @crates = grep { m{(?:\A|/)src/(?:main|bin/[^/]+)\.rs\z} } sort keys %mode;
cmp_ok(scalar @crates, '>=', 6, scalar(@crates) . ' compiled programs');
for my $source (@crates) {
    my $name = program_name($source);
    my $program = "target/$PROFILE/$name";
    SKIP: {
        skip("$program is not built", 1) if !-x $program;
        shows_usage($name, "./$program");
        next if $name ne 'pve-tunnel';
        my ($list) = (output("./$program", '--help'))[1] =~ m/^Commands:\n(.*?)\n\n/ms;
        my @subcommands = $list =~ m/^  ([a-z]+) /gm;
        unlike($list, qr/\.$/m, 'the short descriptions have no full stop');
        cmp_ok(scalar @subcommands, '>=', 8, 'the subcommands of pve-tunnel');
        shows_usage("pve-tunnel $_", "./$program", $_) for grep { $_ ne 'help' } @subcommands;
    }
}

subtest 'make help' => sub {
    my ($code, $out) = output(qw(make --no-print-directory help));
    is($code, 0, 'exit code 0');
    like($out, qr/^  make $_ +\S/m, $_) for qw(setup deb-check manual instructions);
    fits($out);
};

sub shows_usage ($name, @command) {
    # The name of a script in its usage is its path.
    my $usage = qr{^ *(?:usage: *)?(?:\./|perl )?\Q$name\E\b}mi;
    subtest $name => sub {
        my ($code, $out, $err) = output(@command, '--help');
        is($code, 0, '--help: exit code 0');
        like($out, $usage, '... usage on standard output');
        is($err, '', '... nothing on standard error');
        fits($out);
        ($code, $out, $err) = output(@command, '--no-such-option');
        is($code, 2, 'an unknown option: exit code 2');
        is($out, '', '... nothing on standard output');
        like($err, $usage, '... usage on standard error');
    };
    return;
}

sub fits ($text) {
    my @long = grep { length > 80 } split m/\n/, $text;
    is(join("\n", @long), '', '... in 80 columns');
    return;
}

# Exit code, standard output and standard error.
sub output (@command) {
    my ($out, $err) = map { Path::Tiny->tempfile } 1 .. 2;
    my @shell = ('sh', '-c', 'out=$1 err=$2; shift 2; exec "$@" >"$out" 2>"$err" </dev/null');
    system @shell, 'sh', "$out", "$err", @LIMIT, @command;
    return ($? >> 8, $out->slurp_utf8, $err->slurp_utf8);
}

# The name of a program from its source: of its file, or in the manifest of its crate.
sub program_name ($source) {
    return $1 if $source =~ m{/bin/([^/]+)\.rs\z};
    my $manifest = Path::Tiny::path($source =~ s{src/main\.rs\z}{Cargo.toml}r)->slurp_utf8;
    my ($section) = $manifest =~ m/^\[\[bin\]\]\n(.*?)(?:^\[|\z)/ms;
    $section //= $manifest =~ m/^\[package\]\n(.*?)(?:^\[|\z)/ms ? $1 : '';
    return $section =~ m/^name = "([^"]+)"/m ? $1 : die "no name for $source\n";
}

sub as_regex ($pattern) {
    my $regex = join '.*', map { quotemeta } split m/\*/, $pattern, -1;
    return qr/\A$regex\z/;
}

done_testing();
