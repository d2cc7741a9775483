#!/usr/bin/perl

# The test node behaves: who gets in, what a tunnel and its data connections do, how it ends. The
# client here shares no code with pve-tunnel or the node.

use v5.36;

use FindBin ();
use lib "$FindBin::RealBin/lib";

use Digest::SHA qw(sha256_hex);
use JSON ();
use Test::More;

use Test::Pattern qw(pattern_sha256);
use Test::TunnelClient;
use Test::TunnelNode;

use constant MIB => 1024 * 1024;

local $SIG{ALRM} = sub { die "the test stands still\n" };
alarm 300;
local $SIG{PIPE} = 'IGNORE';

subtest 'the node says where it is and keeps its token to itself' => sub {
    my $node = Test::TunnelNode->start;
    is($node->{address}, '127.0.0.1', 'address');
    like($node->{fingerprint}, qr/\A(?:[0-9A-F]{2}:){31}[0-9A-F]{2}\z/, 'fingerprint');
    like($node->{token}, qr/\APVEAPIToken=root\@pam!demo=[0-9a-f-]{36}\z/, 'token');
    is((stat "$node->{dir}/token")[2] & 0777, 0600, 'mode of the token file');
    my $value = secret($node);
    my $arguments = Test::TunnelNode::slurp("/proc/$node->{pid}/cmdline");
    unlike($arguments, qr/\Q$value\E/, 'no token among the arguments');
    my $handle = Test::TunnelClient::dial($node);
    my $shown = uc $handle->get_fingerprint('sha256');
    is($shown =~ s/\ASHA256\$//r, $node->{fingerprint} =~ tr/://dr, 'the certificate is the one');
};

subtest 'who gets in' => sub {
    my $node = Test::TunnelNode->start;
    my $tunnel = '/api2/json/nodes/target/qemu/100/mtunnel';
    my $right = "Authorization: $node->{token}";
    my @table = (
        ['no token', 'POST', $tunnel, [], 401, qr/No ticket/],
        ['a wrong token', 'POST', $tunnel, ["$right-"], 401, qr/token/],
        ['another node', 'POST', $tunnel =~ s/target/other/r, [$right], 500, qr/node/],
        ['another path', 'POST', "${tunnel}s", [$right], 501, qr/not implemented/],
        ['another method', 'GET', $tunnel, [$right], 501, qr/not implemented/],
        ['another kind', 'POST', $tunnel =~ s/qemu/xen/r, [$right], 501, qr/not implemented/],
        ['no guest', 'POST', $tunnel =~ s/100/1/r, [$right], 400, qr/Parameter/],
        ['no ticket', 'GET', "${tunnel}websocket?socket=/x", [$right], 401, qr/ticket/],
    );
    for my $row (@table) {
        my ($name, $method, $path, $headers, $status, $reason) = @$row;
        my $answer = Test::TunnelClient->request($node, $method, $path, headers => $headers);
        is($answer->{status}, $status, "$name: status");
        like($answer->{reason}, $reason, "$name: reason in the status line");
    }
};

subtest 'a ticket is for one user, one path, one minute' => sub {
    my $node = Test::TunnelNode->start;
    my $client = Test::TunnelClient->open($node, 'qemu', 100);
    my ($one, $two) = map { $client->command('open', kind => 'echo')->{socket} } 1, 2;
    my $ticket = $client->command('ticket', path => $one)->{ticket};
    my $other = $ticket =~ s/:([0-9A-F]{8}):/sprintf ':%08X:', 1 + hex $1/er;
    my @table = (
        ['the right one', $ticket, $one, undef],
        ['again', $ticket, $one, undef],
        ['another path', $ticket, $two, qr/\A401 .*ticket/],
        ['another time', $other, $one, qr/\A401 .*ticket/],
        ['none', '', $one, qr/\A401 .*ticket/],
        ['half of it', substr($ticket, 0, 40), $one, qr/\A401 .*ticket/],
    );
    for my $row (@table) {
        my ($name, $given, $path, $refusal) = @$row;
        my $got = eval { Test::TunnelClient->upgrade($node, 'qemu', 100, $given, $path) };
        defined $refusal ? like($@, $refusal, $name) : ok($got, $name);
    }
    my $refused = $client->command('ticket', path => '/etc/passwd');
    ok(!$refused->{success}, 'the worker makes no ticket for a path that is none of its sockets');
    unlink $one;
    eval { $client->data('qemu', 100, $one) };
    like($@, qr/\A500 connect to .* failed/, 'a missing socket is an error with a reason');
};

subtest 'the tunnel is a line for a line' => sub {
    my $node = Test::TunnelNode->start;
    my $client = Test::TunnelClient->open($node, 'qemu', 100, 'storages=local&bridges=vmbr0');
    my $version = $client->command('version');
    is_deeply([@$version{qw(api age)}], [2, 0], 'version');
    is_deeply($version->{caps}, ['insecure-remote'], 'capabilities');
    my $unknown = $client->command('reboot');
    ok(!$unknown->{success}, 'an unknown command is refused');
    like($unknown->{msg}, qr/unknown command/, 'with a reason');
    ok($client->command('version')->{success}, 'and the worker goes on');
    eval { Test::TunnelClient->open($node, 'qemu', 100) };
    like($@, qr/\A500 .*100 has a tunnel/, 'a guest has one tunnel');
    my $container = Test::TunnelClient->open($node, 'lxc', 101);
    like($container->{socket_path}, qr/ct-101\.mtunnel\z/, 'containers have theirs');
    $client->send('close');
    is_deeply($client->drain->{types}, ['close'], 'a close frame is answered');
    ok($node->wait_log(qr/^relay 100\.mtunnel: close frame/), 'and logged');
    is_deeply([$node->worker_log(100) =~ m/^command: (\w+)/mg], [qw(version unknown version)],
        'the worker has logged what it was told');
};

subtest 'an old node says nothing of capabilities' => sub {
    my $node = Test::TunnelNode->start(old => 1);
    my $version = Test::TunnelClient->open($node, 'qemu', 100)->command('version');
    ok($version->{success} && !exists $version->{caps}, 'no caps');
};

for my $how ([tls => '1.2'], [tls => '1.3'], [plain => 1], [listen => '::1']) {
    subtest "data both ways with @$how" => sub {
        my $node = Test::TunnelNode->start(@$how);
        my $client = Test::TunnelClient->open($node, 'qemu', 100);
        data_both_ways($node, $client);
    };
}

subtest 'several connections at once' => sub {
    my $node = Test::TunnelNode->start;
    my $client = Test::TunnelClient->open($node, 'qemu', 100);
    my $echo = $client->command('open', kind => 'echo')->{socket};
    my @clients = map { $client->data('qemu', 100, $echo) } 1 .. 5;
    $clients[$_]->send('binary', "number $_") for reverse 0 .. 4;
    is($clients[$_]->next->{bytes}, "number $_", "echo $_") for 0 .. 4;
    is($client->command('list')->{sockets}{$echo}{connections}, 5, 'all are counted');
};

subtest 'ends' => sub {
    my $node = Test::TunnelNode->start;
    my $client = Test::TunnelClient->open($node, 'qemu', 100);
    my $source = $client->command('open', kind => 'source', bytes => 10)->{socket};
    my $end = $client->data('qemu', 100, $source)->drain;
    is(length $end->{bytes}, 10, 'all of a source arrives');
    is_deeply($end->{types}, ['binary'], 'then no close frame, as with pveproxy');
    ok($end->{notified}, 'but close_notify');
    my $sink = $client->command('open', kind => 'sink')->{socket};
    my $left = $client->data('qemu', 100, $sink);
    $left->send('binary', 'abc');
    $left->disconnect;
    my $result = $client->command('result', socket => $sink);
    is($result->{bytes}, 3, 'what came before a disconnect is passed on');
};

subtest 'frames that pveproxy does not take are refused with a reason' => sub {
    my $node = Test::TunnelNode->start;
    my $client = Test::TunnelClient->open($node, 'qemu', 100);
    my $sink = $client->command('open', kind => 'sink')->{socket};
    my @table = (
        ['not masked', 'binary', 'x', masked => 0],
        ['fragmented', 'binary', 'x', fin => 0],
        ['reserved bits', 'binary', 'x', rsv => [1, 0, 0]],
        ['131073 bytes', 'binary', 'x' x 131073],
    );
    for my $row (@table) {
        my ($reason, @frame) = @$row;
        my $data = $client->data('qemu', 100, $sink);
        $data->send(@frame);
        my $end = $data->drain;
        is_deeply($end->{types}, ['close'], "$reason: closed");
        $data->disconnect;
        ok($node->wait_log(qr/refused: .*\Q$reason\E/), "$reason: logged");
    }
    my $data = $client->data('qemu', 100, $sink);
    $data->send('binary', 'x' x 131072);
    $data->send('close');
    $data->drain;
    is($client->command('result', socket => $sink)->{bytes}, 131072, '131072 bytes are taken');
};

subtest 'no secrets in the log' => sub {
    my $node = Test::TunnelNode->start;
    my $client = Test::TunnelClient->open($node, 'qemu', 100, 'password=geheim');
    my $echo = $client->command('open', kind => 'echo')->{socket};
    my $ticket = $client->command('ticket', path => $echo)->{ticket};
    Test::TunnelClient->upgrade($node, 'qemu', 100, $ticket, $echo)->disconnect;
    eval { Test::TunnelClient->upgrade($node, 'qemu', 100, $ticket, '/elsewhere') };
    like($@, qr/\A401/, 'a refusal');
    ok($node->wait_log(qr/^relay /), 'a relay has ended');
    my $log = $node->log . $node->worker_log(100);
    like($log, qr/mtunnelwebsocket 401/, 'the log has the refusal');
    my $value = secret($node);
    unlike($log, qr/\Q$value\E/, 'no token');
    unlike($log, qr/PVETUNNEL|ticket=/, 'no ticket');
    unlike($log, qr/geheim/, 'no form');
};

subtest 'the node takes its workers with it' => sub {
    my $node = Test::TunnelNode->start;
    my $client = Test::TunnelClient->open($node, 'qemu', 100);
    my ($worker) = map { hex } $client->{upid} =~ m/\AUPID:target:([0-9A-F]{8}):/;
    ok(alive($worker), 'a worker runs');
    is($node->stop, 0, 'SIGTERM ends the node');
    ok(!alive($worker), 'its worker is gone');
    ok(!-e "$node->{dir}/$_", "$_ is gone") for 'token', '100.mtunnel';

    $node = Test::TunnelNode->start;
    $client = Test::TunnelClient->open($node, 'qemu', 100);
    ($worker) = map { hex } $client->{upid} =~ m/\AUPID:target:([0-9A-F]{8}):/;
    close delete $node->{stdin};
    waitpid $node->{pid}, 0;
    is($?, 0, 'so does the end of stdin');
    $node->{ended} = 0;
    ok(!alive($worker), 'its worker is gone');
};

subtest 'a worker that does not start' => sub {
    my $node = Test::TunnelNode->start(worker => '/nonexistent/worker.pl');
    eval { Test::TunnelClient->open($node, 'qemu', 100) };
    like($@, qr/\A500 the worker did not start/, 'is an error with a reason');
    like($node->worker_log(100), qr/Can't open perl script/, 'and its log has the cause');
};

done_testing;

sub data_both_ways ($node, $client) {
    my $sink = $client->command('open', kind => 'sink')->{socket};
    my $sent = pack('N', 0x01020304) x (MIB / 2);
    my $data = $client->data('qemu', 100, $sink);
    $data->send('binary', substr $sent, $_ * 65536, 65536) for 0 .. length($sent) / 65536 - 1;
    $data->send('close');
    is_deeply($data->drain->{types}, ['close'], 'the sink closes');
    $data->disconnect;
    my $result = $client->command('result', socket => $sink);
    ok($result->{eof}, 'the sink saw the end');
    is($result->{sha256}, sha256_hex($sent), 'and all before it');
    my $bytes = length $sent;
    ok($node->wait_log(qr/: close frame .*; $bytes bytes in 32 frames .*, 33 masked/), 'counted');

    my $source = $client->command('open', kind => 'source', bytes => 5 * MIB + 7)->{socket};
    my $end = $client->data('qemu', 100, $source)->drain;
    is(sha256_hex($end->{bytes}), pattern_sha256(5 * MIB + 7), 'all of the source arrived');
    $result = $client->command('result', socket => $source);
    is($result->{sha256}, pattern_sha256(5 * MIB + 7), 'as the source says');

    my $echo = $client->command('open', kind => 'echo')->{socket};
    $data = $client->data('qemu', 100, $echo);
    $data->send('ping', 'are you there');
    my $pong = $data->next;
    is("$pong->{type} $pong->{bytes}", 'pong are you there', 'a pong carries the payload');
    $data->send('text', 'as text');
    is($data->next->{bytes}, 'as text', 'text frames are data');
    $data->send('binary', substr $sent, 0, 100_000);
    $data->send('close');
    $end = $data->drain;
    is($end->{bytes}, substr($sent, 0, 100_000), 'what was echoed after the close frame came too');
    is($end->{types}[-1], 'close', 'then a close frame');
    return;
}

sub secret ($node) {
    return $node->{token} =~ s/\A.*=//r;
}

sub alive ($pid) {
    return kill(0, $pid) && Test::TunnelNode::slurp("/proc/$pid/stat") !~ m/\) Z /;
}
