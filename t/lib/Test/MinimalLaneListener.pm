package Test::MinimalLaneListener;

# The target's end of direct connections of protocol 2, written from docs/protocol.md alone: a peer for
# the connector that shares no code with the listener of pve-tunnel.

use v5.36;

use Digest::SHA qw(hmac_sha256);
use Errno qw(EAGAIN EINTR);
use IO::Socket::UNIX;
use JSON ();
use Socket qw(SHUT_WR);

use parent 'Test::ListenerControl';

use Test::MinimalLanes;
use Test::MinimalListener;
use Test::MinimalStream;

=head1 NAME

Test::MinimalLaneListener - accepts direct connections of protocol 2, all in one process

=head1 FUNCTIONS

The functions of L<Test::ListenerControl>, and:

=head2 start(%options)

Class method. Options: C<plane>; C<fingerprint> of the source (C<tls>). Options for faults, each of
which happens once, after the program at the target has taken C<after> bytes of a stream:

=over

=item cut

Resets so many lanes of the stream.

=item leave

Ends so many lanes in order.

=item lose

Resets all lanes and forgets the stream, so the next lane is answered with status 3.

=item give_up

Sends C<abort>.

=item send

Sends these bytes, hexadecimal, on a lane.

=back

The option C<vanish> does not acknowledge the end of the source, and resets all lanes when the stream
is complete: the source learns the completion from status 4.

The counters have one field more, C<lanes>: C<most> of a stream at a time, C<joined>, C<late> (lanes
that were answered with status 4), C<frames> of each kind that were received, and C<violations>, the
reasons why this end has failed a stream.

=cut

use constant {
    # Steps 1 and 2 of the handshake.
    NONCE => 32,
    RESPONSE => 4 + 16 + 1,
    PROOF => 32,
    MOST_LANES => 16,
    # Bytes that are read of the program while they wait for the window.
    MOST_WAITING => 1_048_576,
};

my $JSON = JSON->new->utf8->canonical;

sub start ($class, %options) {
    return $class->fork_with(sub ($control) { serve($control, {%options}) });
}

sub serve ($control, $options) {
    # A source may give up a lane during its TLS handshake.
    local $SIG{PIPE} = 'IGNORE';
    my $socket = Test::MinimalListener::listen_on('127.0.0.1');
    my $state = Test::MinimalListener::initial_state($options, $socket, 2);
    $state->{heartbeats} = [];
    $state->{streams} = {};
    $state->{lanes} = { most => 0, joined => 0, late => 0, frames => {}, violations => [] };
    $control->autoflush(1);
    print {$control} $JSON->encode($state->{open}) . "\n";

    my $buffer = '';
    while (1) {
        my ($read, $write) = ('', '');
        vec($read, fileno $_, 1) = 1 for $control, $socket;
        vec($read, fileno $_->{socket}, 1) = 1 for $state->{heartbeats}->@*;
        watch_stream($_, \$read, \$write) for values $state->{streams}->%*;
        select $read, $write, undef, 0.1;
        take_connection($state, $socket) if vec $read, fileno $socket, 1;
        $state->{heartbeats} = [grep { answered($_) } $state->{heartbeats}->@*];
        for my $stream (grep { !$_->{over} } values $state->{streams}->%*) {
            # As many steps as move something: a select for each one would be slow.
            while (move_stream($state, $stream)) { }
        }
        next if !vec $read, fileno $control, 1;
        return if !sysread $control, $buffer, 65536, length $buffer;
        while ($buffer =~ s/\A(.*)\n//) {
            my $line = $JSON->decode($1);
            my $answer = Test::MinimalListener::execute($state, $line);
            $answer->{lanes} = $state->{lanes} if $answer->{refused};
            print {$control} $JSON->encode($answer) . "\n";
            return if $line->{op} eq 'close';
        }
    }
    return;
}

sub take_connection ($state, $socket) {
    my $connection = $socket->accept or return;
    my $open = $state->{open};
    $state->{connections}++;
    my $lane = eval {
        $open->{plane} eq 'tcp'
            ? Test::MinimalStream->clear($connection)
            : Test::MinimalStream->tls($connection, 'server', $state->@{qw(identity fingerprint)});
    } // return $state->{refused}{tls}++;
    my $nonce = Test::MinimalListener::random_bytes(NONCE);
    my $response = eval {
        $lane->write_all('pvetun' . pack('n', $open->{protocol}) . $nonce);
        $lane->read_exactly(RESPONSE + PROOF);
    } // return $state->{refused}{malformed}++;
    my ($message, $proof) = (substr($response, 0, RESPONSE), substr $response, RESPONSE);
    return $state->{refused}{key}++
        if $proof ne hmac_sha256($nonce . $message, pack 'H*', $open->{key});
    my ($number, $id, $join) = unpack 'N a16 C', $message;
    return begin_heartbeat($state, $lane) if $number == 0;
    return join_stream($state, $lane, $number, $id) if $join;
    return begin_stream($state, $lane, $number, $id);
}

sub begin_heartbeat ($state, $lane) {
    push $state->{heartbeats}->@*, $lane if eval { $lane->write_all("\0"); 1 };
    return;
}

# Sends back what a heartbeat has received; false at its end.
sub answered ($lane) {
    return eval {
        my $bytes = $lane->take;
        $lane->write_all($bytes) if length($bytes // '');
        !defined $bytes || length $bytes;
    };
}

sub begin_stream ($state, $lane, $number, $id) {
    my $forward = $state->{forwards}[$number - 1];
    return $state->{refused}{number}++ if !$forward || $state->{streams}{$id};
    my $program = IO::Socket::UNIX->new(Peer => $forward->{path});
    if (!$program) {
        $state->{refused}{socket}++;
        return send_status($lane, 1);
    }
    $program->blocking(0);
    $forward->{$_}++ for qw(connections open);
    my $stream = { forward => $forward, program => $program };
    $stream->{end} = Test::MinimalLanes->new(
        deliver => sub ($bytes) { deliver($stream, $bytes) },
        vanish => $state->{vanish},
    );
    $state->{streams}{$id} = $stream;
    return add_lane($state, $stream, $lane);
}

sub join_stream ($state, $lane, $number, $id) {
    my $stream = $state->{streams}{$id};
    if (!$stream || $stream->{forward}{number} != $number || defined $stream->{end}{failed}) {
        $state->{refused}{number}++;
        return send_status($lane, 3);
    }
    if ($stream->{end}->is_complete) {
        $state->{lanes}{late}++;
        return send_status($lane, 4);
    }
    return $state->{refused}{crowded}++ if $stream->{end}->lanes >= MOST_LANES;
    $state->{lanes}{joined}++;
    return add_lane($state, $stream, $lane);
}

sub add_lane ($state, $stream, $lane) {
    eval { $lane->write_all("\0"); 1 } or return;
    $stream->{end}->add_lane($lane);
    my $count = $stream->{end}->lanes;
    $state->{lanes}{most} = $count if $count > $state->{lanes}{most};
    return;
}

sub send_status ($lane, $status) {
    eval {
        $lane->write_all(chr $status);
        $lane->finish;
    };
    $lane->hang_up;
    return;
}

sub watch_stream ($stream, $read, $write) {
    return if $stream->{over};
    $stream->{end}->watch($read, $write);
    my $descriptor = fileno $stream->{program};
    vec($$read, $descriptor, 1) = 1 if may_read($stream);
    vec($$write, $descriptor, 1) = 1 if $stream->{blocked};
    return;
}

sub may_read ($stream) {
    my $end = $stream->{end};
    return !$end->{input_ended} && length $end->{input} < MOST_WAITING;
}

# Writes to the program. Returns the number of bytes that it has taken.
sub deliver ($stream, $bytes) {
    return shutdown $stream->{program}, SHUT_WR if $bytes eq '';
    my $count = syswrite $stream->{program}, $bytes;
    die "the program at the target has failed\n" if !defined $count && $! != EAGAIN && $! != EINTR;
    $stream->{blocked} = !$count;
    return $count // 0;
}

# Moves the bytes of a stream; false if nothing has moved.
sub move_stream ($state, $stream) {
    my $end = $stream->{end};
    my $moved = 0;
    if (may_read($stream)) {
        my $count = sysread $stream->{program}, my $bytes, 65536;
        $end->write($bytes) if $count;
        $end->end_input if defined $count && !$count;
        $moved = defined $count;
    }
    $moved ||= $end->step;
    misbehave($state, $stream) if !$stream->{misbehaved} && $end->{taken} >= ($state->{after} // 0);
    return $moved if !$end->is_over;

    $stream->{over} = 1;
    close $stream->{program};
    my $forward = $stream->{forward};
    $forward->{open}--;
    $forward->{failed}++ if defined $end->{failed};
    $forward->{received} += $end->{taken};
    $forward->{sent} += $end->{sent};
    $state->{lanes}{frames}{$_} += $end->{seen}{$_} for keys $end->{seen}->%*;
    push $state->{lanes}{violations}->@*, $end->{failed}
        if defined $end->{failed} && $end->{failed} !~ /\Aabort\z|\Athe test\z/;
    return 0;
}

sub misbehave ($state, $stream) {
    my $end = $stream->{end};
    my @lanes = $end->lanes;
    $stream->{misbehaved} = 1;
    $end->cut($_) for splice @lanes, 0, $state->{cut} // 0;
    $end->leave($_) for splice @lanes, 0, $state->{leave} // 0;
    $lanes[0]{out} .= pack 'H*', $state->{send} if defined $state->{send} && @lanes;
    $end->fail('the test') if $state->{give_up};
    return if !$state->{lose};
    $end->cut($_) for @lanes;
    $end->{failed} = 'the test';
    return;
}

1;
