#!/usr/bin/perl

# A target node with an open tunnel. It runs until the end of standard input.
#
#   node.pl testnode|pveproxy ADDRESS [PROCESSES]
#
# PROCESSES is the number of those of pveproxy; then the node has pve-tunnel, too.
#
# Prints one line of JSON: the data that a client requires to connect, or the reason why the node
# cannot start.

use v5.36;

use FindBin ();
use lib "$FindBin::RealBin/../../t/lib";

use JSON ();

use Test::TunnelClient;
use Test::TunnelNode;

STDOUT->autoflush(1);
my ($front, $address, $processes) = @ARGV;
my ($node, $base, $tunnel);
my $opened = eval {
    $node = Test::TunnelNode->start(
        front => $front,
        listen => $address,
        workers => $processes,
        # On a link with a delay, small buffers would be the limit.
        system_buffers => $front eq 'testnode' && $address ne '127.0.0.1',
    ) or die "$Test::TunnelNode::reason\n";
    $base = $node->url('qemu', 100, '');
    my ($path) = $base =~ m{\A\w+://[^/]+(.*)\z};
    my $answer = Test::TunnelClient->request(
        $node, 'POST', "${path}mtunnel",
        headers => ["Authorization: $node->{token}"],
        body => $processes ? 'seam=1' : '',
    );
    die "$answer->{status} $answer->{reason}\n" if $answer->{status} != 200;
    $tunnel = JSON::decode_json($answer->{body})->{data};
    1;
};
if (!$opened) {
    say JSON::encode_json({ reason => $@ });
    exit;
}
say JSON::encode_json(
    {
        url => $base =~ s/\Ahttps/wss/r . 'mtunnelwebsocket',
        pids => $node->{node}{workers} // [$node->{pid}],
        (map { $_ => $node->{$_} } qw(fingerprint token)),
        (map { $_ => $tunnel->{$_} } qw(ticket socket)),
    }
);
1 while readline STDIN;
