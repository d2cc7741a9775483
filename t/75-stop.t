#!/usr/bin/perl

# Stop and Ctrl-C: a signal to the process group of the caller at each stage of a migration. The
# caller cleans up through its tunnel, and nothing is left at either end.
use v5.36;

use FindBin;
use Test::More;

use lib map { "$FindBin::Bin/../$_" } qw(t/lib demo/lib testnode/lib perl/blib/lib perl/blib/arch);
use Test::FaultInjection qw(stop_task next_succeeds);
use Test::FaultSetup qw(volume_migration guest_migration has_qemu);
use Test::PrivateNetwork;

my %VOLUME = volume_migration(600);

my @POINTS = ('request', 'worker', 'connected', 'forward', 'volume', 'volume end', 'end');
for my $plane (qw(tls tcp websocket)) {
    stop_task(%VOLUME, plane => $plane, signal => 'TERM', point => $_) for @POINTS;
}
for my $signal (qw(INT HUP QUIT)) {
    stop_task(%VOLUME, plane => 'tls', signal => $signal, point => $_) for qw(connected volume);
}
next_succeeds(%VOLUME, plane => 'tls');

SKIP: {
    skip('no qemu-system-x86_64', 1) if !has_qemu();
    my %guest = guest_migration(%VOLUME);
    for my $plane (qw(tls websocket)) {
        stop_task(%guest, plane => $plane, signal => 'TERM', point => $_) for qw(nbd ram);
    }
}

$VOLUME{node}->stop;
done_testing;
