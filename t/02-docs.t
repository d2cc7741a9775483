#!/usr/bin/perl

# The programs in docs/perl.md and in the SYNOPSIS of PVE::Tunnel::Native run and print the
# documented output. Each ```perl block is a program, and a ```text block right after it is its
# output. README.md is short, and names only files, targets and commands that exist.

use v5.36;

use File::Temp qw(tempdir);
use FindBin;
use Path::Tiny qw(path);
use Test::More;

my $ROOT = "$FindBin::Bin/..";
my @INCLUDE = map { "-I$_" } @INC;

# Runs a program in an empty directory. Returns its output, standard error included, and its wait
# status.
sub run ($code) {
    my $dir = tempdir(CLEANUP => 1);
    pipe(my $reader, my $writer) or die "cannot make a pipe: $!\n";
    my $pid = fork() // die "cannot fork: $!\n";
    if ($pid == 0) {
        chdir($dir) or die "cannot enter $dir: $!\n";
        open(STDOUT, '>&', $writer) or die "cannot redirect: $!\n";
        open(STDERR, '>&', $writer) or die "cannot redirect: $!\n";
        exec($^X, @INCLUDE, '-e', $code) or die "cannot run perl: $!\n";
    }
    close($writer);
    local $/ = undef;
    my $printed = readline($reader) // '';
    waitpid($pid, 0);
    return ($printed, $?);
}

subtest 'docs/perl.md' => sub {
    my $text = path("$ROOT/docs/perl.md")->slurp;
    my $count = 0;
    while ($text =~ m/^```perl\n(.*?)^```\n(?:\n```text\n(.*?)^```\n)?/gms) {
        my ($code, $expected) = ($1, $2);
        my ($printed, $status) = run($code);
        $count++;
        is($status, 0, "program $count exits with 0") or diag($printed);
        is($printed, $expected // '', '... and prints the documented output');
    }
    cmp_ok($count, '>=', 5, "$count programs");
    my @fences = $text =~ m/^```(\w+)$/gm;
    is(scalar(grep { $_ eq 'perl' } @fences), $count, 'every Perl block has been run');
};

subtest 'SYNOPSIS of PVE::Tunnel::Native' => sub {
    my ($code) =
        path("$ROOT/perl/lib/PVE/Tunnel/Native.pm")->slurp =~ m/^=head1 SYNOPSIS\n(.*?)^=head1 /ms
        or die "there is no SYNOPSIS\n";
    my ($printed, $status) = run($code =~ s/^    //gmr);
    is($status, 0, 'exits with 0') or diag($printed);
    like(
        $printed, qr/^websocket: .+\ntext: Hello\n\z/,
        '... and prints the plane and the text of the frame'
    );
};

subtest 'README.md' => sub {
    my $text = path("$ROOT/README.md")->slurp_utf8;
    my @lines = split(/\n/, $text);
    cmp_ok(scalar(@lines), '<=', 120, 'at most 120 lines');
    is_deeply([grep { length > 100 } @lines], [], 'at most 100 columns');

    my @links = grep { !m/^https?:/ } $text =~ m/\]\(([^)#]+)/g;
    cmp_ok(scalar(@links), '>', 10, 'links to files of the tree');
    is_deeply([grep { !-e "$ROOT/$_" } @links], [], 'their files exist');

    my %target = map { $_ => 1 } map { path($_)->slurp =~ m/^([a-z-]+):/gm } "$ROOT/Makefile",
        "$ROOT/debian/packages.mk";
    my @make = $text =~ m/\bmake ([a-z-]+)/g;
    is_deeply([grep { !$target{$_} } @make], [], "targets of the Makefile: @make");

    my %subcommand = map { lc($_) => 1 }
        path("$ROOT/cli/src/arguments.rs")->slurp =~ m/^    ([A-Z][a-z]+)(?:\(|,)/gm;
    my @used = $text =~ m/\bpve-tunnel (\w+)(?= --| *$|[`'])/gm;
    cmp_ok(scalar(@used), '>=', 4, "subcommands: @used");
    is_deeply([grep { !$subcommand{$_} } @used], [], 'the subcommands exist');
};

done_testing();
