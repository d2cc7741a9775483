#!/usr/bin/perl

# The checks of the test node against PVE::APIServer::AnyEvent, and the measured peculiarities of
# that module. It must be installed or in PERL5LIB.

use v5.36;

use FindBin ();
use lib "$FindBin::RealBin/lib";

use Digest::SHA qw(sha256_hex);
use Test::More;

use Test::NodeChecks qw(check_node check_pveproxy);
use Test::Pattern qw(pattern_sha256);
use Test::TunnelClient;
use Test::TunnelNode;

my $MIB = 1024 * 1024;

local $SIG{ALRM} = sub { die "the test timed out\n" };
alarm 300;
local $SIG{PIPE} = 'IGNORE';

my $node = Test::TunnelNode->start(front => 'pveproxy');
plan skip_all => $Test::TunnelNode::reason if !$node;
diag 'runs against the real PVE::APIServer::AnyEvent';

check_node(front => 'pveproxy', delay => 1);
check_pveproxy(front => 'pveproxy');

subtest 'a slow client at the end of the UNIX side' => sub {
    my $client = Test::TunnelClient->open($node, 'qemu', 100);
    my $source = $client->command('open', kind => 'source', bytes => 48 * $MIB)->{socket};
    my $data = $client->data('qemu', 100, $source);
    my $result = $client->command('result', socket => $source);
    ok($result->{finished}, 'pveproxy accepts everything without backpressure');
    my $end = $data->drain;
    my $bytes = length $end->{bytes};
    cmp_ok($bytes, '<', 48 * $MIB, "pveproxy drops its queue ($bytes bytes arrived)");
    is(sha256_hex($end->{bytes}), pattern_sha256($bytes), 'the bytes that arrived are right');
    ok(!$end->{notified}, 'only the missing close_notify shows the loss');
};

done_testing;
