package Demo::Volume;

=head1 NAME

Demo::Volume - sends a volume that no guest uses, the way PVE::StorageTunnel goes

=head1 SYNOPSIS

    my $sent = Demo::Volume->new(
        tunnel => $tunnel, file => "$dir/unused0.raw", name => 'vm-200-disk-0.raw', local => "$dir/100.storage",
        progress => $progress, log => $log,
    )->send_to('local');

=head1 DESCRIPTION

The target is told to import, and answers with a socket of its own; a local socket is made to stand
for it. What matters is the end: only the writing side is shut down, and the socket stays open until
the target says that the import is complete. So the end of the stream has to travel by itself, and
nothing written before it may be lost.

The stream is C<raw+size>: the size in bytes as a 64 bit little endian number, then the bytes.

=cut

use v5.36;

use Errno qw(EAGAIN EINTR);
use IO::Select;
use IO::Socket::UNIX;
use JSON ();
use Socket qw(SHUT_RD SHUT_WR SOCK_STREAM);
use Time::HiRes qw(clock_gettime CLOCK_MONOTONIC sleep);

use PVE::Tunnel::Client;

use constant {
    FORMAT => 'raw+size',
    BLOCK => 1 << 20,
    # Seconds for the target to make room for the volume, and to answer a question about it.
    ALLOCATE_LIMIT => 600,
    QUERY_LIMIT => 10,
    # Seconds without a byte after which the stream is given up, and from its end until the target
    # has written everything to its disk.
    STALL_LIMIT => 120,
    IMPORT_LIMIT => 300,
    # Seconds for the target to tell why a stream broke.
    REASON_LIMIT => 10,
    # Seconds between two questions: the target does not tell by itself.
    QUERY_INTERVAL => 0.05,
};

=head1 METHODS

=head2 new

Class method. Takes C<tunnel> (of L<PVE::Tunnel::Client>), C<file> (a raw volume), C<name> (the one
wanted at the target), C<local> (path of the local socket; volumes may follow each other over the
same), C<progress> (a L<Demo::Progress>) and C<log> as for the tunnel.

=head2 send_to

C<< $volume->send_to($storage) >>: sends it to that storage of the target. Returns a hash: C<volid>
at the target, C<bytes> sent, C<seconds> until the target had it complete. Dies with a reason.

=cut

sub new ($class, %option) { return bless {%option}, $class }

sub send_to ($self, $storage) {
    my $started = clock_gettime(CLOCK_MONOTONIC);
    my $socket = $self->connect_to($self->ask_for_import($storage));
    my ($bytes, $broken) = $self->stream($socket);
    shutdown($socket, SHUT_WR);
    # Why a stream broke is known at its other end: a full disk is not seen from here.
    my $volid = $self->wait_complete($broken ? REASON_LIMIT : IMPORT_LIMIT);
    die "the tunnel took $bytes bytes of the volume and no more: $broken\n" if $broken;
    die "the target has not completed the import after " . IMPORT_LIMIT . " s\n"
        if !defined $volid;
    close($socket);
    my $seconds = clock_gettime(CLOCK_MONOTONIC) - $started;
    return { volid => $volid, bytes => $bytes, seconds => $seconds };
}

sub ask_for_import ($self, $storage) {
    my $answer = PVE::Tunnel::Client::write_tunnel(
        $self->{tunnel},
        ALLOCATE_LIMIT,
        'disk-import',
        {
            volname => $self->{name},
            storage => $storage,
            format => 'raw',
            export_formats => FORMAT,
            migration_snapshot => JSON::false,
            with_snapshots => JSON::false,
            # Another volume may have the name already.
            allow_rename => JSON::true,
        },
    );
    die "the target wants the volume as '$answer->{format}', which nobody offered\n"
        if $answer->{format} ne FORMAT;
    return $answer->{socket};
}

sub connect_to ($self, $remote) {
    my ($tunnel, $local) = @$self{qw(tunnel local)};
    if (!$tunnel->{forwarded}{$local}) {
        PVE::Tunnel::Client::forward_unix_socket($tunnel, $local, $remote);
        $self->{log}->('info', "'$local' stands for '$remote'");
    }
    my $socket = IO::Socket::UNIX->new(Peer => $local, Type => SOCK_STREAM)
        or die "cannot connect to the tunnel at '$local': $!\n";
    # Nothing comes back.
    shutdown($socket, SHUT_RD);
    $socket->blocking(0);
    return $socket;
}

# Returns how many bytes went, and why no more did where that is not all of them.
sub stream ($self, $socket) {
    open(my $in, '<:raw', $self->{file}) or die "cannot read '$self->{file}': $!\n";
    my $size = -s $in;
    my $done = 0;
    my $broken = write_all($socket, pack('Q<', $size));
    while (!defined($broken) && $done < $size) {
        my $got = sysread($in, my $block, BLOCK) // die "cannot read '$self->{file}': $!\n";
        die "'$self->{file}' has become shorter\n" if !$got;
        $broken = write_all($socket, $block);
        $done += $got if !defined $broken;
        $self->{progress}->show('offline disk', $done, $size);
    }
    return ($done, $broken);
}

# Returns why it could not, or undef.
sub write_all ($socket, $bytes) {
    local $SIG{PIPE} = 'IGNORE';
    my $done = 0;
    while ($done < length $bytes) {
        my $wrote = syswrite($socket, $bytes, length($bytes) - $done, $done);
        if (defined $wrote) {
            $done += $wrote;
        } elsif ($!{EAGAIN}) {
            IO::Select->new($socket)->can_write(STALL_LIMIT)
                or die "the tunnel took nothing of the volume for " . STALL_LIMIT . " s\n";
        } elsif (!$!{EINTR}) {
            return "$!";
        }
    }
    return;
}

sub wait_complete ($self, $limit) {
    my $deadline = clock_gettime(CLOCK_MONOTONIC) + $limit;
    while (clock_gettime(CLOCK_MONOTONIC) < $deadline) {
        my $import =
            PVE::Tunnel::Client::write_tunnel($self->{tunnel}, QUERY_LIMIT, 'query-disk-import');
        my $status = $import->{status} // 'unknown';
        return $import->{volid} if $status eq 'complete';
        die 'the import failed at the target: ' . ($import->{msg} // "status '$status'") . "\n"
            if $status ne 'pending';
        sleep(QUERY_INTERVAL);
    }
    return;
}

1;
