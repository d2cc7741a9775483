package PVE::Tunnel::Seam;

use v5.36;

use Hash::Util::FieldHash qw(fieldhash);

use PVE::Tunnel::Configuration;
use PVE::Tunnel::Seam::Session;

our $VERSION = '0.1.0';

# Variable for tests.
our $CONFIGURATION = $PVE::Tunnel::Configuration::FILE;

# The command that carries the seam's requests, and the property that distinguishes them.
my $COMMAND = 'query-disk-import';
my $PROPERTY = 'direct';

# The state of the installation. A package variable, because a second loading of this file would
# otherwise wrap the wrapper.
our $installation;

# The session of each worker, by its $state, which a session must not outlive. It is not stored in
# $state: that hash belongs to the worker, which may print, encode or copy it, or use the same key.
fieldhash my %session;

sub install (%option) {
    for my $name (sort keys %option) {
        die "unknown option '$name'\n" if $name !~ /\A(?:check|node)\z/;
    }
    die "option 'check' is not a code reference\n"
        if defined($option{check}) && ref($option{check}) ne 'CODE';

    _load() if !defined &PVE::StorageTunnel::handle_query_disk_import;
    my $properties = _properties();
    my $installed = _installed_as();
    if ($installed eq 'none') {
        _refuse_taken($properties);
        $installation = _wrap($properties);
    } elsif (($properties->{$PROPERTY} // 0) != $installation->{property}) {
        _refuse_taken($properties);
        $properties->{$PROPERTY} = $installation->{property};
    }
    $installation->{option} = {%option} if %option;
    return;
}

sub uninstall() {
    my $installed = _installed_as();
    return 0 if $installed eq 'none';
    die 'cannot uninstall: another module has wrapped'
        . " PVE::StorageTunnel::handle_query_disk_import since\n"
        if $installed ne 'topmost';
    my $properties = _properties();
    delete $properties->{$PROPERTY}
        if ($properties->{$PROPERTY} // 0) == $installation->{property};
    _set_handler($installation->{original});
    undef $installation;
    return 1;
}

sub status() {
    my $installed = _installed_as();
    return {
        installed => $installed eq 'none' ? 0 : 1,
        topmost => $installed eq 'topmost' ? 1 : 0,
        listeners => scalar(grep { $_->has_listener } values %session),
    };
}

sub _load() {
    eval { require PVE::StorageTunnel; 1 } and return;
    my ($reason) = split(/\n/, $@);
    die "cannot load PVE::StorageTunnel, which the seam extends: $reason\n";
}

# The properties of the command, if PVE::StorageTunnel has the expected shape.
sub _properties() {
    no warnings 'once'; ## no critic (ProhibitNoWarnings)
    my $schema = $PVE::StorageTunnel::cmd_schema;
    die "this PVE::StorageTunnel has no \$cmd_schema with '$COMMAND': it is not changed\n"
        if ref($schema) ne 'HASH' || ref($schema->{$COMMAND}) ne 'HASH';
    die "this PVE::StorageTunnel has no handle_query_disk_import: it is not changed\n"
        if !defined &PVE::StorageTunnel::handle_query_disk_import;
    my $properties = $schema->{$COMMAND};
    for my $name (sort keys %$properties) {
        die "the schema of '$COMMAND' in this PVE::StorageTunnel has '$name', which is not a "
            . "property: it is not changed\n"
            if ref($properties->{$name}) ne 'HASH';
    }
    return $properties;
}

# How the seam is installed: 'topmost', 'wrapped' by another module since, or 'none', also after
# PVE::StorageTunnel was loaded again.
sub _installed_as () {
    return 'none' if !$installation || !defined &PVE::StorageTunnel::handle_query_disk_import;
    return 'topmost'
        if \&PVE::StorageTunnel::handle_query_disk_import == $installation->{wrapper};
    my $properties = eval { _properties() } // return 'none';
    return ($properties->{$PROPERTY} // 0) == $installation->{property} ? 'wrapped' : 'none';
}

sub _refuse_taken ($properties) {
    die "'$COMMAND' already has a property '$PROPERTY' of another module: it is not changed\n"
        if exists $properties->{$PROPERTY};
    return;
}

sub _wrap ($properties) {
    my $original = \&PVE::StorageTunnel::handle_query_disk_import;
    # Without a signature: other commands reach the original with the same @_, context and caller.
    my $wrapper = sub {
        return _answer(@_) if ref($_[1]) eq 'HASH' && exists $_[1]{$PROPERTY};
        my $direct = ref($_[0]) eq 'HASH' ? $session{ $_[0] } : undef;
        goto &$original if !$direct || !$direct->uses_listener;
        # After the call, because the original may wait, and because it records what to clean up
        # when the import is over. Until then the source has to go on with its queries.
        my $answer = &$original;
        $direct->require_listener
            if ref($answer) ne 'HASH' || ($answer->{status} // '') ne 'pending';
        return $answer;
    };
    # The library checks its content. A newer source may send more than a schema would allow.
    my $property = {
        type => 'object',
        description => 'Sets up direct connections for this migration (pve-tunnel).',
        optional => 1,
    };
    $properties->{$PROPERTY} = $property;
    _set_handler($wrapper);
    return { original => $original, wrapper => $wrapper, property => $property, option => {} };
}

sub _set_handler ($code) {
    no warnings 'redefine'; ## no critic (ProhibitNoWarnings)
    *PVE::StorageTunnel::handle_query_disk_import = $code;
    return;
}

sub _answer ($state, $params) {
    die "the worker has no state\n" if ref($state) ne 'HASH';
    $session{$state} //= PVE::Tunnel::Seam::Session->new(
        configuration => $CONFIGURATION,
        %{ $installation ? $installation->{option} : {} },
    );
    return { $PROPERTY => $session{$state}->handle($state, $params->{$PROPERTY}) };
}

1;

__END__

=encoding utf8

=head1 NAME

PVE::Tunnel::Seam - the target side of direct connections, in a stock mtunnel worker

=head1 SYNOPSIS

    use PVE::Tunnel::Seam;

    PVE::Tunnel::Seam::install();
    ...
    PVE::Tunnel::Seam::uninstall();

=head1 DESCRIPTION

The table of commands of the mtunnel worker, in qemu-server and in pve-container, cannot be
extended. Schema and handler of one command, C<query-disk-import>, belong to C<PVE::StorageTunnel>,
and the worker looks both up at run time. The seam adds one optional property to that schema,
C<direct>, and wraps that handler. It answers commands with C<direct>; every other command reaches
the original handler with the same arguments, context and caller.

There is one exception. If a listener was opened and has died, the original handler is called, but
the command fails, unless the answer has the status C<pending>. A pending import receives the end of
its stream from the dead listener, and the worker has to learn the import's volume from a further
query, so that it can free the volume. A program that only reads, such as an import, takes the end of the listener for
the end of its data. C<PVE::StorageTunnel> on the source relies on this command's answer, and would
otherwise treat a truncated disk as complete.

A node without the seam refuses the unknown property with C<success: false> and continues, so a
source can send the request to any node.

=head2 Operations

A request on the control plane is C<{"cmd":"query-disk-import","direct":{"op":...}}>. Its answer is
C<{"success":1,"direct":{...}}> or C<{"success":0,"msg":"..."}>. Unknown names are ignored. A
malformed value is an error, and an error changes nothing. The library decides about requests, see
L<PVE::Tunnel::Native/seam_decide>; F<docs/protocol.md> is the specification.

=over

=item hello: C<protocol>, C<version>?

Changes nothing. The answer, the target's offer, has C<protocol> and C<oldest>, the newest and the
oldest protocol that this node supports (C<protocol> in the request is the newest that the source
supports); C<caps>, of C<direct-tls> and C<direct-tcp>; C<withheld>, the reason for each of them
that this node does not offer; C<compression>; C<websocket_lanes> and C<meter>, true; C<version>.

Both are withheld if the configuration cannot be read or is malformed. C<direct-tcp> is withheld if
the configuration requires encryption, or if the user lacks the privilege below and no configured
network allows clear text.

=item open: C<protocol>, C<plane>, C<network>?, C<fingerprint> (C<tls>), C<dead_peer_timeout>?

Starts the listener. There is at most one. C<plane> is C<tls> or C<tcp>. C<network> is the ID of a
network of I<this> node's configuration, a CIDR or an interface name; the default is the address of
the node's name. C<fingerprint> is the SHA-256 of the source's one-time certificate.
C<dead_peer_timeout> is in seconds, by default 60.

The answer has C<protocol>, C<plane>, C<addresses>, C<port>, C<fingerprint> (C<tls>), C<key>, 64
hexadecimal digits, and C<echo>: the listener returns every byte of the heartbeat.

With C<plane> C<websocket>, the listener has a UNIX socket beside the worker's own one, which is
added to C<< $state->{sockets} >>, and connections arrive there through the API. The answer has
C<protocol>, C<plane>, C<path> and C<key>. No privilege is necessary.

C<tcp>, and a network that is not configured, require C<Sys.Modify> on C</> for the API user of this
worker. The ID of a configured network requires no privilege, because an administrator has
configured it. C<tcp> is refused if the configuration requires encryption.

=item forward: C<path>

Registers a UNIX socket, so that direct connections can be forwarded to it. The socket must be a key
of C<< $state->{sockets} >> at that moment: this is also the rule of the command C<ticket>. The
answer has C<number>. The same path always has the same number.

=item stat

The answer has C<plane>, C<connections>, C<half_open>, C<forwards> (C<number>, C<path>,
C<connections>, C<open>, C<failed>, C<received>, C<sent>: bytes from and to the source) and
C<refused> (C<tls>, C<silent>, C<malformed>, C<key>, C<number>, C<crowded>, C<socket>,
C<heartbeat>).

=item meter

Starts a meter, a process that discards and sends bytes, for C<pve-tunnel check>. Its socket is
added to C<< $state->{sockets} >>. The answer has C<path>, C<seconds>, C<measurement_seconds> and
C<measurement_bytes>. Further requests return the running meter. See L<PVE::Tunnel::Seam::Meter>.

=item close

Ends the listener. The answer has its last counters, as in C<stat>.

=back

=head2 The listener

C<open> forks a process. The worker holds the guest's configuration lock, so the process closes
every descriptor except 0, 1, 2 and its socket to the worker. It ends when the worker ends, in every
case, and C<close> waits for its end. See L<PVE::Tunnel::Seam::Listener>.

The seam stores its data about a worker outside of the worker's C<$state>, and frees it together
with C<$state>. A session key in C<$state> could reach a log by a debugging output.

=head1 FUNCTIONS

=head2 install

    PVE::Tunnel::Seam::install();
    PVE::Tunnel::Seam::install(check => $check, node => $name);

Installs the seam. Further calls do not install it again. Loads C<PVE::StorageTunnel> if it is not
loaded. Dies, and changes nothing, if C<PVE::StorageTunnel> does not load, or does not have the
expected shape: C<$PVE::StorageTunnel::cmd_schema> with a hash of properties for
C<query-disk-import>, none of them called C<direct>, and
C<PVE::StorageTunnel::handle_query_disk_import>.

Options, which replace those of an earlier call:

=over

=item check

C<sub ($user, $path, $privilege)>: true if that user has that privilege. C<$user> is C<undef> if
C<PVE::RPCEnvironment> does not load or has no user. By default C<PVE::RPCEnvironment> checks the
privilege. If that fails, the user does not have it.

=item node

This node's name, whose address is used if a request has no network. By default
C<PVE::INotify::nodename()>, and without that module the host name.

=back

=head2 uninstall

Removes the seam. Returns 1, or 0 if it was not installed. Dies, and changes nothing, if another
module has wrapped the handler since. Open listeners continue.

=head2 status

    { installed => 1, topmost => 1, listeners => 0 }

C<topmost> is 0 if another module has wrapped the handler since. C<listeners> is the number of
running listeners.

=head1 FILES

F</etc/pve/remote-migration.cfg>, C<$PVE::Tunnel::Seam::CONFIGURATION>: networks and policy. The
seam reads it for each request. A missing file is the same as an empty one.

=cut
