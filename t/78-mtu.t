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
alarm(240);

my $HOSTS = Demo::Hosts->new;
plan skip_all => 'only root has two networks on one machine' if !$HOSTS->namespaces;

my $DIR = tempdir(CLEANUP => 1);
my @AT_TARGET = $HOSTS->at_target;
my $vmid = 300;

sub run (@command) {
    system(@command) == 0 or die "@command: exit code $?\n";
    return;
}

# Sets the MTU of both ends. Without a limit of its own, the kernel passes larger packets over the
# link in one piece.
sub set_mtu ($mtu) {
    my @limits = (mtu => $mtu, gso_max_size => $mtu);
    run(qw(ip link set to-target), @limits);
    run(@AT_TARGET, qw(ip link set to-source), @limits);
    return;
}

# One end drops what is larger than this, as a switch would. It still announces that it accepts
# packets of the MTU that both ends had.
sub drop_larger ($direction, $largest, $mtu) {
    my ($device, $address, @where) =
        $direction eq 'to the target'
        ? ('to-source', $HOSTS->target, @AT_TARGET)
        : ('to-target', $HOSTS->source);
    run(@where, qw(ip link set), $device, mtu => $largest);
    run(
        @where, qw(ip route replace), $HOSTS->network, dev => $device, src => $address,
        advmss => $mtu - 40
    );
    return;
}

# The opposite: each end announces what its MTU permits.
sub drop_nothing ($mtu) {
    set_mtu($mtu);
    run(qw(ip route replace), $HOSTS->network, qw(dev to-target src), $HOSTS->source);
    run(@AT_TARGET, qw(ip route replace), $HOSTS->network, qw(dev to-source src), $HOSTS->target);
    return;
}

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

# 1420 is the MTU of WireGuard.
for my $mtu (9000, 1500, 1420) {
    subtest "both ends have an MTU of $mtu" => sub {
        drop_nothing($mtu);
        for my $case ([secure => 'tls'], [insecure => 'tcp']) {
            my ($type, $expected) = @$case;
            my ($plane, $error) = run_tunnel($type);
            is($plane, $expected, "$type: $expected") or diag($error);
        }
    };
}

# Enough for the first message of OpenSSL 3.5, which has a key for post-quantum cryptography. On a path
# that loses it, the API cannot be reached, so that no plane is negotiated.
my $LARGEST = 4000;

my %ADDRESS = ('to the target' => $HOSTS->target, 'from the target' => $HOSTS->source);
for my $direction ('to the target', 'from the target') {
    subtest "an MTU of 9000, and packets $direction above $LARGEST bytes are lost" => sub {
        drop_nothing(9000);
        drop_larger($direction, $LARGEST, 9000);
        my $ping = "ping -M do -s 8972 $ADDRESS{$direction}";
        my $lost = qr/large packets $direction are lost.*\Q$ping\E'/;

        my ($plane, $error, $log) = run_tunnel('secure');
        is($plane, 'websocket', 'secure: another plane') or diag($error);
        like($log, $lost, 'secure: the log has the cause');

        ($plane, $error) = run_tunnel('insecure');
        is($plane, undef, 'insecure: refused');
        like($error, $lost, 'insecure: the error has the cause');
        like($error, qr/\A[^\n]+\n\z/, 'insecure: the error is one line');
        unlike(
            $node->worker_log($vmid),
            qr/^command: (?:config|disk|start)/m,
            'insecure: the target has created nothing'
        );
    };
}

$node->stop;
done_testing;
