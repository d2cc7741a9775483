package Test::ConnectorChecks;

# Checks that hold for the connector with every node that loses no data, however the node frames and
# ends its streams. The websocket implementation of the node shares no code with the connector.

use v5.36;

use Exporter 'import';
use JSON ();
use Socket qw(SHUT_RD);
use Test::More;
use Time::HiRes ();

use Test::Connector;
use Test::Pattern qw(pattern_sha256);
use Test::Stream qw(blocked_after pump);
use Test::TunnelNode;

our @EXPORT_OK = qw(
    broken_off buffered_sink download echo finished no_secrets prompt_end several_at_once
    stalled_reader stalled_sink start stays_small stream upload $MIB
);

=head1 NAME

Test::ConnectorChecks - transfers and checks for a connector with a node

=head1 FUNCTIONS

=head2 start(\%node, %connector)

Starts a node and a connector with an open tunnel to it. Returns C<($node, $connector)>. Skips the
rest of the subtest or file if the node's front does not load here.

=head2 upload($connector, $bytes, %socket)

Sends as PVE::StorageTunnel does: it reads nothing, writes all bytes, shuts down the writing side,
and keeps the socket open until the worker reports that it has received all bytes.

=head2 download($connector, $bytes, %socket)

Reads from the target to a clean end.

=head2 echo($connector, $bytes, $half_close)

Sends to an echo and receives at the same time; C<$half_close> as in L<Test::Stream/new>.

=head2 finished($connector, $remote)

Returns the worker's result of the newest connection to that socket, once this connection has ended.
It repeats a short request: a connection that is not open yet needs the worker for its ticket.

=head2 broken_off($connector, $stream, $number)

Tests a stream that has never written and whose connection, number C<$number>, is cut off. The log
must have the failure. The kernel cannot report a reset to this program yet, but the program must
not get an end of stream.

=head2 several_at_once($connector, $count, $bytes)

Opens so many connections on one forward and sends commands meanwhile, which must be answered in
order.

=head2 stalled_sink($node, $connector, $bytes), stalled_reader($node, $connector, $bytes)

The target, or the program at the local socket, does not read for a while. The writer must have to
wait, the memory of the connector must not grow, and no byte may be lost. For nodes that apply
backpressure.

=head2 buffered_sink($connector, $bytes)

The target does not read for a while, and the node, as pveproxy does, buffers everything. All bytes
must arrive afterwards, and the memory of the connector must not grow. Returns the stream.

=head2 stream($connector, $local, %options)

Returns a L<Test::Stream> over a new connection.

=head2 stays_small($connector, $before)

Tests that the process has not grown by more than 8 MiB.

=head2 prompt_end($end, $name)

Tests that an end, as L<Test::Connector/end_input> returns it, took less than five seconds.

=head2 no_secrets

Tests that connectors whose objects are destroyed have printed no token and no ticket.

=head2 $MIB

1048576.

=cut

our $MIB = 1024 * 1024;

# Seconds. PVE::Tunnel waits 30 seconds before it kills the connector.
my $PROMPT = 5;

sub start ($node_options, %options) {
    my $node = Test::TunnelNode->start($node_options->%*);
    plan skip_all => $Test::TunnelNode::reason if !$node;
    return ($node, Test::Connector->start($node, %options));
}

sub stream ($connector, $local, %options) {
    return Test::Stream->new($connector->dial($local), %options);
}

sub upload ($connector, $bytes, %socket) {
    my ($remote, $local) = $connector->open(kind => 'sink', %socket);
    my $socket = $connector->dial($local);
    shutdown $socket, SHUT_RD;
    my $before = $connector->memory;
    pump(my $stream = Test::Stream->new($socket, send => $bytes, read => 0));
    my $result = finished($connector, $remote);
    is($result->{sha256}, pattern_sha256($bytes), "$bytes bytes arrive before the socket closes");
    ok($result->{eof}, 'the end of the stream follows');
    stays_small($connector, $before);
    return;
}

sub finished ($connector, $remote) {
    my $limit = Time::HiRes::time() + 60;
    while (Time::HiRes::time() < $limit) {
        my $result = $connector->command('result', socket => $remote, wait => 1);
        return $result if $result->{finished};
    }
    die "a connection to $remote has not ended within a minute\n";
}

sub download ($connector, $bytes, %socket) {
    my ($remote, $local) = $connector->open(kind => 'source', bytes => $bytes, %socket);
    my $before = $connector->memory;
    pump(my $stream = stream($connector, $local, half_close => 'never'));
    is($stream->sha256, pattern_sha256($bytes), "$bytes bytes are received");
    ok($stream->{eof}, 'a clean end follows');
    my $result = $connector->command('result', socket => $remote);
    is($result->{sha256}, $stream->sha256, 'the worker has sent these bytes');
    stays_small($connector, $before);
    return;
}

sub echo ($connector, $bytes, $half_close) {
    my ($remote, $local) = $connector->open(kind => 'echo');
    my $before = $connector->memory;
    pump(my $stream = stream($connector, $local, send => $bytes, half_close => $half_close));
    is($stream->sha256, pattern_sha256($bytes), "$bytes bytes come back");
    ok($stream->{eof}, "a clean end follows, with a half-close when all was $half_close");
    my $result = $connector->command('result', socket => $remote);
    is($result->{sha256}, $stream->sha256, 'the worker has echoed these bytes');
    stays_small($connector, $before);
    return;
}

sub broken_off ($connector, $stream, $number) {
    while (!$connector->wait_log(qr/connection $number: /, 0)) {
        blocked_after($stream, 0.02);
    }
    like($connector->wait_log(qr/connection $number: /), qr/FAILED/, 'the log has the failure');
    blocked_after($stream);
    ok(
        !$stream->{eof} && !$stream->{error},
        'a program that has never written gets no end of stream'
    );
    syswrite $stream->{socket}, 'x';
    pump($stream);
    is($stream->{error}, 'ECONNRESET', 'it gets an error as soon as it writes');
    return;
}

sub several_at_once ($connector, $count, $bytes) {
    my ($remote, $local) = $connector->open(kind => 'echo');
    my @streams = map {
        stream(
            $connector, $local,
            send => $bytes + $_,
            first => 1000 * $_,
            half_close => 'received',
        )
    } 1 .. $count;
    # The worker refuses unknown commands by name, so each answer shows its command.
    my @names = map { "nothing-$_" } 1 .. 100;
    $connector->send_line({ cmd => $_ }) for @names;
    my @answers;
    pump(
        @streams,
        [
            $connector->{reader},
            sub {
                push @answers, JSON::decode_json($connector->read_line)->{msg};
                push @answers, JSON::decode_json($connector->read_line)->{msg}
                    while $connector->{buffer} =~ m/\n/;
                return @answers < @names;
            },
        ],
    );
    is_deeply(\@answers, [map { "unknown command '$_'" } @names], 'commands are answered in order');
    is($_->sha256, $_->sent_sha256, "connection $_->{first}: its own bytes come back") for @streams;
    is(scalar(grep { $_->{eof} } @streams), $count, 'all connections have a clean end');
    my $list = $connector->command('list')->{sockets};
    is($list->{$remote}{connections}, $count, 'each had a connection of its own at the target');
    return;
}

sub stalled_sink ($node, $connector, $bytes) {
    my ($remote, $local) = $connector->open(kind => 'sink', stalled => 1);
    my $before = $connector->memory;
    my $stream = stream($connector, $local, send => $bytes);
    ok(blocked_after($stream), "the program has to wait after $stream->{sent} bytes");
    cmp_ok($stream->{sent}, '<', $bytes / 2, 'the buffers of the kernel hold these bytes');
    stays_small($connector, $before);
    $connector->command('go', socket => $remote);
    pump($stream);
    is(
        $connector->command('result', socket => $remote)->{sha256},
        pattern_sha256($bytes), 'all bytes arrive'
    );
    stays_small($connector, $before);
    return;
}

sub buffered_sink ($connector, $bytes) {
    my ($remote, $local) = $connector->open(kind => 'sink', stalled => 1);
    my $before = $connector->memory;
    pump(my $stream = stream($connector, $local, send => $bytes));
    is(
        $connector->command('result', socket => $remote, wait => 0)->{bytes},
        0, 'the node reads everything and passes nothing on'
    );
    $connector->command('go', socket => $remote);
    my $result = $connector->command('result', socket => $remote);
    is($result->{sha256}, pattern_sha256($bytes), 'all bytes arrive in the end');
    ok($result->{eof}, 'the end of the stream follows');
    stays_small($connector, $before);
    return $stream;
}

sub stalled_reader ($node, $connector, $bytes) {
    my ($remote, $local) = $connector->open(kind => 'source', bytes => $bytes);
    my $before = $connector->memory;
    my $stream = stream($connector, $local, half_close => 'never');
    # The source is blocked when it has written no more bytes for half a second.
    my ($written, $result) = (-1);
    while (1) {
        $result = $connector->command('result', socket => $remote, wait => 0.5);
        last if $result->{finished} || $result->{bytes} && $result->{bytes} == $written;
        $written = $result->{bytes};
    }
    ok(!$result->{finished}, "the target has to wait after $written bytes");
    cmp_ok($written, '<', $bytes / 2, 'the buffers of the kernel hold these bytes');
    stays_small($connector, $before);
    pump($stream);
    is($stream->sha256, pattern_sha256($bytes), 'all bytes arrive');
    ok($stream->{eof}, 'a clean end follows');
    stays_small($connector, $before);
    return;
}

sub stays_small ($connector, $before) {
    my $grown = $connector->memory - $before;
    cmp_ok($grown, '<=', 8 * $MIB, "the peak memory of the connector has grown by $grown bytes");
    return;
}

sub prompt_end ($end, $name) {
    cmp_ok($end->{seconds}, '<', $PROMPT, sprintf '%s (%.2f s)', $name, $end->{seconds});
    return;
}

sub no_secrets () {
    my $length = Test::Connector->printed_length;
    cmp_ok($length, '>', 0, "the connectors have printed $length characters");
    is_deeply([Test::Connector->leaks], [], 'they have printed no token and no ticket');
    return;
}

1;
