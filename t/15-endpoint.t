#!/usr/bin/perl

# endpoint_check: what a target announces for QEMU's own connections is taken strictly or not at
# all.

use v5.36;

use Test::More;

use PVE::Tunnel::Native;

sub check (%input) { return PVE::Tunnel::Native::endpoint_check(\%input) }

sub tcp (@place) {
    my %migrate = (proto => 'tcp');
    @migrate{qw(addr port)} = @place;
    return \%migrate;
}

sub refused ($what, $pattern, %input) {
    ok(!eval { check(%input); 1 }, "$what is refused");
    like($@, qr/\Apve_tunnel_endpoint_check: .*$pattern.*\n\z/, 'with words that help');
    return;
}

subtest 'taken' => sub {
    my $network = '10.0.0.0/24';
    my $ram = { address => '10.0.0.7', port => 60000, uri => 'tcp:10.0.0.7:60000' };
    is_deeply(check(migrate => tcp('10.0.0.7', 60000), network => $network), $ram, 'RAM');
    is_deeply(
        check(migrate => tcp('10.0.0.7', '60000'), network => $network), $ram,
        'a port that Perl has as a string',
    );
    is_deeply(check(migrate => tcp('10.0.0.7', 60000), network => undef), $ram, 'no network given');
    is_deeply(
        check(nbd_uri => 'nbd:10.0.0.7:60001:exportname=drive-scsi0', network => $network),
        {
            address => '10.0.0.7',
            port => 60001,
            uri => 'nbd:10.0.0.7:60001:exportname=drive-scsi0',
            export => 'drive-scsi0',
        },
        'a disk',
    );
    is(check(migrate => tcp('10.0.0.7', 60000))->{port} + 1, 60001, 'the port is a number');
    is(
        check(migrate => tcp('127.0.0.1', 60000), allow_loopback => 1)->{address}, '127.0.0.1',
        'loopback where a test asks for it',
    );
};

subtest 'refused' => sub {
    my $network = '10.0.0.0/24';
    refused(
        'outside the network', 'outside', migrate => tcp('10.0.1.7', 60000),
        network => $network
    );
    refused('a port with a fraction', 'port', migrate => tcp('10.0.0.7', 60000.5));
    refused('no port', 'port', migrate => tcp('10.0.0.7', undef));
    refused('loopback, false', 'loopback', migrate => tcp('::1', 60000), allow_loopback => '');
    refused('a wide digit', '', migrate => tcp("10.0.0.\x{0667}", 60000));
    refused('a misspelt key', 'netwrok', migrate => tcp('10.0.0.7', 60000), netwrok => $network);
    refused('a scalar for a hash', '', migrate => 'tcp:10.0.0.7:60000');
    is(
        PVE::Tunnel::Native::last_status(), PVE::Tunnel::Native::STATUS_INVALID_ARGUMENT,
        'input of another shape is not an endpoint declined',
    );
    refused('loopback again', 'loopback', migrate => tcp('127.0.0.1', 60000));
    is(PVE::Tunnel::Native::last_status(), PVE::Tunnel::Native::STATUS_REFUSED, 'which is this');
};

done_testing();
