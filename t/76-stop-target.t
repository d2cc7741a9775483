#!/usr/bin/perl

# Stop of the target's task: a signal to the process group of the worker at each stage. The listener
# ends with its worker, and the source reports the cause. And a listener or a connector that stops
# without an end (SIGSTOP) for longer than the limit of a dead peer.
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

my @POINTS = ('connected', 'forward', 'volume', 'volume end', 'end');
for my $plane (qw(tls tcp)) {
    for my $signal (qw(TERM KILL)) {
        my %worker = (victim => 'worker', group => 1, signal => $signal);
        kill_at(%COMMON, plane => $plane, %worker, point => $_) for @POINTS;
    }
    kill_at(
        %COMMON,
        plane => $plane,
        victim => 'listener',
        signal => 'STOP',
        point => 'volume',
        dead_peer_timeout => 3,
        # The source waits 35 s for the end of the import, and then 15 s for the listener.
        bound => 80,
    );
    next_succeeds(%COMMON, plane => $plane);
}

$NODE->stop;
done_testing;
