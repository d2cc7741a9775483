package Test::NodeChecks;

# Checks that hold for every target node with any front, and checks of the measured peculiarities of
# pveproxy. The client is Test::TunnelClient, which shares no code with pve-tunnel or the node.

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

Test::NodeChecks - checks of a test node, as subtests

=head1 FUNCTIONS

=head2 check_node(%start)

Checks that hold for every node: identity, authentication, tickets, the tunnel, data in both
directions, the end of the node. C<%start> has the options for L<Test::TunnelNode/start>. With
C<delay>, fewer requests are made that get status 401, because the node delays this answer.

=head2 is_silent($client)

Whether nothing has been received on a connection, not even its end.

=head2 check_pveproxy(%start)

Checks of the measured peculiarities of pveproxy, which a correct server does not have.

=cut

my $MIB = 1024 * 1024;

sub check_node (%start) {
    my $delay = delete $start{delay};
    my $node = Test::TunnelNode->start(%start);
    subtest 'identity' => sub { identity($node) };
    subtest 'authentication' => sub { authentication($node, $delay) };
    subtest 'a ticket is for one user, one path, one minute' => sub { tickets($node, $delay) };
    subtest 'the tunnel answers each line with one line' => sub { tunnel($node) };
    subtest 'several connections at the same time' => sub { several($node) };
    subtest 'no secrets in the log' => sub { secrets($node) };
    subtest 'the end of the node ends its workers' => sub { ending($node, %start) };
    subtest 'an old node has no capabilities' => sub {
        my $old = Test::TunnelNode->start(%start, old => 1);
        my $version = Test::TunnelClient->open($old, 'qemu', 100)->command('version');
        ok($version->{success} && !exists $version->{caps}, 'no caps');
    };
    subtest 'a worker that does not start' => sub {
        my $broken = Test::TunnelNode->start(%start, worker => '/nonexistent/worker.pl');
        eval { Test::TunnelClient->open($broken, 'qemu', 100) };
        like($@, qr/\A500 the worker did not start/, 'the request fails with a reason');
        like(
            $broken->worker_log(100), qr/Can't open perl script/,
            '... and the log of the worker has the cause'
        );
    };
    for my $how ([tls => '1.2'], [tls => '1.3'], [plain => 1], [listen => '::1']) {
        subtest "data in both directions with @$how" => sub {
            data_both_directions(Test::TunnelNode->start(%start, @$how));
        };
    }
    return;
}

sub check_pveproxy (%start) {
    # TLS 1.3 sends session tickets unasked, so a silent connection would not be detected.
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
        is_deeply($end->{types}, [], 'no close frame is sent back');
        ok(!$end->{notified}, 'FIN without close_notify');
        $client->command('go', socket => $socket);
        is($result->($socket)->{bytes}, 8 * $MIB, 'all bytes sent before the close frame arrive');
        ok($result->($socket)->{eof}, '... and then the end');
    };
    subtest 'a close frame before the UNIX side has sent all' => sub {
        my ($socket, $data) = $open->(kind => 'source', bytes => $MIB, stalled => 1);
        $data->send('close', pack 'n', 1000);
        my $end = $data->drain;
        $data->disconnect;
        $client->command('go', socket => $socket);
        is($end->{bytes}, '', 'the bytes of the UNIX side are lost');
        ok(!$end->{notified}, 'FIN without close_notify');
        isnt($result->($socket)->{error}, undef, 'the UNIX side gets an error');
    };
    subtest 'a disconnect without a close frame' => sub {
        my ($socket, $data) = $open->(kind => 'sink', stalled => 1);
        ok(send_mib($data, 8), 'all bytes are accepted without backpressure');
        $data->send('ping', 'all there');
        is($data->next->{type}, 'pong', '... and have been read');
        $data->disconnect;
        # The node accepts the next connection after the end of this one.
        $open->(kind => 'echo');
        ok($node->wait_log(qr/went without a close frame/), 'the node has seen the end')
            if ($start{front} // '') ne 'pveproxy';
        $client->command('go', socket => $socket);
        my $got = $result->($socket);
        ok(
            $got->{bytes} < 8 * $MIB,
            "buffered bytes are discarded ($got->{bytes} bytes arrived)"
        );
        ok($got->{eof}, '... and the UNIX side sees a clean end');
    };
    subtest 'the end of the UNIX side' => sub {
        my ($socket, $data) = $open->(kind => 'source', bytes => 2 * $MIB);
        my $end = $data->drain;
        is(sha256_hex($end->{bytes}), pattern_sha256(2 * $MIB), 'all bytes arrive');
        is_deeply($end->{types}, ['binary'], 'no close frame');
        ok($end->{notified}, 'close_notify');
    };
    subtest 'the largest frame' => sub {
        my ($socket, $data) = $open->(kind => 'sink');
        $data->send('binary', 'x' x 131072);
        $data->send('binary', '');
        $data->send('close');
        $data->drain;
        is($result->($socket)->{bytes}, 131072, '131072 bytes are accepted, and an empty frame');
    };
    subtest 'a fragmented frame' => sub {
        my ($socket, $data) = $open->(kind => 'sink');
        $data->send('binary', 'x', fin => 0);
        $data->send('binary', 'y');
        $data->send('ping', 'there?');
        $client->command('version');
        ok(is_silent($data), 'no error, no close frame, no pong');
        is(
            $client->command('result', socket => $socket, wait => 0)->{bytes}, 0,
            'no byte is passed on'
        );
        $data->disconnect;
    };
    subtest 'a missing socket' => sub {
        my $socket = $client->command('open', kind => 'echo')->{socket};
        unlink $socket;
        my $ticket = $client->command('ticket', path => $socket)->{ticket};
        my $asked = Test::TunnelClient->ask_upgrade($node, 'qemu', 100, $ticket, $socket);
        ok($node->wait_log(qr/sending no response/), 'the node has tried to connect')
            if ($start{front} // '') ne 'pveproxy';
        Test::TunnelClient->request($node, 'POST', '/', headers => []) for 1 .. 2;
        ok(is_silent($asked), 'no answer');
    };
    return;
}

sub identity ($node) {
    is($node->{address}, '127.0.0.1', 'the address');
    like($node->{fingerprint}, qr/\A(?:[0-9A-F]{2}:){31}[0-9A-F]{2}\z/, 'fingerprint');
    like($node->{token}, qr/\APVEAPIToken=root\@pam!demo=[0-9a-f-]{36}\z/, 'token');
    my $mode = (stat "$node->{dir}/token")[2] & oct 777;
    is(sprintf('%o', $mode), '600', 'mode of the token file');
    my $value = value_of($node);
    my $arguments = Test::TunnelNode::slurp("/proc/$node->{pid}/cmdline");
    like($arguments, qr/--worker/, 'the arguments can be read');
    unlike($arguments, qr/\Q$value\E/, '... and contain no token');
    my $shown = uc Test::TunnelClient::dial($node)->get_fingerprint('sha256');
    is(
        $shown =~ s/\ASHA256\$//r, $node->{fingerprint} =~ tr/://dr,
        'the certificate has the announced fingerprint'
    );
    return;
}

sub authentication ($node, $delay) {
    my $tunnel = '/api2/json/nodes/target/qemu/100/mtunnel';
    my $right = "Authorization: $node->{token}";
    my @table = (
        ['another node', 'POST', $tunnel =~ s/target/other/r, [$right], 500, qr/node/],
        ['another path', 'POST', "${tunnel}s", [$right], 501, qr/not implemented/],
        ['another method', 'GET', $tunnel, [$right], 501, qr/not implemented/],
        ['an unknown kind', 'POST', $tunnel =~ s/qemu/xen/r, [$right], 501, qr/not implemented/],
        ['an invalid guest ID', 'POST', $tunnel =~ s/100/1/r, [$right], 400, qr/Parameter/],
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
        ['the right ticket', $ticket, $one, undef],
        ['a second use', $ticket, $one, undef],
        ['another path', $ticket, $two, qr/\A401 .*ticket/],
        ['another time', $other, $one, qr/\A401 .*ticket/],
        ['no ticket', '', $one, qr/\A401 .*ticket/],
        ['a truncated ticket', substr($ticket, 0, 40), $one, qr/\A401 .*ticket/],
    );
    splice @table, -2 if $delay;
    for my $row (@table) {
        my ($name, $given, $path, $refusal) = @$row;
        my $got = eval { Test::TunnelClient->upgrade($node, 'qemu', 200, $given, $path) };
        defined $refusal ? like($@, $refusal, $name) : ok($got, $name);
    }
    my $refused = $client->command('ticket', path => '/etc/passwd');
    ok(!$refused->{success}, 'the worker makes no ticket for an unknown path');
    return;
}

sub tunnel ($node) {
    my $client = Test::TunnelClient->open($node, 'qemu', 100, 'storages=local&bridges=vmbr0');
    my $version = $client->command('version');
    is_deeply([@$version{qw(api age)}], [2, 0], 'version');
    is_deeply($version->{caps}, ['insecure-remote'], 'capabilities');
    my $unknown = $client->command('reboot');
    ok(!$unknown->{success}, 'an unknown command is refused');
    like($unknown->{msg}, qr/unknown command/, '... with a reason');
    ok($client->command('version')->{success}, '... and the worker continues');
    is($client->command('params')->{params}{storages}, 'local', 'the worker has received the form');
    eval { Test::TunnelClient->open($node, 'qemu', 100) };
    like($@, qr/\A500 .*100 already has a tunnel/, 'a guest has only one tunnel');
    my $container = Test::TunnelClient->open($node, 'lxc', 101);
    like($container->{socket_path}, qr/ct-101\.mtunnel\z/, 'a container can have a tunnel');
    is_deeply(
        [$node->worker_log(100) =~ m/^command: (\w+)/mg],
        [qw(version unknown version params)],
        'the worker has logged its commands'
    );
    return;
}

sub several ($node) {
    my $client = Test::TunnelClient->open($node, 'qemu', 300);
    my $echo = $client->command('open', kind => 'echo')->{socket};
    my @clients = map { $client->data('qemu', 300, $echo) } 1 .. 5;
    $clients[$_]->send('binary', "number $_") for reverse 0 .. 4;
    is($clients[$_]->next->{bytes}, "number $_", "echo $_") for 0 .. 4;
    is($client->command('list')->{sockets}{$echo}{connections}, 5, 'all connections are counted');
    return;
}

sub secrets ($node) {
    my $client = Test::TunnelClient->open($node, 'qemu', 400, 'password=geheim');
    my $echo = $client->command('open', kind => 'echo')->{socket};
    my $ticket = $client->command('ticket', path => $echo)->{ticket};
    Test::TunnelClient->upgrade($node, 'qemu', 400, $ticket, $echo)->disconnect;
    eval { Test::TunnelClient->upgrade($node, 'qemu', 400, $ticket, '/elsewhere') };
    like($@, qr/\A401/, 'another path is refused');
    ok($node->wait_log(qr/400.*mtunnelwebsocket 401/), 'the log has the refusal');
    my $log = $node->log . $node->worker_log(400);
    my $value = value_of($node);
    unlike($log, qr/\Q$value\E/, 'the log contains no token');
    unlike($log, qr/PVETUNNEL|ticket=/, '... no ticket');
    unlike($log, qr/geheim/, '... and no form');
    return;
}

sub ending ($node, %start) {
    my $client = Test::TunnelClient->open($node, 'qemu', 500);
    my $worker = worker_of($client);
    ok(is_running($worker), 'a worker runs');
    is($node->stop, 0, 'SIGTERM ends the node');
    ok(!is_running($worker), 'its worker has ended');
    ok(!-e "$node->{dir}/$_", "$_ is removed") for 'token', '500.mtunnel';

    my $second = Test::TunnelNode->start(%start);
    $worker = worker_of(Test::TunnelClient->open($second, 'qemu', 500));
    is($second->end_input, 0, 'the end of standard input ends the node');
    ok(!is_running($worker), 'its worker has ended');

    my $third = Test::TunnelNode->start(%start);
    $worker = worker_of(Test::TunnelClient->open($third, 'qemu', 500));
    kill 'KILL', $third->{pid};
    # Only the end of its standard input can end the worker. The test times out if it does not.
    Time::HiRes::sleep(0.02) while is_running($worker);
    pass('a killed node leaves no worker');
    return;
}

sub data_both_directions ($node) {
    my $client = Test::TunnelClient->open($node, 'qemu', 100);
    my $sink = $client->command('open', kind => 'sink')->{socket};
    my $data = $client->data('qemu', 100, $sink);
    ok(send_mib($data, 2), 'two MiB are sent');
    $data->send('close', pack 'n', 1000);
    $data->drain;
    $data->disconnect;
    my $result = $client->command('result', socket => $sink);
    ok($result->{eof}, 'the sink has seen the end');
    is($result->{sha256}, sha256_hex(mib() x 2), '... and all bytes before it');

    my $source = $client->command('open', kind => 'source', bytes => 5 * $MIB + 7)->{socket};
    my $end = $client->data('qemu', 100, $source)->drain;
    is(sha256_hex($end->{bytes}), pattern_sha256(5 * $MIB + 7), 'all bytes of the source arrive');
    ok($end->{notified}, '... and then close_notify');
    $result = $client->command('result', socket => $source);
    is($result->{sha256}, pattern_sha256(5 * $MIB + 7), 'the source reports the same digest');

    my $echo = $client->command('open', kind => 'echo')->{socket};
    $data = $client->data('qemu', 100, $echo);
    $data->send('ping', 'any payload');
    my $pong = $data->next;
    is("$pong->{type} $pong->{bytes}", 'pong any payload', 'a pong has the payload of the ping');
    $data->send('text', 'as text');
    is($data->next->{bytes}, 'as text', 'text frames are passed on as data');
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
