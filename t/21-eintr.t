#!/usr/bin/perl

# Signals during a call. PVE sets its time limits with alarm and a handler that dies. The exception
# must reach the eval around the call.

use v5.36;

use POSIX ();
use Test::More;
use Time::HiRes qw(setitimer ITIMER_REAL);

use PVE::Tunnel::Native;

my $CALLS = 3_000;
my $TICK = 0.0002; # seconds

my %QUICK = (
    network_address => sub { PVE::Tunnel::Native::network_address('127.0.0.0/8', 'n') },
    'network_address of a name' => sub {
        eval { PVE::Tunnel::Native::network_address(undef, 'localhost'); 1 }
            or $@ =~ m/localhost/
            or die $@;
    },
    guard_check => sub {
        PVE::Tunnel::Native::guard_check({ address => '127.0.0.1', network => '127.0.0.0/8' });
    },
    port_bind => sub {
        my ($fd) = PVE::Tunnel::Native::port_bind('127.0.0.1');
        POSIX::close($fd) or die "cannot close $fd: $!\n";
    },
    plan => sub { PVE::Tunnel::Native::plan({ migration_type => 'secure' }) },
);

subtest 'many signals during calls' => sub {
    for my $name (sort keys %QUICK) {
        my ($ticks, $interrupted) = (0, 0);
        local $SIG{ALRM} = sub { $ticks++ };
        setitimer(ITIMER_REAL, $TICK, $TICK);
        my $ok = eval {
            my $done = 0;
            while ($done < $CALLS || $ticks < 10) {
                # An interrupted call may fail with this reason, as a read does. It is made again.
                if (eval { $QUICK{$name}->(); 1 }) {
                    $done++;
                } elsif ($@ =~ m/interrupted/i) {
                    $interrupted++;
                } else {
                    die $@;
                }
            }
            1;
        };
        my $error = $@;
        setitimer(ITIMER_REAL, 0);
        ok($ok, "$name succeeds") or diag($error);
        note("$name: $ticks signals, $interrupted calls interrupted");
    }
};

subtest 'a time limit' => sub {
    for my $name (sort keys %QUICK) {
        my $calls = 0;
        my $ok = eval {
            local $SIG{ALRM} = sub { die "got timeout\n" };
            setitimer(ITIMER_REAL, 0.05);
            while (1) {
                $QUICK{$name}->();
                $calls++;
            }
        };
        is($@, "got timeout\n", "a time limit on $name passes");
        cmp_ok($calls, '>', 0, '... between or during calls');
        ok(eval { $QUICK{$name}->(); 1 }, 'the next call succeeds') or diag($@);
    }
};

subtest 'a time limit on the connector' => sub {
    pipe(my $input, my $writer) or die "cannot make a pipe: $!\n";
    pipe(my $reader, my $output) or die "cannot make a pipe: $!\n";
    my $run = sub { PVE::Tunnel::Native::connector_run(fileno($input), fileno($output)) };

    my $ok = eval {
        local $SIG{ALRM} = sub { die "got timeout\n" };
        setitimer(ITIMER_REAL, 0.05);
        $run->();
        1;
    };
    is($@, "got timeout\n", 'a time limit ends it although its input has not ended');

    my $received = 0;
    $ok = eval {
        local $SIG{ALRM} = sub { $received++ };
        setitimer(ITIMER_REAL, 0.05);
        $run->();
        1;
    };
    is($received, 1, 'a handler that does not die runs');
    like($@, qr/\Apve_tunnel_connector_run: .*SIGALRM\n\z/, '... and the error names the signal');

    close($writer);
    ok(eval { $run->(); 1 }, 'the next call succeeds') or diag($@);
};

# Takes several milliseconds and fails.
sub fail_slowly() {
    state $endless = '{"api":2,"age":0,"x":[' . '1,' x 500_000;
    PVE::Tunnel::Native::version_reply_parse($endless);
    return;
}

subtest 'a time limit that passes during a call that fails' => sub {
    my %error;
    for (1 .. 20) {
        my $ok = eval {
            local $SIG{ALRM} = sub { die "got timeout\n" };
            eval {
                setitimer(ITIMER_REAL, 0.001);
                fail_slowly();
            };
            $error{$@}++;
            1;
        };
        $error{"outside: $@"}++ if !$ok;
    }
    is_deeply(\%error, { "got timeout\n" => 20 }, 'the eval around that call catches it');
};

done_testing();
