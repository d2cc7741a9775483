#!/usr/bin/perl

# Connections of a running guest's migration are reset, and the guest arrives complete.
use v5.36;

use FindBin;
use Test::More;

use lib map { "$FindBin::Bin/../$_" } qw(t/lib demo/lib testnode/lib perl/blib/lib perl/blib/arch);
use Test::GuestLanes qw(lanes_of_guest heals);
use Test::PrivateNetwork;

my $SETUP = lanes_of_guest(300);

for my $plane (qw(tls tcp)) {
    for my $point (qw(nbd ram)) {
        heals($SETUP, $plane, $point, $_) for 'RST on one lane', 'RST on all lanes';
    }
}
heals($SETUP, tls => ram => 'RST on all lanes and the heartbeat');

$SETUP->{options}{node}->stop;
done_testing;
