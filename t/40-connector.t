#!/usr/bin/perl

# The protocol of proxmox-websocket-tunnel, as its caller sees it, and the ends of the connector.

use v5.36;

use FindBin ();
use lib "$FindBin::RealBin/lib";

use JSON ();
use Test::More;

use Test::Connector;
use Test::ConnectorChecks qw(no_secrets prompt_end start stream $MIB);
use Test::Stream qw(blocked_after pump);
use Test::TunnelNode;

local $SIG{ALRM} = sub { die "the test stands still\n" };
alarm 300;
local $SIG{PIPE} = 'IGNORE';

for my $name (undef, 'proxmox-websocket-tunnel') {
    subtest 'a tunnel, called as ' . ($name // 'pve-tunnel connect') => sub {
        tunnel(start({}, name => $name));
    };
}

subtest 'containers, old nodes, IPv6, TLS 1.2' => sub {
    my ($old, $container) = start({ old => 1, listen => '::1', tls => '1.2' }, kind => 'lxc');
    ok(!exists $container->{version}{caps}, 'the answer of an old node is passed on as it is');
    my ($remote, $local) = $container->open(kind => 'echo');
    pump(my $stream = stream($container, $local, send => $MIB));
    is($stream->sha256, $stream->sent_sha256, 'data flows');
    like($container->log, qr/\Q[::1]:$old->{port}\E/, 'IPv6 addresses are shown in brackets');
    like($container->log, qr/TLSv1_2/, 'the log names the TLS version');
};

subtest 'forwards' => sub {
    my ($node, $connector) = start({});
    my ($remote, $local) = $connector->open(kind => 'echo');
    ok(-S $local, 'a socket');
    is(sprintf('%o', (stat $local)[2] & oct 777), '600', 'for its owner alone');
    pump(stream($connector, $local, send => 1000)) for 1 .. 3;
    my $tickets = () = $node->worker_log(100) =~ m/^command: ticket$/mg;
    is($tickets, 3, 'a fresh ticket for each connection');

    my $answer = $connector->forward("$connector->{dir}/no/such/dir", $remote);
    ok(!$answer->{success}, 'one that cannot listen is refused');
    like($answer->{msg}, qr{no/such/dir.*No such file}, 'with a reason');
    pump(my $stream = stream($connector, $local, send => 1000));
    is($stream->{received}, 1000, 'the other goes on');

    ok(
        $connector->forward($local, $remote)->{success},
        'the same path again, as for the next disk'
    );
    pump($stream = stream($connector, $local, send => 1000));
    is($stream->{received}, 1000, 'works');

    my $foreign = "$connector->{dir}/foreign";
    $connector->forward($foreign, '/etc/passwd');
    pump($stream = stream($connector, $foreign, half_close => 'never'));
    is($stream->{error}, 'ECONNRESET', 'no ticket, no stream: never an empty one');
    ok($connector->wait_log(qr{gives no ticket for '/etc/passwd'}), 'with a reason in the log');
    is($connector->finish->{code}, 0, 'that is no failure of the tunnel');
};

subtest 'bad input' => sub {
    my ($node, $connector) = start({});
    my $value = $node->{token} =~ s/\A.*=//r;
    my @table = (
        ['not JSON', '{"cmd":"version"', qr/invalid command line/],
        ['a token where none is', qq({"control":"$value"}), qr/wrong type/],
        [
            'an unknown control word', '{"control":true,"cmd":"x"}',
            qr/unknown control command 'x'/
        ],
        ['a line of 2 MiB', 'x' x (2 * $MIB), qr/longer than 1 MiB/],
    );
    for my $row (@table) {
        my ($name, $line, $reason) = @$row;
        $connector->send_line($line);
        my $answer = JSON::decode_json($connector->read_line);
        ok(!$answer->{success}, "$name: refused");
        like($answer->{msg}, $reason, 'with a reason');
    }
    ok($connector->command('version')->{success}, 'the tunnel goes on');
};

# Each of these is done to a connector with two forwards and a connection in the middle of its data.
my @ends = (
    ['quit and the end of input', 0, sub ($node, $connector) { $connector->finish }],
    ['the end of input', 0, sub ($node, $connector) { $connector->end_input }],
    ['SIGTERM', 143, sub ($node, $connector) { killed('TERM', $connector) }],
    ['SIGINT', 130, sub ($node, $connector) { killed('INT', $connector) }],
    ['SIGHUP', 129, sub ($node, $connector) { killed('HUP', $connector) }],
    [
        'the end of the node',
        1,
        sub ($node, $connector) {
            $node->stop;
            return $connector->wait_end;
        }
    ],
    [
        'the death of the node',
        1,
        sub ($node, $connector) {
            kill 'KILL', $node->{pid};
            return $connector->wait_end;
        }
    ],
    [
        'the death of the worker',
        1,
        sub ($node, $connector) {
            my ($worker) = $connector->{upid} =~ m/\AUPID:target:([0-9A-F]{8}):/;
            kill 'KILL', hex $worker;
            return $connector->wait_end;
        }
    ],
);
subtest "ended by $_->[0]" => sub { ends($_->@*) }
    for @ends;

subtest 'its own death' => sub {
    my ($node, $connector) = start({});
    my ($remote, $local) = $connector->open(kind => 'echo', stalled => 1);
    my $stream = stream($connector, $local, send => 64 * $MIB, half_close => 'never');
    ok(blocked_after($stream), 'in the middle of its data');
    is(killed('KILL', $connector)->{code}, 137, 'killed');
    pump($stream);
    is($stream->{error}, 'ECONNRESET', 'even so a program that has written is not told of an end');
};

subtest 'no secrets' => sub {
    my ($node, $connector) = start({}, form => 'password=geheim');
    my $value = $node->{token} =~ s/\A.*=//r;
    my $place = "/proc/$connector->{pid}";
    like(Test::TunnelNode::slurp("$place/cmdline"), qr/pve-tunnel/, 'the arguments can be read');
    unlike(Test::TunnelNode::slurp("$place/$_"), qr/\Q$value\E|PVETUNNEL/, "none in its $_")
        for qw(cmdline environ);
    undef $connector;
    no_secrets();
};

done_testing;

sub tunnel ($node, $connector) {
    my $version = $connector->{version};
    is_deeply(
        [@$version{qw(api age)}], [2, 0],
        'connect has no answer; the next is version\'s'
    );
    is_deeply($version->{caps}, ['insecure-remote'], 'as the worker gave it');
    ok(!$connector->command('reboot')->{success}, 'a refusal is passed on');
    my ($remote, $local) = $connector->open(kind => 'echo');
    pump(my $stream = stream($connector, $local, send => 3 * $MIB + 1));
    is($stream->sha256, $stream->sent_sha256, 'data flows');
    ok($stream->{eof}, 'to its end');
    like(
        $connector->wait_log(qr/connection 1:/),
        qr/closed \(3145729 bytes sent, 3145729 received, .* TLSv1_3 TLS13_AES_256_GCM_SHA384\)/,
        'and is told of'
    );
    ok(-e $local, 'the forward stays for more');
    my $end = $connector->finish;
    is($end->{code}, 0, 'quit ends it well');
    prompt_end($end, 'at once');
    is($connector->{buffer}, '', 'it has said nothing that it was not asked');
    ok(!-e $local, 'the forward\'s socket is gone');
    ok($node->wait_log(qr/relay 100\.mtunnel: close frame from the client/), 'with a close frame');
    unlike($node->worker_log(100), qr/without quit/, 'the worker has heard quit');
    return;
}

sub ends ($name, $code, $do) {
    my ($node, $connector) = start({});
    my (undef, $echo) = $connector->open(kind => 'echo', stalled => 1);
    my (undef, $source) = $connector->open(kind => 'source', bytes => 10);
    my $writer = stream($connector, $echo, send => 64 * $MIB, half_close => 'never');
    ok(blocked_after($writer), 'a connection in the middle of its data');
    my $end = $do->($node, $connector);
    is($end->{code}, $code, 'exit code');
    prompt_end($end, 'it ends');
    ok(!-e $_, 'a socket is gone') for $echo, $source;
    pump($writer);

    if ($name =~ m/worker/) {
        # The node goes on and may close in order, with close_notify, for what is at its end gone.
        my $error = $writer->{write_error} // $writer->{error};
        like($error, qr/\A(?:ECONNRESET|EPIPE)\z/, 'who writes gets an error');
    } else {
        is($writer->{error}, 'ECONNRESET', 'who has written gets an error, no end of stream');
        is($writer->{eof}, undef, 'never');
    }
    like($connector->log, qr/ended by $name$/m, 'the log says why') if $name =~ m/\ASIG/;
    like(
        $connector->log,
        qr/control connection (?:was cut off|failed)|closed the control/,
        'the log says why'
    ) if $name =~ m/node|worker/;
    return;
}

sub killed ($signal, $connector) {
    kill $signal, $connector->{pid};
    return $connector->wait_end;
}
