#!/usr/bin/perl

# The real task of Proxmox VE (fork_worker of PVE::RESTEnvironment), stopped as its API does it:
# SIGTERM to the process group of the task, SIGKILL 5 s later if the task has not ended.
use v5.36;

# A mount namespace of its own, because the tasks and their logs are in /var/log/pve.
BEGIN {
    if (!$> && !$ENV{FORK_WORKER_TEST} && !system('unshare --mount true 2>/dev/null')) {
        local $ENV{FORK_WORKER_TEST} = $$;
        exec('unshare', '--mount', '--propagation', 'private', $^X, $0) or die "unshare: $!\n";
    }
}

use File::Temp qw(tempdir);
use FindBin;
use Test::More;

use lib map { "$FindBin::Bin/../$_" } qw(t/lib demo/lib testnode/lib perl/blib/lib perl/blib/arch);
use Demo::Image;
use Demo::Migration;
use PVE::Tunnel::Client;
use Test::FaultInjection qw(nothing_left files_of);
use Test::PrivateNetwork;
use Test::Processes qw(in_session wait_until);
use Test::TunnelNode;
use TestNode::Node;

# A test that hangs must fail.
local $SIG{ALRM} = sub { die "the test timed out\n" };
alarm(300);

plan skip_all => 'only root can create a namespace for the logs of tasks' if $>;
plan skip_all => 'no mount namespace' if ($ENV{FORK_WORKER_TEST} // '') ne $$;
if (defined(my $reason = Test::TunnelNode::missing('PVE::RESTEnvironment'))) {
    plan skip_all => $reason;
}

my $TASKS = '/var/log/pve/tasks';
system(qw(mount -t tmpfs none /var/log)) == 0 or die "cannot mount a tmpfs\n";
system('mkdir', '-p', map { sprintf "$TASKS/%X", $_ } 0 .. 15) == 0 or die "mkdir: $?\n";
require PVE::RESTEnvironment;
my $ENVIRONMENT = PVE::RESTEnvironment->init('priv');

my $DIR = tempdir(CLEANUP => 1);
my $NODE = TestNode::Node->start(dir => "$DIR/target", listen => '127.0.0.1', wrap => ['setsid']);
Demo::Image::write_volume("$DIR/volume", 4);

# Waits for a signal when half of a volume is sent.
package Progress { ## no critic (ProhibitMultiplePackages)

    sub show ($self, $what, $done, $total) {
        return if $done < $total / 2;
        print "half of the volume is sent\n";
        sleep 60;
        return;
    }
    sub clear ($) { return }
}

# What a task does, up to its end.
sub migrate ($plane, $vmid) {
    my $migration = Demo::Migration->new(
        plane => $plane,
        guest => { vmid => 100 },
        volumes => { unused0 => "$DIR/volume" },
        node => $NODE,
        target_vmid => $vmid,
        dir => $DIR,
        network => '127.0.0.0/8',
        loopback => 1,
        progress => bless({}, 'Progress'),
        log => sub ($level, $text) { print "$level: $text\n" },
    );
    my $done = eval { $migration->open_tunnel; $migration->send_volumes; 1 };
    my $error = $@;
    PVE::Tunnel::Client::finish_tunnel($migration->{tunnel}, $done ? 0 : 1);
    die $error if !$done;
    return;
}

my $vmid = 300;
for my $plane (qw(tls tcp websocket)) {
    subtest "$plane: a task is stopped" => sub {
        my $target = ++$vmid;
        my $upid = $ENVIRONMENT->fork_worker(
            'qmigrate', 100, 'root@pam',
            sub { migrate($plane, $target) }
        );
        my ($pid) = $upid =~ /\AUPID:[^:]+:([0-9A-F]+):/ or die "no process in '$upid'\n";
        $pid = hex $pid;
        my $log = sub {
            return join('', map { TestNode::Node::slurp($_) } glob("$TASKS/?/*$upid"));
        };
        ok(wait_until(sub { $log->() =~ /^half of the volume/m }), 'the task sends its volume')
            or diag($log->());

        $ENVIRONMENT->check_worker($upid, 1);
        ok(wait_until(sub { !in_session($pid) }), 'no process of the task is left')
            or diag(explain([in_session($pid)]));
        nothing_left($NODE, $DIR, 'afterwards');
        is_deeply([files_of($NODE, $target)], [], 'no file of the guest at the target');
        like(
            $NODE->worker_log($target), qr/^command: quit\n.*tunnel ended/ms,
            'the worker has ended'
        );
        like($log->(), qr/^TASK ERROR: .*received interrupt/m, 'the task reports the interrupt');
        like($log->(), qr/^info: tunnel: migration data: /m, 'its log has the record');
    };
}

$NODE->stop;
done_testing;
