#!/usr/bin/perl

# The link of a running guest's migration is cut for longer than the dead-peer limit: with several
# lanes, the migration fails as with one connection.
use v5.36;

use FindBin;
use Test::More;

use lib map { "$FindBin::Bin/../$_" } qw(t/lib demo/lib testnode/lib perl/blib/lib perl/blib/arch);
use Test::GuestLanes qw(lanes_of_guest fails);
use Test::PrivateNetwork;

my $SETUP = lanes_of_guest(300);

for my $case ([tls => 'nbd'], [tcp => 'ram']) {
    my @one = fails($SETUP, @$case, 1);
    my @several = fails($SETUP, @$case, 3);
    is_deeply(
        \@several, \@one,
        "@$case: the same error and the same failures as with one connection"
    );
}

$SETUP->{options}{node}->stop;
done_testing;
