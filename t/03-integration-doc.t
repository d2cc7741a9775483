#!/usr/bin/perl

# Each example in docs/integration.md compiles on its own, and the functions that it calls exist.

use v5.36;

use File::Temp ();
use FindBin;
use Path::Tiny qw(path);
use Test::More;

my $ROOT = "$FindBin::Bin/..";
my @INCLUDE = map { "-I$_" } @INC;

# Modules of Proxmox VE, which need not be installed here.
my %FOREIGN = map { $_ => 1 } qw(PVE::Tunnel PVE::Tools PVE::StorageTunnel PVE::RPCEnvironment);

my $text = path("$ROOT/docs/integration.md")->slurp;
my @blocks = $text =~ m/^```perl\n(.*?)^```\n/gms;
cmp_ok(scalar(@blocks), '>=', 6, scalar(@blocks) . ' examples');
is(scalar(() = $text =~ m/^```\w+$/gm), scalar(@blocks), 'every block is Perl');

subtest 'the examples compile' => sub {
    for my $block (@blocks) {
        my $file = File::Temp->new(SUFFIX => '.pl');
        print {$file} "use v5.36;\n$block" or die "cannot write: $!\n";
        close($file);
        my ($first) = $block =~ m/^(sub \w+|use \S+)/m;
        open(my $perl, '-|', "$^X @INCLUDE -wc $file 2>&1") or die "cannot run perl: $!\n";
        my $output = do { local $/ = undef; readline($perl) };
        close($perl);
        is($output, "$file syntax OK\n", $first);
    }
};

subtest 'the functions that they call exist' => sub {
    my %called = map { $_ => 1 } map { m/\b(PVE(?:::\w+)+::\w+)\(/g } @blocks;
    for my $function (sort keys %called) {
        my ($module, $name) = $function =~ m/\A(.+)::(\w+)\z/;
        next if $FOREIGN{$module};
        my $loaded = eval { require($module =~ s{::}{/}gr . '.pm'); 1 };
        ok($loaded && $module->can($name), $function) or diag($@);
    }
};

subtest 'the modules that the document names exist' => sub {
    for my $module (sort keys %{ { map { $_ => 1 } $text =~ m/\b(PVE::Tunnel::[A-Z]\w+)/g } }) {
        my $loaded = eval { require($module =~ s{::}{/}gr . '.pm'); 1 };
        ok($loaded, $module) or diag($@);
    }
};

done_testing();
