#!/usr/bin/perl

# The connector with PVE::APIServer::AnyEvent as its peer, the event loop that pveproxy uses. Needs
# that module, installed or in PERL5LIB.

use v5.36;

use FindBin ();
use lib "$FindBin::RealBin/lib";

use Test::More;
use Time::HiRes ();

use Test::ConnectorChecks
    qw(broken_off buffered_sink download echo finished no_secrets prompt_end several_at_once start
    stays_small stream upload $MIB);
use Test::Pattern qw(pattern_sha256);
use Test::Stream qw(blocked_after pump);
use Test::TunnelNode;

local $SIG{ALRM} = sub { die "the test timed out\n" };
alarm 300;
local $SIG{PIPE} = 'IGNORE';

my $SIZE = 64 * $MIB;
my %FRONT = (front => 'pveproxy');

my $here = Test::TunnelNode->start(%FRONT);
plan skip_all => $Test::TunnelNode::reason if !$here;
undef $here;
diag 'this test runs against the real PVE::APIServer::AnyEvent';

for my $tls ('1.2', '1.3') {
    for my $mask ('zero', 'random') {
        subtest "TLS $tls, mask $mask" => sub {
            my ($node, $connector) = start({ %FRONT, tls => $tls }, arguments => ['--mask', $mask]);
            upload($connector, $SIZE);
            # When the UNIX side ends, pveproxy drops what it has queued, so its queue must stay
            # empty.
            download($connector, $SIZE, rate => 24 * $MIB);
            echo($connector, $SIZE, 'received');
            unlike($connector->log, qr/FAILED/, 'the log has no failure');
            my $end = $connector->finish;
            is($end->{code}, 0, 'the connector ends with success');
            prompt_end($end, 'it ends at once');
        };
    }
}

subtest 'several connections at once, with commands in between' => sub {
    my ($node, $connector) = start({%FRONT});
    several_at_once($connector, 8, 8 * $MIB);
};

subtest 'a target that sends at full speed: all data or an error' => sub {
    my ($node, $connector) = start({%FRONT});
    my ($remote, $local) = $connector->open(kind => 'source', bytes => $SIZE);
    for my $number (1 .. 5) {
        my $stream = stream($connector, $local, half_close => 'never');
        blocked_after($stream, 1);
        my $line = $connector->wait_log(qr/connection $number: /);
        note $line;
        if ($stream->{eof}) {
            is($stream->sha256, pattern_sha256($SIZE), 'an end of stream follows all the data');
        } else {
            like($line, qr/FAILED/, "cut off after $stream->{received} bytes, no end of stream");
            is($stream->sha256, pattern_sha256($stream->{received}), 'these bytes are correct');
        }
    }
};

subtest 'a program that stops reading is cut off by pveproxy' => sub {
    my ($node, $connector) = start({%FRONT});
    my ($remote, $local) = $connector->open(kind => 'source', bytes => $SIZE);
    my $before = $connector->memory;
    my $stream = stream($connector, $local, half_close => 'never');
    my $result = finished($connector, $remote);
    is($result->{bytes}, $SIZE, 'pveproxy reads everything');
    stays_small($connector, $before);
    broken_off($connector, $stream, 1);
    cmp_ok($stream->{received}, '<', $SIZE, "the cut comes after $stream->{received} bytes");
    is($stream->sha256, pattern_sha256($stream->{received}), 'these bytes are correct');
};

subtest 'a target that stops reading' => sub {
    my ($node, $connector) = start({%FRONT});
    buffered_sink($connector, $SIZE);
};

subtest 'a target that ends before it has received everything' => sub {
    my ($node, $connector) = start({%FRONT});
    my ($remote, $local) = $connector->open(kind => 'source', bytes => 10);
    pump(my $stream = stream($connector, $local, send => $SIZE));
    my $error = $stream->{write_error} // $stream->{error};
    like($error, qr/\A(?:ECONNRESET|EPIPE)\z/, 'the program gets an error');
    cmp_ok($stream->{sent}, '<', $SIZE, "the error comes after $stream->{sent} bytes");
};

subtest 'a socket that does not exist' => sub {
    my ($node, $connector) = start({%FRONT});
    my ($remote, $local) = $connector->open(kind => 'echo');
    unlink $remote;
    my $start = Time::HiRes::time();
    my $stream = stream($connector, $local, send => 1, half_close => 'never');
    upload($connector, $MIB);
    pump($stream);
    is($stream->{error}, 'ECONNRESET', 'the program gets an error');
    my $seconds = Time::HiRes::time() - $start;
    cmp_ok($seconds, '<', 30, sprintf 'it comes within the limit (%.1f s)', $seconds);
    like(
        $connector->log, qr/connection 1: .* no answer to the websocket upgrade/,
        'the log has the reason'
    );
};

subtest 'a stopped node' => sub {
    my ($node, $connector) = start({%FRONT});
    my ($remote, $local) = $connector->open(kind => 'echo', stalled => 1);
    pump(my $stream = stream($connector, $local, send => $SIZE, half_close => 'never', read => 0));
    $node->stop;
    my $end = $connector->wait_end;
    is($end->{code}, 1, 'the connector fails');
    prompt_end($end, 'it ends at once');
    blocked_after($stream = Test::Stream->new($stream->{socket}, half_close => 'never'));
    is($stream->{error}, 'ECONNRESET', 'the program at the forward gets an error');
    ok(!-e $local, 'the forward\'s socket is gone');
};

subtest 'no secrets' => \&no_secrets;

done_testing;
