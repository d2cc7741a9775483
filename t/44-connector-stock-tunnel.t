#!/usr/bin/perl

# The unchanged PVE::Tunnel runs the connector under the name proxmox-websocket-tunnel. Needs
# PVE::Tunnel with PVE::APIClient::LWP, installed or in PERL5LIB.

use v5.36;

use FindBin ();
use lib "$FindBin::RealBin/lib";

use File::Temp ();
use IO::Handle ();
use IO::Socket::UNIX ();
use POSIX ();
use Socket qw(SHUT_RD);
use Test::More;

use Test::ConnectorChecks qw($MIB);
use Test::Pattern qw(pattern_sha256);
use Test::Processes qw(children is_running wait_until);
use Test::Stream qw(pump);
use Test::TunnelNode;

# Loaded at run time: the module may be missing.
BEGIN {
    my $missing = Test::TunnelNode::missing('PVE::Tunnel');
    plan skip_all => $missing if defined $missing;
    require PVE::Tunnel;
}
diag "this test runs the real PVE::Tunnel ($INC{'PVE/Tunnel.pm'})";

local $SIG{ALRM} = sub { die "the test timed out\n" };
alarm 300;
local $SIG{PIPE} = 'IGNORE';

my $SIZE = 64 * $MIB;

my $dir = File::Temp->newdir('stock-tunnel-XXXXXX', TMPDIR => 1);
my $profile = $ENV{CARGO_PROFILE} // 'release';
symlink "$FindBin::RealBin/../target/$profile/pve-tunnel", "$dir/proxmox-websocket-tunnel"
    or die "symlink: $!\n";
local $ENV{PATH} = "$dir:$ENV{PATH}";
# The output of the helper goes to the task log, which is standard output.
my $task_log = "$dir/task.log";

for my $row (
    ['a well-behaved node', {}],
    ['a node that behaves like pveproxy', { misbehave => ['pveproxy'] }],
    ['an old node', { old => 1 }],
    ['PVE::APIServer::AnyEvent', { front => 'pveproxy' }],
    )
{
    my ($name, $options) = @$row;
    subtest $name => sub { migrate($options) };
}

subtest 'a refused tunnel' => sub {
    my $node = Test::TunnelNode->start(misbehave => ['refuse=403:Permission check failed']);
    # PVE::Tunnel warns of an answer without a version.
    local $SIG{__WARN__} = sub { };
    eval {
        open_tunnel($node, sub { });
    };
    like($@, qr/\Acan't open tunnel/, 'PVE::Tunnel reports an error');
};

subtest 'a signal to the process group of the caller' => sub {
    my $node = Test::TunnelNode->start;
    pipe(my $reports, my $report) or die "pipe: $!\n";
    my $caller = fork() // die "fork: $!\n";
    if (!$caller) {
        close $reports;
        $report->autoflush(1);
        POSIX::_exit(interrupted_caller($node, $report));
    }
    close $report;
    chomp(my $tunnel = readline($reports) // '');
    my ($connector) = $tunnel ? children($tunnel) : ();
    ok($connector, 'the connector runs') or return;
    is(getpgrp($connector), $connector, 'it leads a process group');

    kill TERM => -$caller;
    is(readline($reports), "received interrupt\n", 'the signal interrupts the caller');
    is(readline($reports), "cleaned up\n", 'the caller cleans up through the connector');
    waitpid $caller, 0;
    like($node->worker_log(100), qr/^command: quit$/m, 'the worker receives the clean-up');
    ok(wait_until(sub { !is_running($connector) }), 'the connector ends');
};

subtest 'no secrets' => sub {
    my $log = Test::TunnelNode::slurp($task_log);
    cmp_ok(length $log, '>', 100, 'the task log is not empty');
    unlike($log, qr/PVETUNNEL|PVEAPIToken|ticket=/, 'the task log has no token and no ticket');
};

done_testing;

sub migrate ($options) {
    my $node = Test::TunnelNode->start($options->%*);
    plan skip_all => $Test::TunnelNode::reason if !$node;
    my @logged;
    my $tunnel = open_tunnel($node, sub ($level, $text) { push @logged, "$level: $text" });
    is_deeply([$tunnel->@{qw(version age)}], [2, 0], 'the tunnel is open and has a version');

    my ($socket, $local) = forward($tunnel, kind => 'sink');
    my $client = IO::Socket::UNIX->new(Peer => $local) or die "connect to $local: $!\n";
    shutdown $client, SHUT_RD;
    pump(Test::Stream->new($client, send => $SIZE, read => 0));
    my $result = PVE::Tunnel::write_tunnel($tunnel, 30, 'result', { socket => $socket });
    is($result->{sha256}, pattern_sha256($SIZE), "$SIZE bytes arrive while the socket is open");
    ok($result->{eof}, 'their end follows');
    close $client;

    ($socket, $local) = forward($tunnel, kind => 'echo');
    $client = IO::Socket::UNIX->new(Peer => $local) or die "connect to $local: $!\n";
    pump(my $stream = Test::Stream->new($client, send => $SIZE, half_close => 'received'));
    is($stream->sha256, pattern_sha256($SIZE), "$SIZE bytes come back");
    ok($stream->{eof}, 'the stream has a clean end');

    eval { PVE::Tunnel::write_tunnel($tunnel, 10, 'reboot') };
    like($@, qr/unknown command 'reboot'/, 'a refusal of the worker is an error with its reason');

    PVE::Tunnel::finish_tunnel($tunnel);
    is(kill(0, $tunnel->{pid}), 0, 'at the end the process is gone');
    ok(!-e $local, 'the forward\'s socket is gone');
    is(scalar(grep { m/still running|SIGKILL/ } @logged), 0, 'the process ended without a signal');
    return;
}

# A task of Proxmox VE: it leads a process group, and cleans up after a signal.
sub interrupted_caller ($node, $report) {
    setpgrp;
    local $SIG{TERM} = sub { die "received interrupt\n" };
    my $tunnel = open_tunnel($node, sub { });
    eval {
        print {$report} "$tunnel->{pid}\n";
        sleep 60;
    };
    print {$report} $@ || "not interrupted\n";
    local $SIG{TERM} = 'IGNORE';
    my $cleaned = eval { PVE::Tunnel::finish_tunnel($tunnel, 1); 1 };
    print {$report} $cleaned ? "cleaned up\n" : "clean-up failed: $@";
    return $cleaned ? 0 : 1;
}

sub open_tunnel ($node, $log) {
    my $connection = {
        protocol => 'https',
        host => $node->{address},
        port => $node->{port},
        apitoken => $node->{token},
        cached_fingerprints => { $node->{fingerprint} => 1 },
    };
    my $url = $node->url('qemu', 100, 'mtunnelwebsocket') =~ s/\Ahttps/wss/r;
    STDOUT->flush;
    open my $saved, '>&', \*STDOUT or die "dup: $!\n";
    open STDOUT, '>>', $task_log or die "$task_log: $!\n";
    my $tunnel = eval {
        PVE::Tunnel::fork_websocket_tunnel(
            $connection, "/nodes/$node->{name}/qemu/100/mtunnel",
            {}, { url => $url }, $log
        );
    };
    my $error = $@;
    open STDOUT, '>&', $saved or die "dup: $!\n";
    die $error if !$tunnel;
    return $tunnel;
}

sub forward ($tunnel, %socket) {
    my $opened = PVE::Tunnel::write_tunnel($tunnel, 10, 'open', \%socket);
    my $local = "$dir/forward";
    PVE::Tunnel::forward_unix_socket($tunnel, $local, $opened->{socket});
    return ($opened->{socket}, $local);
}
