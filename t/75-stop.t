#!/usr/bin/perl

# Stop and Ctrl-C: a signal to the process group of the caller at each stage of a migration. The
# caller cleans up through its tunnel, and nothing is left at either end.
use v5.36;

use File::Temp qw(tempdir);
use FindBin;
use Test::More;

use lib map { "$FindBin::Bin/../$_" } qw(t/lib demo/lib testnode/lib perl/blib/lib perl/blib/arch);
use Demo::Image;
use Test::FaultInjection qw(stop_task next_succeeds);
use Test::MigrationProcess;
use Test::PrivateNetwork;
use TestNode::Guest;
use TestNode::Node;
use TestNode::QMP;

# Clear text and an explicit migration network require the privilege Sys.Modify.
plan skip_all => 'only root has Sys.Modify outside of Proxmox VE' if $> != 0;

# A test that hangs must fail.
local $SIG{ALRM} = sub { die "the test timed out\n" };
alarm(600);
local $SIG{PIPE} = 'IGNORE';

my $DIR = tempdir(CLEANUP => 1);
my $NODE = TestNode::Node->start(dir => "$DIR/target", listen => '127.0.0.1', wrap => ['setsid']);
# More than the buffers between source and target hold.
Demo::Image::write_volume("$DIR/volume", 4);
my %VOLUME = (node => $NODE, dir => $DIR, volume => "$DIR/volume");

my @POINTS = ('request', 'worker', 'connected', 'forward', 'volume', 'volume end', 'end');
for my $plane (qw(tls tcp websocket)) {
    stop_task(%VOLUME, plane => $plane, signal => 'TERM', point => $_) for @POINTS;
}
for my $signal (qw(INT HUP QUIT)) {
    stop_task(%VOLUME, plane => 'tls', signal => $signal, point => $_) for qw(connected volume);
}
next_succeeds(%VOLUME, plane => 'tls');

SKIP: {
    skip('no qemu-system-x86_64', 1)
        if !grep { -x "$_/qemu-system-x86_64" } split(/:/, $ENV{PATH});
    my @load = Demo::Image::write_ram(
        $DIR,
        TestNode::Guest->ram_ranges(Test::MigrationProcess::MEMORY)
    );
    Demo::Image::write_disk("$DIR/disk", 16);
    my %guest = (node => $NODE, dir => $DIR, disk => "$DIR/disk", load => \@load);
    for my $plane (qw(tls websocket)) {
        stop_task(%guest, plane => $plane, signal => 'TERM', point => $_) for qw(nbd ram);
    }
}

$NODE->stop;
done_testing;
