#!/usr/bin/perl

# A running guest is on its way, and one process after the other is killed: QEMU's at both ends too.
use v5.36;

use File::Temp qw(tempdir);
use FindBin;
use Test::More;

use lib map { "$FindBin::Bin/../$_" } qw(t/lib demo/lib testnode/lib perl/blib/lib perl/blib/arch);
use Demo::Hosts;
use Demo::Image;
use Test::FaultCell qw(cell nothing_left);
use Test::MigrationProcess;
use TestNode::Guest;
use TestNode::Node;

# In a network of its own, where nobody else's ports are.
BEGIN { Demo::Hosts::enter() }

# A test that stands still is a failed test.
local $SIG{ALRM} = sub { die "the test stands still\n" };
alarm(600);
local $SIG{PIPE} = 'IGNORE';

plan skip_all => 'no qemu-system-x86_64'
    if !grep { -x "$_/qemu-system-x86_64" } split(/:/, $ENV{PATH});
system(qw(ip link set lo up)) if !$>;

my $DIR = tempdir(CLEANUP => 1);
my $NODE =
    TestNode::Node->start(dir => "$DIR/target", listen => '127.0.0.1', wrap => ['setsid']);
my @load = Demo::Image::write_ram($DIR,
    TestNode::Guest->ram_ranges(Test::MigrationProcess::MEMORY));
Demo::Image::write_disk("$DIR/disk", 4);
my %COMMON = (node => $NODE, dir => $DIR, disk => "$DIR/disk", load => \@load);

my @QEMU = ('source QEMU', 'target QEMU');
my @VICTIMS = (@QEMU, 'caller', 'child', 'connector', 'worker', 'listener');
# Before the first byte it makes no difference to the others what is to come, and that is another
# test's.
my %POINTS = (hello => \@QEMU, nbd => \@VICTIMS, ram => \@VICTIMS, end => \@VICTIMS);

for my $plane (qw(tls tcp)) {
    for my $point (qw(hello nbd ram end)) {
        cell(%COMMON, plane => $plane, victim => $_, point => $point) for @{ $POINTS{$point} };
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
}

$NODE->stop;
done_testing;
