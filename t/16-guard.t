#!/usr/bin/perl

# guard_check, on this machine's loopback. Every rule is tested with tables, and against real
# routes, where it is decided.

use v5.36;

use IO::Socket::IP;
use JSON;
use Test::More;

use PVE::Tunnel::Native;

sub check (%input) { return PVE::Tunnel::Native::guard_check(\%input) }

sub refused ($what, $pattern, %input) {
    ok(!eval { check(%input); 1 }, "$what is refused");
    like($@, qr/\Apve_tunnel_guard_check: .*$pattern.*\n\z/, 'with words that help');
    return;
}

my %NEAR = (network => '127.0.0.0/8', source_network => '127.0.0.0/8');
my $has_ipv6 = eval { IO::Socket::IP->new(LocalHost => '::1', Listen => 1) } ? 1 : 0;

subtest 'taken' => sub {
    my $verdict = check(address => '127.0.0.1', %NEAR);
    my $warnings = delete($verdict->{warnings});
    is_deeply(
        $verdict,
        {
            address => '127.0.0.1',
            source => '127.0.0.1',
            interface => 'lo',
            gateway => undef,
            scope => 'loopback',
        },
        'a loopback address whose network is named',
    );
    is(scalar(@$warnings), 1, 'with one warning');
    my $text = qr/\ACLEAR TEXT: .* RAM and disks .* UNENCRYPTED .*127\.0\.0\.1 .*\blo\b/;
    like($warnings->[0], $text, 'that cannot be missed');

    my %all = (%NEAR, public => JSON::false, gateway => '');
    ok(check(address => '127.0.0.1', %all), 'every spelling of false');
    ok(check(address => '127.0.0.1', %NEAR, public => 1, gateway => JSON::true), 'and of true');
    is(
        check(address => '127.0.0.1', network => '127.0.0.0/8', source_network => 'lo')->{source},
        '127.0.0.1', 'an interface to send from',
    );
    SKIP: {
        skip('no IPv6 here', 1) if !$has_ipv6;
        is(check(address => '::1', network => '::1/128')->{source}, '::1', 'IPv6');
    }
};

subtest 'refused' => sub {
    refused('loopback without its network', 'loopback', address => '127.0.0.1');
    my $gone = 'in no network of this node.*nosuch0.*none of that name';
    refused('an interface that is not there', $gone, address => '10.0.0.7', network => 'nosuch0');
    is(PVE::Tunnel::Native::last_status(), PVE::Tunnel::Native::STATUS_REFUSED, 'as a refusal');
};

subtest 'bad input' => sub {
    refused('no address', 'address');
    refused('an undefined address', 'null', address => undef);
    refused('an unknown name', 'netwrok', address => '127.0.0.1', netwrok => '127.0.0.0/8');
    is(
        PVE::Tunnel::Native::last_status(), PVE::Tunnel::Native::STATUS_INVALID_ARGUMENT,
        'as a bad argument',
    );
    for my $input (undef, [], 'x') {
        ok(!eval { PVE::Tunnel::Native::guard_check($input); 1 }, 'what is no hash is refused');
        like($@, qr/\Apve_tunnel_guard_check: input is not a hash reference\n\z/, 'as such');
    }
};

done_testing();
