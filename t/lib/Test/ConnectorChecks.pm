package Test::ConnectorChecks;

# What the connector does with every node that loses nothing, whatever its manners. The far end of
# the wire is a websocket implementation that shares no code with the connector.

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
    broken_off download echo finished no_secrets prompt_end several_at_once stalled_reader
    stalled_sink start stays_small stream upload $MIB
);

=head1 NAME

Test::ConnectorChecks - subtests for a connector with a node

=head1 FUNCTIONS

=head2 start(\%node, %connector)

A node and a connector with an open tunnel to it: C<($node, $connector)>. Skips the rest of the
file if the node's front is not here.

=head2 upload($connector, $bytes, %socket)

Sends as PVE::StorageTunnel does: nothing is read, all is written, the writing side is shut down,
and the socket stays open until the worker has said that all is there.

=head2 download($connector, $bytes, %socket)

Reads from the target to a clean end.

=head2 echo($connector, $bytes, $half_close)

Both directions at once; C<$half_close> as in L<Test::Stream/new>.

=head2 finished($connector, $remote)

What the worker says of the newest connection to that socket, once that has ended. It is asked again
and again: a connection that is still to come needs the worker for its ticket meanwhile.

=head2 broken_off($connector, $stream, $number)

A stream that has never written is connection number C<$number>, and is cut off. The log says so;
the kernel cannot tell the program, but it must not see an end of stream.

=head2 several_at_once($connector, $count, $bytes)

So many connections on one forward, and commands in the meantime, answered in order.

=head2 stalled_sink($node, $connector, $bytes), stalled_reader($node, $connector, $bytes)

The target, or the program at the local socket, does not read for a while: the one that writes has
to wait, nobody's memory grows, and nothing is lost. For nodes that hold back what cannot go on.

=head2 stream($connector, $local, %options)

A L<Test::Stream> over a new connection.

=head2 stays_small($connector, $before)

The process has not grown by more than 8 MiB.

=head2 prompt_end($end, $name)

An end as from L<Test::Connector/end_input> came within the five seconds that nobody notices.

=head2 no_secrets

Nothing that any connector printed, whose object is gone, is a token or a ticket.

=head2 $MIB

1048576.

=cut

our $MIB = 1024 * 1024;

# A caller that gives up does so after 30 seconds.
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
    is($result->{sha256}, pattern_sha256($bytes), "$bytes bytes are up before the socket closes");
    ok($result->{eof}, 'then the end');
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
    is($stream->sha256, pattern_sha256($bytes), "$bytes bytes are down");
    ok($stream->{eof}, 'then a clean end');
    my $result = $connector->command('result', socket => $remote);
    is($result->{sha256}, $stream->sha256, 'as the source says');
    stays_small($connector, $before);
    return;
}

sub echo ($connector, $bytes, $half_close) {
    my ($remote, $local) = $connector->open(kind => 'echo');
    my $before = $connector->memory;
    pump(my $stream = stream($connector, $local, send => $bytes, half_close => $half_close));
    is($stream->sha256, pattern_sha256($bytes), "$bytes bytes are there and back");
    ok($stream->{eof}, "then a clean end, after a half-close when all was $half_close");
    my $result = $connector->command('result', socket => $remote);
    is($result->{sha256}, $stream->sha256, 'as the other side says');
    stays_small($connector, $before);
    return;
}

sub broken_off ($connector, $stream, $number) {
    while (!$connector->wait_log(qr/connection $number: /, 0)) {
        blocked_after($stream, 0.02);
    }
    like($connector->wait_log(qr/connection $number: /), qr/FAILED/, 'a failure in the log');
    blocked_after($stream);
    ok(!$stream->{eof} && !$stream->{error}, 'who has never written sees no end of stream');
    syswrite $stream->{socket}, 'x';
    pump($stream);
    is($stream->{error}, 'ECONNRESET', 'and an error as soon as it writes');
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
    # Refused with its name, each command's answer is its own.
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
    is($_->sha256, $_->sent_sha256, "connection $_->{first}: its own bytes") for @streams;
    is(scalar(grep { $_->{eof} } @streams), $count, 'all end cleanly');
    my $list = $connector->command('list')->{sockets};
    is($list->{$remote}{connections}, $count, 'each had a connection of its own at the target');
    return;
}

sub stalled_sink ($node, $connector, $bytes) {
    my ($remote, $local) = $connector->open(kind => 'sink', stalled => 1);
    my $before = $connector->memory;
    my $stream = stream($connector, $local, send => $bytes);
    ok(blocked_after($stream), "the program has to wait after $stream->{sent} bytes");
    cmp_ok($stream->{sent}, '<', $bytes / 2, 'which buffers of the kernel hold');
    stays_small($connector, $before);
    $connector->command('go', socket => $remote);
    pump($stream);
    is(
        $connector->command('result', socket => $remote)->{sha256},
        pattern_sha256($bytes), 'and all arrives'
    );
    stays_small($connector, $before);
    return;
}

sub stalled_reader ($node, $connector, $bytes) {
    my ($remote, $local) = $connector->open(kind => 'source', bytes => $bytes);
    my $before = $connector->memory;
    my $stream = stream($connector, $local, half_close => 'never');
    # The source stands still when it has written the same after half a second.
    my ($written, $result) = (-1);
    while (1) {
        $result = $connector->command('result', socket => $remote, wait => 0.5);
        last if $result->{finished} || $result->{bytes} && $result->{bytes} == $written;
        $written = $result->{bytes};
    }
    ok(!$result->{finished}, "the target has to wait after $written bytes");
    cmp_ok($written, '<', $bytes / 2, 'which buffers of the kernel hold');
    stays_small($connector, $before);
    pump($stream);
    is($stream->sha256, pattern_sha256($bytes), 'and all comes');
    ok($stream->{eof}, 'to a clean end');
    stays_small($connector, $before);
    return;
}

sub stays_small ($connector, $before) {
    my $grown = $connector->memory - $before;
    cmp_ok($grown, '<=', 8 * $MIB, "the connector has grown by $grown bytes at most");
    return;
}

sub prompt_end ($end, $name) {
    cmp_ok($end->{seconds}, '<', $PROMPT, sprintf '%s (%.2f s)', $name, $end->{seconds});
    return;
}

sub no_secrets () {
    my $length = Test::Connector->printed_length;
    cmp_ok($length, '>', 0, "in all that was printed, $length bytes");
    is_deeply([Test::Connector->leaks], [], 'there is no token and no ticket');
    return;
}

1;
