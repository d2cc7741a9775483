#!/usr/bin/perl

# Kills each process of a volume's migration at the beginning, in the middle and at the end. The
# result must be an error in time that names the killed process, and nothing may be left.
use v5.36;

use File::Temp qw(tempdir);
use FindBin;
use Test::More;

use lib map { "$FindBin::Bin/../$_" } qw(t/lib demo/lib testnode/lib perl/blib/lib perl/blib/arch);
use Demo::Image;
use Test::FaultInjection qw(kill_at next_succeeds);
use Test::PrivateNetwork;
use TestNode::Node;

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
my %COMMON = (node => $NODE, dir => $DIR, volume => "$DIR/volume");

my @VICTIMS = ('caller', 'child', 'connector', 'worker', 'listener');
my @POINTS = ('handshake', 'volume', 'volume end', 'end');

for my $plane (qw(tls tcp websocket)) {
    for my $victim (@VICTIMS) {
        next if $plane eq 'websocket' && $victim eq 'listener';
        kill_at(%COMMON, plane => $plane, victim => $victim, point => $_) for @POINTS;
    }
    next_succeeds(%COMMON, plane => $plane);
}

$NODE->stop;
done_testing;
