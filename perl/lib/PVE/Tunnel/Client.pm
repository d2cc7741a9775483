package PVE::Tunnel::Client;

use v5.36;

use JSON ();

use PVE::Tunnel::Native;
use PVE::Tunnel::Text;

use PVE::Tunnel::Client::API;
use PVE::Tunnel::Client::Child;
use PVE::Tunnel::Client::Lines;
use PVE::Tunnel::Client::Negotiation;

our $VERSION = '0.1.0';

use constant {
    # Seconds the connector may take to read a line that was written to it.
    CONNECT_LIMIT => 15,
    # The connector's own limit for an answer of the worker, which both may need, is 15 s, so that
    # its reason is heard, and a record is had without the target's part.
    FORWARD_LIMIT => 20,
    FINISH_LIMIT => 20,
    QUIT_LIMIT => 30,
    # The version reply is the first thing heard after connect, TLS handshake and upgrade, each of
    # which has its own limit in the connector (10, 10 and 20 s): a little more than their sum, so
    # that its reason is heard and not just our impatience.
    VERSION_LIMIT => 45,
    # How long the child may take to send what is left, then to obey SIGTERM.
    END_LIMIT => 30,
    TERM_LIMIT => 10,
};

my $JSON = JSON->new->utf8->canonical;

sub fork_websocket_tunnel ($conn, $url, $req_params, $tunnel_params, $log) {
    return open_tunnel(
        \&PVE::Tunnel::Client::Lines::read_line,
        $conn, $url, $req_params, $tunnel_params, $log
    );
}

sub open_tunnel ($read_line, $conn, $url, $req_params, $tunnel_params, $log) {
    my $token = $conn->{apitoken} // die "no API token for the remote node given\n";
    # What this side forbids is refused before the target hears of it.
    my $wish = PVE::Tunnel::Client::Negotiation::wish($conn, $tunnel_params);
    my $task = PVE::Tunnel::Client::API::post($conn, $url, $req_params);
    my $started = "remote: tunnel worker '$task->{upid}' started";
    PVE::Tunnel::Client::Lines::log_line($log, 'info', $started);

    my $headers = [['Authorization', $token]];
    my $fingerprint = PVE::Tunnel::Client::API::fingerprint($conn);
    my %peer = (headers => $headers, defined($fingerprint) ? (fingerprint => $fingerprint) : ());
    my $base = "$tunnel_params->{url}?";
    my $query =
          'ticket='
        . _percent_encode($task->{ticket})
        . '&socket='
        . _percent_encode($task->{socket});

    # Where the connection stands is the same for every forward but for ticket and socket.
    %$tunnel_params = (url => $base, %peer);
    # For what goes through the target's API; the direct planes hear of it by the wish.
    my $options = { dead_peer_timeout => $wish->{dead_peer_timeout} };
    my $tunnel = {
        %{ PVE::Tunnel::Client::Child::start($log, $options) },
        connector => "pve-tunnel $VERSION",
        log => $log,
        params => $tunnel_params,
        forwarded => {},
        read_line => $read_line,
        pending => '',
        unanswered => 0,
    };

    my $connected = eval {
        my $connect =
            { control => JSON::true, cmd => 'connect', data => { url => $base . $query, %peer } };
        PVE::Tunnel::Client::Lines::write_line($tunnel, CONNECT_LIMIT, $connect);
        PVE::Tunnel::Client::Lines::write_line($tunnel, CONNECT_LIMIT, { cmd => 'version' });
        _take_version($tunnel, $read_line->($tunnel, VERSION_LIMIT));
        1;
    };
    my $agreed = $connected
        && eval { PVE::Tunnel::Client::Negotiation::negotiate($tunnel, $wish); 1 };
    return $tunnel if $agreed;
    my $error = $@;
    _clean_target($tunnel) if $connected;
    _end_child($tunnel);
    die "cannot open the tunnel: $error";
}

sub _take_version ($tunnel, $line) {
    my $reply = eval { $JSON->decode($line) };
    # A connector that could not connect says so in answer to the first command.
    die PVE::Tunnel::Client::Lines::failure_text($reply) . "\n"
        if ref($reply) eq 'HASH' && exists($reply->{success}) && !$reply->{success};
    my $version = PVE::Tunnel::Native::version_reply_parse($line);
    $tunnel->{version} = $version->{api};
    $tunnel->{age} = $version->{age};
    $tunnel->{caps} = $version->{caps};
    $tunnel->{unknown_caps} = $version->{unknown};
    return;
}

# The worker has made an empty guest by now, which nobody will fill.
sub _clean_target ($tunnel) {
    return if eval { _quit($tunnel, 1); 1 };
    PVE::Tunnel::Client::Lines::log_line(
        $tunnel->{log},
        'warn', "the target was not told to clean up: $@"
    );
    return;
}

sub write_tunnel ($tunnel, $timeout, $cmd, $params = undef) {
    PVE::Tunnel::Client::Lines::write_line($tunnel, $timeout, { %{ $params // {} }, cmd => $cmd });
    my $line = eval { read_tunnel($tunnel, $timeout) } // die "no reply to command '$cmd': $@";
    my $reply = eval { $JSON->decode($line) };
    die "reply to command '$cmd' is not a JSON object\n" if ref($reply) ne 'HASH';
    die PVE::Tunnel::Client::Lines::failure_text($reply) . "\n" if !$reply->{success};
    return $reply;
}

sub read_tunnel ($tunnel, $timeout = 60) {
    return PVE::Tunnel::Client::Lines::read_line($tunnel, $timeout);
}

sub forward_unix_socket ($tunnel, $local, $remote) {
    unlink $local;
    my $data = {
        %{ $tunnel->{params} },
        url => $tunnel->{params}{url} . 'socket=' . _percent_encode($remote) . '&',
        unix => $local,
        ticket => { path => $remote },
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
    my $finish = { control => JSON::true, cmd => 'finish' };
    my $answer = eval { PVE::Tunnel::Client::Lines::ask($tunnel, FINISH_LIMIT, $finish) };
    $tunnel->{record} = $answer->{record} if $answer;
    PVE::Tunnel::Client::Lines::log_line($log, 'warn', "no record of this migration: $@")
        if !$answer;

    my $done = eval { _quit($tunnel, $cleanup); 1 };
    my $error = $@;
    if ($done && defined(my $death = $answer && $answer->{error})) {
        ($done, $error) = (0, PVE::Tunnel::Text::one_line($death) . "\n");
    }
    _end_child($tunnel);
    for my $path (@{ $tunnel->{unix_sockets} // [] }) {
        # A name that nobody has checked is not removed under taint.
        eval { unlink $path; 1 }
            or PVE::Tunnel::Client::Lines::log_line($log, 'warn', "cannot remove '$path': $@");
    }
    die "the tunnel was not ended in order: $error" if !$done;
    return;
}

sub _quit ($tunnel, $cleanup) {
    my $command = { cmd => 'quit', cleanup => $cleanup ? JSON::true : JSON::false };
    PVE::Tunnel::Client::Lines::ask($tunnel, QUIT_LIMIT, $command);
    return;
}

# Closing its input tells the connector to send what it has and to leave.
sub _end_child ($tunnel) {
    close($_) for grep { defined } @$tunnel{qw(writer reader)};
    my $ended = PVE::Tunnel::Client::Child::ended($tunnel, END_LIMIT);
    if (!$ended) {
        kill(TERM => $tunnel->{pid});
        $ended = PVE::Tunnel::Client::Child::ended($tunnel, TERM_LIMIT);
    }
    kill(KILL => $tunnel->{pid}) if !$ended;
    my $signal = PVE::Tunnel::Client::Child::reap($tunnel);
    PVE::Tunnel::Client::Lines::log_line(
        $tunnel->{log},
        'warn', "the process between tunnel and log was ended by $signal"
    ) if $ended && defined $signal;
    # The connector removes them; one that had to be killed did not.
    unlink keys %{ $tunnel->{forwarded} };
    return;
}

sub _percent_encode ($text) {
    return $text =~ s/([^A-Za-z0-9._~-])/sprintf('%%%02X', ord $1)/ger;
}

1;

__END__

=encoding utf8

=head1 NAME

PVE::Tunnel::Client - the source's end of a tunnel between Proxmox VE clusters

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
    print "RAM and live disks go by $tunnel->{plan}{plane}\n";

    my $disk =
        PVE::Tunnel::Client::write_tunnel($tunnel, 600, 'disk', { ... });
    PVE::Tunnel::Client::forward_unix_socket(
        $tunnel, '/run/qemu-server/77.migrate',
        '/run/qemu-server/100.migrate',
    );
    ...
    PVE::Tunnel::Client::finish_tunnel($tunnel);

=head1 DESCRIPTION

The five functions that qemu-server and pve-container know from C<PVE::Tunnel>, with the same
arguments and the same data, over the native connector in place of the program
C<proxmox-websocket-tunnel>. L<PVE::Tunnel::Overlay> puts them under their callers.

The control plane is one websocket through the target's C<pveproxy>, always over TLS, pinned to a
fingerprint or verified by the system's CAs. JSON lines go over it in strict order: one command, one
answer. How the guest's data travels is decided when a tunnel is opened, before anything but an empty
configuration is created at the target, and holds for every forward.

Nothing is exported. Every function dies with a message that ends in a newline. No message and no
log line contains the API token, a ticket, or what a command carried.

=head2 The tunnel

A hash, as C<PVE::Tunnel> returns it:

=over

=item C<writer>, C<reader>

the pipes to and from the child. Do not read from C<reader> directly: C<read_tunnel> may hold a part
already.

=item C<pid>

the child, which reads the connector's diagnostics. The connector is the child's child and ends with
it.

=item C<log>

the function given

=item C<version>, C<age>

integers from the worker's version reply: its API version, and how many versions back it
understands. The caller compares: its own version must be at least C<version - age> and at most
C<version>.

=item C<caps>, C<unknown_caps>

arrays of the capability names that this software knows, and of those it does not. Both are empty
for a target that sends none.

=item C<connector>

the software behind it, such as C<pve-tunnel 0.1.0>: what tells our tunnels from others

=item C<plan>

hash, see L<PVE::Tunnel::Native/plan>: C<plane> for RAM and live disks, C<offline> for offline disks
and volumes, C<start> for the worker's C<start> command, and why. Its warnings have been logged.

=item C<direct>

the listener that forwards connect to, or undef if they go through the API: a hash with C<plane>
(C<tls> or C<tcp>), C<address>, C<port>, C<cipher>, C<protocol>, C<local> (our address on the way
there), C<fingerprint> and C<own_fingerprint> (C<tls>)

=item C<record>

after C<finish_tunnel>, what the connector recorded: C<plane>, C<forwards_plane>, C<protocol>,
C<cipher>, C<local>, C<remote>, C<fingerprint>, C<own_fingerprint>, C<sent> and C<received> (bytes),
C<seconds>, C<forwards>, C<connections>, C<failed>, C<refused> (by the target: counts by reason). Not
there if there was no answer.

=item C<params>

hash with C<url> (ending in C<?>), C<headers> and C<fingerprint>: what a forward needs besides its
socket. It is the C<$tunnel_params> given, completed. B<It contains the API token>: do not print it.

=item C<forwarded>

hash of the local sockets forwarded to the remote ones

=item C<unix_sockets>

optional array, the caller's: files that C<finish_tunnel> removes

=back

=head2 The child

It closes every inherited descriptor but 0, 1 and 2: the caller usually holds the guest's
configuration lock, and a child that kept that descriptor would keep the lock. C<$log> is called in
this child for the connector's diagnostics, as C<< $log->('info', "tunnel: ...") >>, so what it
writes to must be standard output or error, or something that it opens itself.

=head1 FUNCTIONS

=head2 fork_websocket_tunnel

    my $tunnel = fork_websocket_tunnel(
        $conn, $url, \%req_params, \%tunnel_params, $log,
    );

Asks the target for a worker (C<POST $url> with C<%req_params> as a form; C<$url> is the path below
C</api2/json>), connects to it, and reads its version.

C<$conn> is a hash:

=over

=item C<host>, C<port>

the target's API. Port 8006 if not given. IPv6 addresses may be in brackets.

=item C<protocol>

C<https> (the default), or C<http>, which is refused unless the host is a loopback address

=item C<apitoken>

C<PVEAPIToken=user@realm!name=uuid>. Without: dies.

=item C<cached_fingerprints>

hash whose first true key, in alphabetical order, is the SHA-256 fingerprint of the target's
certificate (any case, colons or none). Then exactly that certificate is accepted, and its issuer
and names do not matter. Without, the system's CAs and the host name decide.

=back

C<$tunnel_params-E<gt>{url}> is the websocket's URL (C<wss://.../mtunnelwebsocket>, or C<https://...>
as qemu-server writes it); the hash becomes C<< $tunnel->{params} >>. C<$log> is called with a level
(C<info>, C<warn>, C<err>) and a line of text. Three more keys of C<$tunnel_params> are optional, and
are taken out of it:

=over

=item C<migration_type>

C<secure> or C<insecure>. Without: what is configured for this remote, else C<secure>.

=item C<migration_network>

the ID of a configured network, a CIDR, or an interface of the target. Without: what is configured,
else the nodes' own addresses.

=item C<planes>

array of what the caller can do besides the websocket, of C<tls>, C<tcp> and C<qemu>. Without: C<tls>
and C<tcp>, which ask nothing of it. C<qemu> is for callers that start QEMU on TCP as C<plan> says.

=back

First F</etc/pve/remote-migration.cfg> is read (L<remote-migration.cfg(5)>; C<require-encryption>
comes from there, too), and the caller's privilege is checked: C<insecure>, and a network that is not
configured, need C<Sys.Modify> on F</>. What is refused then, is refused before the target is asked.
Then the tunnel opens, and the connector finds out what the target can do and which of its addresses
answer. C<secure> takes the websocket if there is nothing better, with a warning if there should have
been; C<insecure> that cannot be had is an error.

The plan's warnings are logged, each as a C<warn> line that begins with C<WARNING>, then one C<info>
line with plane, address and port, cipher, network and reason.

Limits: 30 s for each step of the request, 15 s to hand over each line, 45 s for the version reply,
120 s for the decision. (C<PVE::Tunnel> waits 10 s for the version; here the connector's own limits come
first, so that its reason is heard.)

Errors: what the configuration or a missing privilege forbids; what HTTP, TLS or the target refused,
with its words; a version reply that is malformed, C<caps> included; clear text that cannot be had. In
each case the child has ended. A worker that had answered C<version> has been told to C<quit> and to
clean up.

=head2 open_tunnel

    my $tunnel = open_tunnel(
        $read_line, $conn, $url, \%req_params, \%tunnel_params, $log,
    );

The same for a caller with a reader of its own: C<$read_line> is called with the tunnel and a number
of seconds, and returns the next line without its end, or dies. Every answer to a command of ours is
read by it. With C<write_tunnel> and C<read_tunnel> of this module nothing but C<fork_websocket_tunnel>
does.

=head2 write_tunnel

    my $reply = write_tunnel($tunnel, $timeout, $command, \%params);

Sends a command, waits up to C<$timeout> seconds for the answer, and returns it as a hash. Dies with
the answer's C<msg> unless C<success> is true.

=head2 read_tunnel

    my $line = read_tunnel($tunnel, $timeout);

The next line, without its newline. C<$timeout> is 60 s if not given. Lines longer than 1 MiB are an
error. A signal that arrives meanwhile is handled: a handler that dies ends the wait, so C<alarm>
around it works.

=head2 forward_unix_socket

    forward_unix_socket($tunnel, $local, $remote);

Makes C<$local> a UNIX socket (mode 0600; what was there is removed) that stands for the target's
C<$remote>. Each connection to it becomes one more connection to the target's listener or, on plane
C<websocket>, one more websocket with a fresh ticket. Limit: 20 s. Dies if the connector says that it
cannot. Under taint, C<$local> must have been checked by a pattern.

=head2 finish_tunnel

    finish_tunnel($tunnel, $cleanup);

Asks the connector for its record (20 s), which it logs as well, for people and as JSON. Then sends
C<quit> (30 s), closes the pipes, and waits for the child: 30 s, then SIGTERM, 10 s, then SIGKILL.
Removes C<unix_sockets> and the forwarded sockets. With a true C<$cleanup> the worker removes what was
created for this migration. Dies at the end if the target did not confirm C<quit>, or if its listener
had died before it was told to end; the child has ended in any case.

=head1 SEE ALSO

L<PVE::Tunnel::Overlay>, L<PVE::Tunnel::Native>

=cut
