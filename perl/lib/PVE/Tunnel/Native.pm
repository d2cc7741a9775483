package PVE::Tunnel::Native;

use v5.36;

our $VERSION = '0.1.0';

require XSLoader;
XSLoader::load(__PACKAGE__, $VERSION);

sub plan ($input) {
    return _decode(_plan(_encode('pve_tunnel_plan', $input)));
}

sub version_reply_parse ($reply) {
    # The caller may have decoded the line already.
    $reply = _encode('pve_tunnel_version_reply_parse', $reply) if ref($reply) eq 'HASH';
    return _decode(_version_reply_parse($reply));
}

sub configuration_select ($text, $input) {
    return _decode(
        _configuration_select($text, _encode('pve_tunnel_configuration_select', $input)));
}

sub seam_decide ($text, $input) {
    return _decode(_seam_decide($text, _encode('pve_tunnel_seam_decide', $input)));
}

sub seam_answer ($operation, $line) {
    return _decode(_seam_answer($operation, $line));
}

sub network_address ($network, $node) {
    return _decode(_network_address($network, $node));
}

sub endpoint_check ($input) {
    return _decode(_endpoint_check(_encode('pve_tunnel_endpoint_check', $input)));
}

sub guard_check ($input) {
    return _decode(_guard_check(_encode('pve_tunnel_guard_check', $input)));
}

sub connector_run ($input, $output, $log = undef, $options = undef) {
    _connector_run($input, $output, $log, _options('pve_tunnel_connector_run', $options));
    return;
}

sub listener_run ($control, $log, $options) {
    # Names that may look like numbers.
    my @text = qw(node network);
    _listener_run($control, $log, _options('pve_tunnel_listener_run', $options // {}, @text));
    return;
}

# Loads JSON at the first call that needs it. Programs that only mask do not.
sub _json() {
    require JSON;
    return JSON->new->utf8->canonical;
}

sub _encode ($function, $input) {
    die "$function: input is not a hash reference\n" if ref($input) ne 'HASH';

    # Without eval, which would also catch the exception of a signal handler of the caller.
    my $text = _json()->encode($input);

    # Encoding loses taint.
    _taint_all($text) if ${^TAINT} && _any_tainted($input);
    return $text;
}

# Options are plain numbers and names. JSON distinguishes "10" from 10, and a number that Perl has
# read from a file would be encoded as a string. The options in @text are names.
sub _options ($function, $options, @text) {
    my $json;
    if (defined($options)) {
        die "$function: options are not a hash reference\n" if ref($options) ne 'HASH';

        my %typed;
        for my $name (keys(%$options)) {
            my $value = $options->{$name};
            my $is_number = defined($value) && $value =~ m/\A[0-9]+(?:\.[0-9]+)?\z/;
            $typed{$name} = $is_number ? 0 + $value : $value;
        }
        $typed{$_} = "$options->{$_}" for grep { defined $options->{$_} } @text;
        $json = _encode($function, \%typed);
    }
    return $json;
}

sub _decode ($text) {
    my $answer = _json()->decode($text);
    _taint_all($answer) if ${^TAINT} && _any_tainted($text);
    return $answer;
}

package PVE::Tunnel::Native::Codec;

sub new ($class, %options) {
    my $options = %options ? \%options : undef;
    return _new($class, PVE::Tunnel::Native::_options('pve_tunnel_codec_new', $options));
}

1;

__END__

=encoding UTF-8

=head1 NAME

PVE::Tunnel::Native - the native tunnel for moving guests between Proxmox VE clusters

=head1 SYNOPSIS

    use v5.36;
    use PVE::Tunnel::Native;

    # The target's version reply, and the plan that follows from it.
    my $reply = PVE::Tunnel::Native::version_reply_parse(
        '{"success":1,"api":2,"age":0}');
    my $plan = PVE::Tunnel::Native::plan({
        migration_type => 'secure',
        caps => [$reply->{caps}->@*, $reply->{unknown}->@*],
        planes => ['websocket', 'qemu'],
    });
    say "$plan->{plane}: $plan->{reason}";

    # Websocket frames: feed the received bytes, and take the pieces.
    my $codec = PVE::Tunnel::Native::Codec->new(role => 'client');
    $codec->feed(pack('H*', '810548656c6c6f'));
    while (my $piece = $codec->next()) {
        say "$piece->{opcode}: $piece->{payload}";
    }

=head1 DESCRIPTION

This module has one function or method for each function of F<libpve_tunnel.so>; the header
F<pve_tunnel.h> documents the functions for C. The library decides. This module converts byte
strings and hashes, and turns errors into exceptions. Nothing is exported: call the functions by
their full names.

C<PVE::Tunnel::Client> uses this module and has the functions of C<PVE::Tunnel>. This module is for
programs that need a part: negotiation, addresses and ports, websocket masking and framing,
connector and listener.

The first call that takes or returns a structure loads JSON.

=head1 FUNCTIONS

=head2 Negotiation

=over

=item version_reply_parse($reply)

Parses the answer of a tunnel worker to the C<version> command. C<$reply> is the line as it arrived
(JSON text, at most 1 MiB), or a reference to the decoded hash. Returns

    {
        api => 2,
        age => 0,
        caps => ['insecure-remote'],
        unknown => ['x-y'],
    }

C<caps> has the capabilities that this software supports, C<unknown> the others. Unknown names have
no effect, but belong in the C<caps> of C<plan>. A reply without C<caps> has no capabilities.

Dies with C<STATUS_REFUSED> if the reply is an error, or if the target does not support version 2,
the version of this software: it must be at least C<api> - C<age> and at most C<api>. Dies with
C<STATUS_PROTOCOL> if the reply is malformed: C<caps>, if present, must be an array of at most 64
names of at most 64 characters from C<[a-z0-9-]>.

=item plan($input)

Makes the plan of a migration: the planes of its data. Does no I/O. C<$input> is a hash reference
with these names; other names are an error:

=over

=item migration_type

C<secure> (the default) or C<insecure>.

=item migration_network

The requested network: a CIDR or an interface name. Absent or C<undef> if none was requested. With
C<configured>, it may also be the ID of the configured network.

=item configured

True if the network comes from the configuration, see C<configuration_select>. Then C<privileges> is
empty, for clear text as well, because an administrator has configured both: the user requires no
further privilege than for the migration itself.

=item caps

All capability names of the target, including unknown ones.

=item tls_withheld

Why the target withholds direct TLS, which its software supports. Absent or C<undef> if it gave no
reason.

=item planes

The planes that this source supports: C<websocket> (always implied), C<tls>, C<tcp>, C<qemu>.

=item require_encryption

True if the configuration forbids clear text.

=item dial

The result of dialling the target's listener: C<< { ok => 1 } >> or
C<< { ok => 0, address => '192.0.2.7', port => 60000, error => 'no route to host' } >>. Absent or
C<undef> before that.

=back

True values are 1, C<!!1> and JSON's true; false values are 0, C<''>, C<!!0> and JSON's false. Other
values are an error. Numbers may be strings. Returns

    {
        # RAM and live disks: websocket, tls, tcp, qemu
        plane => 'qemu',
        # offline disks and volumes: websocket, tls, tcp
        offline => 'websocket',
        # the migration network, or undef
        network => '10.0.0.0/24',
        start => {
            statefile => 'tcp',
            type => 'insecure',
            network => '10.0.0.0/24',
        },
        privileges => [{
            path => '/',
            privilege => 'Sys.Modify',
            on => ['source', 'target'],
        }],
        # sentences for the operator, before anything is created
        warnings => ['...'],
        # one sentence: the reason for this plane
        reason => '...',
    }

C<start> belongs in the worker's C<start> command. Every plane except C<qemu> keeps QEMU on UNIX
sockets.

Dies with C<STATUS_REFUSED> if the request cannot be met: C<insecure> never becomes another plane
without an error. The message contains the alternatives.

=item configuration_select($text, $input)

Returns what the configuration of this node, F</etc/pve/remote-migration.cfg>, means for one
migration. Does no I/O: C<$text> is the content of the file as bytes. C<undef> stands for a missing
file, which is the same as an empty one. L<remote-migration.cfg(5)> describes the content. C<$input>
is a hash reference with these names; other names are an error:

=over

=item side

C<source> or C<target>: the role of this node in the migration.

=item remote

Name or address of the target that the source connects to. Required on the source, and an error on
the target. Names are compared without regard to case and to a dot at the end, addresses by their
value.

=item migration_type

C<secure> or C<insecure>. On the source, absent or C<undef> if the call does not specify it.
Required on the target.

=item migration_network

An ID of this node's configuration, a CIDR or an interface name; absent or C<undef> if the call does
not specify it. An ID takes precedence over an interface of the same name.

=back

Returns on the source

    {
        # of the call, else the default
        migration_type => 'insecure',
        # the ID, or the network of the call, or undef
        migration_network => 'dc2',
        # from the configuration: no privilege is required
        configured => JSON::true,
        # the network to request from the target, or undef
        network => 'dc1',
        # the network of this node's address, or undef
        source_network => '10.0.0.0/24',
        require_encryption => JSON::false,
        # clear text to publicly routable addresses is allowed
        public => JSON::false,
        # clear text through the default gateway is allowed
        gateway => JSON::false,
        # seconds, 1 to 3600
        dead_peer_timeout => 60,
        # 'auto', 'system', 'bbr' or 'cubic'
        congestion => 'auto',
        # 'auto', 'system' or a number of bytes
        buffer => 'auto',
        # the most connections that carry a stream together,
        # or undef for 3 websockets or one direct connection
        lanes => undef,
        # the threads that serve them beside a process's own one,
        # or undef for a quarter of the cores
        threads => undef,
        # 'none' or 'zstd'
        compression => 'none',
        # one sentence: the source of this selection
        reason => '...',
    }

and on the target C<network> (a CIDR or an interface name of this node, or C<undef> for its own
address), C<configured>, C<require_encryption>, C<public>, C<congestion>, C<buffer>, C<threads> and
C<reason>.

If the call has a CIDR or an interface name, it becomes both C<network> and C<source_network>, and
is not C<configured>. Configured networks then have no effect, but the policy does.

Dies with C<STATUS_INVALID_ARGUMENT> if the text has a mistake (the message contains the line), or
if remote or network are malformed; with C<STATUS_NOT_UTF8> if the text is not UTF-8; with
C<STATUS_TOO_LONG> above 1 MiB; with C<STATUS_REFUSED> if the configuration does not permit the
migration: the network does not allow the type, the policy requires encryption (also if clear text
is only the default), the network is for other remotes, or there is no network of that ID.

=item seam_decide($text, $input)

Decides what a tunnel worker on the target does with a request about direct connections. C<$text> is
the content of the configuration, or C<undef>. C<$input>:

    # the value of the property 'direct', as it arrived
    direct => { op => 'open', protocol => 1, plane => 'tcp' },
    # path of the configuration, for messages
    file => '/etc/pve/remote-migration.cfg',
    # why it could not be read, or undef
    unreadable => undef,
    # this node's name
    node => 'pve1',
    # API user of this worker, for messages, or undef
    user => 'move@pve',
    # whether the user has the privilege of an earlier
    # 'check'; undef if there was none
    allowed => undef,
    # or 'running', 'ended'
    listener => 'none',
    # the worker's UNIX sockets
    sockets => ['/run/qemu-server/100.migrate'],
    # the path of the worker's own socket, or undef
    socket => '/run/qemu-server/100.mtunnel',
    # or 'running', 'ended'
    meter => 'none',

Returns a hash whose C<do> is one of

    check    check 'privilege' on 'path', then call again with
             the result in 'allowed'
    reply    answer with 'reply'
    listen   start a listener with 'options', answer with its line
    ask      send 'request' to the listener, answer with its line
    meter    start a meter with 'options' unless it is running,
             answer with 'options'
    close    send { op => 'close' }, answer with its line

Dies with C<STATUS_PROTOCOL> if the request is malformed, and with C<STATUS_REFUSED> if it is not
allowed.

=item seam_answer($operation, $line)

Checks a line of the listener: its answer to C<open> (the first line), C<forward>, C<stat> or
C<close>. Returns the answer with the known members. Dies with C<STATUS_PROTOCOL> if one is missing
or malformed; the message does not contain its value.

=back

=head2 Addresses and ports

=over

=item network_address($network, $node)

Finds this host's address for a migration. C<$network> is a CIDR, an interface name, or C<undef> for
the address that the name C<$node> resolves to. Returns

    {
        address => '192.0.2.7',
        prefix_len => 24,
        interface => 'eth1',
        uri_host => '192.0.2.7',
    }

C<uri_host> has brackets around IPv6 addresses, as in URIs. Only addresses of interfaces that are up
count. Temporary, deprecated, tentative and duplicate addresses are excluded, and so are loopback
and link-local addresses, unless the CIDR lies inside these ranges. One address of a family, or one of each, must remain; of
two, the function returns the first that the kernel or the resolver lists.
Otherwise the function dies with C<STATUS_REFUSED>, and the message lists every address with the
reason why it was excluded. Without C<$network> the system's resolver is used, which may block.

=item port_bind($address)

Binds the first free port of 60000 to 60049 on exactly this literal address, and listens. Returns
descriptor and port as a list:

    my ($fd, $port) = PVE::Tunnel::Native::port_bind('192.0.2.7');
    open(my $listener, '+<&=', $fd)
        or die "cannot open descriptor $fd: $!\n";

The descriptor is blocking and close-on-exec. The caller owns it and closes it. Dies with
C<STATUS_IO> if all 50 ports are in use or reserved by Proxmox VE, if the lock of its reservations is
held for 5 seconds, or if the address is not an address of this host. Under taint it refuses a tainted C<$address>, as the built-in C<bind> does.

=item endpoint_check($input)

Checks an endpoint that a migration target announced, before a connection to it. Does no I/O.
C<$input> has either

    migrate => { proto => 'tcp', addr => '192.0.2.7', port => 60000 }

or

    nbd_uri => 'nbd:192.0.2.7:60001:exportname=drive-scsi0'

and may have C<network> (a CIDR that must contain the address), C<allow_loopback> (true in tests
only), and C<control> (the address at which the target's API was reached: without C<network>, the
only one that is accepted; without either, the caller must check the address). C<remote> (the host of
that API) and C<configured> (the ID of the network that is configured for it) are for the message of
a refusal. Returns

    {
        address => '192.0.2.7',
        port => 60000,
        uri => 'tcp:192.0.2.7:60000',
    }

with C<export> in addition for an C<nbd_uri>. Dies with C<STATUS_REFUSED> unless the address is
literal and inside the network, and the port is 60000 to 60049. Loopback, multicast, broadcast and
unspecified addresses are refused.

=item guard_check($input)

Checks whether guest data may be sent to an address in clear text, before a connection to it. Looks
up the kernel's route, and sends nothing. C<$input> is a hash reference with these names, of which
all but C<address> may be absent or C<undef>; other names are an error:

=over

=item address

The address that the target announced: literal, IPv6 without brackets.

=item network

The network that must contain this address: a CIDR, or the name of an interface of this node. With
an interface, the address must be in a network of one of its addresses, and the route must use it.

=item source_network

The network that this node must send from: a CIDR that contains its own address, or the name of the
interface of the route.

=item public

True if the configuration allows publicly routable addresses at either end.

=item gateway

True if the configuration allows the default route and, if C<network> is an interface, addresses
outside its networks.

=back

Returns

    {
        address => '10.0.0.7',
        source => '10.0.0.1',      # this node's address on the route
        interface => 'eth1',       # of the route
        gateway => undef,          # or the router of the route
        # or unique-local, shared, link-local, loopback,
        # documentation, benchmarking, global
        scope => 'private',
        warnings => ['CLEAR TEXT: ...'],
    }

C<warnings> has at least one sentence for log and operator. The first one says that guest data is
sent in clear text, and over which network. The others name unusual conditions, such as a router.

Dies with C<STATUS_REFUSED>, with the alternatives in the message, if the address is not literal or
not the address of a single other node (loopback is accepted only if C<network> is a CIDR inside
that range); if it is outside C<network>; if either address is publicly routable; if the only route
is the default route (a route with a prefix shorter than 8 bits counts as such); or if this node
would send from outside C<source_network>. Dies with C<STATUS_IO> if there is no route, or if the
kernel reports an error.

For the C<qemu> plane, first call C<endpoint_check> for each announced endpoint, and then this
function with the C<address> that it returns.

=back

=head2 Websocket

=over

=item mask($data, $key, $phase = 0)

Masks or unmasks the byte string C<$data> in place, as in RFC 6455 section 5.3: byte C<i> is XORed
with byte C<($phase + i) % 4> of the four bytes of C<$key>. A second call with the same key and
phase restores the data. To continue in the middle of a payload, add the number of processed bytes
to C<$phase>. Returns nothing.

C<$data> may be any lvalue: a variable, an element, a C<substr>, a tied scalar. Other variables that
share its buffer (copy on write) do not change. A literal or another read-only value is refused. If
the function dies, it has changed nothing.

=item fingerprint_parse($text)

Parses a certificate's SHA-256 fingerprint, in either case and with or without colons. Returns it in
the form that Proxmox VE uses: C<0A:1B:...>, 95 characters. Dies with C<STATUS_INVALID_ARGUMENT> if
it is malformed.

=back

=head2 The connector

=over

=item connector_run($input, $output, $log = undef, $options = undef)

Runs the connector, the source side of a tunnel. It implements the protocol of
C<proxmox-websocket-tunnel>: one JSON line in, one JSON line out. C<$input> and C<$output> are
descriptor numbers (C<fileno>), not handles, of pipes, sockets or terminals. C<$log> is the number
of a descriptor for diagnostics, one line each, or C<undef> for none. The caller owns the
descriptors, and they stay open. C<$options> is a hash reference or C<undef>; all options are
optional:

    # or 'random': the masking keys of frames over TLS
    mask => 'zero',
    # seconds, 0.001 to 3600, for TCP to connect
    connect_timeout => 10,
    # for TLS
    handshake_timeout => 10,
    # for the websocket upgrade
    upgrade_timeout => 20,
    # for the worker to answer a ticket command
    ticket_timeout => 30,
    # without progress on a connection to the API
    dead_peer_timeout => 60,
    # without a sent frame on a websocket, until a ping is sent
    ping_interval => 20,
    # or 'system', 'bbr', 'cubic': of connections with guest data
    congestion => 'auto',
    # or 'system', or a number of bytes: their buffers
    buffer => 'auto',
    # true: end with SIGTERM if the parent process dies
    end_with_parent => 0,

B<The function blocks> until the input ends, and is meant for a process forked for it; see L</FORKS>
and L</SIGNALS>. It returns nothing, after the input has ended and all data has been sent. A
malformed line of input is answered, and does not end the function. Dies with
C<STATUS_INVALID_ARGUMENT> for an invalid descriptor or option; with C<STATUS_PROTOCOL> if the
worker sends a line above 1 MiB, or more than 16 lines that no command requested; with C<STATUS_IO>
if a descriptor fails, if a requested connection could not be opened, if the control connection
ended before the input, or if a signal arrived.

=back

=head2 The listener

=over

=item listener_run($control, $log, $options)

Runs the listener, the target side of direct connections. C<$control> is the number of a descriptor:
one end of a UNIX stream socket pair, of which the worker has the other end. C<$log> is as for
C<connector_run>. The listener sends the first line on C<$control>: its address and port, or its path, and the
credentials for the source, or C<{"error":"..."}>. Then it answers the lines
C<{"op":"forward","path":"/run/..."}>, C<{"op":"stat"}> and C<{"op":"close"}>. F<docs/protocol.md>
describes them. C<$options>:

    # or 'tcp', or 'websocket' for connections through the API
    plane => 'tls',
    # websocket: where to make the UNIX socket for them
    path => '/run/qemu-server/100.mtunnel.lanes',
    # websocket: the ID of the user that may connect to it
    owner => 33,
    # CIDR or interface name; default: the address of the
    # node's name
    network => '10.0.0.0/24',
    # the node's name
    node => 'pve1',
    # tls: the source's one-time certificate
    fingerprint => '0A:1B:...',
    # tcp: a publicly routable address is allowed
    public => 0,
    # seconds for TLS and the handshake
    hello_timeout => 10,
    # seconds without data of the source's heartbeat
    dead_peer_timeout => 60,
    # or 'system', 'bbr', 'cubic'
    congestion => 'auto',
    # or 'system', or a number of bytes
    buffer => 'auto',
    # of the connections; 2 permits several for a stream
    protocol => 1,
    # for these connections, beside the listener's own one;
    # default: a quarter of the cores
    threads => 4,

B<The function blocks> until C<close>, the end of C<$control>, or the death of the parent process.
It is meant for a process forked for it that has closed every other descriptor; see L</FORKS> and
L</SIGNALS>. Dies with C<STATUS_INVALID_ARGUMENT> for invalid options; with C<STATUS_REFUSED> if
there is no address to listen on, or if clear text is not allowed there; with C<STATUS_IO> if no
port is free, if C<$control> fails, or if a signal arrived.

=back

=head2 The library

=over

=item version()

Version of the library, such as C<0.1.0>. C<$PVE::Tunnel::Native::VERSION> is the version of this
module.

=item CONFIGURATION_MAX, LINE_MAX

Constants: most bytes of the configuration, and of a line from or to a connector or listener.

=item abi_version()

Number of the library's ABI. The module does not load with a library of another ABI.

=item last_status()

Status of this thread's last call of the library: 0 or one of the negative numbers of L</ERRORS>.

=item last_error()

Message of this thread's last call, without the newline; C<''> if it succeeded.

=back

=head1 CODECS

C<PVE::Tunnel::Native::Codec> decodes the bytes of one websocket connection into frames, and encodes
frames. It does no I/O: the caller's event loop reads and writes.

=over

=item new

Class method: C<< PVE::Tunnel::Native::Codec->new(%options) >>. Creates a codec for one connection
after its upgrade. Options:

    # or 'server': the end of the connection
    role => 'client',
    # or 'zero', only for connections over TLS: a client's keys
    mask => 'random',
    # longest accepted payload of a frame, bytes: 125 to 16777216
    max_frame => 131072,

Dies with C<STATUS_INVALID_ARGUMENT> for other options and values.

=item feed

Method: C<< $codec->feed($bytes) >>. Adds received bytes, at most 16 MiB in a call, in pieces of any
size. Then call C<next> until it returns C<undef>, because the codec keeps in memory what was not
taken. Returns nothing.

=item next

Method: C<< $codec->next() >>. Returns the next piece of the received data, or C<undef> if more
bytes are needed:

    { opcode => 'binary', end => 1, payload => '...' }

C<opcode> is C<text>, C<binary>, C<close>, C<ping> or C<pong>. Text and binary messages are returned
in pieces as their bytes arrive; C<end> is 1 on the last piece of a message, which may be empty, and
0 before. Control frames are returned whole, and may be between the pieces of a message. The payload
of a C<close> is empty, or a code (C<unpack('n', ...)>) and a reason. Text is returned as bytes, and
not checked for valid UTF-8. The caller answers pings and closes.

Dies with C<STATUS_PROTOCOL> if the peer violates RFC 6455 or C<max_frame>. Later bytes cannot be
decoded: end the connection.

=item encode

Method: C<< $codec->encode($opcode, $bytes) >>. Returns the bytes to send for a payload. C<$opcode>
is one of the names above. A text or binary payload of more than 131072 bytes (at most 16 MiB)
becomes several whole messages, because pveproxy accepts neither longer frames nor fragments. Dies
with C<STATUS_TOO_LONG> for more than 125 bytes in a close, ping or pong.

=back

=head1 ERRORS

Every failure dies with a plain string: one line that begins with the name of the library's
function, such as C<pve_tunnel_plan>, and ends in a newline. Messages contain no ticket, token or
key. They are bytes, and UTF-8 where they quote something else than ASCII.

C<last_status> distinguishes the kinds of failures. Failures that this module detects itself (wide
characters, undefined arguments) do not change it, and neither do Perl's usage errors and errors of
the JSON encoder.

=over

=item STATUS_OK

The call succeeded.

=item STATUS_NULL_POINTER

Does not happen from Perl.

=item STATUS_INVALID_ARGUMENT

An argument is invalid; the message names it.

=item STATUS_NOT_UTF8

A string that must be UTF-8 is not.

=item STATUS_TOO_LONG

An argument is longer than the limit of the function.

=item STATUS_PROTOCOL

A peer violated the protocol.

=item STATUS_IO

The operating system or the network reported an error.

=item STATUS_REFUSED

The request is valid but not permitted.

=item STATUS_WRONG_PROCESS

The codec belongs to another process; this process is a fork of it.

=item STATUS_PANIC

A defect in the library. Please report it.

=item STATUS_OUT_OF_MEMORY

The library cannot allocate the memory that the call needs for its input. Nothing has changed: the
same call works when there is memory again. A codec keeps what it has received, C<next> returns the
same piece, and C<feed> has taken none of the bytes.

=back

If Perl itself cannot allocate memory, for example for the scalar with the result, it ends the
process with "Out of memory!". No C<eval> catches that.

=head1 BYTES AND CHARACTERS

Scalar arguments are byte strings. Characters from 128 to 255 stand for that byte, however Perl
stores them. A string with a character above 255 is refused: encode it first. Only the C<$data> of
C<mask> is changed. Strings inside structures are text, as with every JSON module. A NUL byte in a
name or a JSON text is refused.

=head1 TAINT

Under C<perl -T>, results of tainted input are tainted: every value of a structure if one value of
the input is tainted, all later payloads of a codec that was fed tainted bytes, data masked with a
tainted key. Check these values with a pattern, as usual. Perl never taints the keys of a hash, and
the booleans of JSON are not tainted. C<port_bind> refuses a tainted address; its results come from
the kernel and are not tainted. The results of C<seam_decide> and C<seam_answer> are not tainted,
because the library has checked every value.

=head1 LIFETIMES

A codec is freed with the last reference to its object. It is attached to the object by magic, so
there is no C<DESTROY> to call, and global destruction frees it once. A copy by C<Storable::dclone>
or a similar function is an empty object, whose methods die.

=head1 FORKS

After a fork the child may use this module, with new codecs. A method of a codec of its parent dies
with C<STATUS_WRONG_PROCESS>. If the child frees such a codec, for example at its end, the parent's
codec is not affected.

A child that runs C<connector_run> or C<listener_run> inherits the signal handlers in C<%SIG>, open
handles, and locks on them. Set C<TERM>, C<INT> and C<HUP> to C<DEFAULT>, close the other
descriptors, and exit by C<POSIX::_exit>:

    my $pid = fork() // die "cannot fork: $!\n";
    if ($pid == 0) {
        $SIG{$_} = 'DEFAULT' for qw(TERM INT HUP);
        my @descriptors = map { fileno($_) } $in, $out, \*STDERR;
        eval { PVE::Tunnel::Native::connector_run(@descriptors) };
        print STDERR $@;
        POSIX::_exit($@ ? 1 : 0);
    }

C<connector_run> and C<listener_run> raise the soft limit of the process on open descriptors, as far
as its hard limit allows.

While they run, the process is not dumpable: it writes no core, and only root can read its memory.
The library wipes the memory that it frees. It cannot wipe scalars of Perl: those of the program
that calls, or that forked the calling process, keep the API token, the tickets and the session key
that they hold.

=head1 THREADS

Any Perl thread may call all functions. C<last_status> and C<last_error> belong to the calling
thread. A codec belongs to the thread that created it: methods of the copy in a new thread die, and
freeing the copy has no effect.

=head1 SIGNALS

The library changes no signal handler. Perl runs handlers between its own operations, that is, after
a call has returned. All calls except C<connector_run> and C<listener_run> are short, and return if
a signal interrupts them. If the handler dies, as handlers for time limits do, its exception
replaces the error of the call, inside the surrounding C<eval>.

C<connector_run> and C<listener_run> end on C<HUP>, C<INT>, C<TERM> and C<ALRM>, which are blocked
while they run. They remove their sockets and raise the signal again: a handler in C<%SIG> runs
before the call dies with C<STATUS_IO>; without a handler, the signal ends the process.

=head1 SEE ALSO

C<PVE::Tunnel::Client>, F<docs/perl.md>, F<include/pve_tunnel.h>,
L<RFC 6455|https://www.rfc-editor.org/rfc/rfc6455>

=head1 LICENSE

AGPL-3.0-or-later

=cut
