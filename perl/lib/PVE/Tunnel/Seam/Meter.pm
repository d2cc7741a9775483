package PVE::Tunnel::Seam::Meter;

use v5.36;

use parent 'PVE::Tunnel::Seam::Child';

use Errno qw(EAGAIN EINTR);
use IO::Select;
use IO::Socket::UNIX;
use JSON ();
use POSIX ();
use Socket qw(SOCK_STREAM SOL_SOCKET SO_PEERCRED);
use Time::HiRes qw(clock_gettime CLOCK_MONOTONIC);

use PVE::Tunnel::Text;

our $VERSION = '0.1.0';

use constant {
    # Bytes of a read or a write: the largest payload of a frame that pveproxy sends.
    CHUNK => 1 << 17,
    # Seconds and bytes of the line with the request.
    REQUEST_LIMIT => 5,
    MAX_REQUEST => 256,
   # Seconds between two samples at first, and the largest number of samples: a report of them stays
   # below 4096 bytes.
    SAMPLE_INTERVAL => 0.02,
    MAX_SAMPLES => 128,
    CLOCK_TICKS => POSIX::sysconf(POSIX::_SC_CLK_TCK()),
};

my $JSON = JSON->new->utf8->canonical;

sub start ($class, $options, $owner) {
    my $path = $options->{path};
    # A meter that was killed has left it.
    unlink $path;
    my $umask = umask(0177);
    my $socket = IO::Socket::UNIX->new(Type => SOCK_STREAM, Local => $path, Listen => 1);
    my $error = $!;
    umask($umask);
    die "cannot start the meter: '$path': $error\n" if !$socket;

    my $self = eval {
        # pveproxy connects to it.
        die "chown: $!\n" if defined($owner) && !chown($owner, -1, $path);
        $class->fork_child(
            [$socket],
            sub ($control) { return _serve($control, $socket, $options) }
        );
    };
    if (!$self) {
        $error = PVE::Tunnel::Text::one_line($@);
        unlink $path;
        die "cannot start the meter: $error\n";
    }
    $self->{path} = $path;
    return $self;
}

sub is_over ($self) {
    $self->end if $self->has_ended;
    return $self->{process} ? 0 : 1;
}

sub end ($self) {
    my $was_running = $self->{process};
    $self->SUPER::end;
    # The process removes it, unless it was killed.
    unlink $self->{path} if $was_running && defined $self->{path};
    return;
}

# In the child.
sub _serve ($control, $socket, $options) {
    local $0 = 'pve-tunnel meter';
    my $end = clock_gettime(CLOCK_MONOTONIC) + $options->{seconds};
    my $select = IO::Select->new($control, $socket);
    my $last = {};
    while ((my $left = $end - clock_gettime(CLOCK_MONOTONIC)) > 0) {
        my @ready = $select->can_read($left);
        # The worker never writes: its end is closed.
        last if grep { $_ == $control } @ready;
        my $client = @ready ? $socket->accept : undef;
        next if !$client;
        my $measured = _answer($control, $client, $options, $last);
        $last = $measured if $measured;
        _close($client);
    }
    unlink $options->{path};
    return 0;
}

# Carries out the client's request, and returns its report; none if it was not a measurement.
sub _answer ($control, $client, $options, $last) {
    $client->blocking(0);
    my $request = _request($control, $client) // return;
    my $op = $request->{op} // '';
    if ($op eq 'report') {
        my $line = $JSON->encode($last) . "\n";
        _transfer(
            $control, $client, 'can_write', { seconds => REQUEST_LIMIT },
            sub { _write_rest($client, \$line) }
        );
        return;
    }
    return if $op ne 'discard' && $op ne 'send';

    my %limit =
        (seconds => $options->{measurement_seconds}, bytes => $options->{measurement_bytes});
    my $process = _peer($client);
    my $cpu = _cpu_seconds($process);
    my $started = clock_gettime(CLOCK_MONOTONIC);
    my $bytes;
    my %observed;
    if ($op eq 'discard') {
        # The client may be gone, which its connection shows.
        syswrite($client, "{}\n") if $request->{acknowledge};
        ($observed{samples}, my $observe) = _sampler($started);
        $bytes = _transfer(
            $control, $client,
            'can_read', \%limit,
            sub { return sysread($client, my $discarded, CHUNK) }, $observe
        );
    } else {
        my $seconds = $request->{seconds};
        return if !defined($seconds) || ref($seconds) || $seconds !~ /\A[0-9]+(?:\.[0-9]+)?\z/;
        $limit{seconds} = $seconds if $seconds < $limit{seconds};
        # A network may compress zeros.
        my $data = _random_bytes();
        $bytes = _transfer(
            $control, $client, 'can_write', \%limit,
            sub { return syswrite($client, $data) }
        );
    }
    my $now = _cpu_seconds($process);
    return {
        %observed,
        op => $op,
        bytes => $bytes,
        seconds => clock_gettime(CLOCK_MONOTONIC) - $started,
        cpu => defined($cpu) && defined($now) ? $now - $cpu : undef,
    };
}

# Samples of what has arrived, each with the seconds since the start and the bytes, and the code that
# takes them. If there are too many, every second one is removed and the interval is doubled.
sub _sampler ($started) {
    my @samples;
    my ($interval, $next) = (SAMPLE_INTERVAL, 0);
    my $observe = sub ($now, $bytes) {
        my $time = $now - $started;
        return if $time < $next;
        if (@samples == MAX_SAMPLES) {
            @samples = @samples[grep { $_ % 2 == 0 } keys @samples];
            $interval *= 2;
        }
        push @samples, [0 + sprintf('%.3f', $time), $bytes];
        $next = $time + $interval;
    };
    return (\@samples, $observe);
}

# Calls $step whenever the client is ready, until it returns 0 or fails, until a limit is reached, or
# until the worker ends. Returns the sum of the bytes. Calls $observe, if given, with the time and the
# sum after each step.
sub _transfer ($control, $client, $readiness, $limit, $step, $observe = undef) {
    my $end = clock_gettime(CLOCK_MONOTONIC) + $limit->{seconds};
    my $select = IO::Select->new($client);
    my $worker = IO::Select->new($control);
    my $bytes = 0;
    while (!defined($limit->{bytes}) || $bytes < $limit->{bytes}) {
        my $count = $step->();
        if ($count) {
            $bytes += $count;
            my $now = clock_gettime(CLOCK_MONOTONIC);
            $observe->($now, $bytes) if $observe;
            last if $now >= $end;
            next;
        }
        last if defined($count) || !$!{EAGAIN} && !$!{EINTR};
        my $left = $end - clock_gettime(CLOCK_MONOTONIC);
        last if $left <= 0 || $worker->can_read(0);
        # At most a second, so that the end of the worker is noticed.
        $select->$readiness($left < 1 ? $left : 1);
    }
    return $bytes;
}

sub _write_rest ($client, $rest) {
    my $wrote = syswrite($client, $$rest);
    substr($$rest, 0, $wrote, '') if $wrote;
    return $wrote;
}

# The client's first line, without a byte of what follows; none if it is late or malformed.
sub _request ($control, $client) {
    my $line = '';
    my $limit = { seconds => REQUEST_LIMIT, bytes => MAX_REQUEST };
    _transfer(
        $control, $client,
        'can_read',
        $limit,
        sub {
            return 0 if $line =~ /\n\z/;
            return sysread($client, $line, 1, length $line);
        }
    );
    return if $line !~ /\n\z/;
    my $request = eval { $JSON->decode($line) };
    return ref($request) eq 'HASH' ? $request : undef;
}

sub _random_bytes () {
    return _read_file('/dev/urandom', CHUNK) // die "/dev/urandom: $!\n";
}

# The process ID at the other end of the socket: unix(7), SO_PEERCRED, struct ucred.
sub _peer ($client) {
    my $credentials = getsockopt($client, SOL_SOCKET, SO_PEERCRED) // return;
    my ($pid) = unpack('i', $credentials);
    return $pid;
}

# The CPU time of a process so far; none if it cannot be read. proc(5): fields 14 and 15 of stat, user
# and system time. The second field is the name in parentheses, which may contain anything.
sub _cpu_seconds ($pid) {
    return if !$pid;
    my $stat = _read_file("/proc/$pid/stat", 4096) // return;
    my ($fields) = $stat =~ /.*\)\s+(.*)/s or return;
    my @field = split(/ /, $fields);
    return ($field[11] + $field[12]) / CLOCK_TICKS;
}

# Perl counts the handles of each descriptor, and closes a descriptor with the last one. The handles
# of the worker still count in this process, although PVE::Tunnel::Process has closed their
# descriptors. A handle that has got the number of such a descriptor is therefore not closed.
sub _close ($handle) {
    my $descriptor = fileno $handle;
    close($handle);
    POSIX::close($descriptor);
    return;
}

# The first $size bytes of a file, without a handle: see _close. Undef if it cannot be read.
sub _read_file ($path, $size) {
    my $descriptor = POSIX::open($path) // return;
    my $got = POSIX::read($descriptor, my $bytes, $size);
    POSIX::close($descriptor);
    return $got ? $bytes : undef;
}

1;

__END__

=encoding utf8

=head1 NAME

PVE::Tunnel::Seam::Meter - the worker's meter of the planes

=head1 SYNOPSIS

    my $meter = PVE::Tunnel::Seam::Meter->start(
        $action->{options},
        $state->{socket_uid},
    );
    $state->{sockets}{ $action->{options}{path} } = 1;

=head1 DESCRIPTION

A part of L<PVE::Tunnel::Seam>. A process that discards and sends bytes on a UNIX socket, so that
C<pve-tunnel check> can measure the planes before a guest moves. F<docs/protocol.md> describes the
requests and the limits, and the library decides about the path and the limits.

The process is a L<PVE::Tunnel::Seam::Child>. It also ends after its time limit. It removes its
socket.

=head1 METHODS

=head2 start

C<< PVE::Tunnel::Seam::Meter->start(\%options, $owner) >>: class method. C<%options> are those of the
action C<meter> of L<PVE::Tunnel::Native/seam_decide>: C<path>, C<seconds>, C<measurement_seconds>
and C<measurement_bytes>. C<$owner> is the ID of the user that may connect to the socket besides
root; undef for root alone. Dies with one line, and leaves no socket, if it cannot start.

=head2 is_over

True if the process has ended.

=head2 end

Ends the process, and removes its socket.

=cut
