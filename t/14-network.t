#!/usr/bin/perl

# network_address and port_bind on the loopback interface of this machine. The Rust tests check
# which address is chosen, and a full port range.

use v5.36;

use Fcntl;
use IO::Socket::IP;
use Socket qw(AF_INET SOCK_STREAM SOMAXCONN SOL_SOCKET SO_ACCEPTCONN);
use Test::More;

use PVE::Tunnel::Native;

sub refused ($function, $what, $pattern, $call) {
    ok(!eval { $call->(); 1 }, "$what is refused");
    like($@, qr/\Apve_tunnel_$function: .*$pattern.*\n\z/, '... with a reason');
    return;
}

my $has_ipv6 = eval { IO::Socket::IP->new(LocalHost => '::1', Listen => 1) } ? 1 : 0;

subtest 'addresses' => sub {
    is_deeply(
        PVE::Tunnel::Native::network_address('127.0.0.0/8', 'this-node'),
        { address => '127.0.0.1', prefix_len => 8, interface => 'lo', uri_host => '127.0.0.1' },
        'the address in a network',
    );
    SKIP: {
        skip('no IPv6 loopback', 1) if !$has_ipv6;
        is_deeply(
            PVE::Tunnel::Native::network_address('::1/128', 'this-node'),
            { address => '::1', prefix_len => 128, interface => 'lo', uri_host => '[::1]' },
            'an IPv6 address has brackets for URIs',
        );
    }

    my $address = sub ($network, $node) {
        return sub { PVE::Tunnel::Native::network_address($network, $node) };
    };
    # No host has an address of class E (240.0.0.0/4, reserved).
    my %bad = (
        'a network without an address of this host' =>
            ['240.0.0.0/24', 'n', '240\.0\.0\.0/24.*lo', PVE::Tunnel::Native::STATUS_REFUSED],
        'an interface that does not exist' => [
            'nosuch0', 'n', 'no interface .nosuch0. on this node \(interfaces: lo',
            PVE::Tunnel::Native::STATUS_REFUSED,
        ],
        'a space behind a network' => ['10.0.0.0/24 ', 'n', "'10.0.0.0/24 ' is not a CIDR"],
        'a node name that resolves to loopback' => [undef, 'localhost', 'localhost.*127\.0\.0\.1'],
        'an address without a prefix' =>
            ['192.0.2.7', 'n', 'prefix', PVE::Tunnel::Native::STATUS_INVALID_ARGUMENT],
        'a NUL in the network' => ["lo\0", 'n', 'NUL'],
        'a NUL in the name' => [undef, "localhost\0", 'NUL'],
        'wide characters' => ["\x{2603}", 'n', 'wide'],
        'an undefined node name' => [undef, undef, 'undefined'],
        'a reference in place of the network' => [[], 'n', 'reference'],
        'bytes that are not UTF-8' =>
            ["\xff\xfe", 'n', 'UTF-8', PVE::Tunnel::Native::STATUS_NOT_UTF8],
    );
    for my $what (sort keys %bad) {
        my ($network, $node, $pattern, $status) = $bad{$what}->@*;
        refused('network_address', $what, $pattern, $address->($network, $node));
        is(PVE::Tunnel::Native::last_status(), $status, '... and its status') if defined($status);
    }
};

subtest 'ports' => sub {
    # Random loopback addresses, so that other tests are unlikely to use their ports.
    my ($host, $other) = map {
        join('.', 127, $_, map { 1 + int(rand(250)) } 1 .. 2)
    } 1, 2;
    my ($fd, $port) = PVE::Tunnel::Native::port_bind($host);
    ok($port >= 60_000 && $port < 60_050, 'the port is in the migration range');

    open(my $listener, '+<&=', $fd) or die "cannot open descriptor $fd: $!\n";
    is(unpack('i', getsockopt($listener, SOL_SOCKET, SO_ACCEPTCONN)), 1, 'the socket listens');
    ok(fcntl($listener, F_GETFD, 0) & FD_CLOEXEC, '... is closed on exec');
    ok(!(fcntl($listener, F_GETFL, 0) & O_NONBLOCK), '... and is blocking');
    ok(
        IO::Socket::IP->new(PeerHost => $host, PeerPort => $port, Type => SOCK_STREAM),
        'a connection to that address succeeds',
    );
    ok(
        !IO::Socket::IP->new(PeerHost => $other, PeerPort => $port, Type => SOCK_STREAM),
        'a connection to another address fails',
    );

    my ($next_fd, $next_port) = PVE::Tunnel::Native::port_bind($host);
    open(my $next, '+<&=', $next_fd) or die "cannot open descriptor $next_fd: $!\n";
    isnt($next_port, $port, 'each call binds another port');

    SKIP: {
        skip('no IPv6 loopback', 1) if !$has_ipv6;
        my ($fd6, $port6) = PVE::Tunnel::Native::port_bind('::1');
        open(my $fh, '+<&=', $fd6) or die "cannot open descriptor $fd6: $!\n";
        ok(
            IO::Socket::IP->new(PeerHost => '::1', PeerPort => $port6, Type => SOCK_STREAM),
            'a port on an IPv6 address is bound',
        );
    }

    my $bind = sub ($address) {
        return sub { PVE::Tunnel::Native::port_bind($address) };
    };
    refused('port_bind', 'a name', '"localhost" is not a literal', $bind->('localhost'));
    is(
        PVE::Tunnel::Native::last_status(), PVE::Tunnel::Native::STATUS_INVALID_ARGUMENT,
        '... as an invalid argument',
    );
    refused('port_bind', 'an address of another host', '240\.0\.0\.1', $bind->('240.0.0.1'));
    is(
        PVE::Tunnel::Native::last_status(), PVE::Tunnel::Native::STATUS_IO,
        '... with the status of an I/O error'
    );
    refused('port_bind', 'undef', 'undefined', $bind->(undef));
};

# The function with which Proxmox VE chooses a port for QEMU: it closes the port again, and QEMU binds
# it seconds later.
subtest 'ports that Proxmox VE reserves' => sub {
    my @files = ('/var/lock/pve-ports.lck', '/var/tmp/pve-reserved-ports');
    my @created = grep { !-e } @files;
    my $host = join('.', 127, map { 1 + int(rand(250)) } 1 .. 3);
    my $reserved = eval {
        require PVE::Tools;
        PVE::Tools::next_migrate_port(AF_INET, $host);
    };
    plan(skip_all => 'no usable PVE::Tools: ' . ($@ =~ s/\n.*//sr)) if !$reserved;

    my ($fd, $port) = PVE::Tunnel::Native::port_bind($host);
    open(my $listener, '+<&=', $fd) or die "cannot open descriptor $fd: $!\n";
    cmp_ok($port, '>', $reserved, 'a reserved port is not taken');
    my $next = PVE::Tools::next_migrate_port(AF_INET, $host);
    ok($next != $port && $next != $reserved, 'a port that is bound is not reserved');
    isnt(PVE::Tools::next_migrate_port(AF_INET), $port, '... also for all addresses');
    unlink @created;
};

done_testing();
