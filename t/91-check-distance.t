#!/usr/bin/perl

# pve-tunnel check on a long path and on a slow one: the rate that it shows is what the path carries, and it
# ends within its time limits.

use v5.36;

use File::Temp qw(tempdir);
use FindBin;
use POSIX ();
use Test::More;

use lib map { "$FindBin::RealBin/../$_" }
    qw(t/lib demo/lib testnode/lib perl/blib/lib perl/blib/arch);
use Demo::Hosts;
use Test::CheckCommand qw(check remote reports write_file);
use Test::PrivateNetwork;
use Test::TunnelNode;
use TestNode::Node;

# A test that hangs must fail.
local $SIG{ALRM} = sub { die "the test timed out\n" };
alarm(300);

my $DIR = tempdir(CLEANUP => 1);

# MB/s that the emulated link carries, and a little more for the resolution of the samples.
use constant LINK_RATE => 125 * 1.05;

# The rate from the first byte to the end, which contains the start of TCP.
sub whole ($measurement) { return $measurement->{bytes} / 1e6 / $measurement->{seconds} }

sub measurement ($result, $plane, $direction) {
    my ($found) = grep { $_->{plane} eq $plane && $_->{direction} eq $direction }
        $result->{report}{measurements}->@*;
    return $found // die "no measurement of $plane, $direction\n";
}

# The texts of the findings about speed.
sub speeds ($result) {
    return map { $_->{text} } grep { $_->{step} eq 'speed' } $result->{report}{findings}->@*;
}

subtest 'a round trip of 300 ms' => sub {
    plan skip_all => 'only root has two networks on one machine'
        if ($ENV{PVE_TUNNEL_DEMO_NAMESPACE} // '') ne $$;
    my $profile = $ENV{CARGO_PROFILE} // 'release';
    plan skip_all => 'no emulated link: build it with cargo build --release -p testing'
        if !-e "$FindBin::RealBin/../target/$profile/emulated-link";
    my $hosts = Demo::Hosts->new(link => Demo::Hosts::link_conditions('300ms'));
    my $node = TestNode::Node->start(
        dir => "$DIR/node",
        listen => $hosts->target,
        wrap => [$hosts->at_target],
        options => ['--create-guests', '--system-buffers'],
    );
    my %remote = (%$node{qw(address port fingerprint)}, token => $node->token);
    write_file("$DIR/guests/qemu-server/700.conf", "memory: 1024\n");
    my $result = check(
        remote(\%remote), '--network', $hosts->network,
        '--guests', "$DIR/guests", '--vmid', 700
    );
    reports($result, 0);
    is($result->{report}{plane}, 'tls', 'the plane');
    my ($rates, $wholes) = (0, 0);
    for my $plane (qw(websocket tls)) {
        for my $direction (qw(sent received)) {
            my $measured = measurement($result, $plane, $direction);
            my ($rate, $whole) = ($measured->{rate}, whole($measured));
            note(sprintf "$plane, $direction: %.1f MB/s, with the start %.1f MB/s", $rate, $whole);
            cmp_ok($rate, '>', 1.1 * $whole, "$plane, $direction: more than with the start");
            cmp_ok($rate, '<', LINK_RATE, '... and not more than the link carries');
            $rates += $rate;
            $wholes += $whole;
        }
    }
# A single connection may have a slow start, because the machine of the test has little time for it.
    cmp_ok($rates, '>', 1.5 * $wholes, 'together, much more than with the start');
    my ($ram) = grep { /\ARAM: / } map { $_->{text} } $result->{report}{findings}->@*;
    my $seconds = 1024 * 1.048576 / measurement($result, 'tls', 'sent')->{rate};
    my ($minutes, $rest) = (int(POSIX::ceil($seconds) / 60), POSIX::ceil($seconds) % 60);
    my $time = $minutes ? sprintf('%d min %02d s', $minutes, $rest) : "$rest s";
    # At most, if the rate was still growing.
    like(
        $ram, qr/\ARAM: 1\.0 GiB in (?:about|at most) \Q$time\E\z/,
        'the time is that of the rate'
    );
};

# The target reads slowly, and the buffers of both nodes contain more than it reads until the meter's limit.
subtest 'a slow path' => sub {
    my $node = Test::TunnelNode->start(
        worker => "$FindBin::RealBin/../testnode/worker.pl",
        create_guests => 1,
        system_buffers => 1,
        misbehave => ['slow-read=50000'],
    );
    my $result = check(remote($node), '--network', '127.0.0.0/8', '--seconds', 1);
    reports($result, 0);
    my $sent = measurement($result, 'websocket', 'sent');
    cmp_ok($sent->{rate}, '>', 0, 'a rate');
    cmp_ok($sent->{rate}, '<', 0.2, 'which is that of the reading, and not of the buffers');
    unlike("@{[speeds($result)]}", qr/\b0(?:\.0)? [Mk]B\/s/, 'no rate is shown as zero');
    cmp_ok($result->{time}, '<', 90, "the check ends soon ($result->{time} s)");
};

done_testing;
