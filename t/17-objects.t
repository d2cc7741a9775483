#!/usr/bin/perl

# Lives and copies of codec objects: whatever Perl does to them, nothing is freed twice, and what is
# no longer a codec says so.

use v5.36;

use Config;

# Before Test::More, which only then counts tests of threads.
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

sub works ($codec, $what) {
    $codec->feed($HELLO);
    is($codec->next()->{payload}, 'Hello', "$what works");
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
        like($@, qr/\Apve_tunnel_codec_$name: .*$pattern.*\n\z/, 'and says why');
    }
    return;
}

# Runs in a child; returns what it wrote and how it ended.
sub in_child ($code) {
    pipe(my $reader, my $writer) or die "cannot make a pipe: $!\n";
    my $pid = fork() // die "cannot fork: $!\n";
    if ($pid == 0) {
        close($reader);
        my $answer = eval { $code->() } // "died: $@";
        syswrite($writer, $answer);
        close($writer);
        exit(0); # with global destruction, which frees what was inherited
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
    unusable(bless(\my $scalar, ref($codec)), 'no codec', 'a scalar blessed by hand');
    works($codec, 'the original');

    my $second = $codec;
    undef($codec);
    works($second, 'a second reference, when the first is gone,');
};

subtest 'destruction' => sub {
    my $codec = codec();
    ok(!$codec->can('DESTROY'), 'there is no DESTROY that could be called twice');

    my $inner = \do { my $x = 1 };
    bless($inner, 'PVE::Tunnel::Native::Codec');
    undef($inner);
    pass('an object of ours that is none goes quietly');

    bless($codec, 'Something::Else');
    PVE::Tunnel::Native::Codec::feed($codec, $HELLO);
    pass('a codec stays one under another name');
    undef($codec);
    pass('and goes with it');

    codec()->feed($HELLO) for 1 .. 100;
    pass('with frames inside');
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
            # Perl has taken the codec away already, or it still works; there is nothing in between.
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
    is(readline($fh), 'end destroyed', 'of a program full of codecs');
    ok(close($fh), 'ends well');
};

subtest 'forks' => sub {
    my $codec = codec();
    $codec->feed(substr($HELLO, 0, 3));
    my ($answer, $status) = in_child(
        sub {
            my $refused = !eval { $codec->feed(substr($HELLO, 3)); 1 } ? $@ : "taken\n";
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
        'a child is refused its parent\'s codec'
    );
    like($answer, qr/^$wrong_process Hello\z/m, 'and makes one of its own');
    is($status, 0, 'it ends well');

    is((in_child(sub { 'did not touch it' }))[1], 0, 'so does one that only inherited the codec');

    $codec->feed(substr($HELLO, 3));
    is($codec->next()->{payload}, 'Hello', 'and the parent goes on where it was');
};

subtest 'threads' => sub {
    plan(skip_all => 'this Perl has no threads') if !$Config{useithreads};

    my $codec = codec();
    $codec->feed(substr($HELLO, 0, 3));
    my $refused = threads->create(
        sub {
            my $message = !eval { $codec->next(); 1 } ? $@ : "taken\n";
            undef($codec);
            my $own = codec();
            $own->feed($HELLO);
            return $message . $own->next()->{payload};
        },
    )->join();
    like(
        $refused, qr/\Apve_tunnel_codec_next: .*another thread.*\nHello\z/,
        'a new thread is refused the codec of the old one, and makes its own',
    );

    my @threads = map {
        threads->create(sub { codec()->encode('binary', 'x' x 1000) for 1 .. 200; return 'done' })
    } 1 .. 4;
    is(join(' ', map { $_->join() } @threads), 'done done done done', 'several at once');

    $codec->feed(substr($HELLO, 3));
    is($codec->next()->{payload}, 'Hello', 'the first goes on where it was');

    ok(
        threads->create(
            sub {
                !eval { PVE::Tunnel::Native::fingerprint_parse('x'); 1 }
            },
        )->join(),
        'a failure in a thread',
    );
    PVE::Tunnel::Native::fingerprint_parse('ab' x 32);
    threads->create(
        sub {
            eval { PVE::Tunnel::Native::fingerprint_parse('x') };
            return;
        }
    )->join();
    is(PVE::Tunnel::Native::last_status(), 0, 'is not the last status of another');
};

done_testing();
