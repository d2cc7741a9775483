#!/usr/bin/perl

# seam_decide and seam_answer, called with Perl values. The Rust tests check the decisions; this test
# checks that values cross the boundary intact.

use v5.36;

use JSON;
use Test::More;

use PVE::Tunnel::Native;

my $FILE = '/etc/pve/remote-migration.cfg';
my $PRINT = join(':', ('AB') x 32);

sub decide ($text, $direct, %known) {
    my %input = (direct => $direct, file => $FILE, node => 'pve7', listener => 'none', %known);
    return PVE::Tunnel::Native::seam_decide($text, \%input);
}

sub refused ($function, $what, $pattern, $status, $call) {
    ok(!eval { $call->(); 1 }, "$what is refused");
    like($@, qr/\Apve_tunnel_$function: .*$pattern.*\n\z/, '... with a reason');
    is(PVE::Tunnel::Native::last_status(), $status, '... and its status') if defined $status;
    return;
}

subtest 'actions' => sub {
    my $hello = { op => 'hello', protocol => '1' };
    is_deeply(
        decide(undef, $hello),
        { do => 'check', path => '/', privilege => 'Sys.Modify' },
        'a privilege to be checked'
    );
    for my $allowed (JSON::true, 1 == 1) {
        is_deeply(
            decide('', $hello, allowed => $allowed),
            {
                do => 'reply',
                reply => {
                    protocol => 2,
                    oldest => 1,
                    caps => ['direct-tls', 'direct-tcp'],
                    withheld => {},
                    meter => JSON::true,
                    compression => ['zstd'],
                    websocket_lanes => JSON::true,
                    version => $PVE::Tunnel::Native::VERSION,
                },
            },
            'an offer'
        );
    }
    my $withheld = decide('nonsense', $hello)->{reply}{withheld};
    like($withheld->{'direct-tls'}, qr/\A$FILE, line 1: 'nonsense'/, 'a capability withheld');

    my $open =
        { op => 'open', protocol => 1, plane => 'tls', fingerprint => $PRINT, network => 'dc2' };
    my $network = "network: dc2\n\tsource 10.9.0.0/24\n\tcomment gr\xc3\xbc\xc3\x9fe\n";
    my $action = decide($network, $open);
    is($action->{do}, 'listen', 'a listener');
    is_deeply(
        [@{ $action->{options} }{qw(plane network node fingerprint hello_timeout)}],
        ['tls', '10.9.0.0/24', 'pve7', $PRINT, 10],
        '... with its options'
    );
    cmp_ok($action->{options}{dead_peer_timeout}, '==', 60, '... and its limits');
    refused(
        'seam_decide', 'a byte of the configuration that is not UTF-8',
        "$FILE, line 2: ", PVE::Tunnel::Native::STATUS_REFUSED,
        sub { decide("network: dc2\n\tcomment \xff\n", $open) }
    );

    my $named = { %$open, network => "b\x{fc}ro\x{263a}" };
    is(
        decide(undef, $named, allowed => 1)->{options}{network}, "b\x{fc}ro\x{263a}",
        'characters of the name of an interface'
    );

    my %sockets = (listener => 'running', sockets => ["/run/\x{263a}"]);
    is_deeply(
        decide(undef, { op => 'forward', path => "/run/\x{263a}" }, %sockets),
        { do => 'ask', request => { op => 'forward', path => "/run/\x{263a}" } },
        'characters of a path'
    );
    is_deeply(
        decide(undef, { op => 'stat' }, listener => 'ended'),
        { do => 'ask', request => { op => 'stat' } },
        'a question for the listener'
    );
    is_deeply(
        decide(undef, { op => 'close' }, listener => 'running'),
        { do => 'close' },
        'the end of the listener'
    );
};

subtest 'answers' => sub {
    my $answer = \&PVE::Tunnel::Native::seam_answer;
    is_deeply($answer->('forward', qq({"number":"7","new":1}\n)), { number => 7 }, 'a number');
    my %open = (
        protocol => 1,
        plane => 'tls',
        addresses => ['192.0.2.7', 'fd00::7'],
        port => 60_007,
        fingerprint => $PRINT,
        key => 'c0' x 32,
    );
    is_deeply($answer->('open', encode_json({ %open, new => {} })), \%open, 'a listener');
};

subtest 'constants' => sub {
    my $limit = PVE::Tunnel::Native::CONFIGURATION_MAX;
    my $longest = substr(('#' x 4000 . "\n") x 300, 0, $limit);
    my %call = (side => 'target', migration_type => 'secure');
    ok(
        PVE::Tunnel::Native::configuration_select($longest, {%call}),
        'a configuration of the longest size is accepted'
    );
    refused(
        'configuration_select', 'one more byte', $limit, PVE::Tunnel::Native::STATUS_TOO_LONG,
        sub { PVE::Tunnel::Native::configuration_select("$longest#", {%call}) }
    );
    cmp_ok(PVE::Tunnel::Native::LINE_MAX, '>', 0, 'a line has a longest size');
};

subtest 'errors' => sub {
    my $decide = \&PVE::Tunnel::Native::seam_decide;
    my $protocol = PVE::Tunnel::Native::STATUS_PROTOCOL;
    for my $direct (undef, 'hello', [], JSON::true) {
        refused(
            'seam_decide', 'a request that is not a hash',
            "'direct' is not an object",
            $protocol, sub { decide(undef, $direct) }
        );
    }
    refused(
        'seam_decide', 'an unknown name', 'unknown field',
        PVE::Tunnel::Native::STATUS_INVALID_ARGUMENT,
        sub { decide(undef, {}, nodes => 1) }
    );
    refused('seam_decide', 'input that is not a hash', 'hash', undef, sub { $decide->('', []) });
    refused('seam_decide', 'a NUL', 'NUL', undef, sub { decide("\0", {}) });
    refused('seam_decide', 'a wide character', 'wide', undef, sub { decide("\x{263a}", {}) });

    my $answer = \&PVE::Tunnel::Native::seam_answer;
    refused(
        'seam_answer', 'a line that is not JSON',
        'not an object', $protocol, sub { $answer->('stat', 'x') }
    );
    refused(
        'seam_answer', 'an undefined line', 'undefined', undef,
        sub { $answer->('stat', undef) }
    );
    refused(
        'seam_answer', 'a long line', 'longer than',
        PVE::Tunnel::Native::STATUS_TOO_LONG,
        sub { $answer->('stat', 'x' x ((1 << 20) + 1)) }
    );
};

done_testing();
