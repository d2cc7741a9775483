#!/usr/bin/perl

# The programs in docs/perl.md and in the SYNOPSIS of the modules are run, and print what the text
# says they print: each ```perl block is a program, a ```text block right after it its output.

use v5.36;

use File::Temp qw(tempdir);
use FindBin;
use Path::Tiny qw(path);
use Test::More;

my $ROOT = "$FindBin::Bin/..";
my @INCLUDE = map { "-I$_" } @INC;

# Runs a program in an empty directory; returns what it printed, errors included, and how it ended.
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
        is($status, 0, "program $count ends well") or diag($printed);
        is($printed, $expected // '', 'and prints what the text says');
    }
    cmp_ok($count, '>=', 5, "$count programs");
    my @fences = $text =~ m/^```(\w+)$/gm;
    is(scalar(grep { $_ eq 'perl' } @fences), $count, 'none was missed');
};

subtest 'SYNOPSIS of PVE::Tunnel::Native' => sub {
    my ($code) =
        path("$ROOT/perl/lib/PVE/Tunnel/Native.pm")->slurp =~ m/^=head1 SYNOPSIS\n(.*?)^=head1 /ms
        or die "there is no SYNOPSIS\n";
    my ($printed, $status) = run($code =~ s/^    //gmr);
    is($status, 0, 'ends well') or diag($printed);
    like($printed, qr/^websocket: .+\ntext: Hello\n\z/, 'and prints what it should');
};

done_testing();
