#!/usr/bin/perl

# The connector with PVE::APIServer::AnyEvent at the other end, the event loop that pveproxy itself
# is. Needs that module, installed or in PERL5LIB.

use v5.36;

use FindBin ();
use lib "$FindBin::RealBin/lib";

use Test::More;
use Time::HiRes ();

use Test::ConnectorChecks
    qw(broken_off download echo finished no_secrets prompt_end several_at_once start stays_small
    stream upload $MIB);
use Test::Pattern qw(pattern_sha256);
use Test::Stream qw(blocked_after pump);
use Test::TunnelNode;

local $SIG{ALRM} = sub { die "the test stands still\n" };
alarm 300;
local $SIG{PIPE} = 'IGNORE';

my $SIZE = 64 * $MIB;
my %FRONT = (front => 'pveproxy');

my $here = Test::TunnelNode->start(%FRONT);
plan skip_all => $Test::TunnelNode::reason if !$here;
undef $here;
diag 'runs against the real PVE::APIServer::AnyEvent';

for my $tls ('1.2', '1.3') {
    for my $mask ('zero', 'random') {
        subtest "TLS $tls, mask $mask" => sub {
            my ($node, $connector) = start({ %FRONT, tls => $tls }, arguments => ['--mask', $mask]);
            upload($connector, $SIZE);
            # pveproxy cuts off what it has queued when the UNIX side ends: it must not be behind.
            download($connector, $SIZE, rate => 24 * $MIB);
            echo($connector, $SIZE, 'received');
            unlike($connector->log, qr/FAILED/, 'no failure in the log');
            my $end = $connector->finish;
            is($end->{code}, 0, 'nor at the end');
            prompt_end($end, 'which comes at once');
        };
    }
}

subtest 'several connections at once, and commands' => sub {
    my ($node, $connector) = start({%FRONT});
    several_at_once($connector, 8, 8 * $MIB);
};

subtest 'a target as fast as it can: all or an error' => sub {
    my ($node, $connector) = start({%FRONT});
    my ($remote, $local) = $connector->open(kind => 'source', bytes => $SIZE);
    for my $number (1 .. 5) {
        my $stream = stream($connector, $local, half_close => 'never');
        blocked_after($stream, 1);
        my $line = $connector->wait_log(qr/connection $number: /);
        note $line;
        if ($stream->{eof}) {
            is($stream->sha256, pattern_sha256($SIZE), 'all, and an end of stream');
        } else {
            like($line, qr/FAILED/, "cut off after $stream->{received} bytes, no end of stream");
            is($stream->sha256, pattern_sha256($stream->{received}), 'and right to there');
        }
    }
};

subtest 'a program that stops reading is cut off by pveproxy' => sub {
    my ($node, $connector) = start({%FRONT});
    my ($remote, $local) = $connector->open(kind => 'source', bytes => $SIZE);
    my $before = $connector->memory;
    my $stream = stream($connector, $local, half_close => 'never');
    my $result = finished($connector, $remote);
    is($result->{bytes}, $SIZE, 'pveproxy takes everything');
    stays_small($connector, $before);
    broken_off($connector, $stream, 1);
    cmp_ok($stream->{received}, '<', $SIZE, "after $stream->{received} bytes");
    is($stream->sha256, pattern_sha256($stream->{received}), 'which are right');
};

subtest 'a target that stops reading' => sub {
    my ($node, $connector) = start({%FRONT});
    my ($remote, $local) = $connector->open(kind => 'sink', stalled => 1);
    my $before = $connector->memory;
    pump(my $stream = stream($connector, $local, send => $SIZE));
    is(
        $connector->command('result', socket => $remote, wait => 0)->{bytes},
        0, 'pveproxy takes everything and passes nothing on'
    );
    $connector->command('go', socket => $remote);
    my $result = $connector->command('result', socket => $remote);
    is($result->{sha256}, pattern_sha256($SIZE), 'nothing of it is lost');
    ok($result->{eof}, 'to its end');
    stays_small($connector, $before);
};

subtest 'a target that ends before all is there' => sub {
    my ($node, $connector) = start({%FRONT});
    my ($remote, $local) = $connector->open(kind => 'source', bytes => 10);
    pump(my $stream = stream($connector, $local, send => $SIZE));
    like($stream->{write_error} // $stream->{error}, qr/\A(?:ECONNRESET|EPIPE)\z/, 'is heard of');
    cmp_ok($stream->{sent}, '<', $SIZE, "after $stream->{sent} bytes");
};

subtest 'a socket that does not exist' => sub {
    my ($node, $connector) = start({%FRONT});
    my ($remote, $local) = $connector->open(kind => 'echo');
    unlink $remote;
    my $start = Time::HiRes::time();
    my $stream = stream($connector, $local, send => 1, half_close => 'never');
    upload($connector, $MIB);
    pump($stream);
    is($stream->{error}, 'ECONNRESET', 'an error');
    my $seconds = Time::HiRes::time() - $start;
    cmp_ok($seconds, '<', 30, sprintf 'within the limit (%.1f s)', $seconds);
    like($connector->log, qr/connection 1: .* no answer to the websocket upgrade/, 'logged');
};

subtest 'the end of the node' => sub {
    my ($node, $connector) = start({%FRONT});
    my ($remote, $local) = $connector->open(kind => 'echo', stalled => 1);
    pump(my $stream = stream($connector, $local, send => $SIZE, half_close => 'never', read => 0));
    $node->stop;
    my $end = $connector->wait_end;
    is($end->{code}, 1, 'a failure');
    prompt_end($end, 'at once');
    blocked_after($stream = Test::Stream->new($stream->{socket}, half_close => 'never'));
    is($stream->{error}, 'ECONNRESET', 'on the forward too');
    ok(!-e $local, 'the socket is gone');
};

subtest 'no secrets' => \&no_secrets;

done_testing;
