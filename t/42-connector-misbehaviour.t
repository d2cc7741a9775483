#!/usr/bin/perl

# A broken connection is an error on the forward and in the log, and affects no other connection.

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

local $SIG{ALRM} = sub { die "the test timed out\n" };
alarm 300;
local $SIG{PIPE} = 'IGNORE';

my $SIZE = 64 * $MIB;

# The last two rows lack a single byte.
for my $cut ([truncate => 1], [truncate => $SIZE - 1], ['truncate-frame' => $SIZE - 1]) {
    my ($how, $after) = @$cut;
    subtest "$how=$after" => sub {
        my ($node, $connector) = start({ misbehave => ["$how=$after"] });
        my ($remote, $local) = $connector->open(kind => 'source', bytes => $SIZE);

        my $writer = stream($connector, $local, send => 1, half_close => 'never');
        pump($writer);
        is($writer->{error}, 'ECONNRESET', 'a program that has written gets an error');
        ok(!$writer->{eof}, 'it gets no end of stream');
        if ($how eq 'truncate') {
            is($writer->{received}, $after, 'it has received all bytes before the cut');
            is($writer->sha256, pattern_sha256($after), 'these bytes are correct');
        }
        ok(
            $connector->wait_log(qr/connection 1: FAILED: .*without an end of stream/),
            'the log has the failure'
        );

        broken_off($connector, stream($connector, $local, half_close => 'never'), 2);
        ok($connector->command('version')->{success}, 'the tunnel still works');
        is($connector->finish->{code}, 0, 'the connector ends with success');
    };
}

subtest 'a cut while data moves in both directions' => sub {
    my ($node, $connector) = start({ misbehave => ['truncate=' . 32 * $MIB] });
    my ($remote, $local) = $connector->open(kind => 'echo');
    pump(my $stream = stream($connector, $local, send => $SIZE, half_close => 'received'));
    is($stream->{error}, 'ECONNRESET', 'the program gets an error');
    ok(!$stream->{eof}, 'it gets no end of stream');
};

subtest 'a target that ends before it has received everything' => sub {
    for my $misbehave ([], ['close-frame'], ['pveproxy']) {
        my ($node, $connector) = start({ @$misbehave ? (misbehave => $misbehave) : () });
        my ($remote, $local) = $connector->open(kind => 'source', bytes => 10);
        pump(my $stream = stream($connector, $local, send => $SIZE));
        my $error = $stream->{write_error} // $stream->{error} // 'none';
        like($error, qr/\A(?:ECONNRESET|EPIPE)\z/, "the program gets an error: @$misbehave");
        cmp_ok($stream->{sent}, '<', $SIZE, "the error comes after $stream->{sent} bytes");
    }
};

subtest 'the control connection is cut' => sub {
    my ($node, $connector) = start({ misbehave => ['control:truncate=3000'] });
    my ($remote, $local) = $connector->open(kind => 'echo', stalled => 1);
    my $stream = stream($connector, $local, send => $SIZE, half_close => 'never');
    ok(blocked_after($stream), 'a connection is in mid-transfer');
    $connector->send_line({ cmd => 'list' }) for 1 .. 30;
    my $end = $connector->wait_end;
    is($end->{code}, 1, 'the connector fails');
    prompt_end($end, 'it ends at once');
    like($connector->log, qr/^the control connection was cut off$/m, 'the log has the reason');
    ok(!-e $local, 'the forward\'s socket is gone');
    pump($stream);
    is($stream->{error}, 'ECONNRESET', 'the connection gets an error');
};

subtest 'refusals' => sub {
    my ($node, $connector) = start({ misbehave => ['data:refuse=503:the guest is busy'] });
    my ($remote, $local) = $connector->open(kind => 'sink');
    for my $number (1 .. 2) {
        pump(my $stream = stream($connector, $local, half_close => 'never'));
        is($stream->{error}, 'ECONNRESET', "connection $number: an error without a write");
        like(
            $connector->wait_log(qr/connection $number:/),
            qr/503 the guest is busy/,
            "connection $number: the log has status and reason"
        );
    }
    ok($connector->command('version')->{success}, 'the tunnel still works');

    $node = Test::TunnelNode->start(misbehave => ['refuse=403:Permission check failed']);
    $connector = eval { Test::Connector->start($node) };
    like(
        $@, qr/\Aversion: not connected: .*403 Permission check failed/,
        'a refused control connection is an error with status and reason'
    );
};

subtest 'a worker that does not answer' => sub {
    my ($node, $connector) = start({});
    my ($remote, $local) = $connector->open(kind => 'echo');
    my ($worker) = $connector->{upid} =~ m/\AUPID:target:([0-9A-F]{8}):/;
    kill 'STOP', hex $worker;
    $connector->send_line({ cmd => 'version' });
    kill 'TERM', $connector->{pid};
    prompt_end($connector->wait_end, 'SIGTERM ends a connector that waits for an answer');
    kill 'CONT', hex $worker;
};

# The limits are 10 and 20 seconds; the test waits for all of them at once.
subtest 'time limits' => sub {
    my ($missing, $connector) = start({ misbehave => ['pveproxy'] });
    my ($remote, $local) = $connector->open(kind => 'echo');
    unlink $remote;
    my $start = Time::HiRes::time();
    my $stream = stream($connector, $local, send => 1, half_close => 'never');

    my $silent = Test::TunnelNode->start(misbehave => ['hang-handshake']);
    my $waiting = Test::Connector->launch;
    $waiting->connect($silent, $silent->url('qemu', 100, 'mtunnelwebsocket') =~ s/\Ahttp/ws/r);
    $waiting->send_line({ cmd => 'version' });

    my $stalled = Test::TunnelNode->start(misbehave => ['control:stall-read']);
    my $stuck = Test::Connector->begin($stalled);
    $stuck->send_line({ cmd => 'version' });
    close $stuck->{writer};

    upload($connector, $MIB);
    ok($missing->wait_log(qr/sending no response/), 'the node does not answer an upgrade');
    ok(!blocked_after($stream, 0) && !$stream->is_over, 'other forwards work meanwhile');

    my $answer = JSON::decode_json($waiting->read_line);
    ok(!$answer->{success}, 'a TLS handshake without an answer is an error');
    like(
        $answer->{msg}, qr/not connected: .* no answer to the TLS handshake within 10s/,
        'the error names the limit'
    );
    is($waiting->end_input->{code}, 1, 'the connector fails');

    is($stuck->wait_end->{code}, 0, 'with a target that reads nothing, the end of input ends it');
    cmp_ok(Time::HiRes::time() - $start, '<', 25, 'it ends within the limit');

    pump($stream);
    is($stream->{error}, 'ECONNRESET', 'an upgrade without an answer is an error');
    my $seconds = Time::HiRes::time() - $start;
    cmp_ok($seconds, '<', 30, sprintf 'it comes within the limit (%.1f s)', $seconds);
    like(
        $connector->wait_log(qr/connection 1:.*upgrade/),
        qr/no answer to the websocket upgrade within 20s: check that the socket .* still exists/,
        'the log has the reason'
    );
    ok($connector->command('version')->{success}, 'the tunnel still works');
};

subtest 'no secrets' => \&no_secrets;

done_testing;
