#!/usr/bin/perl

# pve-tunnel check, interrupted at several points: it leaves nothing at either node.

use v5.36;

use FindBin ();
use lib map { "$FindBin::RealBin/$_" } qw(lib ../testnode/lib ../perl/blib/lib ../perl/blib/arch);

use File::Temp qw(tempdir);
use POSIX ();
use Test::More;
use Time::HiRes qw(sleep);

use Test::CheckCommand qw(defaults remote reports start_check write_file);
use Test::DefaultSignals;
use Test::Processes qw(is_running wait_until);
use Test::TunnelNode;

local $SIG{ALRM} = sub { die "the test timed out\n" };
alarm 300;

my $WORKER = "$FindBin::RealBin/../testnode/worker.pl";

sub node (%options) {
    return Test::TunnelNode->start(worker => $WORKER, create_guests => 1, %options);
}

sub start ($node, %options) {
    my @more = ($options{arguments} // [])->@*;
    my @arguments = ('check', '--to', remote($node), defaults(), '--network', '127.0.0.0/8', @more);
    return start_check(%options, arguments => \@arguments);
}

sub nothing_left ($node, $result) {
    is_deeply($result->{left}, [], 'no folder of the check is left');
    # The worker ends after the check.
    my $gone = wait_until(sub { !glob "$node->{dir}/*.conf" }, 10);
    ok($gone, 'the target has no guest');
    return;
}

# What the folders of the check contain that are left.
sub notes ($result) {
    return [map { glob "$_/*" } $result->{left}->@*];
}

# A library that delays programs with this first argument before their first function.
sub slow_start ($argument) {
    my $folder = tempdir(CLEANUP => 1);
    write_file("$folder/slow.c", <<~"END");
        #include <string.h>
        #include <unistd.h>
        __attribute__((constructor)) static void slow(int argc, char **argv) {
            if (argc > 1 && strcmp(argv[1], "$argument") == 0) usleep(500000);
        }
        END
    system('cc', '-shared', '-fPIC', '-o', "$folder/slow.so", "$folder/slow.c") == 0
        or die "cc failed\n";
    return "$folder/slow.so";
}

# SIGQUIT writes a core into the working directory, if the limit permits it.
sub allow_core () {
    chdir $ENV{TMPDIR} or die "$ENV{TMPDIR}: $!\n";
    system('prlimit', '--pid', $$, '--core=unlimited:') == 0 or die "prlimit failed\n";
    return;
}

# Where the check is, as its output or the log of the target shows.
my %POINT = (
    'at the beginning' => sub ($node, $check) { $check->wait_out(qr/checks migrations/) },
    'while it opens the tunnel' => sub ($node, $check) { $check->wait_out(qr/tunnel is opened/) },
    'when the tunnel is open' => sub ($node, $check) { $node->wait_log(qr/^POST .* 200/) },
    'during a measurement' => sub ($node, $check) {
        $check->wait_out(qr/'websocket' is measured/) && sleep 0.3;
    },
    'during the second measurement' => sub ($node, $check) {
        $check->wait_out(qr/'tls' is measured/) && sleep 0.3;
    },
);

for my $point (sort keys %POINT) {
    for my $signal (qw(INT TERM HUP QUIT USR1)) {
        subtest "SIG$signal $point" => sub {
            my $node = node();
            my $check = start($node, arguments => ['--seconds', 2], prepare => \&allow_core);
            ok($POINT{$point}->($node, $check), 'the check is there');
            kill $signal => $check->{pid};
            my $result = $check->wait;
            is($result->{code}, 128 + POSIX->can("SIG$signal")->(), 'it ends by the signal');
            ok(!$result->{core}, '... without a core, which would contain the token');
            cmp_ok($result->{time}, '<', 15, 'soon');
            nothing_left($node, $result);
            unlike(
                $result->{out}, qr/would fail/,
                'the check does not conclude that it would fail'
            );
            return if $point !~ m/measurement/;
            like($result->{out}, qr/interrupted by SIG$signal before/, 'the output has the reason');
            my $conclusion = qr/^The\ check\ was\ interrupted\ by\ SIG$signal\.\s+
                It\s+is\s+not\s+known/mx;
            like($result->{out}, $conclusion, 'the conclusion');
        };
    }
}

subtest 'Ctrl-C on a terminal while the connector starts' => sub {
    my $library = slow_start('connect');
    my $node = node();
    my $prepare = sub {
        POSIX::setpgid(0, 0);
        $ENV{LD_PRELOAD} = $library;
    };
    my $check = start($node, arguments => ['--seconds', 0], prepare => $prepare);
    ok($node->wait_log(qr/^POST .* 200/), 'the tunnel is open');
    kill INT => -$check->{pid};
    my $result = $check->wait;
    is($result->{code}, 130, 'it ends by the signal');
    nothing_left($node, $result);
    like($result->{out}, qr/was removed, and nothing is left/, 'after it has cleaned up');
};

subtest 'Ctrl-C that arrives several times at once' => sub {
    my $node = node();
    my $check = start($node, arguments => ['--seconds', 5]);
    ok($POINT{'during a measurement'}->($node, $check), 'the check measures');
    for (1 .. 5) {
        kill INT => $check->{pid};
        sleep 0.02;
    }
    my $result = $check->wait;
    is($result->{code}, 130, 'it ends by the signal');
    nothing_left($node, $result);
    like($result->{out}, qr/was removed, and nothing is left/, 'after it has cleaned up');
};

subtest 'the JSON of a check that was interrupted' => sub {
    my $node = node();
    my $check = start($node, arguments => ['--seconds', 5, '--json']);
    # The websocket to the meter.
    ok(wait_until(sub { scalar(() = $node->log =~ m/ 101$/mg) > 1 }), 'the check measures');
    kill TERM => $check->{pid};
    my $result = $check->wait;
    my @text = (qr/\Athe check was interrupted by SIGTERM before its end\z/, qr/\Arun it again\z/);
    reports($result, 128 + POSIX::SIGTERM(), [worse => @text]);
    is($result->{report}{interrupted}, 'SIGTERM', 'the signal');
    is($result->{report}{outcome}, 'worse', 'the outcome of what was checked');
    nothing_left($node, $result);
    like(
        $result->{err}, qr/\Apve-tunnel: Interrupted by SIGTERM: .* at most 45 s/,
        'the announcement'
    );
};

# A target that accepts connections and answers nothing.
sub stalled ($point) {
    my $node = node();
    my $check = start($node, arguments => ['--seconds', 10]);
    ok($POINT{$point}->($node, $check), 'the check measures');
    kill STOP => $node->{pid};
    kill INT => $check->{pid};
    my $announced =
        $check->wait_out(qr/Interrupted by SIGINT: .*?at\s+most\s+45\s+s\.\s+A\s+second/s, 2);
    ok($announced, 'the check announces the clean-up and its limit at once') or diag($check->out);
    return ($node, $check);
}

subtest 'one Ctrl-C, and a target that has stalled' => sub {
    my ($node, $check) = stalled('during a measurement');
    my $result = $check->wait;
    kill CONT => $node->{pid};
    is($result->{code}, 130, 'it ends by the signal');
    cmp_ok($result->{time}, '<', 50, "it ends within its limit ($result->{time} s)");
    my ($cleanup) = $result->{out} =~ m/^Clean-up\n(.*?)\n\n/ms;
    is(scalar(() = ($cleanup // '') =~ m/^  \S+ /mg), 1, 'the clean-up has one result')
        or diag($result->{out});
    like(
        $cleanup, qr/it is not known whether the empty guest \d+ was\s+removed/,
        '... which is this'
    );
    my $advice = qr/'qm\s+config\s+(\d+)'\s+shows\s+only\s+'lock:\s+create':\s+qm\s+unlock\s+\1/;
    like($cleanup, $advice, '... and its advice');
    like($result->{out}, qr/^The check was interrupted by SIGINT\./m, 'the conclusion');
    is_deeply(notes($result), ["$result->{left}[0]/guest"], 'the note of the guest stays');
    ok(wait_until(sub { !glob "$node->{dir}/*.conf" }, 10), 'the target removes the guest');
    my $prepare = sub { $ENV{TMPDIR} = "$check->{files}/tmp" };
    reports(start($node, arguments => ['--json', '--seconds', 0], prepare => $prepare)->wait, 0);
    is_deeply([glob "$check->{files}/tmp/*"], [], '... until the next check sees that it is gone');
};

subtest 'a second Ctrl-C, and a target that has stalled' => sub {
    my ($node, $check) = stalled('during a measurement');
    my $pid = $check->{pid};
    my $sent = sub {
        kill INT => $pid;
        return $check->out =~ m/second SIGINT/;
    };
    ok(wait_until($sent, 5), 'a second Ctrl-C ends the check');
    my $result = $check->wait;
    kill CONT => $node->{pid};
    is($result->{code}, 130, 'by the signal');
    cmp_ok($result->{time}, '<', 10, "at once ($result->{time} s)");
    my $left = qr/guest\s+(\d+)\s+may\s+be\s+left.*'qm\s+config\s+\1'.*qm\s+destroy\s+\1/s;
    like($result->{out}, $left, 'the check names what may be left, and the commands');
    is(scalar $result->{left}->@*, 1, 'the note of the guest stays, for the next check');
};

subtest 'a signal that is ignored stays ignored' => sub {
    my $node = node();
    my $prepare = sub { $SIG{HUP} = 'IGNORE' };
    my $check = start($node, arguments => ['--seconds', 0.5], prepare => $prepare);
    ok($POINT{'during a measurement'}->($node, $check), 'the check measures');
    kill HUP => $check->{pid};
    my $result = $check->wait;
    is($result->{code}, 0, 'as with nohup, the check goes on');
    nothing_left($node, $result);
};

subtest 'SIGKILL: the next check finds what is left' => sub {
    my $node = node();
    my $tmp = tempdir(CLEANUP => 1);
    my $run = sub ($seconds) {
        my $prepare = sub { $ENV{TMPDIR} = $tmp };
        return start($node, arguments => ['--seconds', $seconds, '--json'], prepare => $prepare);
    };
    my $killed = $run->(5);
    ok($node->wait_log(qr/mtunnelwebsocket 101/), 'the check has a tunnel');
    # The websocket to the meter.
    ok(wait_until(sub { scalar(() = $node->log =~ m/ 101$/mg) > 1 }), 'the check measures');
    my ($running) = glob "$tmp/*";
    reports($run->(0)->wait, 0);
    ok(-d $running, 'a check that runs keeps its folder');
    kill KILL => $killed->{pid};
    is($killed->wait->{code}, 128 + POSIX::SIGKILL(), 'it is killed');
    my ($guest) = map { m/(\d+)\.conf\z/ } glob "$node->{dir}/*.conf";
    ok($guest, 'the target has its guest');

    for my $check (qw(next second)) {
        reports(
            $run->(0)->wait,
            1,
            [
                worse => qr/\Aan earlier check has left the empty guest $guest on node target \(/,
                qr/'qm config $guest' shows only .*: qm unlock $guest && qm destroy $guest\z/
            ]
        );
        is_deeply([glob "$tmp/*"], [$running], "the $check check keeps the note of the guest");
    }
    is_deeply(
        [glob "$node->{dir}/*.conf"], ["$node->{dir}/$guest.conf"],
        'the guest is not removed'
    );
    unlink "$node->{dir}/$guest.conf" or die "unlink: $!\n";
    reports($run->(0)->wait, 0);
    is_deeply([glob "$tmp/*"], [], 'when the guest is gone, so is its note');
};

subtest 'a target that ends in the middle' => sub {
    my $node = node();
    my $check = start($node, arguments => ['--seconds', 5]);
    ok($POINT{'during a measurement'}->($node, $check), 'the check measures');
    $node->stop;
    my $result = $check->wait;
    is($result->{code}, 2, 'a migration would fail');
    cmp_ok($result->{time}, '<', 60, "it ends within its limits ($result->{time} s)");
    like(
        $result->{out}, qr/on the target, if 'qm config \d+' shows\s+only/,
        'the advice removes the guest'
    );
    is_deeply(notes($result), ["$result->{left}[0]/guest"], 'the note of the guest stays');
};

subtest 'a target that does not answer whether a guest is left' => sub {
    my $node = node(misbehave => ['fail-next-id']);
    my $tmp = tempdir(CLEANUP => 1);
    my $folder = "$tmp/pve-tunnel-check-x";
    my $note = qq({"host":"$node->{address}","port":$node->{port},"node":"target");
    write_file("$folder/guest", qq($note,"kind":"qemu","vmid":999000001}));
    chmod 0700, $folder or die "chmod: $!\n";
    my $prepare = sub { $ENV{TMPDIR} = $tmp };
    my $check = start($node, arguments => ['--json'], prepare => $prepare);
    my $unknown =
        qr/not known whether the empty guest 999000001 of .*\(noted in \Q$folder\E\): 500/;
    reports(
        $check->wait,
        2,
        [worse => $unknown, qr/: qm unlock 999000001 && qm destroy 999000001\z/],
        [
            failed => qr/no free VMID was found: 500/,
            qr/\Acheck pveproxy, pvedaemon and pve-cluster/
        ]
    );
    ok(-f "$folder/guest", 'the note of the guest stays');
};

subtest 'a target that stops to read' => sub {
    my $node = node(misbehave => ['stall-read']);
    my $result = start($node, arguments => ['--seconds', 0.3])->wait;
    is($result->{code}, 1, 'a migration would use another plane');
    cmp_ok($result->{time}, '<', 90, "it ends within its limits ($result->{time} s)");
    like($result->{out}, qr/plane 'websocket' does not/, 'the output names the plane');
    nothing_left($node, $result);
};

done_testing;
