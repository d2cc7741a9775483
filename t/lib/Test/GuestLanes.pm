package Test::GuestLanes;

# A running guest's migration, with QEMU at both ends and several lanes for each stream, whose link
# fails.

use v5.36;

use Exporter qw(import);
use Test::More;
use Time::HiRes qw(clock_gettime CLOCK_MONOTONIC);

use Demo::Report;
use Test::FaultInjection qw(nothing_left stopped_migration files_of);
use Test::FaultSetup qw(volume_migration guest_migration has_qemu);
use Test::MigrationLink;
use Test::Processes qw(established in_session wait_until);
use TestNode::QMP;

our @EXPORT_OK = qw(lanes_of_guest heals fails);

=head1 NAME

Test::GuestLanes - cuts the lanes of a running guest's migration

=head1 SYNOPSIS

    use Test::PrivateNetwork;

    my $setup = lanes_of_guest(300);
    heals($setup, tls => ram => 'RST on one lane');

=head1 FUNCTIONS

=head2 lanes_of_guest($limit)

Creates a link and starts the target at its end. The test is skipped where there is no QEMU, or no
L<Test::MigrationLink>. It dies after C<$limit> seconds.

=head2 heals($setup, $plane, $point, $cut)

A subtest. At that point, C<nbd> or C<ram> of L<Test::MigrationProcess>, the source sends data that is
lost, and the following happens. The migration has to succeed, and the guest has to run at the target
only, with equal RAM and disks.

    RST on one lane
    RST on all lanes
    RST on all lanes and the heartbeat
    the packets of one lane are lost
    all packets are lost until a lane fails
    all packets are lost until the heartbeat fails

All lanes includes those of the disk's stream at C<ram>, because the mirror of the disk continues
then. At that point, the one lane carries RAM.

=head2 fails($setup, $plane, $point, $lanes)

A subtest. All packets are lost for longer than the dead-peer limit. The migration has to fail, and
the guest has to run at the source. Returns what the source reports: the error, and the lines of the
log about the failure, without numbers of bytes and seconds.

=cut

use constant {
    LANES => 3,
    # Seconds. A lane fails if sent data was not acknowledged for a quarter of it, and the heartbeat
    # if it was not answered for half of it.
    DEAD_PEER_LIMIT => 10,
    # The same for a cut that is longer.
    SHORT_LIMIT => 4,
    # Seconds until the guest has arrived, or has failed to.
    END_LIMIT => 60,
    # Bytes. A lane on which less waits may carry acknowledgements only, or, while RAM is sent, one
    # piece of 64 KiB of the mirror, which continues.
    LOST => 80 << 10,
};

my $number = 0;

sub lanes_of_guest ($limit) {
    plan skip_all => 'no qemu-system-x86_64' if !has_qemu();
    my $link = Test::MigrationLink->new;
    plan skip_all => $link->missing if $link->missing;
    my %volume = volume_migration($limit, $link);
    return { link => $link, options => { guest_migration(%volume), volume => $volume{volume} } };
}

# Each cut ends with a link that delivers all packets, but those of a connection that the source has
# given up. The first lane is the one with the most lost data.
my %CUT = (
    'RST on one lane' => sub ($link, $heartbeat, @lanes) {
        $link->reset($lanes[0]);
        $link->deliver;
    },
    'RST on all lanes' => sub ($link, $heartbeat, @lanes) {
        $link->reset(@lanes);
        $link->deliver;
    },
    'RST on all lanes and the heartbeat' => sub ($link, $heartbeat, @lanes) {
        $link->reset(@lanes, $heartbeat);
        $link->deliver;
    },
    'the packets of one lane are lost' => sub ($link, $heartbeat, @lanes) {
        $link->drop_only($lanes[0]);
        wait_until(sub { !is_open($link, $lanes[0]) })
            or die "the source does not give up the lane\n";
    },
    'all packets are lost until a lane fails' => sub ($link, $heartbeat, @lanes) {
        wait_for_dial($link, $lanes[0]);
        $link->deliver;
    },
    'all packets are lost until the heartbeat fails' => sub ($link, $heartbeat, @lanes) {
        wait_for_dial($link, $heartbeat);
        $link->deliver;
    },
);

sub heals ($setup, $plane, $point, $cut) {
    my ($link, $node) = ($setup->{link}, $setup->{options}{node});
    subtest "$plane, $point: $cut" => sub {
        my $migration = migration($setup, plane => $plane, stop_at => $point) // return;
        my $connections = $migration->{connections};
        my $cut_at = clock_gettime(CLOCK_MONOTONIC);
        my @lanes = lanes_with_lost_data($link, $migration);
        $CUT{$cut}->($link, $migration->heartbeat, @lanes);
        ok(
            wait_until(sub { $connections == open_connections($link) }),
            'the source opens as many connections again'
        ) or diag($migration->log);
        my $healed_at = clock_gettime(CLOCK_MONOTONIC);
        cmp_ok(
            established($migration->port, $node->{pid}),
            '<=', $connections + @lanes,
            'the target has no more than these, and those that were lost'
        );
        $migration->accelerate;
        $migration->go;
        my $end = $migration->end(END_LIMIT);
        $link->deliver;
        note(
            sprintf 'the cut: %.1f s, the rest: %.1f s',
            $healed_at - $cut_at, clock_gettime(CLOCK_MONOTONIC) - $healed_at
        );
        ok($end->{done}, 'the migration succeeds') or diag($end->{error}, $migration->log);
        return if !$end->{done};
        is_deeply(
            [Demo::Report::faults($end->{result})], [],
            'RAM and disks are equal, and the guest continues'
        );
        is($end->{guest}, 'gone', 'no guest runs at the source');
        stop_arrived($node);
        my ($record, $log) = ($end->{record}, $migration->log);
        is_deeply([$log =~ m/^.*(?:FAILED: | is dead: ).*$/mg], [], 'no stream failed');
        cmp_ok($record->{lanes}{reopened}, '>', 0, 'lanes were opened again');
        cmp_ok($record->{lanes}{resent}, '>', 0, 'data was sent again');
        is($record->{lanes}{most}, LANES, 'no stream had more lanes than configured');
        my $socket = $point eq 'ram' ? '100.migrate' : '100_nbd.migrate';
        like($log, qr{/\Q$socket\E': connection \d+: lane \d: is open again}, 'the log reports it');
        ends_cleanly($migration, $node);
    };
    return;
}

sub fails ($setup, $plane, $point, $lanes) {
    my ($link, $node) = ($setup->{link}, $setup->{options}{node});
    my @report;
    subtest "$plane, $point, lanes: $lanes; all packets are lost for longer than the limit" => sub {
        my $migration = migration(
            $setup,
            plane => $plane,
            stop_at => $point,
            lanes => $lanes,
            dead_peer_timeout => SHORT_LIMIT,
        ) // return;
        lanes_with_lost_data($link, $migration);
        $migration->go;
        my $end = $migration->end(END_LIMIT);
        $link->deliver;
        ok(!$end->{done}, 'the migration does not succeed') or return;
        is($end->{guest}, 'running', 'the guest runs at the source');
        ends_cleanly($migration, $node);
        is_deeply([files_of($node, 200 + $number)], [], 'no file of the guest at the target');
        my $log = $migration->log;
        @report = ($end->{error}, sort map { s/ \(.*//r } $log =~ /^(.* is dead: .*)$/mg);
        like(
            "@report", qr/FAILED: .* is dead: no heartbeat received for ${\SHORT_LIMIT}s/,
            'the log has the failure and its cause'
        ) or diag($log);
    };
    return map { s{/\S*/\d+/}{}r } @report;
}

# Starts a migration that has stopped at this point. Returns it when each of its streams has its
# lanes.
sub migration ($setup, %option) {
    my $link = $setup->{link};
    my $lanes = $option{lanes} // LANES;
    my $migration = stopped_migration(
        $setup->{options}->%*,
        dead_peer_timeout => DEAD_PEER_LIMIT,
        %option,
        dir => "$setup->{options}{dir}/" . ++$number,
        target_vmid => 200 + $number,
        lanes => $lanes,
        network => $link->network,
    ) // return;
    $link->listener($migration->port);
    # The heartbeat, and a stream for the disk and one for the RAM.
    $migration->{connections} = 1 + $lanes * ($option{stop_at} eq 'ram' ? 2 : 1);
    return $migration if wait_until(sub { $migration->{connections} == open_connections($link) });
    fail('each stream has its lanes');
    diag($migration->log);
    return;
}

# The source's connections that are open, as far as it has noticed.
sub open_connections ($link) {
    return grep { $_->{state} eq 'established' } $link->connections;
}

sub is_open ($link, $port) {
    return scalar grep { $_->{port} == $port } open_connections($link);
}

# Loses all packets. Returns the lanes when the source has sent data on one of them that cannot
# arrive; this one is the first.
sub lanes_with_lost_data ($link, $migration) {
    my @lanes;
    $link->drop;
    my $sent = sub {
        @lanes = sort { $b->{waiting} <=> $a->{waiting} }
            grep { $_->{port} != $migration->heartbeat } open_connections($link);
        return $lanes[0]{waiting} > LOST;
    };
    wait_until($sent) or die "the source sends nothing\n";
    return map { $_->{port} } @lanes;
}

# Waits until the source dials, because it has given this connection up.
sub wait_for_dial ($link, $port) {
    my $dials = sub {
        return !is_open($link, $port) && grep { $_->{state} eq 'connecting' } $link->connections;
    };
    wait_until($dials) or die "the source does not give up the connection\n";
    return;
}

sub stop_arrived ($node) {
    my $qmp = TestNode::QMP->new("$node->{dir}/" . (200 + $number) . '.qmp');
    is($qmp->command('query-status')->{status}, 'running', 'the guest runs at the target');
    $qmp->command('quit');
    return;
}

sub ends_cleanly ($migration, $node) {
    my $caller = $migration->pid('caller');
    ok(wait_until(sub { !in_session($caller) }), 'no process at the source')
        or diag(explain([in_session($caller)]));
    nothing_left($node, $migration->{dir}, 'afterwards');
    return;
}

1;
