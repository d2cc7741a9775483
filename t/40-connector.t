#!/usr/bin/perl

# The protocol of proxmox-websocket-tunnel as its caller sees it, and every way in which the
# connector ends.

use v5.36;

use FindBin ();
use lib "$FindBin::RealBin/lib";

use JSON ();
use Test::More;

use Test::Connector;
use Test::ConnectorChecks qw(no_secrets prompt_end start stream $MIB);
use Test::Stream qw(blocked_after pump);
use Test::TunnelNode;

local $SIG{ALRM} = sub { die "the test timed out\n" };
alarm 300;
local $SIG{PIPE} = 'IGNORE';

for my $name (undef, 'proxmox-websocket-tunnel') {
    subtest 'a tunnel, program called as ' . ($name // 'pve-tunnel connect') => sub {
        tunnel(start({}, name => $name));
    };
}

subtest 'containers, old nodes, IPv6, TLS 1.2' => sub {
    my ($old, $container) = start({ old => 1, listen => '::1', tls => '1.2' }, kind => 'lxc');
    ok(!exists $container->{version}{caps}, 'the answer of an old node is passed on unchanged');
    my ($remote, $local) = $container->open(kind => 'echo');
    pump(my $stream = stream($container, $local, send => $MIB));
    is($stream->sha256, $stream->sent_sha256, 'the data comes back unchanged');
    like($container->log, qr/\Q[::1]:$old->{port}\E/, 'the log shows IPv6 addresses in brackets');
    like($container->log, qr/TLSv1_2/, 'the log names the TLS version');
};

subtest 'forwards' => sub {
    my ($node, $connector) = start({});
    my ($remote, $local) = $connector->open(kind => 'echo');
    ok(-S $local, 'a forward is a UNIX socket');
    is(sprintf('%o', (stat $local)[2] & oct 777), '600', 'only its owner has access');
    pump(stream($connector, $local, send => 1000)) for 1 .. 3;
    my $tickets = () = $node->worker_log(100) =~ m/^command: ticket$/mg;
    is($tickets, 3, 'each connection takes a fresh ticket');

    my $answer = $connector->forward("$connector->{dir}/no/such/dir", $remote);
    ok(!$answer->{success}, 'a forward that cannot listen is refused');
    like($answer->{msg}, qr{no/such/dir.*No such file}, 'the answer has the reason');
    pump(my $stream = stream($connector, $local, send => 1000));
    is($stream->{received}, 1000, 'the first forward still works');

    ok(
        $connector->forward($local, $remote)->{success},
        'the same path is accepted again, as for the next disk'
    );
    pump($stream = stream($connector, $local, send => 1000));
    is($stream->{received}, 1000, 'the repeated forward works');

    my $foreign = "$connector->{dir}/foreign";
    $connector->forward($foreign, '/etc/passwd');
    pump($stream = stream($connector, $foreign, half_close => 'never'));
    is($stream->{error}, 'ECONNRESET', 'without a ticket a connection is reset, not ended');
    ok($connector->wait_log(qr{refuses a ticket for '/etc/passwd'}), 'the log has the reason');
    is($connector->finish->{code}, 0, 'a refused ticket is not a failure of the tunnel');
};

subtest 'bad input' => sub {
    my ($node, $connector) = start({});
    my $value = $node->{token} =~ s/\A.*=//r;
    my @table = (
        ['not JSON', '{"cmd":"version"', qr/invalid command line/],
        ['a token in place of a boolean', qq({"control":"$value"}), qr/wrong type/],
        [
            'an unknown control command', '{"control":true,"cmd":"x"}',
            qr/unknown control command 'x'/
        ],
        ['a line of 2 MiB', 'x' x (2 * $MIB), qr/longer than 1 MiB/],
    );
    for my $row (@table) {
        my ($name, $line, $reason) = @$row;
        $connector->send_line($line);
        my $answer = JSON::decode_json($connector->read_line);
        ok(!$answer->{success}, "$name is refused");
        like($answer->{msg}, $reason, "$name: the answer has the reason");
    }
    ok($connector->command('version')->{success}, 'the tunnel still works');
};

# What a node logs of a connection for data whose socket at the target is gone.
my $SOCKET_GONE =
    qr/^relay (?!\S*mtunnel)\S+: (?:the UNIX side closed|cannot write to the UNIX socket)/m;

# Each row ends a connector that has two forwards and a connection in mid-transfer: the name, the
# expected exit code, and the code that ends it.
my @ends = (
    ['quit and the end of input', 0, sub ($node, $connector) { $connector->finish }],
    ['the end of input', 0, sub ($node, $connector) { $connector->end_input }],
    ['SIGTERM', 143, sub ($node, $connector) { killed('TERM', $connector) }],
    ['SIGINT', 130, sub ($node, $connector) { killed('INT', $connector) }],
    ['SIGHUP', 129, sub ($node, $connector) { killed('HUP', $connector) }],
    [
        'a stopped node',
        1,
        sub ($node, $connector) {
            $node->stop;
            return $connector->wait_end;
        }
    ],
    [
        'a killed node',
        1,
        sub ($node, $connector) {
            kill 'KILL', $node->{pid};
            return $connector->wait_end;
        }
    ],
    [
        'a killed worker',
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

subtest 'the connector is killed' => sub {
    my ($node, $connector) = start({});
    my ($remote, $local) = $connector->open(kind => 'echo', stalled => 1);
    my $stream = stream($connector, $local, send => 64 * $MIB, half_close => 'never');
    ok(blocked_after($stream), 'a connection is in mid-transfer');
    is(killed('KILL', $connector)->{code}, 137, 'the exit code is that of SIGKILL');
    pump($stream);
    is($stream->{error}, 'ECONNRESET', 'a program that has written gets a reset, not an end');
};

subtest 'no secrets' => sub {
    my ($node, $connector) = start({}, form => 'password=geheim');
    my $value = $node->{token} =~ s/\A.*=//r;
    my $proc = "/proc/$connector->{pid}";
    like(Test::TunnelNode::slurp("$proc/cmdline"), qr/pve-tunnel/, 'the arguments can be read');
    unlike(Test::TunnelNode::slurp("$proc/$_"), qr/\Q$value\E|PVETUNNEL/, "no secret in its $_")
        for qw(cmdline environ);
    undef $connector;
    no_secrets();
};

done_testing;

sub tunnel ($node, $connector) {
    my $version = $connector->{version};
    is_deeply(
        [@$version{qw(api age)}], [2, 0],
        'connect has no answer; the first answer is that to version'
    );
    is_deeply($version->{caps}, ['insecure-remote'], 'the capabilities are those of the worker');
    ok(!$connector->command('reboot')->{success}, 'a refusal of the worker is passed on');
    my ($remote, $local) = $connector->open(kind => 'echo');
    pump(my $stream = stream($connector, $local, send => 3 * $MIB + 1));
    is($stream->sha256, $stream->sent_sha256, 'the data comes back unchanged');
    ok($stream->{eof}, 'the stream has an end');
    like(
        $connector->wait_log(qr/connection 1:/),
        qr/closed \(3145729 bytes sent, 3145729 received, .* TLSv1_3 TLS13_AES_256_GCM_SHA384\)/,
        'the log has the end of the connection'
    );
    ok(-e $local, 'the forward accepts more connections');
    my $end = $connector->finish;
    is($end->{code}, 0, 'quit ends the connector with success');
    prompt_end($end, 'the connector ends at once');
    is($connector->{buffer}, '', 'it has printed nothing but answers');
    ok(!-e $local, 'the forward\'s socket is gone');
    ok(
        $node->wait_log(qr/relay 100\.mtunnel: close frame from the client/),
        'it sent a close frame'
    );
    unlike($node->worker_log(100), qr/without quit/, 'the worker has received quit');
    return;
}

sub ends ($name, $code, $do) {
    my ($node, $connector) = start({});
    my (undef, $echo) = $connector->open(kind => 'echo', stalled => 1);
    my (undef, $source) = $connector->open(kind => 'source', bytes => 10);
    my $writer = stream($connector, $echo, send => 64 * $MIB, half_close => 'never');
    ok(blocked_after($writer), 'a connection is in mid-transfer');
    my $end = $do->($node, $connector);
    is($end->{code}, $code, 'exit code');
    prompt_end($end, 'the connector ends at once');
    ok(!-e $_, 'a forward\'s socket is gone') for $echo, $source;
    pump($writer);

    if ($name =~ m/worker/ || $node->log =~ $SOCKET_GONE) {
        # A node outlives its workers. It ends a connection whose socket is gone in order, with
        # close_notify, and reads the rest.
        my $error = $writer->{write_error} // $writer->{error};
        like($error, qr/\A(?:ECONNRESET|EPIPE)\z/, 'a writing program gets an error');
    } else {
        is($writer->{error}, 'ECONNRESET', 'a program that has written gets an error');
        is($writer->{eof}, undef, 'it gets no end of stream');
    }
    like($connector->log, qr/ended by $name$/m, 'the log has the reason') if $name =~ m/\ASIG/;
    like(
        $connector->log,
        qr/control connection (?:was cut off|failed)|closed the control/,
        'the log has the reason'
    ) if $name =~ m/node|worker/;
    return;
}

sub killed ($signal, $connector) {
    kill $signal, $connector->{pid};
    return $connector->wait_end;
}
