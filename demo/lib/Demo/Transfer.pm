package Demo::Transfer;

=head1 NAME

Demo::Transfer - mirrors a guest's disks and migrates its RAM, with commands to the source's QEMU

=head1 SYNOPSIS

    my $transfer = Demo::Transfer->new(
        qmp => $guest->qmp, uri => 'unix:/...', progress => $progress,
        nbd => { scsi0 => [\%server, 'drive-scsi0'] },
    );
    my $moved = $transfer->run(sub { ... });

=head1 DESCRIPTION

The mirrors of the disks start first. The RAM follows while the mirrors copy further changes. The
order at the end is important: the migration pauses after the guest has stopped and before the last
RAM is sent. The mirrors end during this pause, so that the target's disks are complete before the
target's QEMU opens them.

=cut

use v5.36;

use JSON ();
use Time::HiRes qw(clock_gettime CLOCK_MONOTONIC);

# Seconds without progress after which a mirror or a migration fails.
use constant STALL_LIMIT => 120;

=head1 METHODS

=head2 new

Class method. Takes C<qmp> (the source's L<TestNode::QMP>), C<uri> (the destination of the RAM),
C<nbd> (drive name to an array of QEMU's C<SocketAddress> and the name of the export), C<channels>
(the number of connections for the RAM, 0 for one without multifd), C<mirror> (MiB that a mirror may
have in flight, undef for QEMU's default), C<distant> (true if the guest may write more often than
once per round trip: its writes then wait for the target, because QEMU completes the copy of a disk
only when nothing is on its way), and C<progress> (a L<Demo::Progress>).

=head2 run

C<< $transfer->run($mirrored) >>: transfers disks and RAM. Calls C<$mirrored> when the disks at the
target are complete. Returns a hash: the transferred C<ram_bytes> and C<disk_bytes>; C<seconds> from
the start of the first mirror to the end of the migration; C<disk_seconds>, the part until all
mirrors were complete; and C<ram_seconds>, the rest. The guest is then stopped. Dies with QEMU's
reason on failure.

=cut

sub new ($class, %option) { return bless {%option}, $class }

sub run ($self, $mirrored) {
    my $qmp = $self->{qmp};
    my $started = clock_gettime(CLOCK_MONOTONIC);
    my $disk_bytes = $self->mirror;
    my $mirrored_at = clock_gettime(CLOCK_MONOTONIC);

    my $channels = $self->{channels};
    my @names = (qw(events pause-before-switchover), $channels ? 'multifd' : ());
    my @capabilities = map { { capability => $_, state => JSON::true } } @names;
    $qmp->command('migrate-set-capabilities', { capabilities => \@capabilities });
    my %parameters = ('max-bandwidth' => 0);
    $parameters{'multifd-channels'} = $channels if $channels;
    $qmp->command('migrate-set-parameters', \%parameters);
    $qmp->forget_events;
    $qmp->command('migrate', { uri => $self->{uri} });
    $self->wait_migration('pre-switchover');

    $self->end_mirror;
    $mirrored->();
    $qmp->command('migrate-continue', { state => 'pre-switchover' });
    $self->wait_migration('completed');
    my $ended = clock_gettime(CLOCK_MONOTONIC);

    my $ram = $qmp->command('query-migrate')->{ram};
    return {
        ram_bytes => $ram->{transferred},
        disk_bytes => $disk_bytes,
        seconds => $ended - $started,
        disk_seconds => $mirrored_at - $started,
        ram_seconds => $ended - $mirrored_at,
    };
}

sub mirror ($self) {
    my $qmp = $self->{qmp};
    for my $drive (sort keys %{ $self->{nbd} }) {
        my ($server, $export) = @{ $self->{nbd}{$drive} };
        $qmp->command(
            'blockdev-add',
            {
                driver => 'raw',
                'node-name' => "mirror-$drive",
                file => { driver => 'nbd', server => $server, export => $export },
            },
        );
        $qmp->command(
            'blockdev-mirror',
            {
                'job-id' => "mirror-$drive",
                device => "drive-$drive",
                target => "mirror-$drive",
                sync => 'full',
                'copy-mode' => $self->{distant} ? 'write-blocking' : 'background',
                $self->{mirror} ? ('buf-size' => $self->{mirror} << 20) : (),
            },
        );
    }
    my $bytes = 0;
    for my $drive (sort keys %{ $self->{nbd} }) {
        $bytes += $self->wait_mirror($drive);
    }
    return $bytes;
}

sub wait_mirror ($self, $drive) {
    my $qmp = $self->{qmp};
    my $job = "mirror-$drive";
    my $check = $self->progress_check("disk $drive", sub { return job_progress($qmp, $job) });
    my $ready = sub ($data) { return ($data->{device} // '') eq $job };
    # A failed job is not in the list, and job_progress dies.
    $check->() while !$qmp->wait_event('BLOCK_JOB_READY', $ready, $self->{progress}->interval);
    my ($done) = job_progress($qmp, $job);
    return $done;
}

sub job_progress ($qmp, $job) {
    my ($found) = grep { $_->{device} eq $job } @{ $qmp->command('query-block-jobs') };
    return @$found{qw(offset len)} if $found;
    my $ended = $qmp->wait_event('BLOCK_JOB_COMPLETED', sub ($data) { $data->{device} eq $job }, 1);
    die "$job failed: " . ($ended->{error} // 'it ended unexpectedly') . "\n";
}

sub end_mirror ($self) {
    my $qmp = $self->{qmp};
    for my $drive (sort keys %{ $self->{nbd} }) {
        my $job = "mirror-$drive";
        $qmp->command('block-job-cancel', { device => $job });
        # QEMU completes a mirror that is cancelled when it is ready: it writes the remaining data.
        my $mine = sub ($data) { return $data->{device} eq $job };
        my $ended = $qmp->wait_event('BLOCK_JOB_COMPLETED', $mine, STALL_LIMIT);
        die "the mirror of disk '$drive' does not end\n" if !$ended;
        die "the mirror of disk '$drive' failed: $ended->{error}\n" if $ended->{error};
        $qmp->command('blockdev-del', { 'node-name' => $job });
    }
    return;
}

sub wait_migration ($self, $status) {
    my $qmp = $self->{qmp};
    my $check = $self->progress_check(
        'RAM',
        sub {
            my $ram = $qmp->command('query-migrate')->{ram} // return (0, 0);
            return ($ram->{total} - $ram->{remaining}, $ram->{total});
        },
    );
    my $reached = sub ($data) {
        return 1 if $data->{status} eq $status;
        return 0 if $data->{status} !~ /\A(?:failed|cancelled)\z/;
        my $reason = $qmp->command('query-migrate')->{'error-desc'};
        die 'the migration failed: ' . ($reason // 'see the log of the target') . "\n";
    };
    $check->() while !$qmp->wait_event('MIGRATION', $reached, $self->{progress}->interval);
    return;
}

# Returns a function that shows the progress, and dies after STALL_LIMIT seconds without progress.
sub progress_check ($self, $what, $measure) {
    my ($last, $since) = (-1, clock_gettime(CLOCK_MONOTONIC));
    return sub {
        my ($done, $total) = $measure->();
        my $now = clock_gettime(CLOCK_MONOTONIC);
        ($last, $since) = ($done, $now) if $done != $last;
        die "$what: no progress for " . STALL_LIMIT . " s\n" if $now - $since > STALL_LIMIT;
        $self->{progress}->show($what, $done, $total);
        return;
    };
}

1;
