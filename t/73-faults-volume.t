#!/usr/bin/perl

# A volume is on its way, and one process after the other is killed, at the beginning, in the middle
# and at the end: an error in time, that says who died, and nothing left behind.
use v5.36;

use File::Temp qw(tempdir);
use FindBin;
use Test::More;

use lib map { "$FindBin::Bin/../$_" } qw(t/lib demo/lib testnode/lib perl/blib/lib perl/blib/arch);
use Demo::Hosts;
use Demo::Image;
use Test::FaultInjection qw(kill_at nothing_left);
use Test::MigrationProcess;
use TestNode::Node;

# In a network of its own, where nobody else's ports are.
BEGIN { Demo::Hosts::enter() }

# Clear text and an explicit network need it.
plan skip_all => 'only root has Sys.Modify outside of Proxmox VE' if $> != 0;

# A test that stands still is a failed test.
local $SIG{ALRM} = sub { die "the test stands still\n" };
alarm(300);
local $SIG{PIPE} = 'IGNORE';

system(qw(ip link set lo up)) if !$>;

my $DIR = tempdir(CLEANUP => 1);
my $NODE = TestNode::Node->start(dir => "$DIR/target", listen => '127.0.0.1', wrap => ['setsid']);
# More than there is room for on the way.
Demo::Image::write_volume("$DIR/volume", 4);
my %COMMON = (node => $NODE, dir => $DIR, volume => "$DIR/volume");

my @VICTIMS = ('caller', 'child', 'connector', 'worker', 'listener');
my @POINTS = ('hello', 'volume', 'volume end', 'end');

for my $plane (qw(tls tcp websocket)) {
    for my $victim (@VICTIMS) {
        next if $plane eq 'websocket' && $victim eq 'listener';
        kill_at(%COMMON, plane => $plane, victim => $victim, point => $_) for @POINTS;
    }
    # The node has seen many die.
    my $migration = Test::MigrationProcess->start(
        %COMMON,
        plane => $plane,
        dir => "$DIR/last-$plane",
        target_vmid => 100
    );
    my $end = $migration->end;
    ok($end->{done}, "$plane: the next one goes through") or diag($end->{error}, $migration->log);
    nothing_left($NODE, "$DIR/last-$plane", 'gone');
}

$NODE->stop;
done_testing;
