#!/usr/bin/perl

# Packets of a running guest's migration are lost for a time, and the guest arrives complete.
use v5.36;

use FindBin;
use Test::More;

use lib map { "$FindBin::Bin/../$_" } qw(t/lib demo/lib testnode/lib perl/blib/lib perl/blib/arch);
use Test::GuestLanes qw(lanes_of_guest heals);
use Test::PrivateNetwork;

my $SETUP = lanes_of_guest(300);

my %ALL_LOST = (
    'tls nbd' => 'the heartbeat',
    'tls ram' => 'a lane',
    'tcp nbd' => 'a lane',
    'tcp ram' => 'the heartbeat',
);

for my $plane (qw(tls tcp)) {
    for my $point (qw(nbd ram)) {
        heals($SETUP, $plane, $point, 'the packets of one lane are lost');
        heals(
            $SETUP, $plane, $point,
            "all packets are lost until $ALL_LOST{\"$plane $point\"} fails"
        );
    }
}

$SETUP->{options}{node}->stop;
done_testing;
