#!/usr/bin/perl

# The module loads fast, and its version matches the library and the crate.

use v5.36;

use FindBin;
use List::Util qw(min);
use Test::More;
use Time::HiRes qw(time);

use PVE::Tunnel::Native;

my $ROUNDS = 15;
my $LIMIT = 1.3; # factor over the start time of a Perl that loads JSON

subtest 'versions' => sub {
    open(my $fh, '<', "$FindBin::Bin/../Cargo.toml") or die "cannot read Cargo.toml: $!\n";
    my ($version) = grep { defined } map { m/^version = "([^"]+)"/ } <$fh>;
    close($fh);

    is($PVE::Tunnel::Native::VERSION, $version, 'the module has the version of the crate');
    is(PVE::Tunnel::Native::version(), $version, 'the loaded library has the same version');
    like(PVE::Tunnel::Native::abi_version(), qr/\A[0-9]+\z/, 'the ABI version is a number');
};

subtest 'the last status and message' => sub {
    is(PVE::Tunnel::Native::STATUS_OK, 0, 'STATUS_OK is 0');

    ok(!eval { PVE::Tunnel::Native::fingerprint_parse('no fingerprint'); 1 }, 'a call that fails');
    my $error = $@;
    is(
        PVE::Tunnel::Native::last_status(), PVE::Tunnel::Native::STATUS_INVALID_ARGUMENT,
        'last_status is its status',
    );
    is(
        PVE::Tunnel::Native::last_error() . "\n", $error,
        'last_error is the message that the call died with'
    );

    PVE::Tunnel::Native::fingerprint_parse('ab' x 32);
    is(PVE::Tunnel::Native::last_status(), 0, 'the next success clears the status');
    is(PVE::Tunnel::Native::last_error(), '', '... and the message');

    my @numbers = map { PVE::Tunnel::Native->can("STATUS_$_")->() } qw(
        NULL_POINTER INVALID_ARGUMENT NOT_UTF8 TOO_LONG PROTOCOL IO REFUSED WRONG_PROCESS PANIC
        OUT_OF_MEMORY
    );
    my %distinct = map { $_ => 1 } @numbers;
    is(scalar(keys(%distinct)), 10, 'each status of a failure is distinct');
    is(scalar(grep { $_ >= 0 } @numbers), 0, '... and negative');
};

subtest 'fingerprints' => sub {
    my $canonical = join(':', ('0A', 'FF') x 16);
    is(
        PVE::Tunnel::Native::fingerprint_parse('0aff' x 16), $canonical,
        'lower case without colons is accepted'
    );
    is(
        PVE::Tunnel::Native::fingerprint_parse($canonical), $canonical,
        'the form that Proxmox VE writes is accepted'
    );
    is(
        PVE::Tunnel::Native::fingerprint_parse(lc($canonical)), $canonical,
        'lower case is accepted'
    );

    my %bad = (
        'too short' => '0A:FF',
        'no hexadecimal' => 'zz' x 32,
        'SHA-1' => 'ab' x 20,
        'empty' => '',
        'a NUL inside' => "ab\0" . 'ab' x 31,
        'undefined' => undef,
        'wide' => "\x{2603}" x 64,
        'a reference' => [],
    );
    for my $what (sort keys %bad) {
        ok(!eval { PVE::Tunnel::Native::fingerprint_parse($bad{$what}); 1 }, "$what is refused");
        like(
            $@, qr/\Apve_tunnel_fingerprint_parse: .+\n\z/,
            '... with one line that names the function'
        );
    }
};

subtest 'time to load' => sub {
    is(loaded('JSON'), 'no', 'JSON is loaded only by a call that needs it');

    my @include = map { "-I$_" } @INC;
    my %best = (json => [qw(-MJSON -e 1)], native => [qw(-MPVE::Tunnel::Native -e 1)]);
    for my $arguments (values(%best)) {
        $arguments = min(map { seconds($^X, @include, @$arguments) } 1 .. $ROUNDS);
    }
    cmp_ok(
        $best{native}, '<=', $LIMIT * $best{json},
        "at most $LIMIT times the time that JSON needs"
    ) or diag("native $best{native} s, JSON $best{json} s");
};

sub loaded ($module) {
    my $code = "print exists(\$INC{'$module.pm'}) ? 'yes' : 'no'";
    open(my $fh, '-|', $^X, (map { "-I$_" } @INC), '-MPVE::Tunnel::Native', '-e', $code)
        or die "cannot run perl: $!\n";
    my $answer = readline($fh);
    close($fh) or die "perl failed: $?\n";
    return $answer;
}

sub seconds (@command) {
    my $start = time();
    system(@command) == 0 or die "'@command' failed: $?\n";
    return time() - $start;
}

done_testing();
