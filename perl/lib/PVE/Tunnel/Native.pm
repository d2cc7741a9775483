package PVE::Tunnel::Native;

use v5.36;

our $VERSION = '0.1.0';

require XSLoader;
XSLoader::load(__PACKAGE__, $VERSION);

sub plan ($input) {
    return _decode(_plan(_encode('pve_tunnel_plan', $input)));
}

sub version_reply_parse ($reply) {
    # A reply that the caller has decoded already is as good as the line it came in.
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
    # Names, which may look like numbers.
    my @text = qw(node network);
    _listener_run($control, $log, _options('pve_tunnel_listener_run', $options // {}, @text));
    return;
}

# Loaded by the first call that needs it: a program that only masks should not pay for it.
sub _json() {
    require JSON;
    return JSON->new->utf8->canonical;
}

sub _encode ($function, $input) {
    die "$function: input is not a hash reference\n" if ref($input) ne 'HASH';

    # No eval to reword its error: it would also catch a handler of the caller's that dies in here.
    my $text = _json()->encode($input);

    # JSON encoders lose taint.
    _taint_all($text) if ${^TAINT} && _any_tainted($input);
    return $text;
}

# Options are plain numbers and names. Perl does not tell "10" from 10, but JSON does, and so a
# number that was read from a file or a line would go over as a string. Those in @text are names.
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

    # What did the target say, and what follows from it?
    my $reply = PVE::Tunnel::Native::version_reply_parse(
        '{"success":1,"api":2,"age":0}');
    my $plan = PVE::Tunnel::Native::plan({
        migration_type => 'secure',
        caps => [$reply->{caps}->@*, $reply->{unknown}->@*],
        planes => ['websocket', 'qemu'],
    });
    say "$plan->{plane}: $plan->{reason}";

    # Websocket frames: feed what was read, take what is there.
    my $codec = PVE::Tunnel::Native::Codec->new(role => 'client');
    $codec->feed(pack('H*', '810548656c6c6f'));
    while (my $piece = $codec->next()) {
        say "$piece->{opcode}: $piece->{payload}";
    }

=head1 DESCRIPTION

One function or method for each function of F<libpve_tunnel.so>, whose header F<pve_tunnel.h> says
the same for C. What is decided, is decided in the library; here are byte strings, hashes and
exceptions. Nothing is exported: call the functions by their full names.

C<PVE::Tunnel::Client> is built on this module and has the calls of C<PVE::Tunnel>. This one is for
its parts: negotiation, addresses and ports, websocket masking and framing, the connector.

JSON is loaded by the first call that takes or returns a structure, not before.

=head1 FUNCTIONS

=head2 Negotiation

=over

=item version_reply_parse($reply)

Reads the answer of a tunnel worker to the C<version> command. C<$reply> is the line as it came
(JSON text, at most 1 MiB), or a reference to the hash that it was decoded to. Returns

    {
        api => 2,
        age => 0,
        caps => ['insecure-remote'],
        unknown => ['x-y'],
    }

C<caps> has the capabilities that this software knows, C<unknown> the others: they change nothing,
but belong into the C<caps> of C<plan>. A reply without C<caps> means none.

Dies with C<STATUS_PROTOCOL> if the worker refused, if its version does not fit ours (we must be at
least C<api> - C<age> and at most C<api>; ours is 2), or if C<caps> is anything but an array of at
most 64 names of at most 64 characters from C<[a-z0-9-]>.

=item plan($input)

Decides which way the data of a migration takes. Does no I/O. C<$input> is a hash reference; a name
that is not listed here is an error:

=over

=item migration_type

C<secure> (the default) or C<insecure>.

=item migration_network

The network asked for explicitly: a CIDR or an interface name. Absent or C<undef> if none was.
With C<configured>, the ID of the configured network is as good.

=item configured

True if C<configuration_select> says so: the configuration chose the network. Then C<privileges> is
empty, for clear text too: an administrator has decided it already, and the user needs no more than
for the migration itself.

=item caps

All capability names of the target, the unknown ones too.

=item planes

What this source can do: of C<websocket> (always implied), C<tls>, C<tcp>, C<qemu>.

=item require_encryption

True if the configuration forbids clear text.

=item dial

Absent or C<undef> before a direct connection was tried. After it C<< { ok => 1 } >> or
C<< { ok => 0, address => '192.0.2.7', port => 60000, error => 'no route to host' } >>.

=back

True and false are 1, C<!!1> or a true of JSON, and 0, C<''>, C<!!0> or a false of JSON; any other
word is an error. Numbers may be strings. Returns

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
        # sentences to be shown before anything is created
        warnings => ['...'],
        # one sentence: why this plane
        reason => '...',
    }

C<start> goes into the worker's C<start> command. Every plane but C<qemu> keeps QEMU on UNIX
sockets.

Dies with C<STATUS_REFUSED> if what was asked for cannot be had: C<insecure> is never turned into
anything else in silence. The message names the ways out.

=item configuration_select($text, $input)

Says what the configuration of this node, F</etc/pve/remote-migration.cfg>, means for one migration.
Does no I/O: C<$text> is the content of the file, as bytes, or C<undef> if there is none, which is
the same as an empty one. L<remote-migration.cfg(5)> says what may stand in it. C<$input> is a
hash reference; a name that is not listed here is an error:

=over

=item side

C<source> or C<target>: which node of the migration this is.

=item remote

On the source only, and there it must be: name or address of the target, as it is connected to.
Names are compared without regard to case and a dot at the end, addresses as addresses.

=item migration_type

C<secure> or C<insecure>. On the source, absent or C<undef> if the call does not say; on the target
it must be there.

=item migration_network

An ID of this node's configuration, a CIDR or an interface name; absent or C<undef> if the call does
not say. An ID wins over an interface of the same name.

=back

Returns on the source

    {
        # what was asked for, else the default
        migration_type => 'insecure',
        # the ID, or what the call gave, or undef
        migration_network => 'dc2',
        # a configured network is used: no privilege is needed
        configured => JSON::true,
        # what to ask the target for, or undef
        network => 'dc1',
        # where this node's end must lie, or undef
        source_network => '10.0.0.0/24',
        require_encryption => JSON::false,
        # clear text may go to publicly routable addresses
        public => JSON::false,
        # clear text may go through the default gateway
        gateway => JSON::false,
        # seconds, 1 to 3600
        dead_peer_timeout => 60,
        # one sentence: where this comes from
        reason => '...',
    }

and on the target C<network> (a CIDR or an interface name of this node, or C<undef> for its own
address), C<configured>, C<require_encryption>, C<public> and C<reason>.

A network that the call gives as CIDR or interface name stands for C<network> and C<source_network>
alike, and is not C<configured>; nothing of a configured network counts then, the policy does.

Dies with C<STATUS_INVALID_ARGUMENT> if there is a mistake in the text (the message says in which
line), or if remote or network are malformed; with C<STATUS_NOT_UTF8> if the text is not, or
C<STATUS_TOO_LONG> above 1 MiB; with C<STATUS_REFUSED> if the configuration does not permit what was
asked for: a type that the network does not allow, clear text where the policy requires encryption,
even by default, a network that is for other remotes, an ID that there is not.

=item seam_decide($text, $input)

Decides what a tunnel worker on the target does with a request about direct connections. C<$text> is
the content of the configuration, or C<undef>. C<$input>:

    # the request, as it arrived
    direct => { op => 'open', protocol => 1, plane => 'tcp' },
    # path of the configuration, for messages
    file => '/etc/pve/remote-migration.cfg',
    # why it could not be read, or undef
    unreadable => undef,
    # this node's name
    node => 'pve1',
    # user of the API, for messages, or undef
    user => 'move@pve',
    # result of an earlier 'check', or undef
    allowed => undef,
    # or 'running', 'ended'
    listener => 'none',
    # the worker's UNIX sockets
    sockets => ['/run/qemu-server/100.migrate'],

Returns a hash whose C<do> is one of

    check    look up 'privilege' on 'path', then call again with
             the result in 'allowed'
    reply    answer with 'reply'
    listen   start a listener with 'options', answer with its line
    ask      send 'request' to the listener, answer with its line
    close    send { op => 'close' }, answer with its line

Dies with C<STATUS_PROTOCOL> if the request is malformed, and with C<STATUS_REFUSED> if it is not
allowed.

=item seam_answer($operation, $line)

Checks a line of the listener: its answer to C<open> (the first line), C<forward>, C<stat> or
C<close>. Returns the answer with the known members. Dies with C<STATUS_PROTOCOL> if one is missing or
malformed; the message does not contain its value.

=back

=head2 Addresses and ports

=over

=item network_address($network, $node)

Finds the address of this host that a migration uses. C<$network> is a CIDR, an interface name, or
C<undef> for the address that the name C<$node> resolves to. Returns

    {
        address => '192.0.2.7',
        prefix_len => 24,
        interface => 'eth1',
        uri_host => '192.0.2.7',
    }

C<uri_host> has brackets around IPv6, as URIs want it. Only addresses of interfaces that are up
count; temporary, deprecated, tentative and duplicate ones do not, nor loopback and link-local ones
unless the CIDR lies inside these ranges. Exactly one must be left: otherwise it dies with
C<STATUS_REFUSED>, and the message lists what was seen and why each lost. Without C<$network> the
system's resolver is asked, which may block.

=item port_bind($address)

Binds the first free port of 60000 to 60049 on exactly this literal address, and listens. Returns a
list of descriptor and port:

    my ($fd, $port) = PVE::Tunnel::Native::port_bind('192.0.2.7');
    open(my $listener, '+<&=', $fd)
        or die "cannot open descriptor $fd: $!\n";

The descriptor is blocking and close-on-exec, and is yours: nobody else closes it. Dies with
C<STATUS_IO> if all fifty ports are taken or the address is not one of this host. Under taint a
tainted C<$address> is refused, as C<bind> does.

=item endpoint_check($input)

Checks an endpoint that a migration target announced, before anything connects to it. Does no I/O.
C<$input> has either

    migrate => { proto => 'tcp', addr => '192.0.2.7', port => 60000 }

or

    nbd_uri => 'nbd:192.0.2.7:60001:exportname=drive-scsi0'

and may have C<network> (a CIDR that the address must be in) and C<allow_loopback> (true for tests
only). Returns

    {
        address => '192.0.2.7',
        port => 60000,
        uri => 'tcp:192.0.2.7:60000',
    }

with C<export> in addition for an C<nbd_uri>. Dies with C<STATUS_REFUSED> unless the address is
literal, the port is 60000 to 60049, the address lies inside the network and is not loopback,
multicast, broadcast or unspecified.

=item guard_check($input)

Checks whether guest data may go to an address in clear text, before anything connects to it. Asks
the kernel which way it would send, and sends nothing. C<$input> is a hash reference; a name that is
not listed here is an error, and all but C<address> may be absent or C<undef>:

=over

=item address

What the target announced: a literal address, IPv6 without brackets.

=item network

Where that address has to be: a CIDR, or the name of an interface of this node. Of an interface it
has to be in one of the networks of its addresses, and data has to leave by it.

=item source_network

Where this node has to send from: a CIDR that its own address is in, or the name of the interface
that data leaves by.

=item public

True if the configuration allows publicly routable addresses, at either end.

=item gateway

True if the configuration allows the default route, and, where C<network> is an interface, addresses
outside its networks.

=back

Returns

    {
        address => '10.0.0.7',
        source => '10.0.0.1',      # this node's address towards it
        interface => 'eth1',       # that data leaves by
        gateway => undef,          # or the router on the way
        # or unique-local, shared, link-local, loopback,
        # documentation, benchmarking, global
        scope => 'private',
        warnings => ['CLEAR TEXT: ...'],
    }

C<warnings> has at least one sentence, for log and operator: the first says that guest data travels
in clear text, and where; the others what else is unusual, such as a router.

Dies with C<STATUS_REFUSED>, and the way out in the message, if the address is not literal or none
of a single other node (loopback passes only where C<network> is a CIDR inside that range), if it is
outside C<network>, if either address is publicly routable, if only the default route leads there
(one wider than 8 bits counts as such), or if this node would send from outside C<source_network>.
Dies with C<STATUS_IO> if there is no route, or the kernel could not be asked.

For the C<qemu> plane, C<endpoint_check> comes first, for each announced endpoint; its C<address>
then goes in here.

=back

=head2 Websocket

=over

=item mask($data, $key, $phase = 0)

Masks or unmasks the byte string C<$data> in place, as RFC 6455 section 5.3 says: byte C<i> is XORed
with byte C<($phase + i) % 4> of the four bytes of C<$key>. Twice with the same key and phase gives
the data back. To go on in the middle of a payload, add the number of bytes already done to
C<$phase>. Returns nothing.

C<$data> may be anything that can be assigned to: a variable, an element, a C<substr>, a tied
scalar. Other variables that share its buffer (copy on write) keep theirs. A literal or another
read-only value is refused, and nothing is changed when it dies.

=item fingerprint_parse($text)

Reads a certificate's SHA-256 fingerprint, in any case and with or without colons, and returns it as
Proxmox VE writes it: C<0A:1B:...>, 95 characters. Dies with C<STATUS_INVALID_ARGUMENT> if it is
none.

=back

=head2 The connector

=over

=item connector_run($input, $output, $log = undef, $options = undef)

Runs the source's end of a tunnel: the protocol of C<proxmox-websocket-tunnel>, one JSON line in,
one JSON line out. C<$input> and C<$output> are descriptor numbers (C<fileno>), not handles; pipes,
sockets or terminals. C<$log> is the number of a descriptor for diagnostics, one line each, or
C<undef> for none. They stay yours and stay open. C<$options> is a hash reference or C<undef>; all
are optional:

    # or 'random': how frames over TLS are masked
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
    # true: SIGTERM comes when the process that forked this one dies
    end_with_parent => 0,

B<It blocks> until the input ends, and is meant for a process forked for it; see L</FORKS> and
L</SIGNALS>. Returns nothing when the input has ended and everything was sent. Bad lines of input do
not end it: they are answered. Dies with C<STATUS_INVALID_ARGUMENT> for a bad descriptor or bad
options; with C<STATUS_PROTOCOL> if the worker sends a line above 1 MiB; with C<STATUS_IO> if a
descriptor fails, a connection that was asked for could not be opened, the control connection ended
before the input did, or a signal came.

=back

=head2 The listener

=over

=item listener_run($control, $log, $options)

Runs the target's end of direct connections. C<$control> is the number of a descriptor: one end of a
UNIX stream socket pair whose other end the worker holds. C<$log> is as for C<connector_run>. The
first line on C<$control> is the listener's: where it listens, and what the source needs to be let
in, or C<{"error":"..."}>. Then it answers lines: C<{"op":"forward","path":"/run/..."}>,
C<{"op":"stat"}>, C<{"op":"close"}>. F<docs/protocol.md> has their shapes. C<$options>:

    # or 'tcp'
    plane => 'tls',
    # CIDR or interface name; without, the node's own address
    network => '10.0.0.0/24',
    # the node's name
    node => 'pve1',
    # tls: the source's one-time certificate
    fingerprint => '0A:1B:...',
    # tcp: may listen on a publicly routable address
    public => 0,
    # seconds for a connection to say who it is
    hello_timeout => 10,
    # seconds for the source to be silent
    dead_peer_timeout => 60,

B<It blocks> until C<close>, the end of C<$control>, or the death of the process that forked this
one, and is meant for a process forked for it that has closed every other descriptor; see L</FORKS>
and L</SIGNALS>. Dies with C<STATUS_INVALID_ARGUMENT> for bad options, C<STATUS_REFUSED> if there is
no address to listen on or clear text may not be received there, C<STATUS_IO> if no port is free,
C<$control> fails, or a signal came.

=back

=head2 The library

=over

=item version()

Version of the library, such as C<0.1.0>. C<$PVE::Tunnel::Native::VERSION> is that of this module.

=item CONFIGURATION_MAX, LINE_MAX

Constants: most bytes of the configuration, and of a line from or to a connector or listener.

=item abi_version()

Number of the library's ABI. The module refuses to load with another than it was built for.

=item last_status()

Status of this thread's last call that had one: 0 or one of the negative numbers of L</ERRORS>.

=item last_error()

Message of this thread's last call, without the newline; C<''> if it succeeded.

=back

=head1 CODECS

C<PVE::Tunnel::Native::Codec> takes the bytes of one websocket connection apart into frames, and
makes frames. It does no I/O: an event loop reads and writes.

=over

=item new

Class method: C<< PVE::Tunnel::Native::Codec->new(%options) >>. A codec for one connection after its
upgrade. Options:

    # or 'server': which end this is
    role => 'client',
    # or 'zero', only where TLS protects the wire: how a client masks
    mask => 'random',
    # longest payload taken in one frame, bytes: 125 to 16777216
    max_frame => 131072,

Dies with C<STATUS_INVALID_ARGUMENT> for others.

=item feed

Method: C<< $codec->feed($bytes) >>. Takes bytes from the wire, at most 16 MiB a call, cut anywhere.
Call C<next> until it has nothing more: what is not taken out piles up in memory. Returns nothing.

=item next

Method: C<< $codec->next() >>. Returns the next piece of what was fed, or C<undef> if more must be
fed:

    { opcode => 'binary', end => 1, payload => '...' }

C<opcode> is C<text>, C<binary>, C<close>, C<ping> or C<pong>. Text and binary come piece by piece
as their bytes arrive; C<end> is 1 on the last piece of a message, which may be empty, and 0 before.
Control frames come whole and may come between pieces. The payload of a C<close> is empty, or a code
(C<unpack('n', ...)>) and a reason. What is text is bytes here, too, and not checked to be UTF-8.
Answering pings and closes is the caller's.

Dies with C<STATUS_PROTOCOL> if the peer broke RFC 6455 or C<max_frame>. Nothing that follows can be
understood then: end the connection.

=item encode

Method: C<< $codec->encode($opcode, $bytes) >>. Returns the bytes to send for a payload. C<$opcode>
is one of the names above. Text and binary longer than 131072 bytes (at most 16 MiB) become several
whole messages, because pveproxy takes no longer frames and no fragments. Dies with
C<STATUS_TOO_LONG> for more than 125 bytes in a close, ping or pong.

=back

=head1 ERRORS

Every failure dies with a plain string: one line that begins with the name of the library's
function, such as C<pve_tunnel_plan>, and ends in a newline. Messages contain no ticket, token or
key. They are bytes, and UTF-8 where they quote something else than ASCII.

C<last_status> tells kinds of failures apart. Failures that are found before the library is called
(wide characters, undefined arguments) leave it as it was, as do the usage errors of Perl itself and
those of the JSON encoder for what JSON cannot express.

=over

=item STATUS_OK

The call succeeded.

=item STATUS_NULL_POINTER

Does not happen from Perl.

=item STATUS_INVALID_ARGUMENT

An argument makes no sense here; the message names it.

=item STATUS_NOT_UTF8

A string that must be UTF-8 is not.

=item STATUS_TOO_LONG

An argument is longer than the limit stated with the function.

=item STATUS_PROTOCOL

What a peer sent breaks the protocol.

=item STATUS_IO

The system or the network refused.

=item STATUS_REFUSED

Understood, and declined.

=item STATUS_WRONG_PROCESS

The codec was made by another process, before a fork.

=item STATUS_PANIC

A defect in the library, caught at its border. Please report it.

=back

=head1 BYTES AND CHARACTERS

Scalar arguments are byte strings. Characters from 128 to 255 stand for that byte, however Perl
stores them; a string with a character above 255 is refused: encode it first. No argument but the
C<$data> of C<mask> is changed. Strings inside structures are text, as with every JSON module. A NUL
byte in a name or JSON text is refused.

=head1 TAINT

Under C<perl -T>, what was made of something tainted is tainted: every value of a structure that was
made of one tainted value, the payload of a codec that was fed tainted bytes (from then on), data
masked with a tainted key. Take values out by a pattern after checking them, as ever. Names of hash
elements are never tainted in Perl, nor are the booleans of JSON. C<port_bind> refuses a tainted
address; what it returns comes from the kernel and is not tainted. What C<seam_decide> and
C<seam_answer> return is not tainted either, because the library has checked every value.

=head1 LIFETIMES

A codec lives as long as the last reference to its object. It hangs on that object by magic: there
is no C<DESTROY> to call, and nothing happens twice in global destruction. A copy made by
C<Storable::dclone> or the like is an empty object; every method of it dies.

=head1 FORKS

After a fork the child may use this module afresh. A codec of its parent is refused there with
C<STATUS_WRONG_PROCESS>, and freeing it there, at the child's end for instance, releases nothing of
the parent's.

A child that runs C<connector_run> or C<listener_run> inherits the handlers of its parent in C<%SIG>, open handles, and
locks on them. Set C<TERM>, C<INT> and C<HUP> to C<DEFAULT>, close what it does not need, and leave
by C<POSIX::_exit>:

    my $pid = fork() // die "cannot fork: $!\n";
    if ($pid == 0) {
        $SIG{$_} = 'DEFAULT' for qw(TERM INT HUP);
        my @descriptors = map { fileno($_) } $in, $out, \*STDERR;
        eval { PVE::Tunnel::Native::connector_run(@descriptors) };
        print STDERR $@;
        POSIX::_exit($@ ? 1 : 0);
    }

C<connector_run> and C<listener_run> raise the process's soft limit on open descriptors, as far as its
hard limit allows.

=head1 THREADS

All functions may be called by any Perl thread; C<last_status> and C<last_error> belong to the
thread that calls them. A codec belongs to the thread that made it: the copy that a new thread gets
refuses every method, and its end frees nothing.

=head1 SIGNALS

The library changes no signal handler. Perl runs handlers between its own steps, so a handler waits
for the end of a call. All calls but C<connector_run> and C<listener_run> are short, and one that is
interrupted returns: if the handler dies, as those for time limits do, its error comes in place of
the call's, inside the C<eval> around it.

These two end on C<HUP>, C<INT>, C<TERM> and C<ALRM>, which are blocked while they run. Sockets are
removed, then the signal is raised again: a handler in C<%SIG> runs before the call dies with
C<STATUS_IO>; without one, the process ends by the signal.

=head1 SEE ALSO

C<PVE::Tunnel::Client>, F<docs/perl.md>, F<include/pve_tunnel.h>,
L<RFC 6455|https://www.rfc-editor.org/rfc/rfc6455>

=head1 LICENSE

AGPL-3.0-or-later

=cut
