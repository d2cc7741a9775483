#!/usr/bin/perl

# Transfers of 64 MiB each way with every kind of node that loses no data, however the node ends its
# streams; and a slow reader or writer at either end.

use v5.36;

use FindBin ();
use lib "$FindBin::RealBin/lib";

use Test::More;

use Test::ConnectorChecks
    qw(buffered_sink download echo no_secrets several_at_once stalled_reader stalled_sink start
    stays_small stream upload $MIB);
use Test::Pattern qw(pattern_sha256);
use Test::Stream qw(blocked_after pump);

local $SIG{ALRM} = sub { die "the test timed out\n" };
alarm 600;
local $SIG{PIPE} = 'IGNORE';

my $SIZE = 64 * $MIB;

# A name, when the echo test shuts down its writing side, and the node's `misbehave` words. After a
# close frame, `bare-fin` loses what the UNIX side has not sent yet, so all data must have come back
# before.
my @nodes = (
    ['a well-behaved node', 'sent'],
    ['no-close-frame', 'sent', 'no-close-frame'],
    ['bare-fin', 'received', 'bare-fin'],
    ['pveproxy', 'received', 'pveproxy'],
    ['close-frame', 'sent', 'close-frame'],
    ['small-frames', 'sent', 'small-frames=1000'],
    ['fragment', 'sent', 'fragment'],
    ['ping', 'sent', 'ping'],
    ['several at once', 'received', 'no-close-frame', 'bare-fin', 'fragment', 'small-frames=50000'],
);
for my $row (@nodes) {
    my ($name, $half_close, @misbehave) = @$row;
    subtest $name => sub {
        my ($node, $connector) = start({ @misbehave ? (misbehave => \@misbehave) : () });
        upload($connector, $SIZE);
        download($connector, $SIZE);
        echo($connector, $SIZE, $half_close);
        unlike($connector->log, qr/FAILED/, 'the log has no failure');
        is($connector->finish->{code}, 0, 'the connector ends with success');
        if ($name eq 'ping') {
            my $line = $node->wait_log(qr/relay 100-2\.source: /);
            like($line, qr/; [1-9][0-9]* of [1-9][0-9]* pings answered/, 'pings are answered');
        }
    };
}

subtest 'several connections at once, with commands in between' => sub {
    my ($node, $connector) = start({});
    several_at_once($connector, 8, 8 * $MIB);
    several_at_once($connector, 100, 1000);
};

my @masks = (
    ['zero by default', 'no', {}],
    ['--mask zero', 'no', {}, arguments => [qw(--mask zero)]],
    ['--mask random', 'all', {}, arguments => [qw(--mask random)]],
    ['ws://', 'all', { plain => 1 }],
    ['ws:// with --mask zero', 'all', { plain => 1 }, arguments => [qw(--mask zero)]],
);
for my $row (@masks) {
    my ($name, $masked, @start) = @$row;
    subtest "masks: $name" => sub {
        my ($node, $connector) = start(@start);
        upload($connector, $SIZE);
        $connector->finish;
        like($connector->log, qr/UNENCRYPTED/, 'the log reports clear text') if $name =~ m/ws/;
        for my $relay ('100-1\.sink', '100\.mtunnel') {
            my $line = $node->wait_log(qr/relay $relay: /);
            like($line, qr/close frame from the client/, 'the websocket ended with a close frame');
            my ($count, $frames) = $line =~ m/, ([0-9]+) of its ([0-9]+) frames masked/;
            is($count, $masked eq 'all' ? $frames : 0, "$masked frames of $frames are masked");
        }
    };
}

subtest 'a target that stops reading' => sub {
    stalled_sink(start({}), $SIZE);
};

subtest 'a node that stops reading from the connection' => sub {
    my ($node, $connector) = start({ misbehave => ['stall-read'] });
    my ($remote, $local) = $connector->open(kind => 'sink');
    my $before = $connector->memory;
    my $stream = stream($connector, $local, send => $SIZE);
    ok(blocked_after($stream), "the program has to wait after $stream->{sent} bytes");
    cmp_ok($stream->{sent}, '<', 32 * $MIB, 'the buffers of the kernel hold these bytes');
    stays_small($connector, $before);
    ok($node->release, 'the node reads again');
    pump($stream);
    is(
        $connector->command('result', socket => $remote)->{sha256},
        pattern_sha256($SIZE), 'all bytes arrive'
    );
    stays_small($connector, $before);
};

subtest 'a program that stops reading' => sub {
    stalled_reader(start({}), $SIZE);
};

subtest 'a node that sends nothing for a while' => sub {
    my ($node, $connector) = start({ misbehave => ['stall-write'] });
    my ($remote, $local) = $connector->open(kind => 'source', bytes => $SIZE);
    my $stream = stream($connector, $local, half_close => 'never');
    blocked_after($stream);
    is($stream->{received}, 0, 'the program receives nothing');
    ok(!$stream->{eof}, 'the stream has not ended');
    ok($node->release, 'the node sends again');
    pump($stream);
    is($stream->sha256, pattern_sha256($SIZE), 'all bytes arrive');
    ok($stream->{eof}, 'the stream has a clean end');
};

subtest 'a target that buffers everything, as pveproxy does, and passes it on slowly' => sub {
    my ($node, $connector) = start({ misbehave => ['pveproxy'] });
    my $stream = buffered_sink($connector, $SIZE);
    ok($stream->{eof}, 'the end of the connection after our close frame is not a failure');
};

subtest 'no secrets' => \&no_secrets;

done_testing;
