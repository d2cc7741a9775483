#!/usr/bin/perl

# pve-tunnel check, when something fails on this node, or a process ends: it names the cause, and what to do there.

use v5.36;
use utf8;

use FindBin ();
use lib map { "$FindBin::RealBin/$_" } qw(lib ../testnode/lib ../perl/blib/lib ../perl/blib/arch);

use File::Temp qw(tempdir);
use Test::More;

use Test::CheckCommand qw(check defaults problems remote reports start_check $PROGRAM);
use Test::Processes qw(children command_line wait_until);
use Test::TunnelNode;

binmode(Test::More->builder->$_, ':encoding(UTF-8)') for qw(output failure_output todo_output);

local $SIG{ALRM} = sub { die "the test timed out\n" };
alarm 300;

my $DIR = tempdir(CLEANUP => 1);
my @NETWORK = ('--network', '127.0.0.0/8');

sub node (%options) {
    my $worker = "$FindBin::RealBin/../testnode/worker.pl";
    return Test::TunnelNode->start(worker => $worker, create_guests => 1, %options);
}

# Without waiting. Options as of Test::CheckCommand::start_check.
sub start ($node, $arguments, %options) {
    my @arguments = ('check', '--to', remote($node), '--json', defaults(), @NETWORK, @$arguments);
    return start_check(%options, arguments => \@arguments);
}

sub nothing_left ($node) {
    is_deeply([glob "$node->{dir}/*.conf"], [], 'the target has no guest');
    return;
}

subtest 'TMPDIR is too long' => sub {
    my $node = node();
    my $tmp = "$DIR/" . 'x' x 100;
    mkdir $tmp or die "$tmp: $!\n";
    my $prepare = sub { $ENV{TMPDIR} = $tmp };
    reports(
        start($node, [qw(--seconds 0.1)], prepare => $prepare)->wait,
        2,
        [
            failed =>
                qr/\ATMPDIR is too long: '\Q$tmp\E' has \d+ bytes, .*the limit of 107 by \d+\z/,
            qr/\Aset TMPDIR to a shorter path for this command, such as \/tmp\z/
        ]
    );
    unlike($node->log, qr/^POST/m, 'no tunnel is opened');
    is_deeply([glob "$tmp/*"], [], 'nothing is created in TMPDIR');
    # Without a measurement there is no socket.
    reports(start($node, [qw(--seconds 0)], prepare => $prepare)->wait, 0);
    nothing_left($node);
};

subtest 'TMPDIR has no room' => sub {
    plan skip_all => 'only root can mount a file system' if $> != 0;
    plan skip_all => 'no mount namespaces here' if system('unshare --mount true 2>/dev/null');
    my $node = node();
# For each number of files until there are enough: the folder, the note, and the sockets of both planes.
    my $script = 'mount -t tmpfs -o size=1m,nr_inodes=$1 tmpfs "$TMPDIR" && shift && exec "$@"';
    my @check = ($PROGRAM, 'check', '--to', remote($node), '--json', defaults(), @NETWORK);
    my @failing;
    for my $files (1 .. 6) {
        my @command = ('--mount', 'sh', '-c', $script, 'sh', $files, @check, '--seconds', 0.1);
        my $result = start_check(program => 'unshare', arguments => \@command)->wait;
        last if $result->{code} == 0;
        push @failing, $files;
        my $advice = qr/\Amake room on this node, in the folder of TMPDIR\z/;
        my @full = ([failed => qr/No space left on device/, $advice]) x problems($result);
        reports($result, 2, @full);
        nothing_left($node);
    }
    is_deeply(\@failing, [1 .. 4], 'it fails for each file that has no room');
};

subtest 'a target without quorum, and one that fails without a known cause' => sub {
    my $no_quorum = 'cluster not ready - no quorum?';
    my %advice = (
        $no_quorum => qr/\Arestore the quorum of the target's cluster/,
        'ipcc_send_rec failed' =>
            qr/\Acheck pveproxy, pvedaemon and pve-cluster on the target, and/,
    );
    my %request = (
        'fail-next-id' => qr/\Ano free VMID was found: 500 /,
        'fail-tunnel' => qr/\Athe target refuses a tunnel: 500 /,
    );
    for my $fault (sort keys %request) {
        for my $reason (sort keys %advice) {
            my $node = node(misbehave => ["$fault=$reason"]);
            reports(
                start($node, [qw(--seconds 0)])->wait,
                2, [failed => qr/$request{$fault}\Q$reason\E\z/, $advice{$reason}]
            );
            nothing_left($node);
        }
    }
};

subtest 'too few open files' => sub {
    my $node = node();
    my $script = 'ulimit -n "$0" && exec "$@"';
    my @check = ($PROGRAM, 'check', '--to', remote($node), '--json', defaults(), @NETWORK);
    my %codes;
    for my $files (5 .. 22, 64) {
        my @command = ('-c', $script, $files, @check, '--seconds', 0.1);
        my $result = start_check(program => 'sh', arguments => \@command)->wait;
        $codes{ $result->{code} }++;
        # The program does not run, or cannot start a thread.
        next if !$result->{report};
        my @found = problems($result);
        my @other = grep { $_->[1] =~ m/os error 24/ && $_->[2] !~ m/ulimit -n/ } @found;
        is_deeply(\@other, [], "$files files: each failure has the advice")
            or diag(explain(\@other));
        my @failed = grep { $_->[0] eq 'failed' } @found;
        is_deeply(
            [grep { $_->[2] !~ m/ulimit -n|qm unlock/ } @failed], [],
            '... and no other fails'
        ) or diag(explain(\@failed));
    }
    ok($codes{$_}, "exit code $_") for 0, 2;
    nothing_left($node);
};

# The processes of a check and of its target, by what runs during a measurement.
my %PROCESS = (
    connector => sub ($node, $check) {
        my ($pid) = grep { (command_line($_) // '') =~ m/ connect *\z/ } children($check->{pid});
        return $pid;
    },
    listener => sub ($node, $check) { return process_of($node->{pid}, 'pve-tunnel listener') },
    meter => sub ($node, $check) { return process_of($node->{pid}, 'pve-tunnel meter') },
    worker => sub ($node, $check) {
        my ($pid) = grep { (command_line($_) // '') =~ m/worker/ } children($node->{pid});
        return $pid;
    },
);

sub process_of ($pid, $name) {
    for my $child (children($pid)) {
        my $found =
            (command_line($child) // '') =~ m/\A\Q$name\E/ ? $child : process_of($child, $name);
        return $found if $found;
    }
    return;
}

# The result of a check of which this process is killed while data moves on this plane.
sub killed ($name, $plane) {
    # The websocket is measured first, unless it transfers no data.
    my $node = node($plane eq 'websocket' ? () : (misbehave => ['data:refuse=500:no data']));
    my @arguments = ('check', '--to', remote($node), defaults(), @NETWORK, qw(--seconds 20));
    my $check = start_check(arguments => \@arguments);
    ok($check->wait_out(qr/'$plane'\s+is\s+measured/, 100), "plane $plane is measured");
    my $pid = $PROCESS{$name}->($node, $check) // die "no $name\n";
    # The worker moves no data, and what the others have read is confidential.
    my $meter = $PROCESS{meter}->($node, $check) // die "no meter\n";
    ok(wait_until(sub { bytes_read($meter) > 10_000_000 }), 'data moves');
    kill KILL => $pid;
    my $result = $check->wait;
    utf8::decode($result->{out});
    $result->{out} =~ s/\s+/ /g;
    return $result;
}

# Bytes that the process has read, proc(5).
sub bytes_read ($pid) {
    my ($bytes) = Test::TunnelNode::slurp("/proc/$pid/io") =~ m/^rchar: (\d+)$/m;
    return $bytes // 0;
}

subtest 'the connector is killed' => sub {
    for my $plane (qw(websocket tls)) {
        my $result = killed('connector', $plane);
        is($result->{code}, 2, '... exit code 2');
        my $ended = qr/the connector, a process of this node, was ended by SIGKILL/;
        my $memory = qr/→ check the memory of this node: 'journalctl -k' shows/;
        like(
            $result->{out}, qr/✗ the tunnel failed: $ended $memory/,
            '... the text and its advice'
        );
        my ($cleanup) = $result->{out} =~ m/Clean-up (.*)/;
        like($cleanup, qr/guest \d+ was removed|qm unlock (\d+) && qm destroy \1/, '... the guest');
        unlike($cleanup, qr/task log/, '... without an advice for the target');
    }
};

subtest 'the listener is killed' => sub {
    my $result = killed('listener', 'tls');
    is($result->{code}, 2, '... exit code 2');
    my $failed = qr/the listener, a process of the target, has failed: [^→]*(?:is dead|has ended)/;
    my $advice = qr/→ see the task log of the target, and 'journalctl -k' there/;
    like($result->{out}, qr/✗ plane 'tls' does not transfer data: $failed[^→]*$advice/, '... text');
};

subtest 'the meter is killed' => sub {
    my $result = killed('meter', 'tls');
    is($result->{code}, 1, '... exit code 1: a migration needs no meter');
    my $failed = qr/cannot be measured: the meter, a process of the target, has failed:/;
    my $advice = qr/→ see the task log of the target, and 'journalctl -k' there/;
    like($result->{out}, qr/! plane 'tls' $failed[^→]*$advice/, '... the text and its advice');
};

subtest 'the worker is killed' => sub {
    my $result = killed('worker', 'websocket');
    is($result->{code}, 2, '... exit code 2');
    my $advice =
        qr/→ check pveproxy, pvedaemon and pve-cluster on the target, and see its task log/;
    like($result->{out}, qr/✗ the tunnel failed: [^→]*$advice/, '... the text and its advice');
};

done_testing;
