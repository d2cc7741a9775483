package Test::FaultInjection;

# Kills one process of a migration at one point and tests the result, which is the same for all.

use v5.36;

use Exporter qw(import);
use Test::More;
use Time::HiRes qw(clock_gettime CLOCK_MONOTONIC);

use Test::MigrationProcess;
use Test::Processes qw(in_session is_running listening established sockets_in wait_until);

our @EXPORT_OK = qw(kill_at stop_task stopped_migration next_succeeds nothing_left files_of);

=head1 NAME

Test::FaultInjection - kills a process of a migration and tests the result

=head1 FUNCTIONS

=head2 kill_at(%options)

A subtest. C<victim> is the process to kill, a name as in L<Test::MigrationProcess/pid>. C<signal>
is the signal, by default C<KILL>; with C<group>, its process group receives the signal. C<point> is
where to kill it: a value of C<stop_at> there, or C<handshake>, where the source has connected to
the listener and the listener has sent nothing. The other options are those of
L<Test::MigrationProcess/start>; C<dir> is created below the given directory. C<guest> is the
expected status of the guest at the source afterwards, by default C<running>. C<arrived> is called
with the guest ID at the target and tests the guest there.

=head2 stop_task(%options)

A subtest. Sends C<signal> to the process group of the caller, as Proxmox VE stops a task, when the
migration has reached C<point>. The caller cleans up, and nothing may be left at either end: no
process, port or socket, and at the target no file of the guest. The other options are those of
C<kill_at>.

=head2 stopped_migration(%options)

Starts a L<Test::MigrationProcess> with these options. Returns it when it has stopped at C<stop_at>.
If it does not stop there, a test fails, and the result is undef.

=head2 next_succeeds(%options)

Tests that the node still works after the kills: one more migration succeeds and leaves nothing. The
options are those of L<Test::MigrationProcess/start>, with C<dir> and C<arrived> as in C<kill_at>.

=head2 nothing_left($node, $dir, $name)

Tests that nothing of a migration is left: at the target no process except the node (the leader of
its session) and no listening port, and no socket at either end. C<$name> is the prefix of the test
names.

=head2 files_of($node, $vmid)

The names of the volumes and of the configuration of a guest at the target.

=cut

# Seconds from the kill to the error. The longest case is an import at the target without a
# connection: the sender waits 10 s for its reason.
use constant BOUND => 25;

# The texts that name each victim, in the caller's error, its log, or the log of the target's
# worker.
my %REPORT = (
    caller => qr/the tunnel ended without 'quit'/,
    child => qr/the process that passes the tunnel's log on was ended by SIGKILL/,
    connector => qr/the connector was ended by SIGKILL/,
    worker => qr/the target closed the control connection: the worker behind it has ended/,
    listener =>
        qr/the target's listener (?:at \S+ is dead|cannot be closed: .*the listener has ended)/,
    'source QEMU' => qr/^error: .*(?:QEMU has ended|QEMU's monitor failed)/m,
    # Its sockets end with it, and the programs that use them report errors.
    'target QEMU' =>
        qr/FAILED: the local program closed|does not accept a connection|QEMU has ended|monitor failed/,
);

sub stopped_migration (%option) {
    my $migration = Test::MigrationProcess->start(%option);
    return $migration if eval { $migration->wait_at; 1 };
    fail("the migration reaches this point: $@");
    return;
}

my $number = 0;

sub kill_at (%option) {
    my ($victim, $point, $dir) = delete @option{qw(victim point dir)};
    my $in_handshake = $point eq 'handshake';
    my $node = $option{node};
    my $target_vmid = 200 + ++$number;
    my $group = delete $option{group};
    my $signal = delete($option{signal}) // 'KILL';
    my $name = "$option{plane}: SIG$signal to $victim" . ($group ? "'s group" : '') . ", $point";
    subtest $name => sub {
        my $migration = stopped_migration(
            (map { $_ => $option{$_} } grep { !/\A(?:arrived|guest)\z/ } keys %option),
            dir => "$dir/$number",
            target_vmid => $target_vmid,
            stop_at => $in_handshake ? 'forward' : $point,
        ) // return;
        my $pid = $migration->pid($victim);
        if (!$pid) {
            fail("there is a process '$victim' to kill");
            return;
        }
        my $listener = $in_handshake ? $migration->pid('listener') : undef;
        stop_in_handshake($migration, $listener) if $listener;
        kill($signal => $group ? -$pid : $pid) == 1 or die "kill $victim: $!\n";
        my $killed = clock_gettime(CLOCK_MONOTONIC);
        # The kernel may end the process later. On a busy machine, the migration could end before.
        wait_until(sub { !is_running($pid) }) or die "the $victim does not end\n";
        kill CONT => $listener if $listener;
        $migration->go if !$listener;

        my $end = eval { $migration->end(BOUND) };
        if (!$end) {
            fail("the migration ends within ${\BOUND} s: $@");
            return;
        }
        note(
            sprintf '%.1f s: %s', clock_gettime(CLOCK_MONOTONIC) - $killed,
            $end->{error} // 'killed'
        );
        ok(!$end->{done}, 'the migration does not succeed');
        if ($victim eq 'caller') {
            ok($end->{killed}, 'the caller was killed');
        } else {
            like($end->{error}, qr/\A[^\n]+\n\z/, 'the error is one line');
            is($end->{guest}, $option{guest} // 'running', 'the status of the guest at the source')
                if $option{disk} && $victim ne 'source QEMU';
        }
        $option{arrived}->($target_vmid) if $option{arrived};
        ok(wait_until(sub { !in_session($migration->pid('caller')) }), 'no process at the source')
            or diag(explain([in_session($migration->pid('caller'))]));
        remove_workers_sockets($node, $target_vmid) if $victim eq 'worker';
        nothing_left($node, "$dir/$number", 'afterwards');
        my $report =
            'error: ' . ($end->{error} // "\n") . $migration->log . $node->worker_log($target_vmid);
        like($report, $REPORT{$victim}, 'the error or a log names the victim');
        if ($victim eq 'caller') {
            like($migration->log, qr/caller of this tunnel has ended without 'quit'/, 'as its log');
            unlike($migration->log, qr/is dead/, 'its log does not name the listener');
        }
        # At the end, everything has arrived, and the caller does not clean up.
        is_deeply([files_of($node, $target_vmid)], [], 'no file of the guest at the target')
            if $victim eq 'listener' && $point ne 'end';
    };
    return;
}

sub stop_task (%option) {
    my ($signal, $point, $dir) = delete @option{qw(signal point dir)};
    my $node = $option{node};
    my $target_vmid = 200 + ++$number;
    subtest "$option{plane}: SIG$signal to the group, $point" => sub {
        my $migration = stopped_migration(
            %option,
            dir => "$dir/$number",
            target_vmid => $target_vmid,
            stop_at => $point,
        ) // return;
        my ($caller, $connector) = map { $migration->pid($_) } qw(caller connector);
        kill($signal => -$caller) == 1 or die "kill $signal: $!\n";
        # Where signals are deferred, the caller goes on to the next point at which they are not.
        $migration->go;
        my $end = eval { $migration->end(BOUND) };
        if (!$end) {
            fail("the migration ends within ${\BOUND} s: $@");
            return;
        }
        like($end->{error}, qr/received interrupt|the tunnel closed/, 'the error is the interrupt');
        is($end->{guest}, 'running', 'the guest runs at the source') if $option{disk};
        ok(wait_until(sub { !in_session($caller) }), 'no process at the source')
            or diag(explain([in_session($caller)]));
        nothing_left($node, "$dir/$number", 'afterwards');
        is_deeply([files_of($node, $target_vmid)], [], 'no file of the guest at the target');
        my ($log, $worker_log) = ($migration->log, $node->worker_log($target_vmid));
        is(
            scalar(() = $worker_log =~ /^command: quit$/mg),
            $point eq 'request' && !length($worker_log) ? 0 : 1,
            'the worker receives the clean-up'
        ) or diag($log, $worker_log);
        unlike($log, qr/ended by SIG|is dead|did not confirm/, 'the log has no other failure');
    };
    return;
}

sub files_of ($node, $vmid) {
    return map { s{.*/}{}r } grep { -e } glob("$node->{dir}/vm-$vmid-* $node->{dir}/$vmid.conf");
}

sub next_succeeds (%option) {
    my ($arrived, $plane) = (delete $option{arrived}, $option{plane});
    my ($dir, $target_vmid) = ("$option{dir}/last-$plane", 100);
    my $migration =
        Test::MigrationProcess->start(%option, dir => $dir, target_vmid => $target_vmid);
    my $end = $migration->end;
    ok($end->{done}, "$plane: the next migration succeeds") or diag($end->{error}, $migration->log);
    $arrived->($target_vmid) if $arrived;
    nothing_left($option{node}, $dir, "$plane, the next migration");
    return;
}

# Stops the listener, so that the kernel accepts connections and the listener sends nothing.
sub stop_in_handshake ($migration, $listener) {
    kill(STOP => $listener) == 1 or die "stop the listener: $!\n";
    my $before = established($migration->port, $listener);
    $migration->go;
    wait_until(sub { established($migration->port, $listener) > $before })
        or die "the source has not connected to the listener\n";
    return;
}

# Removes the sockets of QEMU and the import, which a killed worker cannot remove. pve-tunnel has
# not created them, and the next migration of this guest removes them.
sub remove_workers_sockets ($node, $vmid) {
    unlink map { "$node->{dir}/$vmid$_" } '.migrate', '_nbd.migrate', '.storage', '.qmp';
    return;
}

sub nothing_left ($node, $dir, $name) {
    my $others = sub {
        grep { $_ != $node->{pid} } in_session($node->{pid});
    };
    ok(wait_until(sub { !$others->() }), "$name: no process at the target")
        or diag(explain([map { Test::Processes::command_line($_) } $others->()]));
    is_deeply([listening($node->{pid})], [], "$name: no listening port at the target");
    # The monitor socket of a killed guest is that of the test.
    is_deeply([grep { !/\.qmp\z/ } sockets_in($dir)], [], "$name: no socket at the source");
    is_deeply([sockets_in($node->{dir})], [], "$name: no socket at the target");
    return;
}

1;
