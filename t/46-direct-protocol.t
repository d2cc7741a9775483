#!/usr/bin/perl

# Checks the listener against docs/protocol.md: its peer in this test is written from that page and
# shares no code with it. A connection of an unknown peer costs one connection and one counter, and
# does not disturb a running transfer.

use v5.36;

use Digest::SHA qw(hmac_sha256_hex);
use File::Temp qw(tempdir);
use FindBin;
use IO::Select;
use IPC::Open2 qw(open2);
use Socket qw(SHUT_WR);
use Test::More;
use Time::HiRes qw(clock_gettime CLOCK_MONOTONIC);

use Test::TargetPrograms;
use Test::MinimalClient;
use Test::MinimalListener;
use Test::MinimalStream;
use Test::NativeListener;
use Test::Pattern qw(pattern_block);

# Seconds. Enough for a handshake on a busy machine, and short for the tests of silent peers.
my $HANDSHAKE_LIMIT = 4;
my @REASONS = qw(tls silent malformed key number crowded socket);

$SIG{PIPE} = 'IGNORE';
my $dir = tempdir(CLEANUP => 1);
my $identity = Test::MinimalStream::one_time_identity();
my $echo = Test::TargetPrograms::echo("$dir/echo");

sub start ($class, $plane, %options) {
    $options{fingerprint} = $identity->{fingerprint} if $plane eq 'tls';
    return $class->start(plane => $plane, %options);
}

sub forward ($listener, $path) {
    return $listener->ask(op => 'forward', path => $path)->{number};
}

# Tests that the listener has counted exactly these refusals since `$before`: %expected has the
# count of each reason. The number of connections must be that of the refused and accepted ones.
sub refusals_counted ($listener, $name, $before, %expected) {
    my $refused = 0;
    $refused += $_ for values %expected;
    my $after = eval {
        $listener->stat_when(
            sub ($stat) {
                my $new = $stat->{connections} - $before->{connections};
                return !$stat->{half_open} && $new >= $refused + accepted($before, $stat);
            }
        );
    } or return fail($name) || diag($@);
    my %rise = map { $_ => $after->{refused}{$_} - $before->{refused}{$_} } @REASONS;
    delete @rise{ grep { !$rise{$_} } keys %rise };
    my $rest = $after->{connections} - $before->{connections} - accepted($before, $after);
    is_deeply({ %rise, all => $rest }, { %expected, all => $refused }, $name)
        or diag($listener->log_lines);
    return;
}

# How many connections forwards have accepted in between.
sub accepted ($before, $after) {
    my $count = 0;
    $count += $_->{connections} for $after->{forwards}->@*;
    $count -= $_->{connections} for $before->{forwards}->@*;
    return $count;
}

# All bytes that the listener sends before it closes the connection.
sub bytes_until_close ($socket) {
    my $received = '';
    my $count = 1;
    while ($count) {
        IO::Select->new($socket)->can_read(30) or die "still open after 30 s\n";
        $count = sysread $socket, $received, 65536, length $received;
    }
    return $received;
}

sub random_bytes ($count) {
    return Test::MinimalListener::random_bytes($count);
}

subtest 'the example in the document' => sub {
    open(my $file, '<', "$FindBin::Bin/../docs/protocol.md") or die "no document: $!\n";
    my $text = do { local $/ = undef; readline $file };
    close $file;
    my ($example) = $text =~ m/^```hello\n(.*?)^```$/ms;
    my %is = map { m/^(.+?) {2,}([0-9a-f]+)$/ } split /\n/, $example;
    is(join(' ', sort keys %is), 'HMAC nonce session key step 1 step 2 step 3', 'it is complete');
    is($is{'step 1'}, unpack('H*', 'pvetun') . '0001' . $is{nonce}, 'step 1');
    my $proof = hmac_sha256_hex(pack('H*', "$is{nonce}00000001"), pack 'H*', $is{'session key'});
    is($is{HMAC}, $proof, 'Digest::SHA computes the same HMAC');
    is($is{'step 2'}, "00000001$proof", 'step 2');
    my $made = Test::MinimalClient::step_2(pack('H*', $is{'step 1'}), $is{'session key'}, 1);
    is($is{'step 2'}, unpack('H*', $made), 'the minimal client makes the same step 2');
    my $pid = open2(
        my $output, my $input,
        qw(openssl dgst -sha256 -mac HMAC -macopt), "hexkey:$is{'session key'}"
    );
    print {$input} pack 'H*', "$is{nonce}00000001";
    close $input;
    like(scalar(readline $output), qr/= $is{HMAC}$/, 'openssl computes the same HMAC');
    waitpid $pid, 0;
};

for my $class (qw(Test::MinimalListener Test::NativeListener)) {
    for my $plane (qw(tcp tls)) {
        subtest "$class, $plane: the announcement and streams" => sub {
            my $listener = start($class, $plane);
            my $open = $listener->announced;
            is($open->{protocol}, 1, 'protocol 1');
            is($open->{plane}, $plane, 'the plane');
            is_deeply($open->{addresses}, ['127.0.0.1'], 'the address');
            cmp_ok($open->{port}, '>=', 60000, 'the port is not below the migration range');
            cmp_ok($open->{port}, '<', 60050, 'the port is not above the migration range');
            like($open->{key}, qr/\A[0-9a-f]{64}\z/, 'a session key');

            if ($plane eq 'tls') {
                like(
                    $open->{fingerprint}, qr/\A(?:[0-9A-F]{2}:){31}[0-9A-F]{2}\z/,
                    'a fingerprint'
                );
            } else {
                ok(!exists $open->{fingerprint}, 'no fingerprint');
            }
            streams($listener, $plane);
            my $stat = $listener->stat_when(
                sub ($stat) {
                    !grep { $_->{open} } $stat->{forwards}->@*;
                }
            );
            my @forwards = $stat->{forwards}->@*;
            is(scalar(grep { $_->{failed} } @forwards), 0, 'no connection failed');
            is("@{$forwards[0]}{qw(received sent)}", '3145728 3145728', 'bytes of an echo');
            is("@{$forwards[2]}{qw(received sent)}", '10 5', 'bytes in each direction');
            $listener->stop;
            is($?, 0, 'the listener ends with success');
        };
    }
}

sub streams ($listener, $plane) {
    my $open = $listener->announced;
    my $number = forward($listener, "$dir/echo");
    is($number, 1, 'the first forward');
    is(forward($listener, "$dir/other"), 2, 'the second');
    is(forward($listener, "$dir/echo"), 1, 'the first path keeps its number');

    my $block = pattern_block(7) x 3;
    my $stream = Test::MinimalClient::connect_forward($open, $number, identity => $identity);
    like($stream->cipher, qr/\ATLS_/, 'TLS 1.3: ' . $stream->cipher) if $plane eq 'tls';
    ok(
        $stream->exchange($block) eq $block,
        'if the source ends first, all bytes come back before the end'
    );
    $stream->hang_up;

    my $greeter = Test::TargetPrograms::greeter("$dir/greeter.$plane.$$", 'hello');
    my $path = "$dir/greeter.$plane.$$";
    $stream = Test::MinimalClient::connect_forward(
        $open,
        forward($listener, $path),
        identity => $identity
    );
    is($stream->exchange('still here', first => 1), 'hello', 'the target can end first');
    $stream->hang_up;
    is($greeter->received(10), 'still here', 'a target that has ended still receives');
    undef $greeter;
    unlink $path;

    my $heartbeat = Test::MinimalClient::connect_forward($open, 0, identity => $identity);
    for my $byte (map { chr } 0, 1, 255) {
        $heartbeat->write_all($byte);
        is(length $heartbeat->read_exactly(1), 1, 'the listener answers a heartbeat');
    }
    $heartbeat->finish;

    eval { Test::MinimalClient::connect_forward($open, 2, identity => $identity) };
    is($@, "status 1\n", 'a missing socket is status 1');
    eval {
        Test::MinimalClient::connect_forward(
            $open, 1,
            identity => $identity,
            key => unpack 'H*',
            random_bytes(32)
        );
    };
    is($@, "refused\n", 'another key is refused');
    return;
}

for my $plane (qw(tcp tls)) {
    subtest "$plane: refused connections" => sub {
        my $listener = start('Test::NativeListener', $plane, hello_timeout => $HANDSHAKE_LIMIT);
        my $open = $listener->announced;
        my $number = forward($listener, "$dir/echo");
        my $missing = forward($listener, "$dir/missing");
        my $transfer = Test::TargetPrograms::continuous_transfer($open, $number, $identity);
        wrong_handshakes($listener, $open, $number, $missing);
        unknown_peers($listener, $open, $plane);
        certificates($listener, $open, $number) if $plane eq 'tls';
        my $blocks = eval { $transfer->finish };
        cmp_ok($blocks // 0, '>', 0, 'the transfer continued: ' . ($blocks // $@) . ' blocks');
        my $stream = Test::MinimalClient::connect_forward($open, $number, identity => $identity);
        is($stream->exchange('and on'), 'and on', 'the listener still accepts connections');
        $stream->hang_up;
        my $stat = $listener->stop;
        is($stat->{forwards}[0]{failed}, 0, 'no accepted connection failed');
    };
}

# Peers that use the right plane and the right certificate, with a wrong handshake.
sub wrong_handshakes ($listener, $open, $number, $missing) {
    my $try = sub ($wanted, %options) {
        eval {
            Test::MinimalClient::connect_forward(
                $open, $wanted,
                identity => $identity,
                %options
            );
        };
        return $@;
    };
    my $stat = $listener->ask(op => 'stat');
    is($try->($number, key => '00' x 32), "refused\n", 'another key is refused');
    refusals_counted($listener, 'another key is counted', $stat, key => 1);

    $stat = $listener->ask(op => 'stat');
    my $earlier;
    my $keep = sub ($answer) { $earlier = $answer };
    my $stream = Test::MinimalClient::connect_forward(
        $open, $number, identity => $identity,
        step_2 => $keep
    );
    is($stream->exchange('once'), 'once', 'a response is accepted once');
    $stream->hang_up;
    is(
        $try->($number, step_2 => sub ($answer) { $earlier }), "refused\n",
        'a repeated response is refused'
    );
    refusals_counted($listener, 'a repeated response is counted', $stat, key => 1);

    $stat = $listener->ask(op => 'stat');
    for my $bit (0, 31, 32, 32 + 255) {
        my $flipped = sub ($answer) {
            vec($answer, $bit, 1) ^= 1;
            return $answer;
        };
        is($try->($number, step_2 => $flipped), "refused\n", "a flipped bit $bit is refused");
    }
    refusals_counted($listener, 'flipped bits are counted', $stat, key => 4);

    $stat = $listener->ask(op => 'stat');
    is($try->($_), "refused\n", "forward $_ is refused") for 3, 255, 0xffffffff;
    refusals_counted($listener, 'unknown forwards are counted', $stat, number => 3);

    $stat = $listener->ask(op => 'stat');
    is($try->($missing), "status 1\n", 'a missing socket is status 1');
    refusals_counted($listener, 'a missing socket is counted', $stat, socket => 1);

    $stat = $listener->ask(op => 'stat');
    for my $length (0 .. 35) {
        my $stream = Test::MinimalClient::connect_plane($open, identity => $identity);
        my $challenge = $stream->read_exactly(40);
        my $answer = Test::MinimalClient::step_2($challenge, $open->{key}, $number);
        $stream->write_all(substr $answer, 0, $length);
        $stream->finish;
        # The listener closes with FIN or RST.
        my $received = eval { $stream->read_exactly(1) };
        fail("$length bytes were answered") if defined $received;
    }
    refusals_counted(
        $listener, 'responses truncated at every length are counted',
        $stat, malformed => 36
    );

    $stat = $listener->ask(op => 'stat');
    my $start = clock_gettime(CLOCK_MONOTONIC);
    my @silent = map { Test::MinimalClient::connect_plane($open, identity => $identity) } 1, 2;
    $silent[1]->write_all('half');
    for my $stream (@silent) {
        $stream->read_exactly(40);
        eval { $stream->read_exactly(1) };
        like($@, qr/^(?:truncated|ECONNRESET)$/, 'the connection of a silent peer is closed');
    }
    my $passed = clock_gettime(CLOCK_MONOTONIC) - $start;
    cmp_ok($passed, '>', $HANDSHAKE_LIMIT * 0.9, sprintf 'not before the limit (%.1f s)', $passed);
    refusals_counted($listener, 'silent peers are counted', $stat, silent => 2);
    return;
}

# Peers that do not use the protocol. Random bytes are neither a handshake nor TLS.
sub unknown_peers ($listener, $open, $plane) {
    my $stat = $listener->ask(op => 'stat');
    my @lengths = map { $_ % 10 ? 36 + int rand 1000 : int rand 36 } 1 .. 200;
    my $short = grep { $_ < 36 } @lengths;
    my $answered = 0;
    my @batch;
    for my $length (@lengths) {
        my $socket = Test::MinimalClient::dial($open);
        syswrite $socket, random_bytes($length) if $length;
        shutdown $socket, SHUT_WR;
        push @batch, $socket;
        # Fewer than 512 at once: the listener drops more than that, which another subtest covers.
        next if @batch < 20;
        $answered += length(bytes_until_close($_)) > 40 for splice @batch;
    }
    is($answered, 0, '200 peers that send random bytes receive step 1 at most');
    my %refusals = $plane eq 'tcp' ? (key => 200 - $short, malformed => $short) : (tls => 200);
    refusals_counted($listener, 'random bytes are counted', $stat, %refusals);

    $stat = $listener->ask(op => 'stat');
    my %how;
    for (1 .. 50) {
        my $socket = Test::MinimalClient::dial($open);
        my $stream = eval {
            Test::MinimalStream->tls($socket, 'client', undef, $open->{fingerprint} // '00' x 32);
        };
        my $why = $stream ? undef : $@;
        eval { $stream->read_exactly(1) } if $stream;
        $why //= $@;
        $how{ $why =~ s/.*:|\n//gr }++;
        undef $stream;
    }
    note("$_: $how{$_}") for sort keys %how;
    is($how{''} // 0, 0, '50 TLS clients without a certificate are refused');
    # The first record of a TLS client is longer than a response.
    refusals_counted(
        $listener, 'TLS clients without a certificate are counted',
        $stat, $plane eq 'tcp' ? (key => 50) : (tls => 50)
    );
    return;
}

sub certificates ($listener, $open, $number) {
    my $day = 86400;
    my %wrong = (
        'without a certificate' => undef,
        'with another certificate' => Test::MinimalStream::one_time_identity(),
    );
    for my $name (sort keys %wrong) {
        my $stat = $listener->ask(op => 'stat');
        eval { Test::MinimalClient::connect_forward($open, $number, identity => $wrong{$name}); };
        like($@, qr/alert|truncated|ECONNRESET/, "a client $name is refused");
        refusals_counted($listener, "a client $name is counted", $stat, tls => 1);
    }
    for my $validity ([-2 * $day, -$day], [$day, 2 * $day]) {
        my ($from, $until) = map { time + $_ } $validity->@*;
        my $stale = Test::MinimalStream::one_time_identity(from => $from, until => $until);
        my $other = Test::NativeListener->start(
            plane => 'tls',
            fingerprint => $stale->{fingerprint},
        );
        my $stat = $other->ask(op => 'stat');
        eval {
            Test::MinimalClient::connect_plane($other->announced, identity => $stale)
                ->read_exactly(40);
        };
        like(
            $@, qr/alert|truncated|ECONNRESET/,
            'the right certificate outside its validity is refused'
        );
        refusals_counted($other, 'a certificate outside its validity is counted', $stat, tls => 1);
    }

    # The source connects to a listener that is not the announced one.
    my $stat = $listener->ask(op => 'stat');
    my %announced = (%$open, fingerprint => '00' x 32);
    eval { Test::MinimalClient::connect_plane(\%announced, identity => $identity) };
    like($@, qr/certificate verify failed/, 'the source rejects another certificate');
    refusals_counted($listener, 'a source that rejects the listener is counted', $stat, tls => 1);

    $stat = $listener->ask(op => 'stat');
    my $socket = Test::MinimalClient::dial($open);
    my $context = Net::SSLeay::CTX_new_with_method(Net::SSLeay::TLS_method());
    Net::SSLeay::CTX_set_max_proto_version($context, Net::SSLeay::TLS1_2_VERSION());
    my $ssl = Net::SSLeay::new($context);
    Net::SSLeay::set_fd($ssl, fileno $socket);
    cmp_ok(Net::SSLeay::connect($ssl), '<=', 0, 'TLS 1.2 is refused');
    Net::SSLeay::free($ssl);
    Net::SSLeay::CTX_free($context);
    close $socket;
    refusals_counted($listener, 'TLS 1.2 is counted', $stat, tls => 1);
    return;
}

for my $plane (qw(tcp tls)) {
    subtest "$plane: more than 512 peers that do not finish their handshake" => sub {
        # With this limit, the listener drops a connection only for a new one, not for its time.
        my $listener = start('Test::NativeListener', $plane, hello_timeout => 600);
        my $open = $listener->announced;
        my $number = forward($listener, "$dir/echo");
        my $transfer = Test::TargetPrograms::continuous_transfer($open, $number, $identity);
        my @idle = map { Test::MinimalClient::dial($open) } 1 .. 512;
        my $stat = $listener->stat_when(sub ($stat) { $stat->{half_open} == 512 });
        is($stat->{refused}{crowded}, 0, '512 unfinished handshakes stay');

        my $stream = Test::MinimalClient::connect_forward($open, $number, identity => $identity);
        is($stream->exchange('me too'), 'me too', 'one more peer is accepted');
        $stream->hang_up;
        my $open_ones = grep { !has_ended($_) } @idle[1 .. 511];
        is($open_ones, 511, 'the others stay');
        cmp_ok(length bytes_until_close($idle[0]), '<=', 40, 'the oldest is dropped');
        my @more = map { Test::MinimalClient::dial($open) } 1 .. 100;
        $stat = $listener->stat_when(sub ($stat) { $stat->{connections} == 512 + 1 + 1 + 100 });
        is($stat->{half_open}, 512, 'with a hundred more, 512 stay');
        is($stat->{refused}{crowded}, 1 + 99, 'all others are dropped and counted');
        ok(defined eval { $transfer->finish }, 'the transfer continued') or diag($@);
        $listener->stop;
    };
}

# Whether the listener has ended the connection. Reads what is left of step 1.
sub has_ended ($socket) {
    my $select = IO::Select->new($socket);
    while ($select->can_read(0)) {
        sysread $socket, my $bytes, 65536 or return 1;
    }
    return 0;
}

for my $plane (qw(tcp tls)) {
    subtest "$plane: a cut is not an end" => sub {
        my $listener = start('Test::NativeListener', $plane, dead_peer_timeout => 2);
        my $open = $listener->announced;
        my $path = "$dir/reader.$plane";
        my $reader = Test::TargetPrograms::reader($path);
        my $number = forward($listener, $path);
        my $connect = sub {
            my $stream =
                Test::MinimalClient::connect_forward($open, $number, identity => $identity);
            is($stream->read_exactly(5), 'hello', 'connected');
            $stream->write_all('some');
            return $stream;
        };

        my $stream = $connect->();
        $stream->exchange('');
        is($reader->received(8), '4 end   ', 'the program gets the end of a stream');

        $stream = $connect->();
        $listener->stat_when(sub ($stat) { $stat->{forwards}[0]{received} == 8 });
        $stream->abort;
        is(
            $reader->received(8), '4 RESET ',
            'if the source aborts, the program gets a reset'
        );

        if ($plane eq 'tls') {
            $stream = $connect->();
            $listener->stat_when(sub ($stat) { $stat->{forwards}[0]{received} == 12 });
            shutdown $stream->{socket}, SHUT_WR;
            is(
                $reader->received(8), '4 RESET ',
                'after FIN without close_notify, the program gets a reset'
            );
            eval { $stream->read_exactly(1) };
            like($@, qr/^(?:truncated|ECONNRESET)$/, 'the source gets no end');
        }

        $stream = $connect->();
        my $heartbeat = Test::MinimalClient::connect_forward($open, 0, identity => $identity);
        my $start = clock_gettime(CLOCK_MONOTONIC);
        $heartbeat->write_all('.');
        $heartbeat->read_exactly(1);
        eval { $stream->read_exactly(1) };
        like(
            $@, qr/^(?:truncated|ECONNRESET)$/,
            'without heartbeats, the listener cuts every connection'
        );
        cmp_ok(clock_gettime(CLOCK_MONOTONIC) - $start, '>', 1.9, 'it does not before the limit');
        is($reader->received(8), '4 RESET ', 'the program gets a reset');
        my $cuts = $plane eq 'tls' ? 3 : 2;
        my $stat = $listener->stat_when(sub ($stat) { !$stat->{forwards}[0]{open} });
        is($stat->{forwards}[0]{failed}, $cuts, 'the listener counts each cut');

        $listener = start('Test::NativeListener', $plane);
        $open = $listener->announced;
        $number = forward($listener, $path);
        $stream = $connect->();
        kill KILL => $listener->pid;
        eval { $stream->read_exactly(1) };
        like(
            $@, qr/^(?:truncated|ECONNRESET)$/,
            'if the listener is killed, the source gets no end'
        );
    };
}

subtest 'control lines' => sub {
    my $listener = start('Test::NativeListener', 'tcp');
    like($listener->ask(op => 'dance')->{error}, qr/./, 'an unknown op is refused');
    like($listener->ask(op => 'forward')->{error}, qr/./, 'a forward without path is refused');
    is(
        $listener->ask(op => 'forward', path => "$dir/echo", later => 1)->{number},
        1, 'unknown fields are ignored'
    );
    my @numbers = map { forward($listener, "$dir/$_") } 2 .. 256;
    is("@numbers", join(' ', 2 .. 256), '256 forwards are accepted');
    like($listener->ask(op => 'forward', path => "$dir/257")->{error}, qr/256/, '257 are not');
    my $stat = $listener->stop;
    is(scalar $stat->{forwards}->@*, 256, 'the last counters have all forwards');
    is_deeply(
        [sort keys $stat->{refused}->%*], [sort @REASONS, 'heartbeat'],
        'they have every reason'
    );
};

done_testing();
