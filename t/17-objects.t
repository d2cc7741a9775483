#!/usr/bin/perl

# Lifetime and copies of codec objects: nothing is freed twice, and an object that is not a valid
# codec is refused.

use v5.36;

use Config;

# Before Test::More, which otherwise does not count the tests of threads.
BEGIN {
    if ($Config{useithreads}) {
        require threads;
        threads->import();
    }
}

use Storable qw(dclone freeze thaw);
use Test::More;

use PVE::Tunnel::Native;

my @INCLUDE = map { "-I$_" } @INC;
my $HELLO = pack('H*', '810548656c6c6f'); # RFC 6455 section 5.7: an unmasked text

sub codec() { return PVE::Tunnel::Native::Codec->new() }

sub decodes ($codec, $what) {
    $codec->feed($HELLO);
    is($codec->next()->{payload}, 'Hello', "$what decodes");
    return;
}

sub unusable ($codec, $pattern, $what) {
    my %call = (
        feed => sub { $codec->feed($HELLO) },
        next => sub { $codec->next() },
        encode => sub { $codec->encode('text', 'x') },
    );
    for my $name (sort keys %call) {
        ok(!eval { $call{$name}->(); 1 }, "$what refuses $name");
        like($@, qr/\Apve_tunnel_codec_$name: .*$pattern.*\n\z/, '... with a reason');
    }
    return;
}

# Runs code in a child. Returns its result and the wait status of the child.
sub in_child ($code) {
    pipe(my $reader, my $writer) or die "cannot make a pipe: $!\n";
    my $pid = fork() // die "cannot fork: $!\n";
    if ($pid == 0) {
        close($reader);
        my $answer = eval { $code->() } // "died: $@";
        syswrite($writer, $answer);
        close($writer);
        exit(0); # with global destruction, which frees inherited objects
    }
    close($writer);
    my $answer = do { local $/ = undef; readline($reader) };
    waitpid($pid, 0);
    return ($answer // '', $?);
}

subtest 'copies' => sub {
    my $codec = codec();
    unusable(dclone($codec), 'copy', 'a deep copy');
    unusable(thaw(freeze($codec)), 'copy', 'a stored copy');
    unusable(bless(\my $scalar, ref($codec)), 'not a codec', 'a scalar that the test has blessed');
    decodes($codec, 'the original');

    my $second = $codec;
    undef($codec);
    decodes($second, 'a second reference, after the first is gone,');
};

subtest 'destruction' => sub {
    my $codec = codec();
    ok(!$codec->can('DESTROY'), 'the class has no DESTROY method');

    my $inner = \do { my $x = 1 };
    bless($inner, 'PVE::Tunnel::Native::Codec');
    undef($inner);
    pass('a blessed scalar without a codec is destroyed');

    bless($codec, 'Something::Else');
    PVE::Tunnel::Native::Codec::feed($codec, $HELLO);
    pass('a codec that is blessed into another class works');
    undef($codec);
    pass('... and is destroyed');

    codec()->feed($HELLO) for 1 .. 100;
    pass('codecs with unread frames are destroyed');
};

subtest 'global destruction' => sub {
    my $code = q{
        use v5.36;
        use PVE::Tunnel::Native;

        our $global = PVE::Tunnel::Native::Codec->new();
        $global->feed("\x81");
        my $cycle = { codec => PVE::Tunnel::Native::Codec->new() };
        $cycle->{cycle} = $cycle;
        my $inside = PVE::Tunnel::Native::Codec->new();
        our $closure = sub { return $inside };

        package Last {
            # The codec is destroyed already (undef), or it still works.
            sub DESTROY ($self) {
                my $codec = $self->{codec};
                $codec->feed("\x00") if defined($codec);
                print "destroyed";
            }
        }
        our $last = bless({ codec => PVE::Tunnel::Native::Codec->new() }, 'Last');
        $last->{self} = $last;
        $| = 1;
        print "end ";
    };
    open(my $fh, '-|', $^X, @INCLUDE, '-e', $code) or die "cannot run perl: $!\n";
    is(readline($fh), 'end destroyed', 'a program with global, cyclic and captured codecs ends');
    ok(close($fh), '... with exit code 0');
};

subtest 'forks' => sub {
    my $codec = codec();
    $codec->feed(substr($HELLO, 0, 3));
    my ($answer, $status) = in_child(
        sub {
            my $refused = !eval { $codec->feed(substr($HELLO, 3)); 1 } ? $@ : "accepted\n";
            my $number = PVE::Tunnel::Native::last_status();
            undef($codec);
            my $own = codec();
            $own->feed($HELLO);
            return "$refused$number " . $own->next()->{payload};
        },
    );
    my $wrong_process = PVE::Tunnel::Native::STATUS_WRONG_PROCESS;
    like(
        $answer, qr/\Apve_tunnel_codec_feed: .*process.*\n/,
        'a child cannot use the codec of its parent'
    );
    like($answer, qr/^$wrong_process Hello\z/m, '... and can make a codec of its own');
    is($status, 0, '... and exits with 0');

    is((in_child(sub { 'no call' }))[1], 0, 'a child that only inherits the codec exits with 0');

    $codec->feed(substr($HELLO, 3));
    is($codec->next()->{payload}, 'Hello', 'the parent continues in the same frame');
};

subtest 'threads' => sub {
    plan(skip_all => 'this Perl has no threads') if !$Config{useithreads};

    my $codec = codec();
    $codec->feed(substr($HELLO, 0, 3));
    my $refused = threads->create(
        sub {
            my $message = !eval { $codec->next(); 1 } ? $@ : "accepted\n";
            undef($codec);
            my $own = codec();
            $own->feed($HELLO);
            return $message . $own->next()->{payload};
        },
    )->join();
    like(
        $refused, qr/\Apve_tunnel_codec_next: .*another thread.*\nHello\z/,
        'a new thread cannot use the codec of the old one, and can make its own',
    );

    my @threads = map {
        threads->create(sub { codec()->encode('binary', 'x' x 1000) for 1 .. 200; return 'done' })
    } 1 .. 4;
    is(
        join(' ', map { $_->join() } @threads), 'done done done done',
        'several threads encode at the same time'
    );

    $codec->feed(substr($HELLO, 3));
    is($codec->next()->{payload}, 'Hello', 'the first thread continues in the same frame');

    ok(
        threads->create(
            sub {
                !eval { PVE::Tunnel::Native::fingerprint_parse('x'); 1 }
            },
        )->join(),
        'a call in a thread fails',
    );
    PVE::Tunnel::Native::fingerprint_parse('ab' x 32);
    threads->create(
        sub {
            eval { PVE::Tunnel::Native::fingerprint_parse('x') };
            return;
        }
    )->join();
    is(
        PVE::Tunnel::Native::last_status(), 0,
        '... and does not change the last status of another thread'
    );
};

done_testing();
