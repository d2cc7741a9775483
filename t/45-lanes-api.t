#!/usr/bin/perl

# Lanes through the target's API, for a node of which only the API can be reached: with the test node,
# and with three processes of the real PVE::APIServer::AnyEvent, if it is installed or in PERL5LIB.

use v5.36;

use FindBin ();
use lib map { "$FindBin::RealBin/$_" }
    qw(lib ../demo/lib ../testnode/lib ../perl/blib/lib ../perl/blib/arch);

use File::Temp qw(tempdir);
use JSON ();
use POSIX ();

use Test::More;

use Demo::Image;
use PVE::Tunnel::Client;
use Test::OpenedTunnel;
use Test::Processes qw(children command_line wait_until);
use Test::TunnelNode;

local $SIG{ALRM} = sub { die "the test timed out\n" };
alarm 300;
local $SIG{PIPE} = 'IGNORE';

my $MIB = 1 << 20;
# In MiB: more than all buffers between source and target hold.
my $SIZE = 128;
# In bytes, of a stream to the target.
my $WINDOW = 32 * $MIB;

my $dir = tempdir(CLEANUP => 1);
Demo::Image::write_volume("$dir/volume", $SIZE);

sub node ($front) {
    return Test::TunnelNode->start(
        front => $front,
        worker => "$FindBin::RealBin/../testnode/worker.pl",
        $front eq 'pveproxy' ? (workers => 3) : ()
    );
}

# The listener of a direct plane would need an address that is not loopback.
sub opened ($node, $vmid) {
    my $opened = Test::OpenedTunnel->attempt($node->{node}, $vmid, planes => ['tls']);
    is($opened->plane, 'websocket', 'the plane is the websocket') or diag($opened->error);
    my $direct = $opened->direct;
    is($direct && "$direct->{plane} $direct->{lanes}", 'websocket 3', '... with three lanes');
    return $opened;
}

sub lanes_socket ($node, $vmid) { return "$node->{dir}/$vmid.mtunnel.lanes" }

sub record ($opened) {
    my ($record) = $opened->log =~ m/record: (\{.*\})/;
    return $record ? JSON::decode_json($record) : {};
}

# Moves the volume in a process of its own. Returns its ID.
sub start_moving ($opened) { ## no critic (RequireFinalReturn)
    my $pid = fork // die "fork: $!\n";
    return $pid if $pid;
    my $moved = eval { $opened->moves("$dir/volume") };
    POSIX::_exit($moved ? 0 : 1);
}

# Bytes that a process has read and written, proc(5).
sub bytes_of ($pid) {
    my $sum = 0;
    $sum += $_ for Test::TunnelNode::slurp("/proc/$pid/io") =~ m/^[rw]char: (\d+)$/mg;
    return $sum;
}

sub memory_of (@pids) {
    my $sum = 0;
    for my $pid (@pids) {
        $sum += $_ for Test::TunnelNode::slurp("/proc/$pid/status") =~ m/^VmRSS:\s+(\d+) kB$/m;
    }
    return $sum * 1024;
}

# The processes below a process.
sub below ($pid) {
    return map { ($_, below($_)) } children($pid);
}

# The process that writes the volume at the target: a child of the worker, as the listener.
sub import_process ($node) {
    for my $listener (grep { (command_line($_) // '') =~ m/\Apve-tunnel listener/ }
        below($node->{pid}))
    {
        my ($worker) = grep {
            my $pid = $_;
            grep { $_ == $listener } children($pid)
        } below($node->{pid});
        my ($import) = grep { $_ != $listener } children($worker);
        return $import if $import;
    }
    return;
}

for my $front (qw(testnode pveproxy)) {
    subtest "a volume, $front" => sub {
        my $node = node($front);
        plan skip_all => $Test::TunnelNode::reason if !$node;
        my $opened = opened($node, 101);
        ok(-S lanes_socket($node, 101), 'the listener has a socket');
        ok($opened->moves("$dir/volume"), 'the target has the same bytes') or diag($opened->error);
        $opened->finish;
        my $record = record($opened);
        is($record->{failed}, 0, 'no connection has failed') or diag($opened->log);
        is($record->{lanes}{most}, 3, 'it had three lanes');
        ok(!-e lanes_socket($node, 101), 'the socket is gone');
    };
}

subtest 'the socket of the listener' => sub {
    my $node = node('testnode');
    my $opened = opened($node, 104);
    my $socket = lanes_socket($node, 104);
    my $command = sub ($name, %params) {
        return PVE::Tunnel::Client::write_tunnel($opened->{tunnel}, 30, $name, \%params);
    };
    ok($command->('ticket', path => $socket)->{ticket}, 'it has tickets');
    my $forward = { op => 'forward', path => $socket };
    ok(
        !eval { $command->('query-disk-import', direct => $forward); 1 },
        'it is no forward of its own'
    );
    like($@, qr/is not known here/, '... for this reason');
    $command->('query-disk-import', direct => { op => 'close' });
    ok(!eval { $command->('ticket', path => $socket); 1 }, 'it has no tickets after its end');
    $opened->finish;

    for my $vmid (105 .. 110) {
        my $killed = opened($node, $vmid);
        my ($worker) = children($node->{pid});
        kill KILL => $worker;
        ok(wait_until(sub { !-e lanes_socket($node, $vmid) }), 'it is gone with a killed worker');
        $killed->finish;
    }
};

# A tunnel whose control connection is not served by these processes.
sub opened_beside ($node, $vmid, @processes) {
    my $negotiate = \&PVE::Tunnel::Client::Negotiation::negotiate;
    no warnings 'redefine'; ## no critic (ProhibitNoWarnings)
    local *PVE::Tunnel::Client::Negotiation::negotiate = sub (@arguments) {
        kill CONT => @processes;
        return $negotiate->(@arguments);
    };
    kill STOP => @processes;
    my $opened = opened($node, $vmid);
    kill CONT => @processes;
    return $opened;
}

subtest 'a process of pveproxy is killed' => sub {
    my $node = node('pveproxy');
    plan skip_all => $Test::TunnelNode::reason if !$node;
    my (undef, @others) = @{ $node->{node}{workers} };
    my ($opened, $victim);
    # It is not certain that each process gets a lane.
    for my $vmid (111 .. 115) {
        $opened = opened_beside($node, $vmid, @others);
        my %before = map { $_ => bytes_of($_) } @others;
        my $mover = start_moving($opened);
        my $moves = sub {
            ($victim) = grep { bytes_of($_) - $before{$_} > 8 * $MIB } @others;
            return defined($victim) || waitpid($mover, POSIX::WNOHANG()) > 0;
        };
        ok(wait_until($moves), 'data moves');
        next if !defined $victim;
        kill KILL => $victim;
        waitpid $mover, 0;
        last;
    }
    ok(defined $victim, 'it was killed while it carried data');
    is($?, 0, 'the target has the same bytes');
    $opened->finish;
    my $record = record($opened);
    is($record->{failed}, 0, 'no connection has failed') or diag($opened->log);
    cmp_ok($record->{lanes}{reopened}, '>', 0, 'lanes were opened again');
};

subtest 'the memory of pveproxy is bounded while the target does not read' => sub {
    my $node = node('pveproxy');
    plan skip_all => $Test::TunnelNode::reason if !$node;
    my $opened = opened($node, 103);
    my @processes = @{ $node->{node}{workers} };
    my $before = memory_of(@processes);
    my $mover = start_moving($opened);
    my $import;
    ok(wait_until(sub { $import = import_process($node) }), 'the import runs');
    kill STOP => $import;
    my ($last, $most) = (-1, 0);
    my $stopped = sub {
        my $grown = memory_of(@processes) - $before;
        $most = $grown if $grown > $most;
        my $bytes = 0;
        $bytes += bytes_of($_) for @processes;
        return 1 if $bytes == $last;
        $last = $bytes;
        sleep 1;
        return 0;
    };
    ok(wait_until($stopped, 60), 'the data stops');
    cmp_ok($most, '<', $WINDOW + 8 * $MIB, sprintf 'it has grown by %.1f MiB', $most / $MIB);
    kill CONT => $import;
    waitpid $mover, 0;
    is($?, 0, 'the target has the same bytes');
    $opened->finish;
};

done_testing;
