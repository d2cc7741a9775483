#!/usr/bin/perl

# Checks the listener against protocol 2 of docs/protocol.md: its peer in this test is written from that
# page and shares no code with it. The program at the target's UNIX socket is this test, too.

use v5.36;

use Digest::SHA qw(sha256_hex);
use File::Temp qw(tempdir);
use FindBin;
use IO::Select;
use IO::Socket::UNIX;
use Socket qw(SHUT_WR);
use Test::More;
use Time::HiRes qw(clock_gettime CLOCK_MONOTONIC);

use Test::LaneFrame qw(
    frame zstd_frame $KIND_DATA $KIND_ZEROS $KIND_END $KIND_ACKNOWLEDGEMENT $KIND_ABORT $KIND_COMPRESSED
);
use Test::MinimalClient;
use Test::MinimalLanes;
use Test::MinimalStream;
use Test::NativeListener;
use Test::Pattern qw(pattern_block pattern_sha256);
use Test::Stream;
use Test::TargetPrograms;

local $SIG{ALRM} = sub { die "the test timed out\n" };
alarm 300;
local $SIG{PIPE} = 'IGNORE';

my $MIB = 1024 * 1024;
# What each end may send before the first acknowledgement.
my $FIRST_WINDOW = 262_144;
my $dir = tempdir(CLEANUP => 1);
my $identity = Test::MinimalStream::one_time_identity();
my $streams = 0;

sub start ($plane, %options) {
    $options{fingerprint} = $identity->{fingerprint} if $plane eq 'tls';
    return Test::NativeListener->start(plane => $plane, protocol => 2, %options);
}

# A forward to a socket at which this test listens.
sub forward ($listener, $name) {
    my $path = "$dir/$name." . $listener->pid;
    my $socket = IO::Socket::UNIX->new(Local => $path, Listen => 16) or die "listen: $!\n";
    my $number = $listener->ask(op => 'forward', path => $path)->{number};
    return { listener => $listener, socket => $socket, number => $number };
}

sub new_id () {
    return pack 'x8 Q>', ++$streams;
}

sub connect_lane ($forward, $id, $join) {
    return Test::MinimalClient::connect_forward(
        $forward->{listener}->announced,
        $forward->{number},
        identity => $identity,
        stream => $id,
        join => $join,
    );
}

# The reason why a lane cannot join a stream, or begin one.
sub refusal ($forward, $id, $join = 1) {
    return eval { connect_lane($forward, $id, $join); 'none' } // $@ =~ s/\n\z//r;
}

# Begins a stream. Returns its ID, this end of it, and the socket of the program at the other end.
sub begin ($forward, $lanes, %options) {
    my $id = new_id();
    my $end = Test::MinimalLanes->new(%options);
    $end->add_lane(connect_lane($forward, $id, $_ > 1)) for 1 .. $lanes;
    my $program = $forward->{socket}->accept or die "accept: $!\n";
    return ($id, $end, $program);
}

# The last acknowledgement can be lost with its lane. An end without lanes then asks for it.
sub learnt_completion ($forward, $id, $end) {
    return if $end->lanes || $end->is_complete || refusal($forward, $id) ne 'status 4';
    $end->is_complete_at_peer;
    return $end->is_over;
}

# Moves data between the end and the program, a Test::Stream, until the condition is true.
sub move_until ($end, $program, $condition) {
    $end->run_until(
        sub {
            $program->give if $program->wants_to_write;
            $program->take if $program->{reads} && !$program->is_over;
            $program->end_when_due;
            return $condition->();
        }
    );
    return;
}

sub output_sha256 ($end) {
    return sha256_hex($end->{output});
}

subtest 'the handshake' => sub {
    open(my $file, '<', "$FindBin::Bin/../docs/protocol.md") or die "no document: $!\n";
    my $text = do { local $/ = undef; readline $file };
    close $file;
    my ($example) = $text =~ m/^```hello2\n(.*?)^```$/ms;
    my %is = map { m/^(.+?) {2,}([0-9a-f]+)$/ } split /\n/, $example;
    my $made = Test::MinimalClient::step_2(
        pack('H*', $is{'step 1'}), $is{'session key'}, 1,
        stream => pack('H*', $is{'stream ID'}),
        join => 1,
    );
    is(unpack('H*', $made), $is{'step 2'}, 'the example in the document');

    my $listener = start('tcp');
    my $forward = forward($listener, 'handshake');
    my $try = sub ($change, %options) {
        eval {
            Test::MinimalClient::connect_forward(
                $listener->announced, $forward->{number},
                stream => new_id(),
                step_2 => $change,
                %options
            );
        };
        return $@;
    };
    for my $bit (0, 32, 159, 160, 168) {
        my $flipped = sub ($answer) {
            vec($answer, $bit, 1) ^= 1;
            return $answer;
        };
        is($try->($flipped), "refused\n", "a flipped bit $bit is refused");
    }
    my $unchanged = sub ($answer) { $answer };
    is($try->($unchanged, join => $_), "refused\n", "the flag $_ is refused") for 2, 255;
    my $stream = Test::MinimalClient::connect_plane($listener->announced);
    $stream->write_all(substr $made, 0, 36);
    $stream->finish;
    $listener->stat_when(sub ($stat) { $stat->{refused}{malformed} == 3 });
    my $refused = $listener->ask(op => 'stat')->{refused};
    is($refused->{key}, 5, 'changed responses are counted as key');
    is($refused->{malformed}, 3, 'unknown flags and the length of protocol 1 as malformed');
};

for my $plane (qw(tcp tls)) {
    subtest "$plane: streams over three lanes" => sub {
        my $listener = start($plane);
        my $open = $listener->announced;
        is($open->{protocol}, 2, 'the listener announces protocol 2');
        my $heartbeat = Test::MinimalClient::connect_forward($open, 0, identity => $identity);
        $heartbeat->write_all('.');
        is(length $heartbeat->read_exactly(1), 1, 'the listener answers a heartbeat');

        my $echo = Test::TargetPrograms::echo("$dir/echo.$plane");
        my $forward = { listener => $listener };
        $forward->{number} =
            $listener->ask(op => 'forward', path => "$dir/echo.$plane")->{number};
        my $id = new_id();
        my $end = Test::MinimalLanes->new;
        $end->add_lane(connect_lane($forward, $id, $_ > 1)) for 1 .. 3;
        my $bytes = join '', pattern_block(1), "\0" x $MIB, pattern_block(2), 'x',
            "\0" x 300_000, pattern_block(3);
        $end->write($bytes);
        $end->end_input;
        $end->run_until(sub { $end->is_over });
        is($end->{failed}, undef, 'the stream has not failed');
        ok($end->{output} eq $bytes, 'if the source ends first, all bytes come back unchanged');
        cmp_ok($end->{seen}{$KIND_ZEROS} // 0, '>', 0, 'the listener sends zeros as zeros');
        cmp_ok($end->{seen}{$KIND_DATA}, '>', 0, 'and other bytes as data');
        is($end->{seen}{$KIND_END}, 1, 'one end');

        my $ends = forward($listener, 'ends');
        ($id, $end, my $socket) = begin($ends, 3);
        my $program = Test::Stream->new($socket, send => 3 * $MIB + 5);
        move_until($end, $program, sub { $end->{output_ended} });
        ok(!$program->{eof}, 'the target can end first');
        $end->write(pattern_block($_)) for 0 .. 2;
        $end->end_input;
        move_until($end, $program, sub { $end->is_over && $program->is_over });
        is($end->{failed}, undef, 'the stream has not failed');
        is(output_sha256($end), $program->sent_sha256, 'the bytes of the target are unchanged');
        ok($program->{eof}, 'the program at the target receives the end');
        is($program->sha256, pattern_sha256(3 * $MIB), 'and the bytes of the source unchanged');

        my $stat = $listener->stat_when(
            sub ($stat) {
                !grep { $_->{open} } $stat->{forwards}->@*;
            }
        );
        my @forwards =
            map { join ' ', $_->@{qw(connections failed received sent)} } $stat->{forwards}->@*;
        is($forwards[0], join(' ', 1, 0, (length $bytes) x 2), 'the counters of the echo');
        is($forwards[1], join(' ', 1, 0, 3 * $MIB, 3 * $MIB + 5), 'those of the other stream');
        is($stat->{connections}, 7, 'all lanes are counted as connections of the listener');
    };

    subtest "$plane: the window" => sub {
        my $listener = start($plane);
        my $forward = forward($listener, 'window');
        my ($id, $end, $socket) = begin($forward, 2, window => $FIRST_WINDOW);
        my $program = Test::Stream->new($socket, send => 6 * $MIB);

        # Neither end reads. The source sends as much as it is permitted to.
        $end->hold(1);
        $program->{reads} = 0;
        my $blocks = 0;
        my $fill = sub {
            $end->write(pattern_block($blocks++)) if length $end->{input} < $MIB;
            return $end->{sent} == $end->{limit} && $end->{highest} > $FIRST_WINDOW / 2;
        };
        move_until($end, $program, $fill);
        cmp_ok(
            $end->{limit}, '>=', $FIRST_WINDOW,
            "the source sent $end->{sent} bytes, all of the window"
        );
        my $received = $end->{highest};
        cmp_ok(
            $received, '<=', $FIRST_WINDOW,
            "the listener sent $received, no more than the first window"
        );
        ok($program->wants_to_write, 'the program at the target waits');
        is($end->{seen}{$KIND_END}, undef, 'it has not ended');

        $end->end_input;
        $program->{reads} = 1;
        move_until($end, $program, sub { $program->{eof} });
        is($program->sha256, pattern_sha256($blocks * $MIB), 'a program that reads receives all');
        cmp_ok($end->{highest}, '<=', $FIRST_WINDOW, 'the listener still sends no more');
        $end->hold(0);
        move_until($end, $program, sub { $end->is_over });
        is($end->{failed}, undef, 'the stream has not failed');
        is(output_sha256($end), $program->sent_sha256, 'the source receives all, too');

        # As many frames as may be sent and not acknowledged, and more: of one byte each.
        ($id, $end, $socket) = begin($forward, 3, lengths => [1]);
        $program = Test::Stream->new($socket);
        $end->write(substr pattern_block(0), 0, 10_000);
        $end->end_input;
        move_until($end, $program, sub { $end->is_over });
        is($program->sha256, pattern_sha256(10_000), '10000 frames of one byte each arrive');
        is($end->{failed}, undef, 'the stream has not failed');
    };

    subtest "$plane: compressed data" => sub {
        my $forward = forward(start($plane), 'compressed');
        my (undef, $end, $socket) = begin($forward, 1);
        my $text = "the same line\n" x 100;
        # The output of `zstd -1 --no-check --stream-size=1400`.
        my $compressed = compressed(
            4, pack 'H*',
            '28b52ffd607804ad0000707468652073616d65206c696e650a010067c53f95'
        );
        # Out of order, twice, and in small parts.
        my $frames = join '', $compressed, compressed(1404, zstd_frame('tail')), $compressed,
            frame($KIND_DATA, 4, 0, 'head'), frame($KIND_END, 0, 1408);
        $end->{lanes}[0]{stream}->write_all($_) for unpack '(a7)*', $frames;
        is(read_to_end($socket), "head${text}tail", 'the program receives what was compressed');
    };

    subtest "$plane: lanes that end" => sub {
        my $listener = start($plane);
        my $forward = forward($listener, 'cuts');
        my ($id, $end, $socket) = begin($forward, 3);
        my $program = Test::Stream->new($socket, send => 6 * $MIB);
        my $join = sub { $end->add_lane(connect_lane($forward, $id, 1)) };
        is(refusal($forward, $id, 0), 'refused', 'a stream that exists cannot begin again');
        my $other = forward($listener, 'other');
        is(refusal($other, $id), 'status 3', 'status 3: a stream of another forward');

    # The program does not read yet, so most of this is not acknowledged and is sent again. This end
    # does not take the other direction yet, so the stream cannot become complete.
        $program->{reads} = 0;
        $end->hold(1);
        $end->write(pattern_block($_)) for 0 .. 7;
        $end->end_input;
        move_until($end, $program, sub { $end->{end_sent} });
        cmp_ok($end->{acknowledged}, '<', 2 * $MIB, 'most of the data waits at the target');
        $end->cut($end->{lanes}[1]);
        $join->();
        $program->{reads} = 1;
        move_until($end, $program, sub { $program->{received} > 2 * $MIB });
        $end->leave($end->{lanes}[0]);
        move_until($end, $program, sub { $program->{received} > 4 * $MIB });
        my $ended = $program->{eof};
        $end->cut($_) for $end->lanes;
        $join->() for 1 .. 3;
        move_until($end, $program, sub { $program->{eof} });
        ok(!$ended && $program->{eof}, 'the program receives the end once');
        is($program->sha256, pattern_sha256(8 * $MIB), 'and each byte once');
        $end->cut($_) for $end->lanes;
        $join->() for 1 .. 2;
        $end->hold(0);
        move_until($end, $program, sub { $end->is_over || learnt_completion($forward, $id, $end) });
        is($end->{failed}, undef, 'the stream has not failed');
        is(output_sha256($end), $program->sent_sha256, 'the other direction is unchanged');

        my $before = $listener->ask(op => 'stat')->{refused}{number};
        is(refusal($forward, $id), 'status 4', 'status 4: the stream is complete');
        is(refusal($forward, new_id()), 'status 3', 'status 3: an unknown stream');
        my $stat = $listener->ask(op => 'stat');
        is($stat->{refused}{number} - $before, 2, 'both refusals are counted as number');
        is("@{$stat->{forwards}[0]}{qw(connections failed)}", '1 0', 'one stream, no failure');

        ($id, $end, $socket) = begin($forward, 16, lengths => [1]);
        is(refusal($forward, $id), 'refused', 'a stream has 16 lanes at most');
        is($listener->ask(op => 'stat')->{refused}{crowded}, 1, 'one more is counted as crowded');
    };

    subtest "$plane: streams that fail" => sub {
        my $listener = start($plane, dead_peer_timeout => 2);
        my $forward = forward($listener, 'failures');
        alive($forward);
        violations($forward);

        my ($id, $end, $socket) = begin($forward, 3);
        $end->write('unread');
        $end->run_until(sub { IO::Select->new($socket)->can_read(0) });
        # A UNIX socket with unread data resets its peer.
        close $socket;
        $end->run_until(sub { defined $end->{failed} || !$end->lanes });
        is($end->{failed}, 'abort', 'if the program fails, the source receives abort');
        is(refusal($forward, $id), 'status 3', 'status 3: the stream has failed');

        ($id, $end, $socket) = begin($forward, 1);
        print_byte($socket);
        $end->run_until(sub { $end->{output} eq '.' });
        my $start = clock_gettime(CLOCK_MONOTONIC);
        $end->cut($end->{lanes}[0]);
        is(how_it_ends($socket), 'ECONNRESET', 'without a lane, the stream fails');
        cmp_ok(clock_gettime(CLOCK_MONOTONIC) - $start, '>', 1.9, 'it does not before the limit');
        is(refusal($forward, $id), 'status 3', 'status 3: the stream has failed');
        my $stat = $listener->stat_when(sub ($stat) { !$stat->{forwards}[0]{open} });
        is(
            $stat->{forwards}[0]{failed}, $stat->{forwards}[0]{connections},
            'the listener counts each failure'
        );
    };
}

# A lane that has nothing to carry may say so at any time.
sub alive ($forward) {
    my ($id, $end, $socket) = begin($forward, 1);
    my $lane = $end->{lanes}[0]{stream};
    $lane->write_all(frame(7, 0, 0) x 2);
    print_byte($socket);
    $end->write('good');
    $end->run_until(sub { $end->{output} eq '.' && $end->{acknowledged} == 4 });
    $lane->write_all(frame(7, 0, 0));
    $end->write('and more');
    $end->run_until(sub { $end->{acknowledged} == 12 });
    sysread($socket, my $received, 64);
    is($received, 'goodand more', 'alive has no effect');
    $end->cut($end->{lanes}[0]);
    return;
}

# Each error that the document lists is the end of its stream, and never a good one.
sub violations ($forward) {
    my $largest = ~0;
    my %frames = (
        'data beyond the window' => sub ($granted) { frame($KIND_DATA, 1, $granted, 'x') },
        'zeros beyond the window' => sub ($granted) { frame($KIND_ZEROS, 4_294_967_295, 0) },
        'two different ends' => frame($KIND_END, 0, 5) . frame($KIND_END, 0, 6),
        'data beyond the end' => frame($KIND_END, 0, 5) . frame($KIND_DATA, 6, 0, 'abcdef'),
        'an end before data' => frame($KIND_DATA, 6, 10, 'abcdef') . frame($KIND_END, 0, 15),
        'an acknowledgement of what was not sent' => frame($KIND_ACKNOWLEDGEMENT, 0, 2),
        'kind 0' => frame(0, 0, 0),
        'kind 8' => frame(8, 0, 0),
        'data without bytes' => frame($KIND_DATA, 0, 0),
        'zeros without bytes' => frame($KIND_ZEROS, 0, 0),
        'compressed data without bytes' => frame($KIND_COMPRESSED, 0, 0),
        'compressed data with 131073 bytes' => frame($KIND_COMPRESSED, 131_073, 0, 'x' x 131_073),
        'compressed data that is not a frame' => compressed(4, 'text'),
        'compressed data with a byte after its frame' => compressed(4, zstd_frame('text') . 'x'),
        'compressed data with two frames' => compressed(4, zstd_frame('text') x 2),
        'compressed data without content' => compressed(4, zstd_frame('')),
        'a content size that is wrong' => compressed(4, zstd_frame('text') =~ s/\x04/\x05/r),
        'compressed data beyond the window' =>
            sub ($granted) { compressed($granted, zstd_frame('x')) },
        'data with 131073 bytes' => frame($KIND_DATA, 131_073, 0, 'x' x 131_073),
        'data beyond the largest offset' => frame($KIND_DATA, 2, $largest, 'xx'),
        'zeros beyond the largest offset' => frame($KIND_ZEROS, 2, $largest),
        'an end at the largest offset' => frame($KIND_END, 0, $largest),
        'an acknowledgement of the largest offset' => frame($KIND_ACKNOWLEDGEMENT, 2, $largest),
        'abort' => frame($KIND_ABORT, 0, 0),
        map { ("reserved byte $_" => "\4" . substr("\0\0\1\0\0", 3 - $_, 3) . "\0" x 12) } 1 .. 3
    );
    for my $name (sort keys %frames) {
        my ($id, $end, $socket) = begin($forward, 1);
        print_byte($socket);
        $end->write('good');
        $end->run_until(sub { $end->{output} eq '.' });
        my $frame = $frames{$name};
        if (ref $frame) {
            # The window does not grow after this acknowledgement.
            $end->run_until(sub { $end->{acknowledged} == 4 });
            $frame = $frame->($end->{limit});
        }
        eval { $end->{lanes}[0]{stream}->write_all($frame) };
        $end->run_until(sub { defined $end->{failed} || !$end->lanes });
        is(how_it_ends($socket), 'ECONNRESET', "$name: the program at the target gets an error");
        is($end->{failed}, 'abort', '... and the source receives abort') if $name ne 'abort';
        is(refusal($forward, $id), 'status 3', 'no lane can join any more');
    }
    return;
}

sub compressed ($offset, $payload) {
    return frame($KIND_COMPRESSED, length $payload, $offset, $payload);
}

# The kernel resets only a UNIX socket that has sent data.
sub print_byte ($socket) {
    syswrite($socket, '.') or die "write: $!\n";
    return;
}

# All data of a program's socket.
sub read_to_end ($socket) {
    my $data = '';
    while (1) {
        IO::Select->new($socket)->can_read(30) or die "no data for 30 s\n";
        sysread($socket, $data, 65_536, length $data) or return $data;
    }
    return;
}

# How a program's socket ends: `end`, or the error.
sub how_it_ends ($socket) {
    while (1) {
        IO::Select->new($socket)->can_read(30) or return 'not within 30 s';
        my $count = sysread $socket, my $bytes, 65_536;
        return Test::MinimalStream::errno() if !defined $count;
        return 'end' if !$count;
    }
    return;
}

done_testing();
