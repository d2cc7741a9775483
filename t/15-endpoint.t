#!/usr/bin/perl

# endpoint_check: an endpoint that a target announces for connections of QEMU, with Perl values.
# The Rust tests check every rule.

use v5.36;

use Test::More;

use PVE::Tunnel::Native;

sub check (%input) { return PVE::Tunnel::Native::endpoint_check(\%input) }

sub tcp (@address) {
    my %migrate = (proto => 'tcp');
    @migrate{qw(addr port)} = @address;
    return \%migrate;
}

sub refused ($what, $pattern, %input) {
    ok(!eval { check(%input); 1 }, "$what is refused");
    like($@, qr/\Apve_tunnel_endpoint_check: .*$pattern.*\n\z/, '... with a reason');
    return;
}

subtest 'accepted endpoints' => sub {
    my $network = '10.0.0.0/24';
    my $ram = { address => '10.0.0.7', port => 60000, uri => 'tcp:10.0.0.7:60000' };
    is_deeply(
        check(migrate => tcp('10.0.0.7', 60000), network => $network), $ram,
        'an endpoint for RAM'
    );
    is_deeply(
        check(migrate => tcp('10.0.0.7', '60000'), network => $network), $ram,
        'the port may be a string',
    );
    is_deeply(
        check(migrate => tcp('10.0.0.7', 60000), network => undef), $ram,
        'the network may be undefined'
    );
    is_deeply(
        check(nbd_uri => 'nbd:10.0.0.7:60001:exportname=drive-scsi0', network => $network),
        {
            address => '10.0.0.7',
            port => 60001,
            uri => 'nbd:10.0.0.7:60001:exportname=drive-scsi0',
            export => 'drive-scsi0',
        },
        'an endpoint for a disk',
    );
    is(
        check(migrate => tcp('10.0.0.7', 60000))->{port} + 1, 60001,
        'the returned port is a number'
    );
    is(
        check(migrate => tcp('127.0.0.1', 60000), allow_loopback => 1)->{address}, '127.0.0.1',
        'loopback is accepted with allow_loopback',
    );
};

subtest 'refused endpoints' => sub {
    my $network = '10.0.0.0/24';
    refused(
        'an address outside the network', 'outside', migrate => tcp('10.0.1.7', 60000),
        network => $network
    );
    refused('a port with a fraction', 'port', migrate => tcp('10.0.0.7', 60000.5));
    refused('an undefined port', 'port', migrate => tcp('10.0.0.7', undef));
    refused(
        'loopback with a false allow_loopback', 'loopback', migrate => tcp('::1', 60000),
        allow_loopback => ''
    );
    refused('a digit that is not ASCII', '', migrate => tcp("10.0.0.\x{0667}", 60000));
    refused('a misspelt key', 'netwrok', migrate => tcp('10.0.0.7', 60000), netwrok => $network);
    refused('a string in place of a hash', '', migrate => 'tcp:10.0.0.7:60000');
    is(
        PVE::Tunnel::Native::last_status(), PVE::Tunnel::Native::STATUS_INVALID_ARGUMENT,
        '... as an invalid argument',
    );
    refused('loopback by default', 'loopback', migrate => tcp('127.0.0.1', 60000));
    is(PVE::Tunnel::Native::last_status(), PVE::Tunnel::Native::STATUS_REFUSED, '... as a refusal');
};

done_testing();
