#!/usr/bin/perl

# connector_run as Perl calls it: in a child process, with two pipes. The tests of the connector
# check its connections.

use v5.36;

use FindBin;
use lib "$FindBin::RealBin/lib";

use IO::Select;
use JSON;
use POSIX ();
use Test::More;

use PVE::Tunnel::Native;
use PVE::Tunnel::Process;
use Test::DefaultSignals;

my $LIMIT = 30; # seconds for one line on a busy machine

# Starts a connector in a child. Returns its PID and the test's ends of its two pipes and its log.
sub connector ($options = undef, %how) {
    my %pipe;
    for my $name (qw(input output log)) {
        pipe(my $reader, my $writer) or die "cannot make a pipe: $!\n";
        $pipe{$name} = { reader => $reader, writer => $writer };
    }
    my $pid = fork() // die "cannot fork: $!\n";
    if ($pid == 0) {
        close($pipe{input}{writer});
        my $ok = eval {
            PVE::Tunnel::Native::connector_run(
                fileno($pipe{input}{reader}),
                fileno($pipe{output}{writer}),
                $how{silent} ? undef : fileno($pipe{log}{writer}),
                $options,
            );
            1;
        };
        # connector_run leaves the descriptors open, so the test receives this line.
        syswrite($pipe{log}{writer}, $ok ? "returned\n" : "died: $@");
        POSIX::_exit($ok ? 0 : 1);
    }
    close($pipe{input}{reader});
    close($pipe{$_}{writer}) for qw(output log);
    return {
        pid => $pid,
        input => $pipe{input}{writer},
        output => $pipe{output}{reader},
        log => $pipe{log}{reader},
    };
}

# Returns the next line, or undef at the end. Dies if there is neither within $LIMIT seconds.
sub line ($handle) {
    my $line = '';
    while ($line !~ m/\n\z/) {
        die "nothing received within $LIMIT s after '$line'\n"
            if !IO::Select->new($handle)->can_read($LIMIT);
        my $count = sysread($handle, $line, 1, length($line)) // die "cannot read: $!\n";
        return length($line) ? $line : undef if $count == 0;
    }
    return $line;
}

sub rest ($handle) {
    my $text = '';
    while (defined(my $line = line($handle))) {
        $text .= $line;
    }
    return $text;
}

sub wait_status ($connector) {
    waitpid($connector->{pid}, 0);
    return $?;
}

subtest 'the end of its input ends the connector' => sub {
    my $connector = connector();
    close($connector->{input});
    is(rest($connector->{output}), '', 'it writes nothing');
    is(rest($connector->{log}), "returned\n", 'the function returns');
    is(wait_status($connector), 0, 'the child exits with 0');
};

subtest 'one answer to each line' => sub {
    my $connector = connector({ connect_timeout => '5', mask => 'random' });
    for my $line ('{"cmd":', '[1]', '{"control":true,"cmd":"fly","data":{}}', '{"cmd":"version"}') {
        syswrite($connector->{input}, "$line\n");
        my $answer = decode_json(line($connector->{output}));
        ok(!$answer->{success}, "'$line' is answered in JSON");
        ok(length($answer->{msg}), '... with a reason');
    }
    close($connector->{input});
    is(rest($connector->{output}), '', 'each line has had one answer');
    my @log = split(/\n/, rest($connector->{log}));
    is(pop(@log), 'returned', 'the function returns at the end');
    cmp_ok(scalar(@log), '>=', 3, 'the refusals are in the log');
    is(wait_status($connector), 0, 'the child exits with 0');
};

subtest 'without a log' => sub {
    my $connector = connector(undef, silent => 1);
    syswrite($connector->{input}, "{\n");
    ok(!decode_json(line($connector->{output}))->{success}, 'the line is answered');
    close($connector->{input});
    is(rest($connector->{log}), "returned\n", 'nothing is logged');
    is(wait_status($connector), 0, 'the child exits with 0');
};

subtest 'ended by a signal' => sub {
    my $connector = connector();
    syswrite($connector->{input}, "{\n");
    ok(line($connector->{output}), 'the connector runs');
    kill('TERM', $connector->{pid});
    my $log = rest($connector->{log});
    my $status = wait_status($connector);
    ok($status, 'the signal ends it with an error') or diag($log);
    is(rest($connector->{output}), '', '... without further output');
    close($connector->{input});
};

subtest 'refused arguments' => sub {
    my %bad = (
        'an undefined descriptor' => [undef, 1],
        'a handle' => [\*STDIN, 1],
        'the name of a handle' => ['STDIN', 1],
        'a negative descriptor' => [-1, 1],
        'a descriptor that is not open' => [987, 1],
        'a log that is not open' => [0, 1, 987],
        'options in an array' => [0, 1, undef, [], 'hash reference'],
        'an unknown option' => [0, 1, undef, { speed => 9 }, 'speed'],
        'an unknown mask' => [0, 1, undef, { mask => 'none' }, 'none'],
        'a time limit that is a word' => [0, 1, undef, { connect_timeout => 'soon' }, 'soon'],
        'a time limit of 0' => [0, 1, undef, { connect_timeout => 0 }, 'time limit'],
    );
    for my $what (sort keys %bad) {
        my ($input, $output, $log, $options, $pattern) = $bad{$what}->@*;
        my $ok = eval { PVE::Tunnel::Native::connector_run($input, $output, $log, $options); 1 };
        ok(!$ok, "$what is refused");
        $pattern //= 'descriptor';
        like($@, qr/\Apve_tunnel_connector_run: .*$pattern.*\n\z/i, '... with a reason');
    }
};

subtest 'processes of the client' => sub {
    my $started = sub ($code) {
        pipe(my $reader, my $writer) or die "pipe: $!\n";
        my $process = PVE::Tunnel::Process::start(
            [$writer],
            sub { syswrite($writer, $code->() . "\n"); return 0 }
        );
        close($writer);
        my $line = readline($reader);
        PVE::Tunnel::Process::reap($process);
        return defined($line) ? $line =~ s/\n//r : 'ended';
    };
    is($started->(sub { getpgrp() == $$ ? 'own' : 'shared' }), 'own', 'the process group');

    local $SIG{HUP} = 'IGNORE';
    local $SIG{TERM} = 'IGNORE';
    is(
        $started->(
            sub {
                join(' ', map { $SIG{$_} // 'DEFAULT' } qw(HUP INT TERM));
            }
        ),
        'IGNORE DEFAULT DEFAULT',
        'a signal that the caller ignores stays ignored, except SIGTERM'
    );

    local $SIG{INT} = sub { };
    my $set = POSIX::SigSet->new(POSIX::SIGINT());
    POSIX::sigprocmask(POSIX::SIG_BLOCK(), $set);
    is(
        $started->(sub { kill(INT => $$); return 'alive' }),
        'ended', 'a signal that the caller blocks is not blocked'
    );
    POSIX::sigprocmask(POSIX::SIG_UNBLOCK(), $set);
};

done_testing();
