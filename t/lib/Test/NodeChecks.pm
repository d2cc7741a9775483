package Test::NodeChecks;

# What every target node does, whatever its front is, and what was measured on pveproxy. The client
# is Test::TunnelClient, which shares no code with pve-tunnel or the node.

use v5.36;

use Digest::SHA qw(sha256_hex);
use Exporter 'import';
use IO::Select ();
use Test::More;
use Time::HiRes ();

use Test::Pattern qw(pattern_sha256);
use Test::Processes qw(is_running);
use Test::TunnelClient;
use Test::TunnelNode;

our @EXPORT_OK = qw(check_node check_pveproxy is_silent);

=head1 NAME

Test::NodeChecks - subtests for a test node

=head1 FUNCTIONS

=head2 check_node(%start)

What holds for every node: identity, admission, tickets, the tunnel, data both ways, ending.
C<%start> goes to L<Test::TunnelNode/start>; C<delay> tells that 401 is slow, and fewer of them are
tried.

=head2 is_silent($client)

Whether nothing has come on a connection, not even an end.

=head2 check_pveproxy(%start)

What was measured on pveproxy and is not good conduct.

=cut

my $MIB = 1024 * 1024;

sub check_node (%start) {
    my $delay = delete $start{delay};
    my $node = Test::TunnelNode->start(%start);
    subtest 'identity' => sub { identity($node) };
    subtest 'who gets in' => sub { admission($node, $delay) };
    subtest 'a ticket is for one user, one path, one minute' => sub { tickets($node, $delay) };
    subtest 'the tunnel is a line for a line' => sub { tunnel($node) };
    subtest 'several connections at once' => sub { several($node) };
    subtest 'no secrets in the log' => sub { secrets($node) };
    subtest 'the node takes its workers with it' => sub { ending($node, %start) };
    subtest 'an old node says nothing of capabilities' => sub {
        my $old = Test::TunnelNode->start(%start, old => 1);
        my $version = Test::TunnelClient->open($old, 'qemu', 100)->command('version');
        ok($version->{success} && !exists $version->{caps}, 'no caps');
    };
    subtest 'a worker that does not start' => sub {
        my $broken = Test::TunnelNode->start(%start, worker => '/nonexistent/worker.pl');
        eval { Test::TunnelClient->open($broken, 'qemu', 100) };
        like($@, qr/\A500 the worker did not start/, 'is an error with a reason');
        like($broken->worker_log(100), qr/Can't open perl script/, 'and its log has the cause');
    };
    for my $how ([tls => '1.2'], [tls => '1.3'], [plain => 1], [listen => '::1']) {
        subtest "data both ways with @$how" => sub {
            data_both_ways(Test::TunnelNode->start(%start, @$how));
        };
    }
    return;
}

sub check_pveproxy (%start) {
    # With TLS 1.3 session tickets come unasked, and silence would not be silence.
    my $node = Test::TunnelNode->start(%start, tls => '1.2');
    my $client = Test::TunnelClient->open($node, 'qemu', 100);
    my $open = sub (%socket) {
        my $socket = $client->command('open', %socket)->{socket};
        return ($socket, $client->data('qemu', 100, $socket));
    };
    my $result = sub ($socket) { $client->command('result', socket => $socket) };

    subtest 'a close frame' => sub {
        my ($socket, $data) = $open->(kind => 'sink', stalled => 1);
        send_mib($data, 8);
        $data->send('close', pack 'n', 1000);
        my $end = $data->drain;
        is_deeply($end->{types}, [], 'no close frame comes back');
        ok(!$end->{notified}, 'FIN without close_notify');
        $client->command('go', socket => $socket);
        is($result->($socket)->{bytes}, 8 * $MIB, 'all sent before it arrives');
        ok($result->($socket)->{eof}, 'then the end');
    };
    subtest 'a close frame, and the UNIX side has more to say' => sub {
        my ($socket, $data) = $open->(kind => 'source', bytes => $MIB, stalled => 1);
        $data->send('close', pack 'n', 1000);
        my $end = $data->drain;
        $data->disconnect;
        $client->command('go', socket => $socket);
        is($end->{bytes}, '', 'it is lost');
        ok(!$end->{notified}, 'FIN without close_notify');
        isnt($result->($socket)->{error}, undef, 'the UNIX side cannot say it');
    };
    subtest 'a disconnect without a close frame' => sub {
        my ($socket, $data) = $open->(kind => 'sink', stalled => 1);
        ok(send_mib($data, 8), 'all is taken, without backpressure');
        $data->send('ping', 'all there');
        is($data->next->{type}, 'pong', 'and has been read');
        $data->disconnect;
        # The next connection is served after this one's end.
        $open->(kind => 'echo');
        ok($node->wait_log(qr/went without a close frame/), 'its end was seen')
            if ($start{front} // '') ne 'pveproxy';
        $client->command('go', socket => $socket);
        my $got = $result->($socket);
        ok(
            $got->{bytes} < 8 * $MIB,
            "what was still buffered is thrown away ($got->{bytes} bytes)"
        );
        ok($got->{eof}, 'and the UNIX side takes it for an end');
    };
    subtest 'the end of the UNIX side' => sub {
        my ($socket, $data) = $open->(kind => 'source', bytes => 2 * $MIB);
        my $end = $data->drain;
        is(sha256_hex($end->{bytes}), pattern_sha256(2 * $MIB), 'all of it arrives');
        is_deeply($end->{types}, ['binary'], 'no close frame');
        ok($end->{notified}, 'close_notify');
    };
    subtest 'the largest frame' => sub {
        my ($socket, $data) = $open->(kind => 'sink');
        $data->send('binary', 'x' x 131072);
        $data->send('binary', '');
        $data->send('close');
        $data->drain;
        is($result->($socket)->{bytes}, 131072, '131072 bytes are taken, and an empty one');
    };
    subtest 'a fragmented frame' => sub {
        my ($socket, $data) = $open->(kind => 'sink');
        $data->send('binary', 'x', fin => 0);
        $data->send('binary', 'y');
        $data->send('ping', 'there?');
        $client->command('version');
        ok(is_silent($data), 'no error, no close frame, no pong');
        is($client->command('result', socket => $socket, wait => 0)->{bytes}, 0, 'nothing goes on');
        $data->disconnect;
    };
    subtest 'a missing socket' => sub {
        my $socket = $client->command('open', kind => 'echo')->{socket};
        unlink $socket;
        my $ticket = $client->command('ticket', path => $socket)->{ticket};
        my $asked = Test::TunnelClient->ask_upgrade($node, 'qemu', 100, $ticket, $socket);
        ok($node->wait_log(qr/silent/), 'it was tried') if ($start{front} // '') ne 'pveproxy';
        Test::TunnelClient->request($node, 'POST', '/', headers => []) for 1 .. 2;
        ok(is_silent($asked), 'no answer');
    };
    return;
}

sub identity ($node) {
    is($node->{address}, '127.0.0.1', 'address');
    like($node->{fingerprint}, qr/\A(?:[0-9A-F]{2}:){31}[0-9A-F]{2}\z/, 'fingerprint');
    like($node->{token}, qr/\APVEAPIToken=root\@pam!demo=[0-9a-f-]{36}\z/, 'token');
    my $mode = (stat "$node->{dir}/token")[2] & oct 777;
    is(sprintf('%o', $mode), '600', 'mode of the token file');
    my $value = value_of($node);
    my $arguments = Test::TunnelNode::slurp("/proc/$node->{pid}/cmdline");
    like($arguments, qr/--worker/, 'the arguments can be read');
    unlike($arguments, qr/\Q$value\E/, 'no token among them');
    my $shown = uc Test::TunnelClient::dial($node)->get_fingerprint('sha256');
    is($shown =~ s/\ASHA256\$//r, $node->{fingerprint} =~ tr/://dr, 'the certificate is the one');
    return;
}

sub admission ($node, $delay) {
    my $tunnel = '/api2/json/nodes/target/qemu/100/mtunnel';
    my $right = "Authorization: $node->{token}";
    my @table = (
        ['another node', 'POST', $tunnel =~ s/target/other/r, [$right], 500, qr/node/],
        ['another path', 'POST', "${tunnel}s", [$right], 501, qr/not implemented/],
        ['another method', 'GET', $tunnel, [$right], 501, qr/not implemented/],
        ['another kind', 'POST', $tunnel =~ s/qemu/xen/r, [$right], 501, qr/not implemented/],
        ['no guest', 'POST', $tunnel =~ s/100/1/r, [$right], 400, qr/Parameter/],
        ['a wrong token', 'POST', $tunnel, ["$right-"], 401, qr/token/],
        ['no token', 'POST', $tunnel, [], 401, qr/No ticket/],
        ['no ticket', 'GET', "${tunnel}websocket?socket=/x", [$right], 401, qr/ticket/],
    );
    splice @table, -2 if $delay;
    for my $row (@table) {
        my ($name, $method, $path, $headers, $status, $reason) = @$row;
        my $answer = Test::TunnelClient->request($node, $method, $path, headers => $headers);
        is($answer->{status}, $status, "$name: status");
        like($answer->{reason}, $reason, "$name: reason in the status line");
    }
    return;
}

sub tickets ($node, $delay) {
    my $client = Test::TunnelClient->open($node, 'qemu', 200);
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
    splice @table, -2 if $delay;
    for my $row (@table) {
        my ($name, $given, $path, $refusal) = @$row;
        my $got = eval { Test::TunnelClient->upgrade($node, 'qemu', 200, $given, $path) };
        defined $refusal ? like($@, $refusal, $name) : ok($got, $name);
    }
    my $refused = $client->command('ticket', path => '/etc/passwd');
    ok(!$refused->{success}, 'the worker makes no ticket for a path that is none of its sockets');
    return;
}

sub tunnel ($node) {
    my $client = Test::TunnelClient->open($node, 'qemu', 100, 'storages=local&bridges=vmbr0');
    my $version = $client->command('version');
    is_deeply([@$version{qw(api age)}], [2, 0], 'version');
    is_deeply($version->{caps}, ['insecure-remote'], 'capabilities');
    my $unknown = $client->command('reboot');
    ok(!$unknown->{success}, 'an unknown command is refused');
    like($unknown->{msg}, qr/unknown command/, 'with a reason');
    ok($client->command('version')->{success}, 'and the worker goes on');
    is($client->command('params')->{params}{storages}, 'local', 'the form came to the worker');
    eval { Test::TunnelClient->open($node, 'qemu', 100) };
    like($@, qr/\A500 .*100 has a tunnel/, 'a guest has one tunnel');
    my $container = Test::TunnelClient->open($node, 'lxc', 101);
    like($container->{socket_path}, qr/ct-101\.mtunnel\z/, 'containers have theirs');
    is_deeply(
        [$node->worker_log(100) =~ m/^command: (\w+)/mg],
        [qw(version unknown version params)],
        'the worker has logged what it was told'
    );
    return;
}

sub several ($node) {
    my $client = Test::TunnelClient->open($node, 'qemu', 300);
    my $echo = $client->command('open', kind => 'echo')->{socket};
    my @clients = map { $client->data('qemu', 300, $echo) } 1 .. 5;
    $clients[$_]->send('binary', "number $_") for reverse 0 .. 4;
    is($clients[$_]->next->{bytes}, "number $_", "echo $_") for 0 .. 4;
    is($client->command('list')->{sockets}{$echo}{connections}, 5, 'all are counted');
    return;
}

sub secrets ($node) {
    my $client = Test::TunnelClient->open($node, 'qemu', 400, 'password=geheim');
    my $echo = $client->command('open', kind => 'echo')->{socket};
    my $ticket = $client->command('ticket', path => $echo)->{ticket};
    Test::TunnelClient->upgrade($node, 'qemu', 400, $ticket, $echo)->disconnect;
    eval { Test::TunnelClient->upgrade($node, 'qemu', 400, $ticket, '/elsewhere') };
    like($@, qr/\A401/, 'a refusal');
    ok($node->wait_log(qr/400.*mtunnelwebsocket 401/), 'the log has it');
    my $log = $node->log . $node->worker_log(400);
    my $value = value_of($node);
    unlike($log, qr/\Q$value\E/, 'no token');
    unlike($log, qr/PVETUNNEL|ticket=/, 'no ticket');
    unlike($log, qr/geheim/, 'no form');
    return;
}

sub ending ($node, %start) {
    my $client = Test::TunnelClient->open($node, 'qemu', 500);
    my $worker = worker_of($client);
    ok(is_running($worker), 'a worker runs');
    is($node->stop, 0, 'SIGTERM ends the node');
    ok(!is_running($worker), 'its worker is gone');
    ok(!-e "$node->{dir}/$_", "$_ is gone") for 'token', '500.mtunnel';

    my $second = Test::TunnelNode->start(%start);
    $worker = worker_of(Test::TunnelClient->open($second, 'qemu', 500));
    is($second->end_input, 0, 'so does the end of stdin');
    ok(!is_running($worker), 'its worker is gone');

    my $third = Test::TunnelNode->start(%start);
    $worker = worker_of(Test::TunnelClient->open($third, 'qemu', 500));
    kill 'KILL', $third->{pid};
    # Nobody told the worker but the end of its stdin; the subtest hangs if that does not do.
    Time::HiRes::sleep(0.02) while is_running($worker);
    pass('a killed node leaves no worker');
    return;
}

sub data_both_ways ($node) {
    my $client = Test::TunnelClient->open($node, 'qemu', 100);
    my $sink = $client->command('open', kind => 'sink')->{socket};
    my $data = $client->data('qemu', 100, $sink);
    ok(send_mib($data, 2), 'two MiB are sent');
    $data->send('close', pack 'n', 1000);
    $data->drain;
    $data->disconnect;
    my $result = $client->command('result', socket => $sink);
    ok($result->{eof}, 'the sink saw the end');
    is($result->{sha256}, sha256_hex(mib() x 2), 'and all before it');

    my $source = $client->command('open', kind => 'source', bytes => 5 * $MIB + 7)->{socket};
    my $end = $client->data('qemu', 100, $source)->drain;
    is(sha256_hex($end->{bytes}), pattern_sha256(5 * $MIB + 7), 'all of the source arrived');
    ok($end->{notified}, 'then close_notify');
    $result = $client->command('result', socket => $source);
    is($result->{sha256}, pattern_sha256(5 * $MIB + 7), 'as the source says');

    my $echo = $client->command('open', kind => 'echo')->{socket};
    $data = $client->data('qemu', 100, $echo);
    $data->send('ping', 'are you there');
    my $pong = $data->next;
    is("$pong->{type} $pong->{bytes}", 'pong are you there', 'a pong carries the payload');
    $data->send('text', 'as text');
    is($data->next->{bytes}, 'as text', 'text frames are data');
    return;
}

sub is_silent ($client) {
    my $handle = $client->{handle};
    return 0 if $handle->can('pending') && $handle->pending;
    return IO::Select->new($handle)->can_read(0) ? 0 : 1;
}

sub send_mib ($client, $count) {
    for (1 .. $count * 16) {
        $client->send('binary', substr mib(), 0, 65536) or return 0;
    }
    return 1;
}

sub mib () {
    return pack('N', 0x01020304) x ($MIB / 4);
}

sub value_of ($node) {
    return $node->{token} =~ s/\A.*=//r;
}

sub worker_of ($client) {
    my ($pid) = $client->{upid} =~ m/\AUPID:target:([0-9A-F]{8}):/ or die "no UPID\n";
    return hex $pid;
}

1;
