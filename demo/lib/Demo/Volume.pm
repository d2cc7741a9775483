package Demo::Volume;

=head1 NAME

Demo::Volume - sends a volume that no guest uses, as PVE::StorageTunnel does

=head1 SYNOPSIS

    my $sent = Demo::Volume->new(
        tunnel => $tunnel, file => "$dir/unused0.raw", name => 'vm-200-disk-0.raw',
        expected => -s "$dir/unused0.raw", local => "$dir/100.storage",
        progress => $progress, log => $log,
    )->send_to('local');

=head1 DESCRIPTION

The target starts an import and returns the path of its socket. A local socket is forwarded to it.
At the end of the stream, only the write direction of the local socket is shut down. The socket
remains open until the target reports that the import is complete. The tunnel must therefore
transmit the end of one direction, and must not lose data that precedes it.

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
    # Seconds for the target to allocate the volume, and to reply to a query.
    ALLOCATE_LIMIT => 600,
    QUERY_LIMIT => 10,
    # Seconds without progress after which the stream fails.
    STALL_LIMIT => 120,
    # Seconds from the end of the stream until the target has written everything to its disk.
    IMPORT_LIMIT => 300,
    # Seconds for the target to report why a stream failed.
    REASON_LIMIT => 10,
    # Seconds between two queries. The target does not report the end without a query.
    QUERY_INTERVAL => 0.05,
};

=head1 METHODS

=head2 new

Class method. Takes C<tunnel> (of L<PVE::Tunnel::Client>), C<file> (a raw volume), C<name> (the
requested name at the target), C<local> (the path of the local socket; several volumes may use the
same one after another), C<expected> (the bytes of all of these volumes; may be absent), C<progress> (a L<Demo::Progress>) and C<log> as for
the tunnel.

=head2 send_to

C<< $volume->send_to($storage) >>: sends the volume to that storage of the target. Returns a hash:
C<volid> at the target, C<bytes> sent, C<seconds> until the import was complete. Dies with a reason.

=cut

sub new ($class, %option) { return bless {%option}, $class }

sub send_to ($self, $storage) {
    my $started = clock_gettime(CLOCK_MONOTONIC);
    my $socket = $self->connect_to($self->start_import($storage));
    my ($bytes, $broken) = $self->stream($socket);
    shutdown($socket, SHUT_WR);
    # If the stream failed, the target reports the reason, for example a full disk.
    my $volid = $self->wait_complete($broken ? REASON_LIMIT : IMPORT_LIMIT);
    die "the tunnel closed after $bytes bytes of the volume: $broken\n" if $broken;
    die "the target has not completed the import after " . IMPORT_LIMIT . " s\n"
        if !defined $volid;
    close($socket);
    my $seconds = clock_gettime(CLOCK_MONOTONIC) - $started;
    return { volid => $volid, bytes => $bytes, seconds => $seconds };
}

sub start_import ($self, $storage) {
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
            # Another volume may already have this name.
            allow_rename => JSON::true,
        },
    );
    die "the target requests the stream format '$answer->{format}', which was not offered\n"
        if $answer->{format} ne FORMAT;
    return $answer->{socket};
}

sub connect_to ($self, $remote) {
    my ($tunnel, $local) = @$self{qw(tunnel local)};
    if (!$tunnel->{forwarded}{$local}) {
        PVE::Tunnel::Client::forward_unix_socket($tunnel, $local, $remote, $self->{expected});
        $self->{log}->('info', "'$local' stands for '$remote'");
    }
    my $socket = IO::Socket::UNIX->new(Peer => $local, Type => SOCK_STREAM)
        or die "cannot connect to the tunnel at '$local': $!\n";
    # The target sends no data.
    shutdown($socket, SHUT_RD);
    $socket->blocking(0);
    return $socket;
}

# Returns the number of bytes sent, and the reason if not all could be sent.
sub stream ($self, $socket) {
    open(my $in, '<:raw', $self->{file}) or die "cannot read '$self->{file}': $!\n";
    my $size = -s $in;
    my $done = 0;
    my $broken = write_all($socket, pack('Q<', $size));
    while (!defined($broken) && $done < $size) {
        my $got = sysread($in, my $block, BLOCK) // die "cannot read '$self->{file}': $!\n";
        die "'$self->{file}' was truncated\n" if !$got;
        $broken = write_all($socket, $block);
        $done += $got if !defined $broken;
        $self->{progress}->show('offline disk', $done, $size);
    }
    return ($done, $broken);
}

# Returns the reason if writing failed, otherwise undef.
sub write_all ($socket, $bytes) {
    local $SIG{PIPE} = 'IGNORE';
    my $done = 0;
    while ($done < length $bytes) {
        my $wrote = syswrite($socket, $bytes, length($bytes) - $done, $done);
        if (defined $wrote) {
            $done += $wrote;
        } elsif ($!{EAGAIN}) {
            IO::Select->new($socket)->can_write(STALL_LIMIT)
                or die "the tunnel accepted no data of the volume for " . STALL_LIMIT . " s\n";
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
