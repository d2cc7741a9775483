#!/usr/bin/perl

# Kills each process of a running guest's migration, QEMU at both ends included.
use v5.36;

use File::Temp qw(tempdir);
use FindBin;
use Test::More;

use lib map { "$FindBin::Bin/../$_" } qw(t/lib demo/lib testnode/lib perl/blib/lib perl/blib/arch);
use Demo::Image;
use Test::FaultInjection qw(kill_at next_succeeds);
use Test::MigrationProcess;
use Test::PrivateNetwork;
use TestNode::Guest;
use TestNode::Node;
use TestNode::QMP;

# Clear text and an explicit migration network require the privilege Sys.Modify.
plan skip_all => 'only root has Sys.Modify outside of Proxmox VE' if $> != 0;

# A test that hangs must fail.
local $SIG{ALRM} = sub { die "the test timed out\n" };
alarm(1200);
local $SIG{PIPE} = 'IGNORE';

plan skip_all => 'no qemu-system-x86_64'
    if !grep { -x "$_/qemu-system-x86_64" } split(/:/, $ENV{PATH});

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
# Not each victim is killed at each point. Before the first byte, a guest makes no difference to the
# processes other than QEMU, and 73-faults-volume.t kills those. RAM and disk take the same path on
# both planes, so all victims are killed during one of them, and during the other QEMU only.
my %POINTS = (
    tls => { handshake => \@QEMU, nbd => \@QEMU, ram => \@VICTIMS, end => \@VICTIMS },
    tcp => { handshake => \@QEMU, nbd => \@VICTIMS, ram => \@QEMU, end => \@VICTIMS },
);

# For a kill after all bytes have arrived and both ends of each connection have ended it: the guest
# runs at the target only. The killed process is an error nevertheless, which the operator must see.
sub arrived ($vmid) {
    my $qmp = TestNode::QMP->new("$NODE->{dir}/$vmid.qmp");
    is($qmp->command('query-status')->{status}, 'running', 'the guest runs at the target');
    $qmp->command('quit');
    return;
}

for my $plane (qw(tls tcp)) {
    for my $point (qw(handshake nbd ram end)) {
        for my $victim (@{ $POINTS{$plane}{$point} }) {
            # After the transfer, the guest stays paused at the source in case it must resume there.
            my %expected = $point eq 'end' ? (guest => 'postmigrate') : ();
            %expected = (guest => 'gone', arrived => \&arrived)
                if "$victim $point" eq 'listener end';
            kill_at(%COMMON, plane => $plane, victim => $victim, point => $point, %expected);
        }
    }
    next_succeeds(%COMMON, plane => $plane, arrived => \&arrived);
}

$NODE->stop;
done_testing;
