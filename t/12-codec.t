#!/usr/bin/perl

# The frame codec as a Perl event loop uses it: bytes from a socket go in and messages come out, and
# the other way round.

use v5.36;

use Test::More;

use PVE::Tunnel::Native;

my %CODE = (continuation => 0, text => 1, binary => 2, close => 8, ping => 9, pong => 10);

# A frame as RFC 6455 section 5.2 defines it, made without the codec under test.
sub frame ($opcode, $payload, %how) {
    my $length = length($payload);
    my $wire = pack('C', (($how{fin} // 1) ? 0x80 : 0) | ($how{rsv} // 0) | $CODE{$opcode});
    my $mask_bit = $how{key} ? 0x80 : 0;
    if ($length < 126) {
        $wire .= pack('C', $mask_bit | $length);
    } elsif ($length < 65_536) {
        $wire .= pack('Cn', $mask_bit | 126, $length);
    } else {
        $wire .= pack('CQ>', $mask_bit | 127, $length);
    }
    if ($how{key}) {
        $wire .= $how{key};
        PVE::Tunnel::Native::mask($payload, $how{key});
    }
    return $wire . $payload;
}

# Parses one unfragmented frame: its header, its payload and the bytes after it.
sub unframe ($wire) {
    my ($first, $second) = unpack('CC', $wire);
    my ($length, $at) = ($second & 0x7f, 2);
    ($length, $at) = (unpack('x2 n', $wire), 4) if $length == 126;
    ($length, $at) = (unpack('x2 Q>', $wire), 10) if $length == 127;
    my $key = ($second & 0x80) ? substr($wire, $at, 4) : undef;
    $at += 4 if defined($key);
    my $payload = substr($wire, $at, $length);
    PVE::Tunnel::Native::mask($payload, $key) if defined($key);
    return {
        fin => $first >> 7,
        opcode => $first & 0x0f,
        key => $key,
        payload => $payload,
        rest => substr($wire, $at + $length),
    };
}

sub codec (%options) { return PVE::Tunnel::Native::Codec->new(%options) }

# All messages that a codec can return now. The pieces of a message are joined.
sub messages ($codec) {
    my (@messages, $open);
    while (my $piece = $codec->next()) {
        if ($piece->{opcode} =~ m/\A(?:text|binary)\z/) {
            $open //= [$piece->{opcode}, ''];
            $open->[1] .= $piece->{payload};
            next if !$piece->{end};
            push @messages, $open;
            $open = undef;
        } else {
            push @messages, [$piece->{opcode}, $piece->{payload}];
        }
    }
    return @messages;
}

sub refused ($what, $pattern, $call) {
    ok(!eval { $call->(); 1 }, "$what is refused");
    like($@, qr/\Apve_tunnel_codec_\w+: .*$pattern.*\n\z/i, '... with a reason');
    return;
}

subtest 'the examples of RFC 6455 section 5.7' => sub {
    my $client = codec();
    $client->feed(pack('H*', '810548656c6c6f'));
    is_deeply([messages($client)], [['text', 'Hello']], 'an unmasked text');

    $client->feed(pack('H*', '010348656c80026c6f'));
    is_deeply([messages($client)], [['text', 'Hello']], 'a text in two fragments');

    $client->feed(pack('H*', '890548656c6c6f'));
    is_deeply(
        $client->next(),
        { opcode => 'ping', end => 1, payload => 'Hello' },
        'an unmasked ping',
    );

    my $server = codec(role => 'server');
    $server->feed(pack('H*', '818537fa213d7f9f4d5158'));
    is_deeply([messages($server)], [['text', 'Hello']], 'a masked text');
    $server->feed(pack('H*', '8a8537fa213d7f9f4d5158'));
    is_deeply([messages($server)], [['pong', 'Hello']], 'a masked pong');

    for my $length (256, 65_536) {
        my $data = 'x' x $length;
        $client->feed(frame('binary', $data));
        is_deeply([messages($client)], [['binary', $data]], "$length bytes");
    }
};

subtest 'input in any pieces' => sub {
    my $wire = frame('binary', 'first') . frame('ping', 'p') . frame('binary', 'second' x 100);
    my $client = codec();
    my (@names, $data);
    for my $byte (split(//, $wire)) {
        $client->feed($byte);
        while (my $piece = $client->next()) {
            push @names, $piece->{opcode} if $piece->{end};
            $data .= $piece->{payload} if $piece->{opcode} eq 'binary';
        }
    }
    is_deeply(\@names, [qw(binary ping binary)], 'one byte at a time gives the three frames');
    is($data, 'first' . 'second' x 100, '... with all their bytes');

    $client->feed('');
    is($client->next(), undef, 'without input there is no message');
    is_deeply([scalar($client->next())], [undef], '... in scalar context as well');

    $client->feed(frame('text', 'frag', fin => 0));
    $client->feed(frame('ping', 'between'));
    $client->feed(frame('continuation', 'ment'));
    my @got;
    while (my $piece = $client->next()) {
        push @got, $piece;
    }
    is_deeply(
        [map { $_->{opcode} } grep { length($_->{payload}) } @got], [qw(text ping text)],
        'a ping between two fragments is returned between them',
    );
    is(
        join('', map { $_->{payload} } grep { $_->{opcode} eq 'text' } @got), 'fragment',
        '... and the message is intact'
    );
    is($got[-1]{end}, 1, 'the last fragment ends the message');
    is($got[0]{end}, 0, 'the first fragment does not');
};

subtest 'close' => sub {
    my $client = codec();
    $client->feed(frame('close', pack('n', 1000) . 'bye'));
    is_deeply(
        $client->next(),
        { opcode => 'close', end => 1, payload => pack('n', 1000) . 'bye' },
        'a close frame with code and reason',
    );
    my $other = codec();
    $other->feed(frame('close', ''));
    is_deeply(
        $other->next(), { opcode => 'close', end => 1, payload => '' },
        'a close frame without a payload'
    );
};

subtest 'encoded frames' => sub {
    my $client = codec();
    my $server = codec(role => 'server');

    my $frame = unframe($client->encode('binary', 'data'));
    is_deeply(
        [@$frame{qw(fin opcode payload rest)}], [1, 2, 'data', ''],
        'encode returns one whole frame'
    );
    ok(defined($frame->{key}), 'a client masks');

    my %keys = map { unframe($client->encode('ping', ''))->{key} => 1 } 1 .. 50;
    cmp_ok(scalar(keys(%keys)), '>', 45, '... with a new key for each frame');
    my $zero = codec(mask => 'zero');
    is(
        unframe($zero->encode('text', 'x'))->{key}, "\0\0\0\0",
        'mask zero uses the zero key, for connections over TLS'
    );
    is(unframe($server->encode('text', 'x'))->{key}, undef, 'a server does not mask');

    for my $name (qw(text binary close ping pong)) {
        my $payload = $name eq 'close' ? pack('n', 1001) : "a $name";
        is(unframe($client->encode($name, $payload))->{opcode}, $CODE{$name}, "opcode of $name");
    }

    my $long = join('', map { pack('N', $_) } 1 .. 100_000); # 400000 bytes
    my $wire = $client->encode('binary', $long);
    my ($rest, @frames) = ($wire);
    while (length($rest)) {
        push @frames, unframe($rest);
        $rest = $frames[-1]{rest};
    }
    is(scalar(@frames), 4, 'more than 131072 bytes are split into several frames');
    is(
        scalar(grep { $_->{fin} && $_->{opcode} == 2 } @frames), 4,
        '... each a final binary frame, as pveproxy requires'
    );
    is(
        scalar(grep { length($_->{payload}) > 131_072 } @frames), 0,
        '... with at most 131072 bytes'
    );
    ok(join('', map { $_->{payload} } @frames) eq $long, '... and together they have all bytes');

    $server->feed($wire);
    ok(join('', map { $_->[1] } messages($server)) eq $long, 'a server codec decodes them');
};

subtest 'input that breaks RFC 6455' => sub {
    my %bad = (
        'a reserved bit' => [{}, frame('binary', 'x', rsv => 0x40), 'reserved bits are set'],
        'an unknown opcode' => [{}, pack('H*', '8300'), 'unknown frame opcode 3'],
        'a masked frame from a server' =>
            [{}, frame('binary', 'x', key => 'abcd'), 'server sent a masked frame'],
        'an unmasked frame from a client' =>
            [{ role => 'server' }, frame('binary', 'x'), 'client sent an unmasked frame'],
        'a frame above the limit' =>
            [{ max_frame => 1000 }, frame('binary', 'x' x 1001), '1001 bytes .* limit of 1000'],
        'a fragmented ping' => [{}, frame('ping', 'x', fin => 0), 'control frame is fragmented'],
        'a ping of 126 bytes' => [{}, frame('ping', 'x' x 126), '126 bytes .* limit of 125'],
        'a continuation without a first fragment' =>
            [{}, frame('continuation', 'x'), 'without a message to continue'],
        'a message inside a message' => [
            {}, frame('text', 'x', fin => 0) . frame('text', 'y'),
            'before the last one\'s final fragment'
        ],
        'a close of one byte' => [{}, frame('close', 'x'), 'payload of one byte'],
    );
    for my $what (sort keys %bad) {
        my ($options, $wire, $reason) = $bad{$what}->@*;
        my $codec = codec(%$options);
        my $call = sub { $codec->feed($wire); messages($codec) };
        refused($what, $reason, $call);
        is(
            PVE::Tunnel::Native::last_status(), PVE::Tunnel::Native::STATUS_PROTOCOL,
            '... with the status for a protocol error',
        );
        $codec->feed(frame('text', 'later'));
        ok(!eval { $codec->next() }, '... and the codec returns no further message');
    }

    my $codec = codec(max_frame => '1000');
    $codec->feed(frame('binary', 'x' x 1000));
    is_deeply(
        [messages($codec)], [['binary', 'x' x 1000]],
        'a frame of exactly the limit is accepted'
    );
};

subtest 'refused arguments' => sub {
    my $codec = codec();
    refused(
        'an unknown opcode', q{opcode 'bytes' is not one of},
        sub { $codec->encode('bytes', '') }
    );
    refused('an opcode number', 'opcode', sub { $codec->encode(2, '') });
    refused('an undefined opcode', 'opcode is undefined', sub { $codec->encode(undef, '') });
    refused('wide data', 'wide characters', sub { $codec->encode('text', "\x{2603}") });
    refused('undefined data', 'data is undefined', sub { $codec->encode('text', undef) });
    refused('a reference', 'data is a reference', sub { $codec->encode('text', {}) });
    refused('a long ping', '126 bytes .* limit of 125', sub { $codec->encode('ping', 'x' x 126) });
    refused('wide input', 'wide characters', sub { $codec->feed("\x{2603}") });
    refused('undefined input', 'data is undefined', sub { $codec->feed(undef) });

    refused('an unknown role', 'unknown variant .proxy.', sub { codec(role => 'proxy') });
    refused('an unknown option', 'colour', sub { codec(colour => 'red') });
    refused('a limit of 0', 'max_frame', sub { codec(max_frame => 0) });
    refused(
        'a limit that is a word', 'invalid type: string "many"',
        sub { codec(max_frame => 'many') }
    );

    refused(
        'a class in place of an object', 'not a codec',
        sub { PVE::Tunnel::Native::Codec->next() }
    );
    refused(
        'another object', 'not a codec',
        sub { PVE::Tunnel::Native::Codec::next(bless({}, 'X')) }
    );
    refused(
        'undef in place of an object', 'not a codec',
        sub { PVE::Tunnel::Native::Codec::next(undef) }
    );
    refused('an object in place of a class', 'class method', sub { $codec->new() });

    utf8::upgrade(my $upgraded = "\xe9\xff");
    $codec->feed(frame('text', ''));
    is(
        unframe($codec->encode('binary', $upgraded))->{payload}, "\xe9\xff",
        'a payload that Perl stores as UTF-8 is encoded as bytes'
    );
};

subtest 'subclasses' => sub {
    my $codec = Counting::Codec->new(role => 'client');
    isa_ok($codec, 'Counting::Codec');
    $codec->feed(frame('text', 'x'));
    is_deeply([messages($codec)], [['text', 'x']], 'a subclass decodes');
};

package Counting::Codec;

use parent -norequire, 'PVE::Tunnel::Native::Codec';

package main;

# In a process of its own: the limit on the address space applies to all of a process.
subtest 'memory that cannot be allocated' => sub {
    my $program = <<~'PROGRAM';
        use v5.36;
        use PVE::Tunnel::Native;

        my $LENGTH = 12 << 20;

        sub limit ($bytes) {
            system('prlimit', "--pid=$$", "--as=$bytes:") == 0 or die "prlimit failed\n";
            return;
        }

        # 4 MiB more than the process uses, for Perl itself.
        sub limit_to_use () {
            open(my $fh, '<', '/proc/self/statm') or die "cannot read statm: $!\n";
            my ($pages) = split(/ /, readline($fh));
            limit($pages * 4096 + (4 << 20));
            return;
        }

        my $codec = PVE::Tunnel::Native::Codec->new(max_frame => 16 << 20);
        my $payload = 'x' x $LENGTH;
        my $plan = { migration_network => 'n' x 100_000 };
        $codec->feed(pack('CCQ>', 0x82, 127, $LENGTH) . 'abc');
        limit_to_use();
        print "feed: $@" if !eval { $codec->feed($payload); 1 };
        my $same = PVE::Tunnel::Native::last_status() == PVE::Tunnel::Native::STATUS_OUT_OF_MEMORY;
        say 'status: ', $same ? 'STATUS_OUT_OF_MEMORY' : 'another';
        print 'plan: ', $@ =~ s/[0-9]+/N/r if !eval { PVE::Tunnel::Native::plan($plan); 1 };
        limit('unlimited');
        say 'before: ', $codec->next()->{payload};
        $codec->feed($payload);
        say 'after: ', length($codec->next()->{payload});
        PROGRAM
    open(my $fh, '-|', $^X, (map { "-I$_" } @INC), '-e', $program) or die "cannot run perl: $!\n";
    my @lines = readline($fh);
    close($fh);
    my $reason = 'the system has no memory left, or the process has reached its limit; '
        . 'free memory and call again';
    is($?, 0, 'the process continues');
    is_deeply(
        \@lines,
        [
            "feed: pve_tunnel_codec_feed: cannot allocate 12582912 bytes: $reason\n",
            "status: STATUS_OUT_OF_MEMORY\n",
            "plan: pve_tunnel_plan: cannot allocate N bytes: $reason\n",
            "before: abc\n",
            "after: 12582909\n",
        ],
        'each call fails with a message, and works when there is memory again'
    );
};

done_testing();
