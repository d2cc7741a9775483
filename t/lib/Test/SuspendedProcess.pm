package Test::SuspendedProcess;

# Suspends one process of a migration for longer than the dead-peer limit, and lets it continue.

use v5.36;

use Exporter qw(import);
use Test::More;
use Time::HiRes qw(clock_gettime CLOCK_MONOTONIC);

use Test::FaultInjection qw(stopped_migration nothing_left files_of);
use Test::Processes qw(in_session is_running wait_until);

our @EXPORT_OK = qw(suspend_at);

=head1 NAME

Test::SuspendedProcess - suspends a process of a migration (SIGSTOP) and tests the result

=head1 FUNCTIONS

=head2 suspend_at(%options)

A subtest. Suspends C<victim>, the C<connector>, the C<listener> or the C<worker>, when the
migration has reached C<point>, for longer than the dead-peer limit of 3 s. The listener and the
worker continue after the migration has failed. The connector continues after the target has
detected that its peer is dead: until then the caller waits for its connector. The migration must
fail with a cause that names the peer, C<within> that number of seconds (95), and nothing may be
left. The other options are those of
L<Test::FaultInjection/kill_at>.

=cut

use constant {
    # Seconds.
    DEAD_PEER_TIMEOUT => 3,
   # After the loss of its data, an import may be pending for 35 s; then the caller cleans up for at
   # most 40 s, and waits 10 s for its connector to end after SIGTERM.
    BOUND => 95,
};

# What reports the suspension, and the text.
my %REPORT = (
    connector => {
        target => qr/the source is dead: no heartbeat received for 3s/,
        source => qr/the target's listener at \S+ is dead/,
    },
    listener => { source => qr/the target's listener at \S+ is dead: no heartbeat/ },
    worker => { source => qr/^error: no answer to 'query-disk-import': timeout after 10 s$/m },
);

my $number = 0;

sub suspend_at (%option) {
    my ($victim, $point, $dir) = delete @option{qw(victim point dir)};
    my $within = delete $option{within} // BOUND;
    my $node = $option{node};
    my $target_vmid = 400 + ++$number;
    subtest "$option{plane}: the $victim is suspended, $point" => sub {
        my $migration = stopped_migration(
            %option,
            dir => "$dir/suspended-$number",
            target_vmid => $target_vmid,
            stop_at => $point,
            dead_peer_timeout => DEAD_PEER_TIMEOUT,
        ) // return;
        my $pid = $migration->pid($victim) // do {
            fail("there is a process '$victim' to suspend");
            return;
        };
        kill(STOP => $pid) == 1 or die "suspend the $victim: $!\n";
        my $suspended = clock_gettime(CLOCK_MONOTONIC);
        $migration->go;
        my $report = $REPORT{$victim};
        if (my $detected = $report->{target}) {
            ok(
                wait_until(sub { $node->worker_log($target_vmid) =~ $detected }),
                'the target detects that its peer is dead'
            );
            kill(CONT => $pid) == 1 or fail("the $victim still exists");
        }
        my $end = eval { $migration->end(BOUND) };
        if (!$end) {
            kill(CONT => $pid);
            fail("the migration ends within ${\BOUND} s: $@");
            return;
        }
        my $seconds = clock_gettime(CLOCK_MONOTONIC) - $suspended;
        # The limit begins with the last heartbeat, which is up to a quarter of the limit earlier.
        cmp_ok($seconds, '>', 3 / 4 * DEAD_PEER_TIMEOUT, sprintf 'it ends after %.1f s', $seconds);
        cmp_ok($seconds, '<', $within, "... within $within s");
        # The worker kills a listener that does not answer.
        kill(CONT => $pid) if is_running($pid);

        ok(!$end->{done}, 'the migration does not succeed');
        like($end->{error}, qr/\A[^\n]+\n\z/, 'the error is one line');
        note($end->{error});
        is($end->{guest}, 'running', 'the guest runs at the source') if $option{disk};
        like(
            "error: $end->{error}" . $migration->log, $report->{source},
            'the source has the cause'
        );
        my $caller = $migration->pid('caller');
        ok(wait_until(sub { !in_session($caller) }), 'no process at the source')
            or diag(explain([in_session($caller)]));
        nothing_left($node, $migration->{dir}, 'afterwards');
        is_deeply([files_of($node, $target_vmid)], [], 'no file of the guest at the target');
    };
    return;
}

1;
