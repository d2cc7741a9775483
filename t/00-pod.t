#!/usr/bin/perl

# The POD of every module and of the manual is valid, and covers every function of the modules.

use v5.36;

use File::Find;
use FindBin;
use Pod::Checker;
use Test::More;

my $ROOT = "$FindBin::Bin/..";
my $LIB = "$ROOT/perl/lib";

# Modules that contain a second package, which is documented in the same file.
my %INSIDE = ('PVE::Tunnel::Native' => ['PVE::Tunnel::Native::Codec']);

my (@files, @modules);
find(
    {
        no_chdir => 1,
        wanted => sub {
            return if !-f || !m/\.(?:pm|pl|pod)\z/;
            push @files, $_;
            push @modules, $_ if m/\A\Q$LIB\E.*\.pm\z/;
        },
    },
    grep { -d } $LIB,
    "$ROOT/perl/diverted", "$ROOT/testnode", "$ROOT/demo", "$ROOT/docs/man",
);
cmp_ok(scalar(@modules), '>', 0, 'modules are found');

subtest 'syntax' => sub {
    for my $file (sort @files) {
        my $checker = Pod::Checker->new(-warnings => 1);
        open(my $complaints, '>', \my $text) or die "cannot open a string: $!\n";
        $checker->parse_from_file($file, $complaints);
        close($complaints);

        my $errors = $checker->num_errors(); # -1: there is no POD
        my $name = substr($file, length($ROOT) + 1);
        if ($errors < 0) {
            ok($file !~ m/\A\Q$LIB\E|\.pod\z/, "$name needs no POD");
        } else {
            is($errors + $checker->num_warnings(), 0, $name) or diag($text);
        }
    }
};

subtest 'sections' => sub {
    for my $file (sort @modules) {
        open(my $fh, '<', $file) or die "cannot read $file: $!\n";
        my %has = map { $_ => 1 } map { m/^=head1 (.+)$/ } <$fh>;
        close($fh);
        ok($has{$_}, substr($file, length($LIB) + 1) . " has $_") for qw(NAME DESCRIPTION);
    }
};

subtest 'coverage' => sub {
    plan(skip_all => 'Pod::Coverage is not installed') if !eval { require Pod::Coverage; 1 };
    for my $file (sort @modules) {
        my $module = substr($file, length($LIB) + 1) =~ s/\.pm\z//r =~ s{/}{::}gr;
        for my $package ($module, ($INSIDE{$module} // [])->@*) {
            eval "require $module; 1" ## no critic (BuiltinFunctions::ProhibitStringyEval)
                or do { fail("$module loads"); diag($@); next };
            my $coverage = Pod::Coverage->new(package => $package, pod_from => $file);
            my @missing = defined($coverage->coverage()) ? $coverage->uncovered() : ();
            is("@missing", '', "$package: every function is documented")
                or diag($coverage->why_unrated() // ());
        }
    }
};

done_testing();
