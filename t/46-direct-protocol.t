#!/usr/bin/perl

# Our listener, held against docs/protocol.md: its peer here has been written from that page and
# shares no code with it. Whatever a stranger does costs one connection and one counter, while a
# transfer runs on, undisturbed.

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

# Enough for a handshake on a busy machine, and soon over for who is silent.
my $HELLO_LIMIT = 4;
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

# Each of these reasons must have been counted so often, and nothing else may have changed: as many
# connections have come as were refused or let in.
sub costs ($listener, $name, $before, %expected) {
    my $refused = 0;
    $refused += $_ for values %expected;
    my $after = eval {
        $listener->stat_when(
            sub ($stat) {
                my $come = $stat->{connections} - $before->{connections};
                return !$stat->{half_open} && $come >= $refused + let_in($before, $stat);
            }
        );
    } or return fail($name) || diag($@);
    my %rise = map { $_ => $after->{refused}{$_} - $before->{refused}{$_} } @REASONS;
    delete @rise{ grep { !$rise{$_} } keys %rise };
    my $rest = $after->{connections} - $before->{connections} - let_in($before, $after);
    is_deeply({ %rise, all => $rest }, { %expected, all => $refused }, $name)
        or diag($listener->log_lines);
    return;
}

sub let_in ($before, $after) {
    my $count = 0;
    $count += $_->{connections} for $after->{forwards}->@*;
    $count -= $_->{connections} for $before->{forwards}->@*;
    return $count;
}

# What a stranger hears after what it sent, to the end.
sub answer_to ($socket, $bytes) {
    syswrite $socket, $bytes if length $bytes;
    my $heard = '';
    my $count = 1;
    while ($count) {
        IO::Select->new($socket)->can_read(30) or die "still open after 30 s\n";
        $count = sysread $socket, $heard, 65536, length $heard;
    }
    return $heard;
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
    is(join(' ', sort keys %is), 'HMAC nonce session key step 1 step 2 step 3', 'is all there');
    is($is{'step 1'}, unpack('H*', 'pvetun') . '0001' . $is{nonce}, 'step 1');
    my $proof = hmac_sha256_hex(pack('H*', "$is{nonce}00000001"), pack 'H*', $is{'session key'});
    is($is{HMAC}, $proof, 'the HMAC, by Digest::SHA');
    is($is{'step 2'}, "00000001$proof", 'step 2');
    my $made = Test::MinimalClient::step_2(pack('H*', $is{'step 1'}), $is{'session key'}, 1);
    is($is{'step 2'}, unpack('H*', $made), 'as the minimal client makes it');
    my $pid = open2(
        my $said, my $asked,
        qw(openssl dgst -sha256 -mac HMAC -macopt), "hexkey:$is{'session key'}"
    );
    print {$asked} pack 'H*', "$is{nonce}00000001";
    close $asked;
    like(scalar(readline $said), qr/= $is{HMAC}$/, 'the HMAC, by openssl');
    waitpid $pid, 0;
};

for my $class (qw(Test::MinimalListener Test::NativeListener)) {
    for my $plane (qw(tcp tls)) {
        subtest "$class, $plane: what it announces, and streams" => sub {
            my $listener = start($class, $plane);
            my $open = $listener->announced;
            is($open->{protocol}, 1, 'protocol 1');
            is($open->{plane}, $plane, 'the plane');
            is_deeply($open->{addresses}, ['127.0.0.1'], 'the address');
            cmp_ok($open->{port}, '>=', 60000, 'a port');
            cmp_ok($open->{port}, '<', 60050, 'of the range');
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
            is("@{$forwards[0]}{qw(received sent)}", '3145728 3145728', 'bytes are counted');
            is("@{$forwards[2]}{qw(received sent)}", '10 5', 'each way');
            $listener->stop;
            is($?, 0, 'and the listener ends');
        };
    }
}

sub streams ($listener, $plane) {
    my $open = $listener->announced;
    my $number = forward($listener, "$dir/echo");
    is($number, 1, 'the first forward');
    is(forward($listener, "$dir/other"), 2, 'the second');
    is(forward($listener, "$dir/echo"), 1, 'the first path again');

    my $block = pattern_block(7) x 3;
    my $stream = Test::MinimalClient::connect_forward($open, $number, identity => $identity);
    like($stream->cipher, qr/\ATLS_/, 'TLS 1.3: ' . $stream->cipher) if $plane eq 'tls';
    ok($stream->exchange($block) eq $block, 'the source ends first: all comes back, then an end');
    $stream->hang_up;

    my $speaker = Test::TargetPrograms::greeter("$dir/speaker.$plane.$$", 'hello');
    my $path = "$dir/speaker.$plane.$$";
    $stream = Test::MinimalClient::connect_forward(
        $open,
        forward($listener, $path),
        identity => $identity
    );
    is($stream->exchange('still here', first => 1), 'hello', 'the target ends first');
    $stream->hang_up;
    is($speaker->received(10), 'still here', 'and still takes what comes');
    undef $speaker;
    unlink $path;

    my $watch = Test::MinimalClient::connect_forward($open, 0, identity => $identity);
    for my $byte (map { chr } 0, 1, 255) {
        $watch->write_all($byte);
        is(length $watch->read_exactly(1), 1, 'the watch is answered');
    }
    $watch->finish;

    eval { Test::MinimalClient::connect_forward($open, 2, identity => $identity) };
    is($@, "status 1\n", 'a socket that is not there');
    eval {
        Test::MinimalClient::connect_forward(
            $open, 1,
            identity => $identity,
            key => unpack 'H*',
            random_bytes(32)
        );
    };
    is($@, "refused\n", 'another key');
    return;
}

for my $plane (qw(tcp tls)) {
    subtest "$plane: what is refused" => sub {
        my $listener = start('Test::NativeListener', $plane, hello_timeout => $HELLO_LIMIT);
        my $open = $listener->announced;
        my $number = forward($listener, "$dir/echo");
        my $missing = forward($listener, "$dir/missing");
        my $transfer = Test::TargetPrograms::continuous_transfer($open, $number, $identity);
        hellos($listener, $open, $number, $missing);
        strangers($listener, $open, $plane);
        certificates($listener, $open, $number) if $plane eq 'tls';
        my $blocks = eval { $transfer->finish };
        cmp_ok($blocks // 0, '>', 0, 'the transfer went on: ' . ($blocks // $@) . ' blocks');
        my $stream = Test::MinimalClient::connect_forward($open, $number, identity => $identity);
        is($stream->exchange('and on'), 'and on', 'and so does the listener');
        $stream->hang_up;
        my $stat = $listener->stop;
        is($stat->{forwards}[0]{failed}, 0, 'no connection that was let in failed');
    };
}

# Peers that know the plane, and have the certificate.
sub hellos ($listener, $open, $number, $missing) {
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
    is($try->($number, key => '00' x 32), "refused\n", 'another key: refused');
    costs($listener, 'and counted', $stat, key => 1);

    $stat = $listener->ask(op => 'stat');
    my $earlier;
    my $keep = sub ($answer) { $earlier = $answer };
    my $stream = Test::MinimalClient::connect_forward(
        $open, $number, identity => $identity,
        step_2 => $keep
    );
    is($stream->exchange('once'), 'once', 'a hello is taken');
    $stream->hang_up;
    is($try->($number, step_2 => sub ($answer) { $earlier }), "refused\n", 'and not a second time');
    costs($listener, 'and counted', $stat, key => 1);

    $stat = $listener->ask(op => 'stat');
    for my $bit (0, 31, 32, 32 + 255) {
        my $flipped = sub ($answer) {
            vec($answer, $bit, 1) ^= 1;
            return $answer;
        };
        is($try->($number, step_2 => $flipped), "refused\n", "bit $bit is another: refused");
    }
    costs($listener, 'and counted', $stat, key => 4);

    $stat = $listener->ask(op => 'stat');
    is($try->($_), "refused\n", "forward $_: refused") for 3, 255, 0xffffffff;
    costs($listener, 'and counted', $stat, number => 3);

    $stat = $listener->ask(op => 'stat');
    is($try->($missing), "status 1\n", 'a socket that is not there: status 1');
    costs($listener, 'and counted', $stat, socket => 1);

    $stat = $listener->ask(op => 'stat');
    for my $length (0 .. 35) {
        my $stream = Test::MinimalClient::connect_plane($open, identity => $identity);
        my $challenge = $stream->read_exactly(40);
        my $answer = Test::MinimalClient::step_2($challenge, $open->{key}, $number);
        $stream->write_all(substr $answer, 0, $length);
        $stream->finish;
        # FIN or RST.
        my $heard = eval { $stream->read_exactly(1) };
        fail("$length bytes were answered") if defined $heard;
    }
    costs($listener, 'truncated at every length: counted', $stat, malformed => 36);

    $stat = $listener->ask(op => 'stat');
    my $start = clock_gettime(CLOCK_MONOTONIC);
    my @silent = map { Test::MinimalClient::connect_plane($open, identity => $identity) } 1, 2;
    $silent[1]->write_all('half');
    for my $stream (@silent) {
        $stream->read_exactly(40);
        eval { $stream->read_exactly(1) };
        like($@, qr/^(?:truncated|ECONNRESET)$/, 'silence: closed');
    }
    my $passed = clock_gettime(CLOCK_MONOTONIC) - $start;
    cmp_ok($passed, '>', $HELLO_LIMIT * 0.9, sprintf 'not before the limit (%.1f s)', $passed);
    costs($listener, 'and counted', $stat, silent => 2);
    return;
}

# Peers that know nothing. Random bytes are no hello, and no TLS.
sub strangers ($listener, $open, $plane) {
    my $stat = $listener->ask(op => 'stat');
    my @lengths = map { $_ % 10 ? 36 + int rand 1000 : int rand 36 } 1 .. 200;
    my $short = grep { $_ < 36 } @lengths;
    my $words = 0;
    my @batch;
    for my $length (@lengths) {
        my $socket = Test::MinimalClient::dial($open);
        syswrite $socket, random_bytes($length) if $length;
        shutdown $socket, SHUT_WR;
        push @batch, $socket;
        # Fewer than 64 at once, as those beyond are another matter.
        next if @batch < 20;
        $words += length(answer_to($_, '')) > 40 for splice @batch;
    }
    is($words, 0, '200 that send random bytes hear no more than step 1');
    my %cost = $plane eq 'tcp' ? (key => 200 - $short, malformed => $short) : (tls => 200);
    costs($listener, 'and are counted', $stat, %cost);

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
    is($how{''} // 0, 0, '50 real TLS clients without certificate get nowhere');
    # A client's first record is longer than a hello.
    costs($listener, 'and are counted', $stat, $plane eq 'tcp' ? (key => 50) : (tls => 50));
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
        like($@, qr/alert|truncated|ECONNRESET/, "a client $name: refused");
        costs($listener, 'and counted', $stat, tls => 1);
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
        like($@, qr/alert|truncated|ECONNRESET/, 'the right one outside its validity: refused');
        costs($other, 'and counted', $stat, tls => 1);
    }

    # What the source sees of a listener that is not the one announced.
    my $stat = $listener->ask(op => 'stat');
    my %announced = (%$open, fingerprint => '00' x 32);
    eval { Test::MinimalClient::connect_plane(\%announced, identity => $identity) };
    like($@, qr/certificate verify failed/, 'the listener has its own certificate, too');
    costs($listener, 'and counts who does not like it', $stat, tls => 1);

    $stat = $listener->ask(op => 'stat');
    my $socket = Test::MinimalClient::dial($open);
    my $context = Net::SSLeay::CTX_new_with_method(Net::SSLeay::TLS_method());
    Net::SSLeay::CTX_set_max_proto_version($context, Net::SSLeay::TLS1_2_VERSION());
    my $ssl = Net::SSLeay::new($context);
    Net::SSLeay::set_fd($ssl, fileno $socket);
    cmp_ok(Net::SSLeay::connect($ssl), '<=', 0, 'TLS 1.2: refused');
    Net::SSLeay::free($ssl);
    Net::SSLeay::CTX_free($context);
    close $socket;
    costs($listener, 'and counted', $stat, tls => 1);
    return;
}

for my $plane (qw(tcp tls)) {
    subtest "$plane: more than 64 that do not finish their hello" => sub {
        # They stay until they are dropped for a newcomer, and not because their time is over.
        my $listener = start('Test::NativeListener', $plane, hello_timeout => 600);
        my $open = $listener->announced;
        my $number = forward($listener, "$dir/echo");
        my $transfer = Test::TargetPrograms::continuous_transfer($open, $number, $identity);
        my @idle = map { Test::MinimalClient::dial($open) } 1 .. 64;
        my $stat = $listener->stat_when(sub ($stat) { $stat->{half_open} == 64 });
        is($stat->{refused}{crowded}, 0, '64 stay');

        my $stream = Test::MinimalClient::connect_forward($open, $number, identity => $identity);
        is($stream->exchange('me too'), 'me too', 'and one more gets in');
        $stream->hang_up;
        # Nobody knows in which order the kernel hands over what came at once: one is over.
        my $open_ones = grep { !is_over($_) } @idle[1 .. 63];
        is($open_ones, 63, 'the others stay');
        cmp_ok(length answer_to($idle[0], ''), '<=', 40, 'the oldest had to go');
        my @more = map { Test::MinimalClient::dial($open) } 1 .. 100;
        $stat = $listener->stat_when(sub ($stat) { $stat->{connections} == 64 + 1 + 1 + 100 });
        is($stat->{half_open}, 64, 'a hundred more, and there are 64');
        is($stat->{refused}{crowded}, 1 + 99, 'all others went');
        ok(defined eval { $transfer->finish }, 'the transfer went on') or diag($@);
        $listener->stop;
    };
}

# Whether the other side has ended it. What step 1 may have left is taken.
sub is_over ($socket) {
    my $select = IO::Select->new($socket);
    while ($select->can_read(0)) {
        sysread $socket, my $bytes, 65536 or return 1;
    }
    return 0;
}

for my $plane (qw(tcp tls)) {
    subtest "$plane: a cut is no end" => sub {
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
        is($reader->received(8), '4 end   ', 'a stream that ends');

        $stream = $connect->();
        $listener->stat_when(sub ($stat) { $stat->{forwards}[0]{received} == 8 });
        $stream->abort;
        is(
            $reader->received(8), '4 RESET ',
            'the source gives up: the program at the socket hears it'
        );

        if ($plane eq 'tls') {
            $stream = $connect->();
            $listener->stat_when(sub ($stat) { $stat->{forwards}[0]{received} == 12 });
            shutdown $stream->{socket}, SHUT_WR;
            is($reader->received(8), '4 RESET ', 'FIN without close_notify is a cut, too');
            eval { $stream->read_exactly(1) };
            like($@, qr/^(?:truncated|ECONNRESET)$/, 'and for the source likewise');
        }

        $stream = $connect->();
        my $watch = Test::MinimalClient::connect_forward($open, 0, identity => $identity);
        my $start = clock_gettime(CLOCK_MONOTONIC);
        $watch->write_all('.');
        $watch->read_exactly(1);
        eval { $stream->read_exactly(1) };
        like($@, qr/^(?:truncated|ECONNRESET)$/, 'a watch that is silent: every connection is cut');
        cmp_ok(clock_gettime(CLOCK_MONOTONIC) - $start, '>', 1.9, 'but not before the limit');
        is($reader->received(8), '4 RESET ', 'at both ends');
        my $cuts = $plane eq 'tls' ? 3 : 2;
        my $stat = $listener->stat_when(sub ($stat) { !$stat->{forwards}[0]{open} });
        is($stat->{forwards}[0]{failed}, $cuts, 'and counted');

        $listener = start('Test::NativeListener', $plane);
        $open = $listener->announced;
        $number = forward($listener, $path);
        $stream = $connect->();
        kill KILL => $listener->pid;
        eval { $stream->read_exactly(1) };
        like($@, qr/^(?:truncated|ECONNRESET)$/, 'the listener is killed: no end for the source');
    };
}

subtest 'control lines' => sub {
    my $listener = start('Test::NativeListener', 'tcp');
    like($listener->ask(op => 'dance')->{error}, qr/./, 'an unknown op is refused');
    like($listener->ask(op => 'forward')->{error}, qr/./, 'and a forward without path');
    is(
        $listener->ask(op => 'forward', path => "$dir/echo", later => 1)->{number},
        1, 'fields that are not known are ignored'
    );
    my @numbers = map { forward($listener, "$dir/$_") } 2 .. 256;
    is("@numbers", join(' ', 2 .. 256), '256 forwards');
    like($listener->ask(op => 'forward', path => "$dir/257")->{error}, qr/256/, 'but not 257');
    my $stat = $listener->stop;
    is(scalar $stat->{forwards}->@*, 256, 'all in the last counters');
    is_deeply([sort keys $stat->{refused}->%*], [sort @REASONS], 'every reason');
};

done_testing();
