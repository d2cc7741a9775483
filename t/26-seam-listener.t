#!/usr/bin/perl

# The listener's process as the seam handles it: what it inherits, what it may answer, and that it
# is the worker's alone. A stand-in of listener_run, which can misbehave.

use v5.36;

use FindBin;
use lib "$FindBin::RealBin/lib";

use Errno qw(ESRCH);
use Fcntl qw(:flock);
use File::Temp qw(tempdir);
use JSON;
use POSIX ();
use Test::More;

use Test::SeamWorker qw(direct refused in_perl fake_listener answer_control open_request);

# A test that stands still is a failed test.
local $SIG{ALRM} = sub { die "the test stands still\n" };
alarm(300);
local $SIG{PIPE} = 'IGNORE';

my $DIR = tempdir(CLEANUP => 1);
$PVE::Tunnel::Seam::CONFIGURATION = "$DIR/remote-migration.cfg";
PVE::Tunnel::Seam::install(check => sub (@) { return 1 }, node => 'pve7');

my $GONE = qr/\Athe listener has ended; the log of this task may say why$/;

# The stand-in writes its process's number, and what is asked for, to a file.
my $told = "$DIR/told";

sub stand_in_with ($look, %more) {
    fake_listener(
        sub ($control, $log, $) {
            open(my $out, '>', $told) or die "$told: $!\n";
            print {$out} "$$\n", $look->($control, $log, fileno $out);
            close($out) or die "$told: $!\n";
            return answer_control($control, %more);
        }
    );
    return;
}

sub told () {
    open(my $in, '<', $told) or die "$told: $!\n";
    chomp(my ($pid, @more) = readline $in);
    return ($pid, @more);
}

sub gone ($pid, $what) {
    ok(!kill(0 => $pid) && $!{ESRCH}, $what);
    return;
}

sub nothing (@) { return '' }

subtest 'a session' => sub {
    stand_in_with(\&nothing);
    my $state = { sockets => { '/run/a' => 1, '/run/b' => 1, '/run/undef' => undef } };
    is_deeply(
        direct($state, %{ open_request() }),
        {
            protocol => 1,
            plane => 'tls',
            addresses => ['192.0.2.7', 'fd00::7'],
            port => 60_007,
            fingerprint => $Test::SeamWorker::FINGERPRINT,
            key => 'c0' x 32,
        },
        'open'
    );
    my ($pid) = told();
    is_deeply([sort keys %$state], ['sockets'], 'the worker\'s state has nothing new');
    is(PVE::Tunnel::Seam::status()->{listeners}, 1, 'status counts it');
    refused($state, open_request(), qr/a listener is open already/, 'a second open');
    is(direct($state, op => 'forward', path => $_->[0])->{number}, $_->[1], "forward $_->[0]")
        for ['/run/a', 1], ['/run/b', 2], ['/run/a', 1];
    refused($state, { op => 'forward', path => $_ }, qr/\Asocket '$_' is not known here$/, "not $_")
        for '/run/c', '/run', '/run/a/', '/run/undef', '/etc/passwd';
    delete $state->{sockets}{'/run/b'};
    refused($state, { op => 'forward', path => '/run/b' }, qr/not known/, 'nor one of the past');

    for my $sockets (undef, [], 1) {
        local $state->{sockets} = $sockets;
        refused($state, { op => 'forward', path => '/run/a' }, qr/not known/, 'nor without a list');
    }
    my $stat = {
        plane => 'tls',
        connections => 3,
        half_open => 0,
        forwards => [
            {
                number => 1,
                path => '/run/a',
                connections => 2,
                open => 1,
                failed => 0,
                received => 12_345_678_901_234,
                sent => 4
            }
        ],
        refused => { tls => 1, map { $_ => 0 } qw(silent malformed key number crowded socket) },
    };
    is_deeply(direct($state, op => 'stat'), $stat, 'stat, without what is new');
    is(
        JSON->new->encode([direct($state, op => 'stat')->{connections}]),
        '[3]', '... in numbers that are numbers'
    );
    is_deeply(direct($state, op => 'close'), $stat, 'close');
    gone($pid, '... and it has gone, and was waited for');
    refused($state, { op => $_ }, qr/no listener is open/, "then there is nothing to $_")
        for qw(stat close);
    ok(direct($state, %{ open_request() })->{port}, 'another may follow');
    my ($other) = told();
    my $foreign = { sockets => { '/run/a' => 1 } };
    refused($foreign, { op => 'stat' }, qr/no listener is open/, 'another worker has its own');
    undef $state;
    gone($other, 'it goes with the worker\'s state');
    is(PVE::Tunnel::Seam::status()->{listeners}, 0, '... and out of the status');
};

subtest 'what the process is' => sub {
    my $ours = "$DIR/lock";
    open(my $lock, '>', $ours) or die "$ours: $!\n";
    flock($lock, LOCK_EX) or die "flock: $!\n";
    stand_in_with(
        sub ($control, $log, $out) {
            opendir(my $dir, '/proc/self/fd') or die "/proc/self/fd: $!\n";
            my @open = grep { /\A\d+\z/ && $_ > 2 && $_ != $control && $_ != $out } readdir $dir;
            # One is the directory, one the pipe whose end is the process's.
            my @kinds = map { readlink("/proc/self/fd/$_") // 'gone' } @open;
            my @signals = grep { ($SIG{$_} // 'DEFAULT') ne 'DEFAULT' } keys %SIG;
            open(my $in, '<', '/proc/self/status') or die "status: $!\n";
            my ($mask) = map { /^SigBlk:\s*(\S+)/ } readline $in;
            return map { "$_\n" } "$log $0", "@signals", $mask,
                join(' ', sort map { s/:.*//r } grep { !m{/fd\z} && $_ ne 'gone' } @kinds);
        }
    );
    my $state = {};
    my $caught = 0;
    {
        local @SIG{qw(TERM HUP CHLD USR1)} = (sub { $caught++ }) x 4;
        local $SIG{INT} = 'IGNORE';
        direct($state, %{ open_request() });
    }
    my ($pid, $name, $signals, $mask, $kinds) = told();
    is($name, '2 pve-tunnel listener', 'has its name, and standard error as its log');
    is($signals, 'PIPE', 'has no signal handler');
    is($mask, '0' x 16, '... and blocks none');
    is($kinds, 'pipe', 'has no descriptor of the worker\'s');
    close($lock) or die "close: $!\n";
    open(my $again, '>', $ours) or die "$ours: $!\n";
    ok(
        flock($again, LOCK_EX | LOCK_NB),
        '... so the worker\'s lock is gone with the worker\'s descriptor'
    );

    my $sockets = sub () {
        my @command = ($^X, '-e', 'print map { readlink($_) . qq(\n) } glob "/proc/self/fd/*"');
        open(my $in, '-|', @command) or die "fork: $!\n";
        return scalar grep { /^socket:/ } readline $in;
    };
    my $with = $sockets->();
    direct($state, op => 'close');
    is($with, $sockets->(), 'what the worker executes does not inherit the socket to it');
};

subtest 'a listener that cannot start' => sub {
    my @refusals = (
        [
            'an error', sub (@) { return '{"error":"no port is free"}' },
            qr/\Alistener: no port is free$/
        ],
        [
            'words of any kind',
            sub (@) { return '{"error":"a\\nb\\u001b[2J\\u263a"}' },
            qr/\Alistener: a b \[2J$/
        ],
        ['no reason', sub (@) { return '{"error":{}}' }, qr/\Alistener: it gave no reason$/],
        ['silence', sub (@) { POSIX::_exit(0) }, $GONE],
        [
            'an exception', sub (@) { die "pve_tunnel_listener_run: bad options\n" },
            qr/\Alistener: bad options$/
        ],
        [
            'half a line',
            sub ($, $line) { syswrite($line, '{"protocol":'); POSIX::_exit(0) }, $GONE
        ],
    );
    for my $row (@refusals) {
        my ($name, $answer, $pattern) = @$row;
        stand_in_with(\&nothing, open => $answer);
        my $state = {};
        refused($state, open_request(), $pattern, $name);
        gone((told())[0], '... no process is left');
        refused($state, { op => 'stat' }, qr/no listener is open/, '... and no listener');
    }
};

subtest 'answers of a wrong shape' => sub {
    my $open = Test::SeamWorker::open_line();
    my $stat = Test::SeamWorker::stat_line();
    my $ended = qr/\Athe listener was ended: its answer/;
    for my $row (
        ['open', 'no JSON', "{$open", qr/$ended is not JSON$/],
        ['open', 'no object', '[]', qr/$ended is not JSON$/],
        (
            map {
                [
                    'open', "$_->[0] => $_->[1]",
                    $open =~ s/"$_->[0]":("[^"]*"|\d+|\[[^]]*\])/"$_->[0]":$_->[1]/r,
                    qr/$ended to 'open': '$_->[0]' is (?:malformed|missing)$/
                ]
            } [protocol => '"x"'],
            [plane => '"qemu"'],
            [addresses => '[]'],
            [addresses => '"192.0.2.7"'],
            [addresses => '["host"]'], [addresses => '["1.2.3"]'], [addresses => '["fe80::1%lo"]'],
            [addresses => '[null]'],
            [port => 59_999],
            [port => 60_050],
            [port => 'true'],
            [fingerprint => '"AB"'],
            [fingerprint => 'null'],
            [key => '"c0"'],
            [key => '"' . 'C0' x 32 . '"'],
            [key => 'null']
        ),
        ['forward', 'number 0', '{"number":0}', qr/$ended to 'forward': 'number' is malformed$/],
        ['forward', 'no number', '{}', qr/$ended to 'forward': 'number' is missing$/],
        ['stat', 'no counters', '{"plane":"tls"}', qr/$ended to 'stat': 'connections' is missing$/],
        (
            map {
                my ($from, $to, $field) = @$_;
                [
                    'stat', $to, $stat =~ s/\Q$from\E/$to/r,
                    qr/$ended to 'stat': '$field' is malformed$/
                ]
            } ['"sent":4', '"sent":-4', 'forwards'],
            ['"number":1', '"number":"one"', 'forwards'],
            ['"path":"/run/a"', '"path":"run/a"', 'forwards'],
            ['"forwards":[{', '"forwards":[7,{', 'forwards'],
            ['"key":0', '"key":null', 'refused'],
            ['"half_open":0', '"half_open":0.5', 'half_open']
        ),
        [
            'close', 'a line that never ends', 'x' x ((1 << 20) + 70_000),
            qr/\Athe listener was ended: it sent a line longer than 1048576 bytes$/
        ],
        )
    {
        my ($op, $name, $line, $pattern) = @$row;
        stand_in_with(\&nothing, $op => sub (@) { return $line });
        my $state = { sockets => { '/run/a' => 1 } };
        if ($op ne 'open') {
            direct($state, %{ open_request() });
            my $request = { op => $op, path => '/run/a' };
            refused($state, $request, $pattern, "$op: $name");
            refused(
                $state, { op => 'stat' }, $op eq 'close' ? qr/no listener/ : $pattern,
                '... and it stays ended'
            );
        } else {
            refused($state, open_request(), $pattern, "open: $name");
        }
        gone((told())[0], '... at once');
        unlike($@, qr/c0c0/i, '... the key is not told');
    }
};

subtest 'a listener that goes' => sub {
    for my $op (qw(forward stat close)) {
        stand_in_with(\&nothing);
        my $state = { sockets => { '/run/a' => 1 } };
        direct($state, %{ open_request() });
        my ($pid) = told();
        kill(KILL => $pid);
        refused($state, { op => $op, path => '/run/a' }, $GONE, "killed before $op");
        gone($pid, '... and waited for');
        ok(direct($state, %{ open_request() })->{port}, '... another may be opened');
    }
    stand_in_with(\&nothing, stat => sub (@) { die "the cable is out\n" });
    my $state = {};
    direct($state, %{ open_request() });
    refused($state, { op => 'stat' }, qr/\Alistener: the cable is out$/, 'its last words are told');
    refused($state, { op => 'stat' }, $GONE, '... and then that it has gone');
    ok(direct($state, %{ open_request() })->{port}, '... another may be opened');
};

subtest 'a listener that is stuck' => sub {
    stand_in_with(\&nothing, stat => sub (@) { kill(STOP => $$); return '{}' });
    my $state = {};
    direct($state, %{ open_request() });
    refused(
        $state, { op => 'stat' }, qr/\Athe listener was ended: it did not answer within 10 s$/,
        'is not waited for longer'
    );
    gone((told())[0], '... and killed');
};

subtest 'a handler that dies' => sub {
    my $worker = $$;
    stand_in_with(\&nothing, stat => sub (@) { kill(USR1 => $worker); return; });
    my $state = { sockets => { '/run/a' => 1 } };
    direct($state, %{ open_request() });
    my ($pid) = told();
    {
        local $SIG{USR1} = sub { die "the worker's alarm\n" };
        refused(
            $state, { op => 'stat' }, qr/\Athe worker's alarm$/,
            'is heard in the middle of an exchange'
        );
    }
    refused(
        $state, { op => 'forward', path => '/run/a' },
        qr/\Athe listener was ended: an earlier exchange with it was cut off$/,
        '... whose answer is not taken for another\'s'
    );
    gone($pid, '... and the listener has gone');
};

subtest 'forked children' => sub {
    stand_in_with(\&nothing);
    my $state = {};
    direct($state, %{ open_request() });
    my ($pid) = told();
    my $in_child = sub ($code) {
        my $child = fork() // die "fork: $!\n";
        if (!$child) {
            my $status = eval { $code->() } ? 0 : 1;
            # As a child ends that is not ours: with its destructors.
            undef $state;
            %$state = ();
            POSIX::_exit($status);
        }
        waitpid($child, 0);
        return $? >> 8;
    };
    is(
        $in_child->(
            sub {
                eval { direct($state, op => 'stat') };
                $@ =~ /belongs to process/;
            }
        ),
        0,
        'cannot ask it'
    );
    is(
        $in_child->(
            sub {
                eval { direct($state, op => 'close') };
                $@ =~ /belongs to process/;
            }
        ),
        0,
        'cannot close it'
    );
    is(
        $in_child->(
            sub {
                eval { direct($state, %{ open_request() }) };
                $@ =~ /open already/;
            }
        ),
        0,
        'cannot open another in its place'
    );
    is($in_child->(sub { undef $state; 1 }), 0, 'do not end it');
    is(direct($state, op => 'stat')->{plane}, 'tls', 'it goes on');
    my $said = in_perl(<<'END');
use Test::SeamWorker qw(direct fake_listener answer_control open_request);
$PVE::Tunnel::Seam::CONFIGURATION = '/nonexistent';
fake_listener(sub ($control, @) { answer_control($control) });
PVE::Tunnel::Seam::install();
our $state = {};
direct($state, %{ open_request() });
my $child = fork() // die;
exit(0) if !$child; # with END blocks and destructors, as a careless child does
waitpid($child, 0);
print direct($state, op => 'stat')->{connections};
$? = 7;
direct($state, op => 'close');
print " $?";
END
    is($said, '3 7', '... nor does one that exits; and $? is the caller\'s');
    direct($state, op => 'close');
    gone($pid, 'until the worker closes it');
};

done_testing;
