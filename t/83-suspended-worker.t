#!/usr/bin/perl

# A worker that does nothing for longer than the dead-peer limit (SIGSTOP), and then continues: the
# migration stays failed, and nothing is left.
use v5.36;

use FindBin;
use Test::More;

use lib map { "$FindBin::Bin/../$_" } qw(t/lib demo/lib testnode/lib perl/blib/lib perl/blib/arch);
use Test::FaultInjection qw(next_succeeds);
use Test::FaultSetup qw(volume_migration);
use Test::PrivateNetwork;
use Test::SuspendedProcess qw(suspend_at);

my %VOLUME = volume_migration(1200);
# The worker is on the control connection, which is the same on both planes. The caller waits 10 s for
# an answer, and then at most 40 s for its clean-up; its connector ends at SIGTERM.
suspend_at(%VOLUME, plane => 'tls', victim => 'worker', point => 'volume', within => 55);
next_succeeds(%VOLUME, plane => 'tls');

$VOLUME{node}->stop;
done_testing;
