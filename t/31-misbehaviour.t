#!/usr/bin/perl

# Each fault of the test node, on the connections that it is requested for.

use v5.36;

use FindBin ();
use lib "$FindBin::RealBin/lib";

use Digest::SHA qw(sha256_hex);
use IO::Handle ();
use IO::Socket::IP ();
use Test::More;
use Time::HiRes ();

use Test::NodeChecks qw(check_pveproxy is_silent);
use Test::Pattern qw(pattern_block pattern_sha256);
use Test::TunnelClient;
use Test::TunnelNode;

my $MIB = 1024 * 1024;

local $SIG{ALRM} = sub { die "the test timed out\n" };
alarm 300;
local $SIG{PIPE} = 'IGNORE';

subtest 'pveproxy' => sub { check_pveproxy(misbehave => ['pveproxy']) };

subtest 'no-close-frame' => sub {
    my ($node, $client) = node('no-close-frame');
    my ($socket, $data) = data($client, kind => 'echo');
    $data->send('binary', 'abc');
    $data->send('close');
    my $end = $data->drain;
    is($end->{bytes}, 'abc', 'all bytes of the UNIX side arrive');
    is_deeply($end->{types}, ['binary'], 'no close frame');
    ok($end->{notified}, 'close_notify');
};

subtest 'bare-fin' => sub {
    my ($node, $client) = node('bare-fin');
    my ($socket, $data) = data($client, kind => 'sink');
    $data->send('binary', 'abc');
    $data->send('close');
    my $end = $data->drain;
    is_deeply($end->{types}, ['close'], 'a close frame');
    ok(!$end->{notified}, 'no close_notify');
    is($client->command('result', socket => $socket)->{bytes}, 3, 'bytes before it are passed on');
};

subtest 'close-frame' => sub {
    my ($node, $client) = node('close-frame');
    my ($socket, $data) = data($client, kind => 'source', bytes => 100);
    my $end = $data->drain;
    is_deeply($end->{types}, ['binary', 'close'], 'a close frame at the end of the UNIX side');
    ok($end->{notified}, 'close_notify');
};

for my $bytes (1, 100_000, 131_072, 2 * $MIB) {
    subtest "truncate=$bytes" => sub {
        my ($node, $client) = node("truncate=$bytes");
        my ($socket, $data) = data($client, kind => 'source', bytes => 3 * $MIB);
        my $end = $data->drain;
        is(length $end->{bytes}, $bytes, 'the requested number of bytes arrives');
        is(sha256_hex($end->{bytes}), pattern_sha256($bytes), '... with the right content');
        is_deeply($end->{types}, ['binary'], 'no close frame');
        ok(!$end->{notified}, 'no close_notify');
        ok($client->command('version')->{success}, 'the command connection is not cut off');
    };
}

subtest 'truncate-frame' => sub {
    my ($node, $client) = node('truncate-frame=100000');
    my ($socket, $data) = data($client, kind => 'source', bytes => $MIB);
    my $end = $data->drain;
    ok(length $end->{bytes} < 100_000, 'complete frames have fewer bytes');
    my $rest = $data->{frames}{buffer};
    my ($promised, $header) =
          $rest =~ m/\A\x82\x7f/ ? (unpack('x2 Q>', $rest), 10)
        : $rest =~ m/\A\x82\x7e/ ? (unpack('x2 n', $rest), 4)
        : (unpack('x C', $rest), 2);
    is(
        length($end->{bytes}) + length($rest) - $header, 100_000,
        'complete and incomplete frames together have 100000 bytes'
    );
    cmp_ok(
        $promised, '>', length($rest) - $header,
        'the header of the incomplete frame announces more'
    );
    ok(!$end->{notified}, 'no close_notify');
};

subtest 'small-frames' => sub {
    my ($node, $client) = node('small-frames=10');
    my ($socket, $data) = data($client, kind => 'source', bytes => 1005);
    my ($bytes, $frames, $largest) = ('', 0, 0);
    while ((my $frame = $data->next)->{type} ne 'end') {
        $bytes .= $frame->{bytes};
        $frames++;
        $largest = length $frame->{bytes} if length $frame->{bytes} > $largest;
    }
    is($bytes, substr(pattern_block(0), 0, 1005), 'all bytes arrive');
    is_deeply([$frames, $largest], [101, 10], '... in small frames');
};

subtest 'fragment' => sub {
    my ($node, $client) = node('data:fragment');
    my ($socket, $data) = data($client, kind => 'source', bytes => 1000);
    my @order;
    $data->{handle}->blocking(1);
    my $raw = '';
    while (sysread $data->{handle}, $raw, 65536, length $raw) { }
    $raw = $data->{frames}{buffer} . $raw;
    my $bytes = '';

    while (length $raw) {
        my ($first, $second) = unpack 'C C', $raw;
        my ($length, $header) = $second < 126 ? ($second, 2) : (unpack('x2 n', $raw), 4);
        my $payload = substr $raw, $header, $length;
        substr $raw, 0, $header + $length, '';
        push @order, sprintf '%02x', $first;
        $bytes .= $payload if $first != 0x89;
    }
    is_deeply(\@order, [qw(02 89 00 89 80)], 'three fragments with pings between them');
    is($bytes, substr(pattern_block(0), 0, 1000), 'together they have the message');
};

subtest 'ping' => sub {
    my ($node, $client) = node('ping');
    my ($socket, $data) = data($client, kind => 'echo');
    my ($name) = $socket =~ m{([^/]+)\z};
    for my $round (1 .. 3) {
        $data->send('binary', "round $round");
        my $ping = $data->next;
        is($ping->{type}, 'ping', 'a ping before the message');
        $data->send('pong', $ping->{bytes});
        is($data->next->{bytes}, "round $round", 'the message');
    }
    $data->send('close');
    is_deeply($data->drain->{types}, ['close'], 'right pongs are accepted');
    ok($node->wait_log(qr/\Q$name\E: close frame .*; 3 of 3 pings answered/), '... and counted');

    (undef, $data) = data($client, kind => 'echo');
    $data->send('binary', 'a');
    $data->next for 1 .. 2;
    $data->send('pong', 'another payload');
    is_deeply($data->drain->{types}, ['close'], 'a wrong pong is refused');
    ok($node->wait_log(qr/refused: a pong has the wrong payload/), '... and logged');
};

subtest 'stall-read' => sub {
    my ($node, $client) = node('stall-read');
    my ($socket, $data) = data($client, kind => 'sink');
    my $bytes = pattern_block(0) x 16;
    my $taken = send_what_fits($data, $bytes);
    cmp_ok(
        $taken, '<', 16 * $MIB,
        "the connection accepts no more than its buffers ($taken bytes)"
    );
    is(
        $client->command('result', socket => $socket, wait => 0)->{bytes}, 0,
        'no byte is passed on'
    );
    ok($node->release, 'SIGUSR1 ends the stall');
    my $sent = $data->{sent};
    $data->{handle}->blocking(1);
    $data->send_raw(substr $data->{frame}, $sent);
    $data->send('close');
    $data->drain;
    is(
        $client->command('result', socket => $socket)->{sha256}, sha256_hex($bytes),
        'all bytes arrive'
    );
};

subtest 'backpressure of a slow UNIX side' => sub {
    my ($node, $client) = node();
    my ($socket, $data) = data($client, kind => 'sink', stalled => 1);
    my $bytes = pattern_block(1) x 16;
    my $taken = send_what_fits($data, $bytes);
    cmp_ok(
        $taken, '<', 16 * $MIB,
        "the connection accepts no more than the buffers ($taken bytes)"
    );
    $client->command('go', socket => $socket);
    $data->{handle}->blocking(1);
    $data->send_raw(substr $data->{frame}, $data->{sent});
    $data->send('close');
    $data->drain;
    is(
        $client->command('result', socket => $socket)->{sha256}, sha256_hex($bytes),
        'all bytes arrive'
    );
};

subtest 'stall-write' => sub {
    my ($node, $client) = node('stall-write');
    my ($socket, $data) = data($client, kind => 'source', bytes => 16 * $MIB);
    ok($client->command('version')->{success}, 'the command connection is not stalled');
    ok(is_silent($data), 'no byte arrives');
    my $got = $client->command('result', socket => $socket, wait => 0);
    ok(!$got->{finished}, 'the source waits');
    ok($node->release, 'SIGUSR1 ends the stall');
    is(sha256_hex($data->drain->{bytes}), pattern_sha256(16 * $MIB), 'all bytes arrive');
};

# Lower bounds only: a busy machine may be slower than the requested rate.
for my $fault ('slow-read', 'slow-write') {
    subtest $fault => sub {
        my ($node, $client) = node("$fault=1000000");
        my $start = Time::HiRes::time();
        if ($fault eq 'slow-read') {
            my ($socket, $data) = data($client, kind => 'sink');
            $data->send('binary', 'x' x 100_000) for 1 .. 3;
            $data->send('close');
            $data->drain;
            is($client->command('result', socket => $socket)->{bytes}, 300_000, 'all bytes arrive');
        } else {
            my ($socket, $data) = data($client, kind => 'source', bytes => 300_000);
            is(length $data->drain->{bytes}, 300_000, 'all bytes arrive');
        }
        cmp_ok(Time::HiRes::time() - $start, '>=', 0.3, 'not faster than the requested rate');
    };
}

subtest 'refuse' => sub {
    my ($node, $client) = node('data:refuse=503:the guest is busy');
    eval { data($client, kind => 'sink') };
    is($@, "503 the guest is busy\n", 'the status line of a data connection');
    $node = Test::TunnelNode->start(misbehave => ['refuse=403:Permission check failed']);
    eval { Test::TunnelClient->open($node, 'qemu', 100) };
    is($@, "403 Permission check failed\n", 'the status line of every upgrade');
};

subtest 'slow-401' => sub {
    my $node = Test::TunnelNode->start(misbehave => ['slow-401']);
    my $start = Time::HiRes::time();
    my $path = '/api2/json/nodes/target/qemu/100/mtunnel';
    is(Test::TunnelClient->request($node, 'POST', $path)->{status}, 401, 'refused');
    cmp_ok(Time::HiRes::time() - $start, '>=', 3, 'after three seconds');
};

subtest 'hang-handshake' => sub {
    my $node = Test::TunnelNode->start(misbehave => ['hang-handshake']);
    my $tcp = IO::Socket::IP->new(PeerAddr => $node->{address}, PeerPort => $node->{port});
    ok($tcp, 'TCP connects');
    print {$tcp} 'anything';
    $tcp->flush;
    ok($node->wait_log(qr/^handshake: silent/), 'the node has the connection');
    ok(is_silent({ handle => $tcp }), '... and sends nothing');
};

subtest 'control: instead of data' => sub {
    my $node = Test::TunnelNode->start(misbehave => ['control:truncate=10']);
    my $client = Test::TunnelClient->open($node, 'qemu', 100);
    $client->send('binary', qq({"cmd":"version"}\n));
    my $end = $client->drain;
    is(length $end->{bytes}, 10, 'the command connection is cut off');
    ok(!$end->{notified}, 'no close_notify');
};

done_testing;

sub node (@faults) {
    my $node = Test::TunnelNode->start(@faults ? (misbehave => \@faults) : ());
    return ($node, Test::TunnelClient->open($node, 'qemu', 100));
}

sub data ($client, %socket) {
    my $socket = $client->command('open', %socket)->{socket};
    return ($socket, $client->data('qemu', 100, $socket));
}

# Sends frames with $bytes until the connection accepts no more. Returns the number of accepted
# bytes, and stores frames and number in the client.
sub send_what_fits ($data, $bytes) {
    my $frames = join '',
        map { pack('C C Q> N', 0x82, 0xff, 131072, 0) . substr $bytes, $_ * 131072, 131072 }
        0 .. length($bytes) / 131072 - 1;
    $data->{handle}->blocking(0);
    my $sent = 0;
    my $select = IO::Select->new($data->{handle});
    # A node that reads frees buffer space long before this limit.
    while ($sent < length $frames && $select->can_write(0.5)) {
        my $count = syswrite $data->{handle}, $frames, 16384, $sent;
        $sent += $count // 0;
    }
    $data->@{qw(frame sent)} = ($frames, $sent);
    return $sent;
}
