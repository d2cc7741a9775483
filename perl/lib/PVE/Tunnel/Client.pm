package PVE::Tunnel::Client;

use v5.36;

use JSON ();
use POSIX ();
use Time::HiRes qw(clock_gettime CLOCK_MONOTONIC);

use PVE::Tunnel::Native;
use PVE::Tunnel::Text;

use PVE::Tunnel::Client::API;
use PVE::Tunnel::Client::Child;
use PVE::Tunnel::Client::Lines;
use PVE::Tunnel::Client::Negotiation;

our $VERSION = '0.1.0';

# Seconds. Where the connector has a limit of its own, the client's limit is a little longer: then
# the error contains the connector's reason, and not only that the time is over.
use constant {
    # For the connector to read a line.
    CONNECT_LIMIT => 15,
    # The connector has 10 s for the TCP connection, and 10 s for the TLS handshake.
    PROBE_LIMIT => 30,
    # Both may include a request to the seam, for which the connector has a limit. A record without
    # the target's counters is better than none.
    FORWARD_LIMIT => 20,
    FINISH_LIMIT => 20,
    QUIT_LIMIT => 30,
    # The version reply follows TCP connection, TLS handshake and upgrade, each of which has a limit
    # in the connector.
    VERSION_LIMIT => 45,
    # For the child to send the remaining data, and then to end after SIGTERM.
    END_LIMIT => 30,
    TERM_LIMIT => 10,
    # For all of the clean-up together, except the end after SIGTERM: a worker that is suspended or
    # hangs uses up each limit above. Its last part is kept for the end of the child.
    CLEANUP_LIMIT => 40,
    END_RESERVE => 5,
};

my $JSON = JSON->new->utf8->canonical;

sub fork_websocket_tunnel ($conn, $url, $req_params, $tunnel_params, $log) {
    return open_tunnel(
        \&PVE::Tunnel::Client::Lines::read_line,
        $conn, $url, $req_params, $tunnel_params, $log
    );
}

sub open_tunnel ($read_line, $conn, $url, $req_params, $tunnel_params, $log) {
    my $token = PVE::Tunnel::Client::API::token($conn);
    # What this node forbids is refused before the first request to the target.
    my $request = PVE::Tunnel::Client::Negotiation::wish($conn, $tunnel_params);
    my $base = PVE::Tunnel::Client::API::websocket_url($conn, $tunnel_params->{url});
    my $fingerprint = PVE::Tunnel::Client::API::fingerprint($conn);
    my %trust = defined($fingerprint) ? (fingerprint => $fingerprint) : ();
    my %peer = (headers => [['Authorization', $token]], %trust);
    # Forwards use the same URL and headers, with a ticket and a socket of their own.
    %$tunnel_params = (url => "$base?", %peer);

    my $tunnel = _start($tunnel_params, $request, $read_line, $log);
    my ($address, $task);
    my $opened = eval {
        # The request creates an empty guest at the target. What would fail for the connector must
        # therefore fail before.
        $address = _probe($tunnel, { url => $base, %trust });
        # From the request on, the target has a guest that a clean-up removes only over a tunnel.
        _uninterrupted(
            sub {
                $task = PVE::Tunnel::Client::API::post($conn, $url, $req_params, $address);
                my $started = "remote: tunnel worker '$task->{upid}' started";
                PVE::Tunnel::Client::Lines::log_line($log, 'info', $started);
                _connect($tunnel, $task);
            }
        );
        my $version = $read_line->($tunnel, VERSION_LIMIT);
        $tunnel->{requests} = [];
        _take_version($tunnel, $version);
        PVE::Tunnel::Client::Negotiation::negotiate($tunnel, $request);
        1;
    };
    return $tunnel if $opened;
    my $error = $@;
    _uninterrupted(
        sub {
            # The worker has already created an empty guest, which would remain and refuse the next
            # attempt.
            my $quit = { cmd => 'quit', cleanup => JSON::true };
            my $deadline = PVE::Tunnel::Client::Lines::deadline(CLEANUP_LIMIT);
            my $removed =
                !$task || eval { PVE::Tunnel::Client::Lines::ask($tunnel, QUIT_LIMIT, $quit); 1 };
            _end_child($tunnel, $deadline);
            _stop_worker($log, $conn, $address, $url, $task->{upid}) if !$removed;
        }
    );
    die $task ? "cannot open the tunnel: $error" : $error;
}

# Signals that end a task, or a program at a terminal, arrive after $code.
sub _uninterrupted ($code) {
    my $signals =
        POSIX::SigSet->new(POSIX::SIGHUP(), POSIX::SIGINT(), POSIX::SIGQUIT(), POSIX::SIGTERM());
    my $before = POSIX::SigSet->new();
    POSIX::sigprocmask(POSIX::SIG_BLOCK(), $signals, $before);
    my $done = eval { $code->(); 1 };
    my $error = $@;
    POSIX::sigprocmask(POSIX::SIG_SETMASK(), $before);
    die $error if !$done;
    return;
}

# Starts a connector, which is not connected yet.
sub _start ($tunnel_params, $request, $read_line, $log) {
    # For connections through the target's API. For direct planes the request contains it.
    my $options = { map { $_ => $request->{$_} } qw(dead_peer_timeout congestion buffer) };
    return {
        %{ PVE::Tunnel::Client::Child::start($log, $options) },
        connector => "pve-tunnel $VERSION",
        log => $log,
        params => $tunnel_params,
        forwarded => {},
        read_line => $read_line,
        pending => '',
        requests => [],
    };
}

# Returns the address at which the connector has reached the target's API.
sub _probe ($tunnel, $data) {
    my $probe = { control => JSON::true, cmd => 'probe', data => $data };
    # Not with the caller's reader: that of PVE::Tunnel suspends a time limit of its caller. This
    # answer is the only line so far, so no byte of a later one is read.
    local $tunnel->{read_line} = \&PVE::Tunnel::Client::Lines::read_line;
    my $answer = eval { PVE::Tunnel::Client::Lines::ask($tunnel, PROBE_LIMIT, $probe) }
        // die "the target's API cannot be used, and nothing was created there: $@";
    # The pattern also removes the taint.
    my ($address) = ($answer->{address} // '') =~ /\A([0-9A-Fa-f:.]+)\z/;
    return $address;
}

# Connects to the worker of that task, and requests its version.
sub _connect ($tunnel, $task) {
    my $query = join '&',
        map { "$_=" . PVE::Tunnel::Client::API::percent_encode($task->{$_}) } qw(ticket socket);
    my $data = { %{ $tunnel->{params} }, url => $tunnel->{params}{url} . $query };
    my $connect = { control => JSON::true, cmd => 'connect', data => $data };
    PVE::Tunnel::Client::Lines::write_line($tunnel, CONNECT_LIMIT, $connect);
    PVE::Tunnel::Client::Lines::request($tunnel, CONNECT_LIMIT, { cmd => 'version' });
    return;
}

# A worker that waits for its connection removes the empty guest when it is stopped. One that has
# lost its connection leaves the guest.
sub _stop_worker ($log, $conn, $address, $path, $upid) {
    my ($kind, $vmid) = $path =~ m{/(qemu|lxc)/(\d+)/};
    my $tool = ($kind // '') eq 'lxc' ? 'pct' : 'qm';
    $vmid //= '<vmid>';
    my $remove = "If guest $vmid is still listed there and no other migration to it is running,"
        . " remove it on that node: $tool unlock $vmid && $tool destroy $vmid";
    my $stopped = eval { PVE::Tunnel::Client::API::stop_task($conn, $path, $upid, $address); 1 };
    my $what =
        $stopped
        ? 'the tunnel worker of the target was stopped, which removes the empty guest'
        : 'the tunnel worker of the target could not be stopped ('
        . PVE::Tunnel::Text::one_line($@)
        . '). Without a connection it ends after 5 minutes and removes the empty guest';
    PVE::Tunnel::Client::Lines::log_line($log, 'warn', "$what. $remove");
    return;
}

sub _take_version ($tunnel, $line) {
    my $reply = eval { $JSON->decode($line) };
    # A connector that could not connect reports the reason in its answer to the first command.
    die PVE::Tunnel::Client::Lines::failure_text($reply) . "\n"
        if ref($reply) eq 'HASH' && exists($reply->{success}) && !$reply->{success};
    my $version = PVE::Tunnel::Native::version_reply_parse($line);
    $tunnel->{version} = $version->{api};
    $tunnel->{age} = $version->{age};
    $tunnel->{caps} = $version->{caps};
    $tunnel->{unknown_caps} = $version->{unknown};
    return;
}

sub write_tunnel ($tunnel, $timeout, $cmd, $params = undef) {
    return PVE::Tunnel::Client::Lines::ask($tunnel, $timeout, { %{ $params // {} }, cmd => $cmd });
}

sub read_tunnel ($tunnel, $timeout = 60) {
    return PVE::Tunnel::Client::Lines::read_line($tunnel, $timeout);
}

sub forward_unix_socket ($tunnel, $local, $remote, $size = undef) {
    unlink $local;
    my $data = {
        %{ $tunnel->{params} },
        url => $tunnel->{params}{url}
            . 'socket='
            . PVE::Tunnel::Client::API::percent_encode($remote) . '&',
        unix => $local,
        ticket => { path => $remote },
        defined($size) ? (size => 0 + $size) : (),
    };
    $tunnel->{forwarded}{$local} = $remote;
    my $command = { control => JSON::true, cmd => 'forward', data => $data };
    return if eval { PVE::Tunnel::Client::Lines::ask($tunnel, FORWARD_LIMIT, $command); 1 };
    my $error = $@;
    delete $tunnel->{forwarded}{$local};
    die "cannot forward '$local': $error";
}

sub finish_tunnel ($tunnel, $cleanup = 0) {
    my $log = $tunnel->{log};
    my $clean = $cleanup ? JSON::true : JSON::false;
    my $finish = { control => JSON::true, cmd => 'finish', data => { cleanup => $clean } };
    my $deadline = PVE::Tunnel::Client::Lines::deadline(CLEANUP_LIMIT);
    my $answers = $deadline - END_RESERVE;
    # Both at once: Proxmox VE kills a task 5 s after it has requested its end. What is written then
    # still reaches the worker.
    my @requests;
    my $written = eval {
        push @requests,
            PVE::Tunnel::Client::Lines::request($tunnel, _left($answers, FINISH_LIMIT), $_)
            for $finish, { cmd => 'quit', cleanup => $clean };
        1;
    };
    my $error = $@;
    my $answer = $written
        && eval {
        PVE::Tunnel::Client::Lines::answer($tunnel, _left($answers, FINISH_LIMIT), $requests[0]);
        };
    $error = $@ if $written;
    $tunnel->{record} = $answer->{record} if $answer;
    PVE::Tunnel::Client::Lines::log_line($log, 'warn', "no record of this migration: $error")
        if !$answer;

    my $done = $written
        && eval {
        PVE::Tunnel::Client::Lines::answer($tunnel, _left($answers, QUIT_LIMIT), $requests[1]);
        1;
        };
    $error = $@ if $written;
    if ($done && defined(my $death = $answer && $answer->{error})) {
        ($done, $error) = (0, PVE::Tunnel::Text::one_line($death) . "\n");
    }
    _end_child($tunnel, $deadline);
    for my $path (@{ $tunnel->{unix_sockets} // [] }) {
        # Under taint, unlink dies for a name that was not checked.
        eval { unlink $path; 1 }
            or PVE::Tunnel::Client::Lines::log_line($log, 'warn', "cannot remove '$path': $@");
    }
    die "the tunnel did not end cleanly: $error" if !$done;
    return;
}

# Seconds: a limit, or what is left until the deadline.
sub _left ($deadline, $limit) {
    my $left = $deadline - clock_gettime(CLOCK_MONOTONIC);
    return $left > $limit ? $limit : $left > 0 ? $left : 0.001;
}

# The end of its input makes the connector send the remaining data and end.
sub _end_child ($tunnel, $deadline) {
    close($_) for grep { defined } @$tunnel{qw(writer reader)};
    my $ended = PVE::Tunnel::Client::Child::ended($tunnel, _left($deadline, END_LIMIT));
    if (!$ended) {
        kill(TERM => $tunnel->{pid});
        $ended = PVE::Tunnel::Client::Child::ended($tunnel, TERM_LIMIT);
    }
    kill(KILL => $tunnel->{pid}) if !$ended;
    my $signal = PVE::Tunnel::Client::Child::reap($tunnel);
    PVE::Tunnel::Client::Lines::log_line(
        $tunnel->{log},
        'warn', "the process that passes the tunnel's log on was ended by $signal"
    ) if $ended && defined $signal;
    # The connector removes them, unless it was killed.
    unlink keys %{ $tunnel->{forwarded} };
    return;
}

1;

__END__

=encoding utf8

=head1 NAME

PVE::Tunnel::Client - the source side of a tunnel between Proxmox VE clusters

=head1 SYNOPSIS

    use PVE::Tunnel::Client;

    my $log = sub ($level, $text) { print STDERR "$level: $text\n" };
    my $conn = {
        protocol => 'https', host => '192.0.2.7', port => 8006,
        apitoken => 'PVEAPIToken=root@pam!move=...',
        cached_fingerprints => { 'AB:CD:...' => 1 },
    };
    my $path = '/nodes/target/qemu/100/mtunnel';
    my $tunnel = PVE::Tunnel::Client::fork_websocket_tunnel(
        $conn, $path, { storages => 'local' },
        {
            url => "wss://192.0.2.7:8006/api2/json${path}websocket",
            migration_network => 'dc2',
        },
        $log,
    );
    print "RAM and live disks use $tunnel->{plan}{plane}\n";

    my $disk =
        PVE::Tunnel::Client::write_tunnel($tunnel, 600, 'disk', { ... });
    PVE::Tunnel::Client::forward_unix_socket(
        $tunnel, '/run/qemu-server/77.migrate',
        '/run/qemu-server/100.migrate',
    );
    ...
    PVE::Tunnel::Client::finish_tunnel($tunnel);

=head1 DESCRIPTION

The five functions that qemu-server and pve-container call in C<PVE::Tunnel>, with the same
arguments and the same data. They use the native connector instead of the program
C<proxmox-websocket-tunnel>. L<PVE::Tunnel::Overlay> replaces the functions of C<PVE::Tunnel> with
these.

The control plane is one websocket through the target's C<pveproxy>, always over TLS, pinned to a
fingerprint or verified with the system's CAs. It carries JSON lines in strict order: one command,
one answer. The plane of the guest's data is chosen when a tunnel is opened, before anything but an
empty configuration is created at the target, and applies to every forward.

Nothing is exported. Every function dies with a message that ends in a newline. No message and no
log line contains the API token, a ticket, or the parameters of a command.

=head2 The tunnel

A hash, as in C<PVE::Tunnel>:

=over

=item C<writer>, C<reader>

the pipes to and from the child. Do not read from C<reader> directly: C<read_tunnel> may already
have read part of a line.

=item C<pid>

the child, which reads the connector's diagnostics. The connector is the child's child and ends with
it.

=item C<log>

the function given

=item C<version>, C<age>

integers from the worker's version reply: its API version, and the number of earlier versions that
it supports. The caller compares: its own version must be at least C<version - age> and at most
C<version>.

=item C<caps>, C<unknown_caps>

arrays of the capability names that this software supports, and of the others. Both are empty for a
target that sends none.

=item C<connector>

name and version of the software, such as C<pve-tunnel 0.1.0>. Other tunnels do not have this key.

=item C<plan>

hash, see L<PVE::Tunnel::Native/plan>: C<plane> for RAM and live disks, C<offline> for offline disks
and volumes, C<start> for the worker's C<start> command, and the reason. Its warnings have been
logged.

=item C<direct>

the listener that forwards connect to, or undef if each connection has a websocket: a hash with
C<plane> (C<tls> or C<tcp>; C<websocket> if the API is between them), C<address>, C<port>, C<cipher>,
C<protocol>, C<lanes> (the most lanes of a connection), C<local> (this node's address on the network
path), C<fingerprint> and C<own_fingerprint> (C<tls>)

=item C<rules>

for plane C<qemu>: which of the addresses that the target announces QEMU may connect to. C<endpoint>
and C<guard> are hashes with the members of the input of L<PVE::Tunnel::Native/endpoint_check> and
L<PVE::Tunnel::Native/guard_check>, without the address.

=item C<record>

after C<finish_tunnel>, the connector's record: C<plane>, C<forwards_plane>, C<protocol>,
C<cipher>, C<local>, C<remote>, C<fingerprint>, C<own_fingerprint>, C<sent> and C<received> (bytes),
C<seconds>, C<forwards>, C<connections>, C<failed>, C<limited_by> (what limited the data for most of
the time) and C<limited> (seconds by limit), C<refused> (by the target: counts by reason).
Absent if the connector did not answer.

=item C<params>

hash with C<url> (ending in C<?>), C<headers> and C<fingerprint>: the parameters of a forward
without its socket. It is the same hash as C<$tunnel_params>. B<It contains the API token>: do not
print it.

=item C<forwarded>

hash from each local socket to the remote socket that it is forwarded to

=item C<unix_sockets>

optional array that the caller sets: files that C<finish_tunnel> removes

=back

=head2 The child

It leads a process group of its own, to which the connector belongs: Proxmox VE ends a task by
SIGTERM to its process group, and the task then cleans up through the tunnel. Both end with the pipes.
If the caller is killed, the connector logs that the caller has ended without C<quit>.

The child closes every inherited descriptor except 0, 1 and 2: the caller usually holds the guest's
configuration lock, and a child with that descriptor would keep the lock. C<$log> is called in this
child for the connector's diagnostics, as C<< $log->('info', "tunnel: ...") >>. It must therefore
write to standard output or error, or to a file that it opens itself.

=head1 FUNCTIONS

=head2 fork_websocket_tunnel

    my $tunnel = fork_websocket_tunnel(
        $conn, $url, \%req_params, \%tunnel_params, $log,
    );

Has the connector connect to the target's API, up to the end of the TLS handshake. Then requests a
worker at the target (C<POST $url> with C<%req_params> as a form; C<$url> is the path below
C</api2/json>), connects to it, and reads its version. The request creates an empty guest at the
target: a certificate, name or address that the connector cannot use is reported before.

C<$conn> is a hash:

=over

=item C<host>, C<port>

the target's API. The default port is 8006. IPv6 addresses may be in brackets.

=item C<protocol>

C<https> (the default), or C<http>, which is refused unless the host is a loopback address

=item C<apitoken>

C<PVEAPIToken=user@realm!name=uuid>. Required. A token of another form is refused before the first
request.

=item C<cached_fingerprints>

hash from SHA-256 fingerprints of the target's certificate to booleans. Of the keys with a true
value the first one in alphabetical order counts, in either case, with or without colons. Exactly
that certificate is accepted, with any issuer and names. Without a fingerprint, the certificate is
verified with the system's CAs and the host name.

=back

C<$tunnel_params-E<gt>{url}> is the websocket's URL (C<wss://.../mtunnelwebsocket>, or
C<https://...> as qemu-server writes it); host and port are replaced by those of C<$conn>. The hash
becomes C<< $tunnel->{params} >>. C<$log> is called with a level (C<info>, C<warn>, C<err>) and a
line of text. Three more keys of C<$tunnel_params> are optional. The function removes them from the
hash:

=over

=item C<migration_type>

C<secure> or C<insecure>. Default: the configuration of this remote, else C<secure>.

=item C<migration_network>

the ID of a configured network, a CIDR, or an interface of the target. Default: the configuration of
this remote, else the addresses of the nodes' names.

=item C<planes>

array of the planes that the caller supports besides the websocket: C<tls>, C<tcp> and C<qemu>.
Default: C<tls> and C<tcp>, which every caller supports. C<qemu> is for callers that start QEMU on
TCP as in C<plan>. If the array is empty, the target is not asked for anything, and each connection
has a websocket.

=back

The function first reads F</etc/pve/remote-migration.cfg> (L<remote-migration.cfg(5)>), which also
contains C<require-encryption>, and checks the caller's privilege: C<insecure>, and a network that
is not configured, require C<Sys.Modify> on F</>. If it refuses the migration for one of these
reasons, it has sent nothing to the target. Then it opens the tunnel. The connector requests the
target's offer and dials its addresses. C<secure> takes the websocket if no direct plane is
possible, with a warning if both nodes support one. C<insecure> dies if clear text is not possible.

The function logs each warning of the plan as a C<warn> line that begins with C<WARNING>, and then
one C<info> line with plane, address and port, cipher, network and reason.

Limits: 30 s for the first connection, 30 s for each step of the request, 15 s to write each line, 45 s for the version reply, 120
s for the negotiation. (C<PVE::Tunnel> waits 10 s for the version. Here the limits of the connector
end first, so that the error contains its reason.)

The function dies if the configuration forbids the migration or a privilege is missing; if HTTP, TLS
or the target refuse, with their message; if the version reply is malformed, C<caps> included; if
clear text is not possible. In each case the child has ended. A worker that was connected has
received C<quit> with the request to clean up. If it could not be reached in this way, its task was
stopped through the API, and a C<warn> line contains what may be left at the target and how to
remove it.

Handlers of SIGHUP, SIGINT, SIGQUIT and SIGTERM that die may interrupt the function, except between
the request and the connection, and during the clean-up. They run afterwards.

=head2 open_tunnel

    my $tunnel = open_tunnel(
        $read_line, $conn, $url, \%req_params, \%tunnel_params, $log,
    );

As C<fork_websocket_tunnel>, for a caller with a reader of its own: C<$read_line> is called with the
tunnel and a number of seconds, and returns the next line without its end, or dies. It reads every
answer to a command of this module, except that to the first one, which tests the connection before
the worker is requested. Callers that use C<write_tunnel> and C<read_tunnel> of this module must
call C<fork_websocket_tunnel> instead.

=head2 write_tunnel

    my $reply = write_tunnel($tunnel, $timeout, $command, \%params);

Sends a command, waits up to C<$timeout> seconds for the answer, and returns it as a hash. Dies with
the answer's C<msg> unless C<success> is true.

=head2 read_tunnel

    my $line = read_tunnel($tunnel, $timeout);

Returns the next line without its newline. The default of C<$timeout> is 60 s. Dies if a line is
longer than 1 MiB. Signal handlers run during the wait, and a handler that dies ends it, so a
surrounding C<alarm> works.

=head2 forward_unix_socket

    forward_unix_socket($tunnel, $local, $remote);
    forward_unix_socket($tunnel, $local, $remote, $size);

Creates the UNIX socket C<$local> (mode 0600), which stands for the target's C<$remote>. An existing
file of that name is removed. Each connection to it becomes a connection to the target's listener
or, on plane C<websocket>, a websocket with a fresh ticket. C<$size> is the number of bytes that all
connections together will probably carry; the log then has the part that is done and the time left.
Without it, the connector takes the sizes of a running guest's RAM and disks from the commands
C<config> and C<disk>. Limit: 20 s. Dies if the connector
refuses. Under taint, a pattern must have checked C<$local>.

=head2 finish_tunnel

    finish_tunnel($tunnel, $cleanup);

Requests the connector's record (20 s), which the connector also logs, as text and as JSON, and sends
C<quit> (30 s). Both are written before the first answer is read, so that the worker receives them
even if the caller is killed meanwhile. Then closes the pipes, and waits for the child (30 s). All
of this takes at most 40 s, also if the worker does not answer, and the last 5 s are for the child.
A child that has not ended receives SIGTERM, and after 10 s SIGKILL. Removes C<unix_sockets> and the
forwarded sockets. With a true C<$cleanup> the connector ends the forwards first, and the worker
removes what it created for this migration. Dies at the end if the target did not confirm C<quit>,
or if its listener had died before C<quit>. The child has ended in any case.

=head1 SEE ALSO

L<PVE::Tunnel::Overlay>, L<PVE::Tunnel::Native>

=cut
