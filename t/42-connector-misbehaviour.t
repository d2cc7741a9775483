#!/usr/bin/perl

# What must be an error is one on the forward and in the log, and of that connection only.

use v5.36;

use FindBin ();
use lib "$FindBin::RealBin/lib";

use JSON ();
use Test::More;
use Time::HiRes ();

use Test::Connector;
use Test::ConnectorChecks qw(broken_off no_secrets prompt_end start stream upload $MIB);
use Test::Pattern qw(pattern_sha256);
use Test::Stream qw(blocked_after pump);
use Test::TunnelNode;

local $SIG{ALRM} = sub { die "the test stands still\n" };
alarm 300;
local $SIG{PIPE} = 'IGNORE';

my $SIZE = 64 * $MIB;

# The last two lack a single byte.
for my $cut ([truncate => 1], [truncate => $SIZE - 1], ['truncate-frame' => $SIZE - 1]) {
    my ($how, $after) = @$cut;
    subtest "$how=$after" => sub {
        my ($node, $connector) = start({ misbehave => ["$how=$after"] });
        my ($remote, $local) = $connector->open(kind => 'source', bytes => $SIZE);

        my $asker = stream($connector, $local, send => 1, half_close => 'never');
        pump($asker);
        is($asker->{error}, 'ECONNRESET', 'who has written gets an error');
        ok(!$asker->{eof}, 'and no end of stream');
        if ($how eq 'truncate') {
            is($asker->{received}, $after, 'after all that came');
            is($asker->sha256, pattern_sha256($after), 'which is right');
        }
        ok($connector->wait_log(qr/connection 1: FAILED: .*without an end of stream/), 'logged');

        broken_off($connector, stream($connector, $local, half_close => 'never'), 2);
        ok($connector->command('version')->{success}, 'the tunnel goes on');
        is($connector->finish->{code}, 0, 'to its end');
    };
}

subtest 'cut while both directions flow' => sub {
    my ($node, $connector) = start({ misbehave => ['truncate=' . 32 * $MIB] });
    my ($remote, $local) = $connector->open(kind => 'echo');
    pump(my $stream = stream($connector, $local, send => $SIZE, half_close => 'received'));
    is($stream->{error}, 'ECONNRESET', 'an error');
    ok(!$stream->{eof}, 'and no end of stream');
};

subtest 'a target that ends before all is there' => sub {
    for my $manners ([], ['close-frame'], ['pveproxy']) {
        my ($node, $connector) = start({ @$manners ? (misbehave => $manners) : () });
        my ($remote, $local) = $connector->open(kind => 'source', bytes => 10);
        pump(my $stream = stream($connector, $local, send => $SIZE));
        my $error = $stream->{write_error} // $stream->{error} // 'none';
        like($error, qr/\A(?:ECONNRESET|EPIPE)\z/, "the program hears it: @$manners");
        cmp_ok($stream->{sent}, '<', $SIZE, "after $stream->{sent} bytes");
    }
};

subtest 'the control connection is cut' => sub {
    my ($node, $connector) = start({ misbehave => ['control:truncate=3000'] });
    my ($remote, $local) = $connector->open(kind => 'echo', stalled => 1);
    my $stream = stream($connector, $local, send => $SIZE, half_close => 'never');
    ok(blocked_after($stream), 'in the middle of data');
    $connector->send_line({ cmd => 'list' }) for 1 .. 30;
    my $end = $connector->wait_end;
    is($end->{code}, 1, 'a failure');
    prompt_end($end, 'ends the connector');
    like($connector->log, qr/^the control connection was cut off$/m, 'the log says why');
    ok(!-e $local, 'the socket is gone');
    pump($stream);
    is($stream->{error}, 'ECONNRESET', 'and what flowed has failed');
};

subtest 'refusals' => sub {
    my ($node, $connector) = start({ misbehave => ['data:refuse=503:the guest is busy'] });
    my ($remote, $local) = $connector->open(kind => 'sink');
    for my $number (1 .. 2) {
        pump(my $stream = stream($connector, $local, half_close => 'never'));
        is($stream->{error}, 'ECONNRESET', "connection $number: an error, though it never wrote");
        like(
            $connector->wait_log(qr/connection $number:/),
            qr/503 the guest is busy/,
            'status and reason in the log'
        );
    }
    ok($connector->command('version')->{success}, 'the tunnel goes on');

    $node = Test::TunnelNode->start(misbehave => ['refuse=403:Permission check failed']);
    $connector = eval { Test::Connector->start($node) };
    like($@, qr/\Aversion: not connected: .*403 Permission check failed/, 'of the whole tunnel');
};

subtest 'a worker that has gone silent' => sub {
    my ($node, $connector) = start({});
    my ($remote, $local) = $connector->open(kind => 'echo');
    my ($worker) = $connector->{upid} =~ m/\AUPID:target:([0-9A-F]{8}):/;
    kill 'STOP', hex $worker;
    $connector->send_line({ cmd => 'version' });
    kill 'TERM', $connector->{pid};
    prompt_end($connector->wait_end, 'SIGTERM ends a connector that waits for an answer');
    kill 'CONT', hex $worker;
};

# Limits of 10 and 20 seconds, all waited for at once.
subtest 'silence' => sub {
    my ($missing, $connector) = start({ misbehave => ['pveproxy'] });
    my ($remote, $local) = $connector->open(kind => 'echo');
    unlink $remote;
    my $start = Time::HiRes::time();
    my $stream = stream($connector, $local, send => 1, half_close => 'never');

    my $silent = Test::TunnelNode->start(misbehave => ['hang-handshake']);
    my $waiting = Test::Connector->launch;
    $waiting->connect($silent, $silent->url('qemu', 100, 'mtunnelwebsocket') =~ s/\Ahttp/ws/r);
    $waiting->send_line({ cmd => 'version' });

    my $deaf = Test::TunnelNode->start(misbehave => ['control:stall-read']);
    my $stuck = Test::Connector->begin($deaf);
    $stuck->send_line({ cmd => 'version' });
    close $stuck->{writer};

    upload($connector, $MIB);
    ok($missing->wait_log(qr/silent/), 'an upgrade stays without an answer');
    ok(!blocked_after($stream, 0) && !$stream->is_over, 'other forwards go on meanwhile');

    my $answer = JSON::decode_json($waiting->read_line);
    ok(!$answer->{success}, 'a handshake without an answer');
    like($answer->{msg}, qr/not connected: .* no answer to the TLS handshake within 10s/, 'told');
    is($waiting->end_input->{code}, 1, 'and a failure');

    is($stuck->wait_end->{code}, 0, 'a target that takes nothing and has said nothing');
    cmp_ok(Time::HiRes::time() - $start, '<', 25, 'does not hold up the end of input for long');

    pump($stream);
    is($stream->{error}, 'ECONNRESET', 'an upgrade without an answer is an error');
    my $seconds = Time::HiRes::time() - $start;
    cmp_ok($seconds, '<', 30, sprintf 'within the limit (%.1f s)', $seconds);
    like(
        $connector->wait_log(qr/connection 1:.*upgrade/),
        qr/no answer to the websocket upgrade within 20s: does the socket .* still exist/,
        'with a clear word'
    );
    ok($connector->command('version')->{success}, 'the tunnel goes on');
};

subtest 'no secrets' => \&no_secrets;

done_testing;
