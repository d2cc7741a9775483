#!/usr/bin/perl

# All Perl code of the tree is formatted as .perltidyrc requires and passes .perlcriticrc. Each test in
# t/ has a number of its own.

use v5.36;

use File::Find;
use FindBin;
use Path::Tiny qw(path);
use Test::More;

my $ROOT = "$FindBin::Bin/..";

# Build results, and code of other projects.
my %SKIP = map { $_ => 1 } qw(.git target blib node_modules vendor);

my @files;
find(
    {
        no_chdir => 1,
        preprocess => sub {
            return grep { !$SKIP{$_} } @_;
        },
        wanted => sub { push @files, $_ if -f && is_perl($_) },
    },
    $ROOT,
);
@files = sort map { substr($_, length($ROOT) + 1) } @files;
cmp_ok(scalar(@files), '>', 10, scalar(@files) . ' Perl files');

sub is_perl ($file) {
    return 1 if $file =~ m/\.(?:pl|pm|t|PL)\z/;
    return 0 if $file =~ m/\.[^\/]+\z/ || -B $file;
    open(my $fh, '<', $file) or return 0;
    my $first = readline($fh) // '';
    close($fh);
    return $first =~ m/\A#!.*\bperl\b/ ? 1 : 0;
}

subtest 'perltidy' => sub {
    plan(skip_all => 'Perl::Tidy is not installed') if !eval { require Perl::Tidy; 1 };

    # Removes -b, with which perltidy would rewrite the file.
    my $profile = path("$ROOT/.perltidyrc")->slurp =~ s/^-b(?:ext=.*)?$//gmr;
    for my $file (@files) {
        my $source = path("$ROOT/$file")->slurp;
        my ($tidy, $errors) = ('', '');
        my $failed = Perl::Tidy::perltidy(
            source => \$source,
            destination => \$tidy,
            perltidyrc => \$profile,
            stderr => \$errors,
            errorfile => \$errors,
            argv => '',
        );
        ok(!$failed && $tidy eq $source, $file) or diag($errors || "run: perltidy $file");
    }
};

subtest 'perlcritic' => sub {
    plan(skip_all => 'Perl::Critic is not installed') if !eval { require Perl::Critic; 1 };

    my $critic = Perl::Critic->new(-profile => "$ROOT/.perlcriticrc");
    for my $file (@files) {
        my @violations = $critic->critique("$ROOT/$file");
        is(scalar(@violations), 0, $file) or diag(@violations);
    }
};

my %tests;
push @{ $tests{ m{\At/(\d+)-} ? $1 : 'none' } }, $_ for grep { m{\At/[^/]+\.t\z} } @files;
is_deeply([grep { @$_ > 1 } values %tests], [], 'each test in t/ has a number of its own');

done_testing();
