#!/usr/bin/perl

# Kills each process of a running guest's migration, QEMU at both ends included.
use v5.36;

use FindBin;
use Test::More;

use lib map { "$FindBin::Bin/../$_" } qw(t/lib demo/lib testnode/lib perl/blib/lib perl/blib/arch);
use Test::FaultInjection qw(kill_at next_succeeds);
use Test::FaultSetup qw(volume_migration guest_migration has_qemu);
use Test::PrivateNetwork;
use TestNode::QMP;

plan skip_all => 'no qemu-system-x86_64' if !has_qemu();
my %COMMON = guest_migration(volume_migration(1200));
my $NODE = $COMMON{node};

my @QEMU = ('source QEMU', 'target QEMU');
my @VICTIMS = (@QEMU, 'caller', 'child', 'connector', 'worker', 'listener');
# Not each victim is killed at each point. Before the first byte, a guest makes no difference to the
# processes other than QEMU, and 73-faults-volume.t kills those. RAM and disk take the same path on
# both planes, so all victims are killed during one of them, and during the other only QEMU and the
# listener, whose end QEMU observes differently in the two.
my @BOTH = (@QEMU, 'listener');
my %POINTS = (
    tls => { handshake => \@QEMU, nbd => \@BOTH, ram => \@VICTIMS, end => \@VICTIMS },
    tcp => { handshake => \@QEMU, nbd => \@VICTIMS, ram => \@BOTH, end => \@VICTIMS },
);

# For a kill after all bytes have arrived and both ends of each connection have ended it: the guest
# runs at the target only. The killed process is an error nevertheless, which the operator must see.
sub arrived ($vmid) {
    my $qmp = TestNode::QMP->new("$NODE->{dir}/$vmid.qmp");
    is($qmp->command('query-status')->{status}, 'running', 'the guest runs at the target');
    $qmp->command('quit');
    return;
}

for my $plane (qw(tls tcp)) {
    for my $point (qw(handshake nbd ram end)) {
        for my $victim (@{ $POINTS{$plane}{$point} }) {
            # After the transfer, the guest stays paused at the source in case it must resume there.
            my %expected = $point eq 'end' ? (guest => 'postmigrate') : ();
            %expected = (guest => 'gone', arrived => \&arrived)
                if "$victim $point" eq 'listener end';
            kill_at(%COMMON, plane => $plane, victim => $victim, point => $point, %expected);
        }
    }
    next_succeeds(%COMMON, plane => $plane, arrived => \&arrived);
}

$NODE->stop;
done_testing;
