#!/usr/bin/perl

# guard_check on the loopback interface of this machine. The Rust tests check every rule, also with
# real routes.

use v5.36;

use IO::Socket::IP;
use JSON;
use Test::More;

use PVE::Tunnel::Native;

sub check (%input) { return PVE::Tunnel::Native::guard_check(\%input) }

sub refused ($what, $pattern, %input) {
    ok(!eval { check(%input); 1 }, "$what is refused");
    like($@, qr/\Apve_tunnel_guard_check: .*$pattern.*\n\z/, '... with a reason');
    return;
}

my %NEAR = (network => '127.0.0.0/8', source_network => '127.0.0.0/8');
my $has_ipv6 = eval { IO::Socket::IP->new(LocalHost => '::1', Listen => 1) } ? 1 : 0;

subtest 'accepted addresses' => sub {
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
        'a loopback address in the given network',
    );
    is(scalar(@$warnings), 1, '... with one warning');
    my $text = qr/\ACLEAR TEXT: .* RAM and disks .* UNENCRYPTED .*127\.0\.0\.1 .*\blo\b/;
    like($warnings->[0], $text, '... that names clear text, address and interface');

    my %all = (%NEAR, public => JSON::false, gateway => '');
    ok(check(address => '127.0.0.1', %all), 'false in every form of Perl');
    ok(
        check(address => '127.0.0.1', %NEAR, public => 1, gateway => JSON::true),
        'true in every form of Perl'
    );
    is(
        check(address => '127.0.0.1', network => '127.0.0.0/8', source_network => 'lo')->{source},
        '127.0.0.1', 'the source network may be an interface',
    );
    SKIP: {
        skip('no IPv6 loopback', 1) if !$has_ipv6;
        is(check(address => '::1', network => '::1/128')->{source}, '::1', 'an IPv6 address');
    }
};

subtest 'refused addresses' => sub {
    refused('loopback outside every given network', 'loopback', address => '127.0.0.1');
    my $gone = 'there is no interface .nosuch0. on this node \(interfaces: lo';
    refused('an interface that does not exist', $gone, address => '10.0.0.7', network => 'nosuch0');
    is(PVE::Tunnel::Native::last_status(), PVE::Tunnel::Native::STATUS_REFUSED, '... as a refusal');
};

subtest 'refused arguments' => sub {
    refused('input without an address', 'address');
    refused('an undefined address', 'null', address => undef);
    refused('an unknown name', 'netwrok', address => '127.0.0.1', netwrok => '127.0.0.0/8');
    is(
        PVE::Tunnel::Native::last_status(), PVE::Tunnel::Native::STATUS_INVALID_ARGUMENT,
        '... as an invalid argument',
    );
    for my $input (undef, [], 'x') {
        ok(
            !eval { PVE::Tunnel::Native::guard_check($input); 1 },
            'input that is not a hash reference is refused'
        );
        like($@, qr/\Apve_tunnel_guard_check: input is not a hash reference\n\z/, '... as such');
    }
};

done_testing();
