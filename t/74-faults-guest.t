#!/usr/bin/perl

# A running guest is on its way, and one process after the other is killed: QEMU's at both ends too.
use v5.36;

use File::Temp qw(tempdir);
use FindBin;
use Test::More;

use lib map { "$FindBin::Bin/../$_" } qw(t/lib demo/lib testnode/lib perl/blib/lib perl/blib/arch);
use Demo::Hosts;
use Demo::Image;
use Test::FaultInjection qw(kill_at nothing_left);
use Test::MigrationProcess;
use TestNode::Guest;
use TestNode::Node;
use TestNode::QMP;

# In a network of its own, where nobody else's ports are.
BEGIN { Demo::Hosts::enter() }

# Clear text and an explicit network need it.
plan skip_all => 'only root has Sys.Modify outside of Proxmox VE' if $> != 0;

# A test that stands still is a failed test.
local $SIG{ALRM} = sub { die "the test stands still\n" };
alarm(600);
local $SIG{PIPE} = 'IGNORE';

plan skip_all => 'no qemu-system-x86_64'
    if !grep { -x "$_/qemu-system-x86_64" } split(/:/, $ENV{PATH});
system(qw(ip link set lo up)) if !$>;

my $DIR = tempdir(CLEANUP => 1);
my $NODE = TestNode::Node->start(dir => "$DIR/target", listen => '127.0.0.1', wrap => ['setsid']);
my @load = Demo::Image::write_ram(
    $DIR,
    TestNode::Guest->ram_ranges(Test::MigrationProcess::MEMORY)
);
Demo::Image::write_disk("$DIR/disk", 16);
my %COMMON = (node => $NODE, dir => $DIR, disk => "$DIR/disk", load => \@load);

my @QEMU = ('source QEMU', 'target QEMU');
my @VICTIMS = (@QEMU, 'caller', 'child', 'connector', 'worker', 'listener');
# Before the first byte it makes no difference to the others what is to come, and that is another
# test's. RAM and disk go the same way, whichever plane that is: QEMU may see a difference.
my %POINTS = (
    tls => { hello => \@QEMU, nbd => \@QEMU, ram => \@VICTIMS, end => \@VICTIMS },
    tcp => { hello => \@QEMU, nbd => \@VICTIMS, ram => \@QEMU, end => \@VICTIMS },
);

# All bytes are at the target then, and both ends of each connection know it: the guest is moved and
# goes on there, once. That something died is an error all the same, for people to look at.
sub arrived ($vmid) {
    my $qmp = TestNode::QMP->new("$NODE->{dir}/$vmid.qmp");
    is($qmp->command('query-status')->{status}, 'running', 'it has arrived, and runs there');
    $qmp->command('quit');
    return;
}

for my $plane (qw(tls tcp)) {
    for my $point (qw(hello nbd ram end)) {
        for my $victim (@{ $POINTS{$plane}{$point} }) {
            # A guest that has moved stands still at the source, until it is known to be needed.
            my %expected = $point eq 'end' ? (guest => 'postmigrate') : ();
            %expected = (guest => 'gone', arrived => \&arrived)
                if "$victim $point" eq 'listener end';
            kill_at(%COMMON, plane => $plane, victim => $victim, point => $point, %expected);
        }
    }
    # The node has seen many die.
    my $migration = Test::MigrationProcess->start(
        %COMMON,
        plane => $plane,
        dir => "$DIR/last-$plane",
        target_vmid => 100,
    );
    my $end = $migration->end;
    ok($end->{done}, "$plane: the next one goes through") or diag($end->{error}, $migration->log);
    arrived(100);
    nothing_left($NODE, "$DIR/last-$plane", 'gone');
}

$NODE->stop;
done_testing;
