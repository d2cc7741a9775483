package Test::FaultInjection;

# One process of a migration is killed at one point: what has to come of that, whichever it is.

use v5.36;

use Exporter qw(import);
use Test::More;
use Time::HiRes qw(clock_gettime CLOCK_MONOTONIC);

use Test::MigrationProcess;
use Test::Processes qw(in_session is_running listening established sockets_in wait_until);

our @EXPORT_OK = qw(kill_at nothing_left);

=head1 NAME

Test::FaultInjection - a cell of the table of faults

=head1 FUNCTIONS

=head2 kill_at(%options)

A subtest. C<victim> and C<point> say who is killed where: a name that
L<Test::MigrationProcess/pid> knows, and one of C<stop_at> there or C<hello>, which is a listener
that has been connected to and has not said a word. The other options are those of
L<Test::MigrationProcess>; C<dir> is made below the one given. C<guest> is the status that the
source's guest has to have then, by default C<running>; C<arrived> is called with the target's guest's
number and tests what is there.

=head2 nothing_left($node, $dir, $what)

Tests that nothing of a migration is left: no process at the target but the node (the leader of its
session), no listening port, no socket.

=cut

# Seconds from the kill to the error. The longest way is that of an import at the target that
# nobody has connected to: the sender gives it 10 s to say why.
use constant BOUND => 25;

# What says who died: the caller's error, its log, or the log of the target's worker.
my %SAYS = (
    caller => qr/the tunnel ended without 'quit'/,
    child => qr/the process between tunnel and log was ended by SIGKILL/,
    connector => qr/the connector was ended by SIGKILL/,
    worker => qr/the target closed the control connection: the worker behind it has ended/,
    listener =>
        qr/the target's listener (?:at \S+ is dead|cannot be closed: .*the listener has ended)/,
    'source QEMU' => qr/^error: .*(?:QEMU has ended|QEMU's monitor failed)/m,
    # Its sockets end with it, and those who had to do with them say so.
    'target QEMU' =>
        qr/FAILED: the local program closed|takes no connection|QEMU has ended|monitor failed/,
);

my $number = 0;

sub kill_at (%option) {
    my ($victim, $point, $dir) = delete @option{qw(victim point dir)};
    my $hello = $point eq 'hello';
    my $node = $option{node};
    my $target_vmid = 200 + ++$number;
    my $name = "$option{plane}: $victim, $point";
    subtest $name => sub {
        my $migration = Test::MigrationProcess->start(
            (map { $_ => $option{$_} } grep { !/\A(?:arrived|guest)\z/ } keys %option),
            dir => "$dir/$number",
            target_vmid => $target_vmid,
            stop_at => $hello ? 'forward' : $point,
        );
        if (!eval { $migration->wait_at; 1 }) {
            fail("the migration comes to this point: $@");
            return;
        }
        my $pid = $migration->pid($victim);
        if (!$pid) {
            fail('there is somebody to kill');
            return;
        }
        my $listener = $hello ? $migration->pid('listener') : undef;
        be_in_hello($migration, $listener) if $listener;
        kill(KILL => $pid) == 1 or die "kill $victim: $!\n";
        my $killed = clock_gettime(CLOCK_MONOTONIC);
        # It dies when the kernel gets to it: on a busy machine, the others could be done before.
        wait_until(sub { !is_running($pid) }) or die "the $victim does not die\n";
        kill CONT => $listener if $listener;
        $migration->go if !$listener;

        my $end = eval { $migration->end(BOUND) };
        if (!$end) {
            fail("an end within ${\BOUND} s: $@");
            return;
        }
        note(
            sprintf '%.1f s: %s', clock_gettime(CLOCK_MONOTONIC) - $killed,
            $end->{error} // 'killed'
        );
        ok(!$end->{done}, 'no success');
        if ($victim eq 'caller') {
            ok($end->{killed}, 'it was killed');
        } else {
            like($end->{error}, qr/\A[^\n]+\n\z/, 'an error of one line');
            is($end->{guest}, $option{guest} // 'running', 'the guest at the source')
                if $option{disk} && $victim ne 'source QEMU';
        }
        $option{arrived}->($target_vmid) if $option{arrived};
        ok(wait_until(sub { !in_session($migration->pid('caller')) }), 'no process at the source')
            or diag(explain([in_session($migration->pid('caller'))]));
        remove_workers_sockets($node, $target_vmid) if $victim eq 'worker';
        nothing_left($node, "$dir/$number", 'gone');
        my $said =
            'error: ' . ($end->{error} // "\n") . $migration->log . $node->worker_log($target_vmid);
        like($said, $SAYS{$victim}, 'it is said who died');
    };
    return;
}

# Stopped, it takes connections (its kernel does) and says nothing.
sub be_in_hello ($migration, $listener) {
    kill(STOP => $listener) == 1 or die "stop the listener: $!\n";
    my $before = established($migration->port, $listener);
    $migration->go;
    wait_until(sub { established($migration->port, $listener) > $before })
        or die "nobody has connected to the listener\n";
    return;
}

# QEMU's and the import's, which a killed worker cannot remove; none of them is ours. The next
# migration of this guest removes them.
sub remove_workers_sockets ($node, $vmid) {
    unlink map { "$node->{dir}/$vmid$_" } '.migrate', '_nbd.migrate', '.storage', '.qmp';
    return;
}

sub nothing_left ($node, $dir, $what) {
    my $others = sub {
        grep { $_ != $node->{pid} } in_session($node->{pid});
    };
    ok(wait_until(sub { !$others->() }), "$what: no process at the target")
        or diag(explain([map { Test::Processes::command_line($_) } $others->()]));
    is_deeply([listening($node->{pid})], [], '... and no port');
    # The monitor of a guest that was killed is the test's own.
    is_deeply([grep { !/\.qmp\z/ } sockets_in($dir)], [], '... no socket at the source');
    is_deeply([sockets_in($node->{dir})], [], '... nor at the target');
    return;
}

1;
