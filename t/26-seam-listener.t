#!/usr/bin/perl

# How the seam handles the process of the listener: what the process inherits, which answers the
# seam accepts, and that only the worker controls it. A fake listener_run can misbehave.

use v5.36;

use FindBin;
use lib "$FindBin::RealBin/lib";

use Errno qw(ESRCH);
use Fcntl qw(:flock);
use File::Temp qw(tempdir);
use JSON;
use POSIX ();
use Test::More;

use Test::DefaultSignals;
use Test::SeamWorker qw(direct refused in_perl fake_listener answer_control open_request);

# Limits the run time of the test.
local $SIG{ALRM} = sub { die "the test timed out\n" };
alarm(300);
local $SIG{PIPE} = 'IGNORE';

my $DIR = tempdir(CLEANUP => 1);
$PVE::Tunnel::Seam::CONFIGURATION = "$DIR/remote-migration.cfg";
PVE::Tunnel::Seam::install(check => sub (@) { return 1 }, node => 'pve7');

my $GONE = qr/\Athe listener has ended; the log of this task may contain the reason$/;

# The fake listener writes its PID and the result of $inspect to this file.
my $report = "$DIR/report";

sub fake_listener_with ($inspect, %more) {
    fake_listener(
        sub ($control, $log, $) {
            open(my $out, '>', $report) or die "$report: $!\n";
            print {$out} "$$\n", $inspect->($control, $log, fileno $out);
            close($out) or die "$report: $!\n";
            return answer_control($control, %more);
        }
    );
    return;
}

sub report () {
    open(my $in, '<', $report) or die "$report: $!\n";
    chomp(my ($pid, @more) = readline $in);
    return ($pid, @more);
}

sub gone ($pid, $what) {
    ok(!kill(0 => $pid) && $!{ESRCH}, $what);
    return;
}

sub nothing (@) { return '' }

subtest 'a session' => sub {
    fake_listener_with(\&nothing);
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
    my ($pid) = report();
    is_deeply([sort keys %$state], ['sockets'], 'the state of the worker has no new key');
    is(PVE::Tunnel::Seam::status()->{listeners}, 1, 'status counts the listener');
    refused($state, open_request(), qr/a listener is already open/, 'a second open');
    is(direct($state, op => 'forward', path => $_->[0])->{number}, $_->[1], "forward $_->[0]")
        for ['/run/a', 1], ['/run/b', 2], ['/run/a', 1];
    refused(
        $state, { op => 'forward', path => $_ }, qr/\Asocket '$_' is not known here$/,
        "no forward to $_"
    ) for '/run/c', '/run', '/run/a/', '/run/undef', '/etc/passwd';
    delete $state->{sockets}{'/run/b'};
    refused(
        $state, { op => 'forward', path => '/run/b' }, qr/not known/,
        'no forward to a removed socket'
    );

    for my $sockets (undef, [], 1) {
        local $state->{sockets} = $sockets;
        refused(
            $state, { op => 'forward', path => '/run/a' }, qr/not known/,
            'no forward without a list of sockets'
        );
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
    is_deeply(direct($state, op => 'stat'), $stat, 'stat, without unknown members');
    is(
        JSON->new->encode([direct($state, op => 'stat')->{connections}]),
        '[3]', '... with numbers that are encoded as numbers'
    );
    is_deeply(direct($state, op => 'close'), $stat, 'close');
    gone($pid, '... and the process has ended and was reaped');
    refused($state, { op => $_ }, qr/no listener is open/, "$_ without a listener is refused")
        for qw(stat close);
    ok(direct($state, %{ open_request() })->{port}, 'another listener can be opened');
    my ($other) = report();
    my $foreign = { sockets => { '/run/a' => 1 } };
    refused(
        $foreign, { op => 'stat' }, qr/no listener is open/,
        'another state does not have this listener'
    );
    undef $state;
    gone($other, 'the listener ends with the state of the worker');
    is(PVE::Tunnel::Seam::status()->{listeners}, 0, '... and status does not count it');
};

subtest 'what the process inherits' => sub {
    my $lock_file = "$DIR/lock";
    open(my $lock, '>', $lock_file) or die "$lock_file: $!\n";
    flock($lock, LOCK_EX) or die "flock: $!\n";
    fake_listener_with(
        sub ($control, $log, $out) {
            opendir(my $dir, '/proc/self/fd') or die "/proc/self/fd: $!\n";
            my @open = grep { /\A\d+\z/ && $_ > 2 && $_ != $control && $_ != $out } readdir $dir;
            # One is the directory, and one the pipe that ends with the process.
            my @kinds = map { readlink("/proc/self/fd/$_") // 'gone' } @open;
            my @signals = sort grep { ($SIG{$_} // 'DEFAULT') ne 'DEFAULT' } keys %SIG;
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
    my ($pid, $name, $signals, $mask, $kinds) = report();
    is($name, '2 pve-tunnel listener', 'the process has its name, and standard error as log');
    is($signals, 'INT PIPE TTOU', 'it ignores PIPE, TTOU and what the worker ignores, no more');
    is($mask, '0' x 16, '... and blocks no signal');
    is($kinds, 'pipe', 'it has no descriptor of the worker');
    close($lock) or die "close: $!\n";
    open(my $again, '>', $lock_file) or die "$lock_file: $!\n";
    ok(
        flock($again, LOCK_EX | LOCK_NB),
        '... so a lock of the worker ends with the descriptor of the worker'
    );

    my $sockets = sub () {
        my @command = ($^X, '-e', 'print map { readlink($_) . qq(\n) } glob "/proc/self/fd/*"');
        open(my $in, '-|', @command) or die "fork: $!\n";
        return scalar grep { /^socket:/ } readline $in;
    };
    my $with = $sockets->();
    direct($state, op => 'close');
    is(
        $with, $sockets->(),
        'a program that the worker executes does not inherit the socket to the listener'
    );
};

subtest 'a listener that cannot start' => sub {
    my @refusals = (
        [
            'an error', sub (@) { return '{"error":"no port is free"}' },
            qr/\Alistener: no port is free$/
        ],
        [
            'an error with control characters',
            sub (@) { return '{"error":"a\\nb\\u001b[2J\\u263a"}' },
            qr/\Alistener: a b \[2J\x{263a}$/
        ],
        [
            'an error that is not text', sub (@) { return '{"error":{}}' },
            qr/\Alistener: it gave no reason$/
        ],
        ['no answer', sub (@) { POSIX::_exit(0) }, $GONE],
        [
            'an exception', sub (@) { die "pve_tunnel_listener_run: bad options\n" },
            qr/\Alistener: bad options$/
        ],
        [
            'an incomplete line',
            sub ($, $line) { syswrite($line, '{"protocol":'); POSIX::_exit(0) }, $GONE
        ],
    );
    for my $row (@refusals) {
        my ($name, $answer, $pattern) = @$row;
        fake_listener_with(\&nothing, open => $answer);
        my $state = {};
        refused($state, open_request(), $pattern, $name);
        gone((report())[0], '... the process was reaped');
        refused($state, { op => 'stat' }, qr/no listener is open/, '... and no listener is open');
    }
};

subtest 'malformed answers' => sub {
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
            'close', 'an overlong line', 'x' x ((1 << 20) + 70_000),
            qr/\Athe listener was ended: it sent a line longer than 1048576 bytes$/
        ],
        )
    {
        my ($op, $name, $line, $pattern) = @$row;
        fake_listener_with(\&nothing, $op => sub (@) { return $line });
        my $state = { sockets => { '/run/a' => 1 } };
        if ($op ne 'open') {
            direct($state, %{ open_request() });
            my $request = { op => $op, path => '/run/a' };
            refused($state, $request, $pattern, "$op: $name");
            refused(
                $state, { op => 'stat' }, $op eq 'close' ? qr/no listener/ : $pattern,
                '... and later operations are refused'
            );
        } else {
            refused($state, open_request(), $pattern, "open: $name");
        }
        gone((report())[0], '... the process was reaped');
        unlike($@, qr/c0c0/i, '... the error does not contain the key');
    }
};

subtest 'a listener that ends' => sub {
    for my $op (qw(forward stat close)) {
        fake_listener_with(\&nothing);
        my $state = { sockets => { '/run/a' => 1 } };
        direct($state, %{ open_request() });
        my ($pid) = report();
        kill(KILL => $pid);
        refused($state, { op => $op, path => '/run/a' }, $GONE, "killed before $op");
        gone($pid, '... it was reaped');
        ok(direct($state, %{ open_request() })->{port}, '... and another can be opened');
    }
    fake_listener_with(\&nothing, stat => sub (@) { die "the link is down\n" });
    my $state = {};
    direct($state, %{ open_request() });
    refused($state, { op => 'stat' }, qr/\Alistener: the link is down$/, 'its error is reported');
    refused($state, { op => 'stat' }, $GONE, '... and the next operation reports its end');
    ok(direct($state, %{ open_request() })->{port}, '... and another can be opened');

    # It ends between two operations, and its error waits on the socket to it.
    fake_listener_with(
        \&nothing,
        forward => sub ($number, $line) {
            syswrite($line, qq({"number":$number}\n));
            die "the disk is full\n";
        }
    );
    $state = { sockets => { '/run/a' => 1 } };
    direct($state, %{ open_request() });
    my ($pid) = report();
    direct($state, op => 'forward', path => '/run/a');
    1 while !is_zombie($pid);
    refused(
        $state, { op => 'stat' }, qr/\Alistener: the disk is full$/,
        'an error between two operations is reported by the second one'
    );
};

sub is_zombie ($process) {
    open(my $in, '<', "/proc/$process/stat") or return 1;
    return readline($in) =~ /\) Z /;
}

subtest 'a listener that does not answer' => sub {
    fake_listener_with(\&nothing, stat => sub (@) { kill(STOP => $$); return '{}' });
    my $state = {};
    direct($state, %{ open_request() });
    refused(
        $state, { op => 'stat' }, qr/\Athe listener was ended: it did not answer within 10 s$/,
        'the seam stops waiting after 10 s'
    );
    gone((report())[0], '... and kills the process');
};

subtest 'a signal handler that dies' => sub {
    my $worker = $$;
    fake_listener_with(\&nothing, stat => sub (@) { kill(USR1 => $worker); return; });
    my $state = { sockets => { '/run/a' => 1 } };
    direct($state, %{ open_request() });
    my ($pid) = report();
    {
        local $SIG{USR1} = sub { die "the handler died\n" };
        refused(
            $state, { op => 'stat' }, qr/\Athe handler died$/,
            'its exception interrupts an exchange'
        );
    }
    refused(
        $state, { op => 'forward', path => '/run/a' },
        qr/\Athe listener was ended: an earlier exchange with it was interrupted$/,
        '... whose late answer is not used for the next request'
    );
    gone($pid, '... and the listener was ended');
};

subtest 'forked children of the worker' => sub {
    fake_listener_with(\&nothing);
    my $state = {};
    direct($state, %{ open_request() });
    my ($pid) = report();
    my $in_child = sub ($code) {
        my $child = fork() // die "fork: $!\n";
        if (!$child) {
            my $status = eval { $code->() } ? 0 : 1;
            # Runs the destructors, as the exit of any other child does.
            undef $state;
            %$state = ();
            POSIX::_exit($status);
        }
        waitpid($child, 0);
        return $? >> 8;
    };
    for my $row (
        [{ op => 'stat' }, qr/belongs to process/, 'ask the listener'],
        [{ op => 'close' }, qr/belongs to process/, 'close it'],
        [open_request(), qr/already open/, 'open another in its place'],
        )
    {
        my ($request, $pattern, $what) = @$row;
        my $refused = sub {
            eval { direct($state, %$request) };
            return $@ =~ $pattern;
        };
        is($in_child->($refused), 0, "a child cannot $what");
    }
    is($in_child->(sub { undef $state; 1 }), 0, 'the end of a child does not end it');
    is(direct($state, op => 'stat')->{plane}, 'tls', 'the worker can still use it');
    my $output = in_perl(<<'END');
use Test::SeamWorker qw(direct fake_listener answer_control open_request);
$PVE::Tunnel::Seam::CONFIGURATION = '/nonexistent';
fake_listener(sub ($control, @) { answer_control($control) });
PVE::Tunnel::Seam::install();
our $state = {};
direct($state, %{ open_request() });
my $child = fork() // die;
exit(0) if !$child; # runs END blocks and destructors
waitpid($child, 0);
print direct($state, op => 'stat')->{connections};
$? = 7;
direct($state, op => 'close');
print " $?";
END
    is($output, '3 7', 'the exit of a child does not end it, and close keeps $? of the caller');
    direct($state, op => 'close');
    gone($pid, 'close by the worker ends it');
};

done_testing;
