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
    is(
        check(migrate => tcp('2001:db8::7', 60049), network => '2001:db8::/64')->{uri},
        'tcp:[2001:db8::7]:60049',
        'IPv6 in brackets',
    );
    is(
        check(nbd_uri => 'nbd:[2001:db8::7]:60049:exportname=drive-virtio1')->{address},
        '2001:db8::7',
        'an IPv6 disk',
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
    refused(
        'the other family', 'outside', migrate => tcp('2001:db8::7', 60000),
        network => $network
    );
    refused('a port below', '59999', migrate => tcp('10.0.0.7', 59999));
    refused('a port above', '60050', migrate => tcp('10.0.0.7', 60050));
    refused('a port in words', 'port', migrate => tcp('10.0.0.7', 'ssh'));
    refused('a port with a fraction', 'port', migrate => tcp('10.0.0.7', 60000.5));
    refused('no port', 'port', migrate => tcp('10.0.0.7', undef));
    refused('loopback', 'loopback', migrate => tcp('127.0.0.1', 60000));
    refused('loopback, false', 'loopback', migrate => tcp('::1', 60000), allow_loopback => '');
    refused('multicast', 'multicast', migrate => tcp('224.0.0.1', 60000));
    refused('unspecified', 'unspecified', migrate => tcp('0.0.0.0', 60000));
    refused('a name', 'literal', migrate => tcp('target.example', 60000));
    refused('a short form', 'IPv4', migrate => tcp('10.1', 60000));
    refused('an octal form', 'IPv4', migrate => tcp('010.0.0.7', 60000));
    refused('an IPv4 address in IPv6', 'IPv4', migrate => tcp('::ffff:10.0.0.7', 60000));
    refused('a zone', 'zone', migrate => tcp('fe80::1%eth0', 60000));
    refused('a newline', '', migrate => tcp("10.0.0.7\n", 60000));
    refused('a wide digit', '', migrate => tcp("10.0.0.\x{0667}", 60000));
    refused('another protocol', 'tcp', migrate => { proto => 'exec', addr => 'sh', port => 60000 });
    refused('a UNIX socket', 'UNIX', nbd_uri => 'nbd:unix:/run/x:exportname=drive-scsi0');
    refused('another scheme', 'nbd', nbd_uri => 'ssh:10.0.0.7:60000:exportname=drive-scsi0');
    refused('no export', 'export', nbd_uri => 'nbd:10.0.0.7:60000');
    refused(
        'an option in the name', '',
        nbd_uri => 'nbd:10.0.0.7:60000:exportname=a,server.path=x'
    );
    refused('both at once', 'both', migrate => tcp('10.0.0.7', 60000), nbd_uri => 'nbd:x');
    refused('neither', 'neither', network => $network);
    refused('a network that is none', 'CIDR', migrate => tcp('10.0.0.7', 60000), network => 'eth0');
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
