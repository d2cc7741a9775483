#!/usr/bin/perl

# Stop of the target's task: a signal to the process group of the worker at each stage. The listener
# ends with its worker, and the source reports the cause.
use v5.36;

use FindBin;
use Test::More;

use lib map { "$FindBin::Bin/../$_" } qw(t/lib demo/lib testnode/lib perl/blib/lib perl/blib/arch);
use Test::FaultInjection qw(kill_at next_succeeds);
use Test::FaultSetup qw(volume_migration);
use Test::PrivateNetwork;

my %COMMON = volume_migration(600);

my @POINTS = ('connected', 'forward', 'volume', 'volume end', 'end');
for my $plane (qw(tls tcp)) {
    for my $signal (qw(TERM KILL)) {
        my %worker = (victim => 'worker', group => 1, signal => $signal);
        kill_at(%COMMON, plane => $plane, %worker, point => $_) for @POINTS;
    }
    next_succeeds(%COMMON, plane => $plane);
}

$COMMON{node}->stop;
done_testing;
