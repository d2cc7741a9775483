package PVE::Tunnel::Seam;

use v5.36;

use Hash::Util::FieldHash qw(fieldhash);

use PVE::Tunnel::Configuration;
use PVE::Tunnel::Seam::Session;

our $VERSION = '0.1.0';

# Variable for tests.
our $CONFIGURATION = $PVE::Tunnel::Configuration::FILE;

# The command whose clothes the seam's requests wear, and the parameter that tells them apart.
my $COMMAND = 'query-disk-import';
my $PROPERTY = 'direct';

# What is installed, and how. It outlives a second loading of this file, which would otherwise wrap
# the wrapper.
our $installation;

# By the worker's $state, so that everything of a worker goes when that goes. Not in $state: it is
# another's hash, which may be printed, encoded or copied, and may have such a key one day.
fieldhash my %session;

sub install (%option) {
    for my $name (sort keys %option) {
        die "unknown option '$name'\n" if $name !~ /\A(?:check|node)\z/;
    }
    die "option 'check' is not a code reference\n"
        if defined($option{check}) && ref($option{check}) ne 'CODE';

    _load() if !defined &PVE::StorageTunnel::handle_query_disk_import;
    my $properties = _properties();
    my $standing = _standing();
    if ($standing eq 'none') {
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
    my $standing = _standing();
    return 0 if $standing eq 'none';
    die "cannot uninstall: another has wrapped PVE::StorageTunnel::handle_query_disk_import since\n"
        if $standing ne 'topmost';
    my $properties = _properties();
    delete $properties->{$PROPERTY}
        if ($properties->{$PROPERTY} // 0) == $installation->{property};
    _set_handler($installation->{original});
    undef $installation;
    return 1;
}

sub status() {
    my $standing = _standing();
    return {
        installed => $standing eq 'none' ? 0 : 1,
        topmost => $standing eq 'topmost' ? 1 : 0,
        listeners => scalar(grep { $_->has_listener } values %session),
    };
}

sub _load() {
    eval { require PVE::StorageTunnel; 1 } and return;
    my ($reason) = split(/\n/, $@);
    die "cannot load PVE::StorageTunnel, which the seam is for: $reason\n";
}

# The properties of the command, if PVE::StorageTunnel has the shape that we know.
sub _properties() {
    no warnings 'once'; ## no critic (ProhibitNoWarnings)
    my $schema = $PVE::StorageTunnel::cmd_schema;
    die "this PVE::StorageTunnel has no \$cmd_schema with '$COMMAND': it is left alone\n"
        if ref($schema) ne 'HASH' || ref($schema->{$COMMAND}) ne 'HASH';
    die "this PVE::StorageTunnel has no handle_query_disk_import: it is left alone\n"
        if !defined &PVE::StorageTunnel::handle_query_disk_import;
    my $properties = $schema->{$COMMAND};
    for my $name (sort keys %$properties) {
        die "the schema of '$COMMAND' in this PVE::StorageTunnel has '$name', which is no "
            . "property: it is left alone\n"
            if ref($properties->{$name}) ne 'HASH';
    }
    return $properties;
}

# 'topmost', 'wrapped' by another since, or 'none': also after PVE::StorageTunnel was loaded anew.
sub _standing() {
    return 'none' if !$installation || !defined &PVE::StorageTunnel::handle_query_disk_import;
    return 'topmost'
        if \&PVE::StorageTunnel::handle_query_disk_import == $installation->{wrapper};
    my $properties = eval { _properties() } // return 'none';
    return ($properties->{$PROPERTY} // 0) == $installation->{property} ? 'wrapped' : 'none';
}

sub _refuse_taken ($properties) {
    die "'$COMMAND' has a property '$PROPERTY' already that is not ours: it is left alone\n"
        if exists $properties->{$PROPERTY};
    return;
}

sub _wrap ($properties) {
    my $original = \&PVE::StorageTunnel::handle_query_disk_import;
    # Without a signature: what is not ours goes on with the very same @_, context and caller.
    my $wrapper = sub {
        return _answer(@_) if ref($_[1]) eq 'HASH' && exists $_[1]{$PROPERTY};
        my $direct = ref($_[0]) eq 'HASH' ? $session{ $_[0] } : undef;
        goto &$original if !$direct || !$direct->uses_listener;
        # Only afterwards: the original may wait, and notes what there is to clean up.
        my $answer = &$original;
        $direct->demand_listener;
        return $answer;
    };
    # What is in it, the seam checks itself: a newer source may say more.
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

PVE::Tunnel::Seam - the target's side of direct connections, in a stock mtunnel worker

=head1 SYNOPSIS

    use PVE::Tunnel::Seam;

    PVE::Tunnel::Seam::install();
    ...
    PVE::Tunnel::Seam::uninstall();

=head1 DESCRIPTION

The commands of the mtunnel worker, in qemu-server and in pve-container, are a closed table. Schema
and handler of one of them, C<query-disk-import>, belong to C<PVE::StorageTunnel>, where both are
looked up while the worker runs. The seam adds one optional property to that schema, C<direct>, and
wraps that handler: a command with C<direct> is answered here, every other one goes to the original
with the same arguments, context and caller.

One thing is added to the others, and only while there is a listener: if that has died, the original is
called, but its answer is not given. A program that only reads, as an import does, takes the listener's
end for the end of its data, and C<PVE::StorageTunnel> on the source believes what it hears here: a
disk that was cut off would be complete.

A node without the seam refuses the unknown property with C<success: false> and goes on: a source
may just ask.

=head2 Operations

Over the control plane, C<{"cmd":"query-disk-import","direct":{"op":...}}>, answered by
C<{"success":1,"direct":{...}}> or C<{"success":0,"msg":"..."}>. Names that are not known are
ignored, values that do not have the right form are an error, and an error changes nothing.

=over

=item hello: C<protocol>, C<version>?

Changes nothing. Answers C<protocol> and C<oldest>, the newest and the oldest protocol spoken here
(C<protocol> in the request is the newest that the source speaks); C<caps>, of C<direct-tls> and
C<direct-tcp>; C<withheld>, a reason for each of them that this node does not offer; C<version>.

Both are withheld if the configuration cannot be read or is malformed; C<direct-tcp> if it requires
encryption, or if the user lacks the privilege below and no configured network allows clear text.

=item open: C<protocol>, C<plane>, C<network>?, C<fingerprint> (C<tls>), C<dead_peer_timeout>?

Starts the listener; there is one at a time. C<plane> is C<tls> or C<tcp>. C<network> is the ID of a
network of I<this> node's configuration, a CIDR or an interface name; without it, the address of the
node's name is taken. C<fingerprint> is the SHA-256 of the source's one-time certificate.
C<dead_peer_timeout> is in seconds, by default 60.

Answers C<protocol>, C<plane>, C<addresses>, C<port>, C<fingerprint> (C<tls>) and C<key>, 64
hexadecimal digits.

C<tcp>, and a network that is not configured, need C<Sys.Modify> on C</> for the user of the API
whose worker this is. The ID of a configured network needs nothing: an administrator has decided
already. C<tcp> is refused where the configuration requires encryption.

=item forward: C<path>

Lets connections through to a UNIX socket. Only to one that the worker knows at that moment, that is
a key of C<< $state->{sockets} >>: the rule of the command C<ticket>. Answers C<number>; the same
path has the same number again.

=item stat

Answers C<plane>, C<connections>, C<half_open>, C<forwards> (C<number>, C<path>, C<connections>,
C<open>, C<failed>, C<received>, C<sent>: bytes from and to the source) and C<refused> (C<tls>,
C<silent>, C<malformed>, C<key>, C<number>, C<crowded>, C<socket>).

=item close

Ends the listener. Answers its last C<stat>.

=back

=head2 The listener

A process forked by the first C<open>, as the worker holds the guest's configuration lock then: it
closes every descriptor but 0, 1, 2 and its socket to the worker. It ends with the worker, whatever
happens to that, and is waited for when it is closed. See L<PVE::Tunnel::Seam::Listener>.

What is known of a worker is kept beside its C<$state>, not in it, and goes when C<$state> goes: a
session key in there would be one careless dump away from a log.

=head1 FUNCTIONS

=head2 install

    PVE::Tunnel::Seam::install();
    PVE::Tunnel::Seam::install(check => $check, node => $name);

Puts the seam in place, once, however often it is called. Loads C<PVE::StorageTunnel> if that was
not done. Dies, and has then changed nothing, if there is none, or if it does not have the shape
that is expected: C<$PVE::StorageTunnel::cmd_schema> with a hash of properties for
C<query-disk-import>, none of them called C<direct>, and
C<PVE::StorageTunnel::handle_query_disk_import>.

Options, which replace those of an earlier call:

=over

=item check

C<sub ($user, $path, $privilege)>: true if that user has that privilege. C<$user> is C<undef> where
C<PVE::RPCEnvironment> is not there or knows none. Without it, C<PVE::RPCEnvironment> decides, and
where it cannot, the answer is no.

=item node

This node's name, whose address counts where no network is asked for. By default
C<PVE::INotify::nodename()>, and without that module the host's name.

=back

=head2 uninstall

Takes it away. Returns 1, or 0 if it was not there. Dies, and changes nothing, if the handler has
been wrapped by another since. Listeners that are open stay.

=head2 status

    { installed => 1, topmost => 1, listeners => 0 }

C<topmost> is 0 if another has wrapped the handler since. C<listeners> counts those that are open.

=head1 FILES

F</etc/pve/remote-migration.cfg>, C<$PVE::Tunnel::Seam::CONFIGURATION>: networks and policy. Read
for each C<hello> and C<open>. Without the file, nothing is configured.

=cut
