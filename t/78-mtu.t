#!/usr/bin/perl

# A network path whose MTU is smaller than that of the nodes, and which reports no error: handshake
# and heartbeat pass, guest data does not.
use v5.36;

use File::Temp qw(tempdir);
use FindBin;
use Test::More;

use lib map { "$FindBin::Bin/../$_" } qw(t/lib demo/lib testnode/lib perl/blib/lib perl/blib/arch);
use Demo::Hosts;
use PVE::Tunnel::Client;
use TestNode::Node;

# The MTU belongs to the interfaces of the two namespaces.
BEGIN { Demo::Hosts::enter() }

# A test that hangs must fail.
local $SIG{ALRM} = sub { die "the test timed out\n" };
alarm(120);

my $HOSTS = Demo::Hosts->new;
plan skip_all => 'only root has two networks on one machine' if !$HOSTS->namespaces;

my $DIR = tempdir(CLEANUP => 1);
my @AT_TARGET = $HOSTS->at_target;
my $vmid = 300;

sub run (@command) {
    system(@command) == 0 or die "@command: exit code $?\n";
    return;
}

# Without a limit of its own, the kernel passes larger packets over the link in one piece.
my @JUMBO = qw(mtu 9000 gso_max_size 9000);
run(qw(ip link set to-target), @JUMBO);
run(@AT_TARGET, qw(ip link set to-source), @JUMBO);

my $node = TestNode::Node->start(dir => "$DIR/node", listen => $HOSTS->target, wrap => \@AT_TARGET);

# Opens and ends a tunnel. Returns plane, error and log.
sub run_tunnel ($type) {
    my $log = '';
    $vmid++;
    my $tunnel = eval {
        PVE::Tunnel::Client::fork_websocket_tunnel(
            $node->conn,
            $node->path($vmid),
            {},
            {
                url => $node->url($vmid),
                migration_type => $type,
                migration_network => $HOSTS->network,
            },
            sub ($level, $text) { $log .= "$level: $text\n" }
        );
    } or return (undef, $@, $log);
    my $plane = $tunnel->{plan}{plane};
    PVE::Tunnel::Client::finish_tunnel($tunnel, 1);
    return ($plane, undef, $log);
}

subtest 'the path delivers large packets' => sub {
    for my $case ([secure => 'tls'], [insecure => 'tcp']) {
        my ($type, $expected) = @$case;
        my ($plane, $error) = run_tunnel($type);
        is($plane, $expected, "$type: $expected") or diag($error);
    }
};

# The target's end drops what is larger, as a switch would, and announces the large MTU.
run(@AT_TARGET, qw(ip link set to-source mtu 1500));
run(
    @AT_TARGET, qw(ip route replace), $HOSTS->network, qw(dev to-source src), $HOSTS->target,
    qw(advmss 8960)
);
my $LOST = qr/large packets to the target are lost.*ping -M do -s 8972 \Q${\$HOSTS->target}\E'/;

subtest 'the path loses large packets to the target' => sub {
    my ($plane, $error, $log) = run_tunnel('secure');
    is($plane, 'websocket', 'secure: another plane') or diag($error);
    like($log, $LOST, 'secure: the log has the cause');

    ($plane, $error) = run_tunnel('insecure');
    is($plane, undef, 'insecure: refused');
    like($error, $LOST, 'insecure: the error has the cause');
    like($error, qr/\A[^\n]+\n\z/, 'insecure: the error is one line');
    unlike(
        $node->worker_log($vmid),
        qr/^command: (?:config|disk|start)/m,
        'insecure: the target has created nothing'
    );
};

$node->stop;
done_testing;
