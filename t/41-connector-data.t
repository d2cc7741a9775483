#!/usr/bin/perl

# 64 MiB each way with every node that loses nothing, however it ends its streams, and slow ends on
# either side.

use v5.36;

use FindBin ();
use lib "$FindBin::RealBin/lib";

use Test::More;

use Test::ConnectorChecks
    qw(download echo no_secrets several_at_once stalled_reader stalled_sink start stays_small stream
    upload $MIB);
use Test::Pattern qw(pattern_sha256);
use Test::Stream qw(blocked_after pump);

local $SIG{ALRM} = sub { die "the test stands still\n" };
alarm 300;
local $SIG{PIPE} = 'IGNORE';

my $SIZE = 64 * $MIB;

# After a close frame, `bare-fin` loses what the UNIX side has not said yet: what is to come back
# must have come before.
my @nodes = (
    ['a node with good manners', 'sent'],
    ['no-close-frame', 'sent', 'no-close-frame'],
    ['bare-fin', 'received', 'bare-fin'],
    ['pveproxy', 'received', 'pveproxy'],
    ['close-frame', 'sent', 'close-frame'],
    ['small-frames', 'sent', 'small-frames=1000'],
    ['fragment', 'sent', 'fragment'],
    ['ping', 'sent', 'ping'],
    ['all but lost', 'received', 'no-close-frame', 'bare-fin', 'fragment', 'small-frames=50000'],
);
for my $row (@nodes) {
    my ($name, $half_close, @misbehave) = @$row;
    subtest $name => sub {
        my ($node, $connector) = start({ @misbehave ? (misbehave => \@misbehave) : () });
        upload($connector, $SIZE);
        download($connector, $SIZE);
        echo($connector, $SIZE, $half_close);
        unlike($connector->log, qr/FAILED/, 'no failure in the log');
        is($connector->finish->{code}, 0, 'nor at the end');
        if ($name eq 'ping') {
            my $line = $node->wait_log(qr/relay 100-2\.source: /);
            like($line, qr/; [1-9][0-9]* of [1-9][0-9]* pings answered/, 'pings are answered');
        }
    };
}

subtest 'several connections at once, and commands' => sub {
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
        like($connector->log, qr/UNENCRYPTED/, 'the log says that it is clear') if $name =~ m/ws/;
        for my $relay ('100-1\.sink', '100\.mtunnel') {
            my $line = $node->wait_log(qr/relay $relay: /);
            like($line, qr/close frame from the client/, 'it ended with a close frame');
            my ($count, $frames) = $line =~ m/, ([0-9]+) of its ([0-9]+) frames masked/;
            is($count, $masked eq 'all' ? $frames : 0, "$masked frame of $frames has a key");
        }
    };
}

subtest 'a target that stops reading' => sub {
    stalled_sink(start({}), $SIZE);
};

subtest 'a wire that stops taking' => sub {
    my ($node, $connector) = start({ misbehave => ['stall-read'] });
    my ($remote, $local) = $connector->open(kind => 'sink');
    my $before = $connector->memory;
    my $stream = stream($connector, $local, send => $SIZE);
    ok(blocked_after($stream), "the program has to wait after $stream->{sent} bytes");
    cmp_ok($stream->{sent}, '<', 32 * $MIB, 'which buffers of the kernel hold');
    stays_small($connector, $before);
    ok($node->release, 'the wire takes more');
    pump($stream);
    is(
        $connector->command('result', socket => $remote)->{sha256},
        pattern_sha256($SIZE), 'and all arrives'
    );
    stays_small($connector, $before);
};

subtest 'a program that stops reading' => sub {
    stalled_reader(start({}), $SIZE);
};

subtest 'a wire that says nothing for a while' => sub {
    my ($node, $connector) = start({ misbehave => ['stall-write'] });
    my ($remote, $local) = $connector->open(kind => 'source', bytes => $SIZE);
    my $stream = stream($connector, $local, half_close => 'never');
    blocked_after($stream);
    is($stream->{received}, 0, 'nothing comes');
    ok(!$stream->{eof}, 'and no end');
    ok($node->release, 'until it speaks');
    pump($stream);
    is($stream->sha256, pattern_sha256($SIZE), 'all comes');
    ok($stream->{eof}, 'to a clean end');
};

subtest 'a target that buffers everything, as pveproxy does, and is slow to pass it on' => sub {
    my ($node, $connector) = start({ misbehave => ['pveproxy'] });
    my ($remote, $local) = $connector->open(kind => 'sink', stalled => 1);
    my $before = $connector->memory;
    pump(my $stream = stream($connector, $local, send => $SIZE));
    ok($stream->{eof}, 'after our close frame the wire is gone, and that is no failure');
    is(
        $connector->command('result', socket => $remote, wait => 0)->{bytes},
        0, 'nothing is passed on'
    );
    $connector->command('go', socket => $remote);
    my $result = $connector->command('result', socket => $remote);
    is($result->{sha256}, pattern_sha256($SIZE), 'yet all of it arrives');
    ok($result->{eof}, 'then the end');
    stays_small($connector, $before);
};

subtest 'no secrets' => \&no_secrets;

done_testing;
