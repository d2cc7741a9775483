#!/usr/bin/perl

# The worker starts a real guest, exports its disk, and stops it.

use v5.36;

use IO::Socket::IP;
use IO::Socket::UNIX;
use File::Temp qw(tempdir);
use JSON;
use FindBin;
use lib "$FindBin::RealBin/lib", "$FindBin::RealBin/../testnode/lib";

use Test::More;
use Test::EmulatedGuest;
use Test::PrivateNetwork;

use Test::TunnelWorker qw(worker refused start_parameters disk_parameters);
use TestNode::Guest;
use TestNode::QMP;

# Limits the run time of the test.
local $SIG{ALRM} = sub { die "the test timed out\n" };
alarm(600);

plan skip_all => 'no qemu-system-x86_64'
    if !grep { -x "$_/qemu-system-x86_64" } split(/:/, $ENV{PATH});

# On UNIX sockets, for a tunnel.
{
    my $worker = worker();
    my $dir = $worker->{dir};
    ok($worker->command('disk', disk_parameters(1 << 20))->{success}, 'a disk');
    ok($worker->command('config', conf => "memory: 64\n")->{success}, 'a configuration');
    my $started =
        $worker->command('start', start_parameters('unix', 'websocket', nbd => { scsi0 => {} }));
    is_deeply(
        $started,
        {
            success => JSON::true,
            migrate => {
                proto => 'unix',
                addr => "$dir/100.migrate",
                unix_sockets => ["$dir/100.migrate", "$dir/100_nbd.migrate"],
            },
            drives => {
                scsi0 => {
                    drivestr => 'local:100/vm-100-disk-0.raw,size=1048576',
                    nbd_uri => "nbd:unix:$dir/100_nbd.migrate:exportname=drive-scsi0",
                },
            },
        },
        'start on UNIX sockets',
    ) or diag(explain($started));
    refused(
        $worker->command('start', start_parameters('unix', 'websocket')),
        qr/runs already/,
        'a second start'
    );
    ok(
        $worker->command('ticket', path => "$dir/100$_.migrate")->{ticket},
        "a ticket for 100$_.migrate"
    ) for '', '_nbd';
    my $nbd = IO::Socket::UNIX->new(Peer => "$dir/100_nbd.migrate");
    read($nbd, my $magic, 8);
    is($magic, 'NBDMAGIC', 'QEMU exports the disk');
    close($nbd);
    my $monitor = TestNode::QMP->new("$dir/100.qmp");
    is($monitor->command('query-status')->{status}, 'inmigrate', 'QEMU waits for the guest');
    ok($worker->command('nbdstop')->{success}, 'nbdstop');
    ok($worker->command('nbdstop')->{success}, '... can be repeated');
    refused(
        $worker->command('ticket', path => "$dir/100_nbd.migrate"),
        qr/not known/, '... and ends tickets for its socket'
    );
    ok($worker->command('stop')->{success}, 'stop');
    ok(!eval { $monitor->command('query-status'); 1 }, '... ends QEMU');
    refused($worker->command('resume'), qr/does not run/, '... and resume is refused');

    ok(
        $worker->command('start', start_parameters('unix', 'websocket'))->{success},
        'start after stop'
    );
    my ($pid) = grep { readlink("/proc/$_/exe") =~ /qemu/ } children($worker->{pid});
    ok($pid, 'QEMU is a child of the worker');
    is($worker->end, 1, 'a worker that loses its client exits with 1');
    ok(!kill(0 => $pid), '... ends the guest');
    ok(!-e "$dir/100.migrate", '... and removes its sockets');
}

# On TCP: the source requests clear text.
{
    my $worker = worker();
    $worker->command('disk', disk_parameters(1 << 20));
    $worker->command('config', conf => "memory: 64\n");
    refused(
        $worker->command(
            'start', start_parameters('tcp', 'insecure', network => '2001:db8:ffff::/64')
        ),
        qr{2001:db8:ffff::/64}, 'a network without an address of this node',
    );

    # If another program already listens on this port, it is occupied as well.
    my $taken = IO::Socket::IP->new(
        LocalHost => '127.0.0.1',
        LocalPort => 60000,
        Listen => 1,
        # Connections of another test may still be in TIME_WAIT there.
        ReuseAddr => 1,
    );
    my $started =
        $worker->command('start', start_parameters('tcp', 'insecure', network => '127.0.0.0/8'));
    ok($started->{success}, 'start on TCP') or diag(explain($started));
    my $migrate = $started->{migrate};
    is_deeply(
        [@$migrate{qw(proto addr)}], [qw(tcp 127.0.0.1)],
        '... on the address in the network'
    );
    my ($port) =
        $started->{drives}{scsi0}{nbd_uri} =~ /\Anbd:127\.0\.0\.1:(\d+):exportname=drive-scsi0\z/;
    for my $found ($migrate->{port}, $port) {
        cmp_ok($found, '>', 60000, '... on a port above the occupied one');
        cmp_ok($found, '<', 60050, '... in the migration range');
    }
    isnt($migrate->{port}, $port, '... with different ports for RAM and disks');
    my $nbd = IO::Socket::IP->new(PeerHost => '127.0.0.1', PeerPort => $port, Timeout => 60);
    read($nbd, my $magic, 8);
    is($magic, 'NBDMAGIC', 'QEMU exports the disk on its port');
    close($nbd);
    $worker->command('quit', cleanup => 1);
    $worker->end;
}

sub children ($parent) {
    my @pids;
    for my $stat (glob '/proc/[0-9]*/stat') {
        open(my $in, '<', $stat) or next;
        my ($pid, $ppid) = (readline($in) // '') =~ /\A(\d+) \(.*\) \S (\d+)/s or next;
        push @pids, $pid if $ppid == $parent;
    }
    return @pids;
}

# QEMU continues without its monitor connection, and must not be waited for without limit.
{
    my $dir = tempdir(CLEANUP => 1);
    my $guest = TestNode::Guest->start(vmid => 100, memory => 64, dir => $dir);
    my $pid = $guest->pid;
    $guest->qmp->{socket}->shutdown(2);
    $guest->stop;
    ok(!kill(0 => $pid), 'a guest without a monitor connection is stopped');
}

done_testing;
