#!/usr/bin/perl

# 40 000 calls of each function leak nothing, including calls that die.

use v5.36;

use Test::More;

use PVE::Tunnel::Native;
use PVE::Tunnel::Overlay::Shape;

my $CALLS = 40_000;
my $WARM_UP = 2_000; # calls that fill the caches of Perl and of the allocator
# Growth that the allocator may cause over all calls. A leak of 32 bytes per call, the smallest
# block of malloc, would add 1250 KiB.
my $LIMIT_KIB = 640;

my $WIRE = pack('H*', '810548656c6c6f');
my $REPLY = '{"api":2,"age":0,"caps":["direct-tls","x-y"]}';
my %PLAN = (migration_type => 'insecure', caps => ['insecure-remote'], planes => ['qemu']);
my %NEAR = (address => '127.0.0.1', network => '127.0.0.0/8');
my %CALL = (side => 'source', remote => '192.0.2.7');
my $SITES = "network: dc2\n\tremote 192.0.2.7,pve.example\n\tsource 10.0.0.0/24\n";
my %SEAM = (
    direct => { op => 'hello', protocol => 1 },
    file => '/f',
    node => 'pve7',
    allowed => 1,
    listener => 'none',
);
my %MIGRATE = (proto => 'tcp', addr => '10.0.0.7', port => 60000);

my $codec = PVE::Tunnel::Native::Codec->new();
my $server = PVE::Tunnel::Native::Codec->new(role => 'server');
my $wide = "\x{2603}" x 50;
utf8::upgrade(my $upgraded = "\xe9" x 50);
my $buffer = 'x' x 1000;
open(my $nothing, '<', '/dev/null') or die "cannot read /dev/null: $!\n";
open(my $nowhere, '>', '/dev/null') or die "cannot write /dev/null: $!\n";

sub dies ($call) {
    eval { $call->(); 1 } and die "this should have died\n";
    return;
}

my %CALLS = (
    'mask' => sub { PVE::Tunnel::Native::mask($buffer, 'abcd', 3) },
    'mask of bytes stored as UTF-8' =>
        sub { PVE::Tunnel::Native::mask(my $copy = $upgraded, 'abcd') },
    'mask, dying' => sub {
        dies(sub { PVE::Tunnel::Native::mask($wide, 'abcd') });
    },
    'fingerprint_parse' => sub { PVE::Tunnel::Native::fingerprint_parse('ab' x 32) },
    'fingerprint_parse, dying' => sub {
        dies(sub { PVE::Tunnel::Native::fingerprint_parse('ab') });
    },
    'codec' => sub { PVE::Tunnel::Native::Codec->new() },
    'codec with input left' => sub { PVE::Tunnel::Native::Codec->new()->feed(substr($WIRE, 0, 4)) },
    'codec, dying' => sub {
        dies(sub { PVE::Tunnel::Native::Codec->new(role => 'x') });
    },
    'feed and next' => sub { $codec->feed($WIRE); $codec->next() },
    'feed, dying' => sub {
        dies(sub { $codec->feed($wide) });
    },
    'next, dying' => sub {
        my $broken = PVE::Tunnel::Native::Codec->new();
        $broken->feed("\xff\xff");
        dies(sub { $broken->next() });
    },
    'encode' => sub { $codec->encode('binary', $upgraded) },
    'encode, dying' => sub {
        dies(sub { $codec->encode('ping', $buffer) });
    },
    'both ends' => sub { $server->feed($codec->encode('binary', $buffer)); $server->next() },
    'version_reply_parse' => sub { PVE::Tunnel::Native::version_reply_parse($REPLY) },
    'version_reply_parse, dying' => sub {
        dies(sub { PVE::Tunnel::Native::version_reply_parse('{') });
    },
    'plan' => sub { PVE::Tunnel::Native::plan({%PLAN}) },
    'plan, dying' => sub {
        dies(sub { PVE::Tunnel::Native::plan({ %PLAN, caps => [] }) });
    },
    'plan of code' => sub {
        dies(sub { PVE::Tunnel::Native::plan({ caps => \*STDIN }) });
    },
    'configuration_select' => sub { PVE::Tunnel::Native::configuration_select($SITES, {%CALL}) },
    'configuration_select, dying' => sub {
        dies(sub { PVE::Tunnel::Native::configuration_select("$SITES\tfoo 1\n", {%CALL}) });
    },
    'seam_decide' => sub { PVE::Tunnel::Native::seam_decide($SITES, {%SEAM}) },
    'seam_decide, dying' => sub {
        dies(sub { PVE::Tunnel::Native::seam_decide($SITES, { %SEAM, direct => [] }) });
    },
    'seam_answer' => sub { PVE::Tunnel::Native::seam_answer('forward', '{"number":1}') },
    'seam_answer, dying' => sub {
        dies(sub { PVE::Tunnel::Native::seam_answer('forward', '{}') });
    },
    'endpoint_check' => sub { PVE::Tunnel::Native::endpoint_check({ migrate => {%MIGRATE} }) },
    'endpoint_check, dying' => sub {
        dies(sub { PVE::Tunnel::Native::endpoint_check({}) });
    },
    'guard_check' => sub { PVE::Tunnel::Native::guard_check({%NEAR}) },
    'guard_check, dying' => sub {
        dies(sub { PVE::Tunnel::Native::guard_check({ %NEAR, network => undef }) });
    },
    'network_address' => sub { PVE::Tunnel::Native::network_address('127.0.0.0/8', 'n') },
    'network_address, dying' => sub {
        dies(sub { PVE::Tunnel::Native::network_address('x/y', 'n') });
    },
    'port_bind' => sub {
        my ($fd) = PVE::Tunnel::Native::port_bind('127.0.0.1');
        open(my $fh, '+<&=', $fd) or die "cannot open descriptor $fd: $!\n";
    },
    'port_bind, dying' => sub {
        dies(sub { PVE::Tunnel::Native::port_bind('0.0.0.0') });
    },
    'connector_run' =>
        sub { PVE::Tunnel::Native::connector_run(fileno($nothing), fileno($nowhere)) },
    'connector_run, dying' => sub {
        dies(sub { PVE::Tunnel::Native::connector_run(0, 1, undef, { speed => 9 }) });
    },
    'parameters of a function' => sub { PVE::Tunnel::Overlay::Shape::_parameters(\&dies) },
    'parameters of a function, dying' => sub {
        dies(sub { PVE::Tunnel::Overlay::Shape::_parameters('dies') });
    },
    'package of a function' => sub { PVE::Tunnel::Overlay::Shape::_package(\&dies) },
);

subtest 'no scalar is leaked' => sub {
    plan(skip_all => 'Test::LeakTrace is not installed') if !eval { require Test::LeakTrace; 1 };
    for my $name (sort keys %CALLS) {
        my $call = $CALLS{$name};
        $call->(); # what is allocated once, such as by loading JSON, is not a leak
        Test::LeakTrace::no_leaks_ok($call, $name);
    }
};

# Memory that Test::LeakTrace does not count: that of the library, and the magic of the codecs.
subtest "$CALLS calls of each kind do not grow the process" => sub {
    plan(skip_all => 'there is no /proc') if !-r '/proc/self/statm';
    for my $name (sort keys %CALLS) {
        my $call = $CALLS{$name};
        $call->() for 1 .. $WARM_UP;
        my $before = resident_kib();
        $call->() for 1 .. $CALLS;
        my $grown = resident_kib() - $before;
        cmp_ok($grown, '<', $LIMIT_KIB, $name);
    }
};

subtest 'descriptors' => sub {
    plan(skip_all => 'there is no /proc') if !-d '/proc/self/fd';
    my $before = () = glob('/proc/self/fd/*');
    $_->() for values(%CALLS);
    my $after = () = glob('/proc/self/fd/*');
    is($after, $before, 'no descriptor is left open');
};

sub resident_kib() {
    open(my $fh, '<', '/proc/self/statm') or die "cannot read /proc/self/statm: $!\n";
    my (undef, $pages) = split(' ', readline($fh));
    close($fh);
    return $pages * 4096 / 1024;
}

done_testing();
