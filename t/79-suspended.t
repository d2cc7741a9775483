#!/usr/bin/perl

# A process of a migration that does nothing for longer than the dead-peer limit (SIGSTOP), and then
# continues: the migration stays failed, and nothing is left.
use v5.36;

use FindBin;
use Test::More;

use lib map { "$FindBin::Bin/../$_" } qw(t/lib demo/lib testnode/lib perl/blib/lib perl/blib/arch);
use Test::FaultInjection qw(next_succeeds);
use Test::FaultSetup qw(volume_migration guest_migration has_qemu);
use Test::PrivateNetwork;
use Test::SuspendedProcess qw(suspend_at);

my %VOLUME = volume_migration(1200);
for my $plane (qw(tls tcp)) {
    suspend_at(%VOLUME, plane => $plane, victim => $_, point => 'volume')
        for qw(connector listener);
}
# The worker is on the control connection, which is the same on both planes.
suspend_at(%VOLUME, plane => 'tls', victim => 'worker', point => 'volume');
# All bytes are in the tunnel: the target could take the loss of the connection for their end.
suspend_at(%VOLUME, plane => 'tls', victim => 'connector', point => 'volume end');
next_succeeds(%VOLUME, plane => 'tls');

SKIP: {
    skip('no qemu-system-x86_64', 1) if !has_qemu();
    my %guest = guest_migration(%VOLUME);
    suspend_at(%guest, plane => 'tcp', victim => 'connector', point => 'ram');
}

$VOLUME{node}->stop;
done_testing;
