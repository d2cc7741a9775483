#!/usr/bin/perl

# Kills each process of a volume's migration at the beginning, in the middle and at the end. The
# result must be an error in time that names the killed process, and nothing may be left.
use v5.36;

use FindBin;
use Test::More;

use lib map { "$FindBin::Bin/../$_" } qw(t/lib demo/lib testnode/lib perl/blib/lib perl/blib/arch);
use Test::FaultInjection qw(kill_at next_succeeds);
use Test::FaultSetup qw(volume_migration);
use Test::PrivateNetwork;

my %COMMON = volume_migration(600);

my @VICTIMS = ('caller', 'child', 'connector', 'worker', 'listener');
my @POINTS = ('handshake', 'volume', 'volume end', 'end');

for my $plane (qw(tls tcp websocket)) {
    for my $victim (@VICTIMS) {
        next if $plane eq 'websocket' && $victim eq 'listener';
        kill_at(%COMMON, plane => $plane, victim => $victim, point => $_) for @POINTS;
    }
    next_succeeds(%COMMON, plane => $plane);
}

$COMMON{node}->stop;
done_testing;
