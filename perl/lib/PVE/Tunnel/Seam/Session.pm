package PVE::Tunnel::Seam::Session;

use v5.36;

use POSIX ();

use PVE::Tunnel::Native;
use PVE::Tunnel::Seam::Listener;
use PVE::Tunnel::Seam::Message;

our $VERSION = '0.1.0';

use constant {
    # The newest and the oldest protocol of direct connections that this node speaks.
    PROTOCOL => 1,
    OLDEST_PROTOCOL => 1,
    # Bytes. pmxcfs keeps no larger file; the parser refuses a larger one.
    MAX_CONFIGURATION => 1 << 20,
    # Seconds for a connection to say who it is.
    HELLO_TIMEOUT => 10,
    # Seconds without a sign of life, if the source does not say.
    DEAD_PEER_TIMEOUT => 60,
    # What clear text and a network of one's own choice need, as inside a cluster.
    PATH => '/',
    PRIVILEGE => 'Sys.Modify',
};

my %CAPABILITY = (tls => 'direct-tls', tcp => 'direct-tcp');
my %TYPE = (tls => 'secure', tcp => 'insecure');
my %OPERATION = (
    hello => \&_hello,
    open => \&_open,
    forward => \&_forward,
    stat => \&_stat,
    close => \&_close,
);

sub new ($class, %option) {
    return bless {%option}, $class;
}

sub handle ($self, $state, $direct) {
    my $request = PVE::Tunnel::Seam::Message::request($direct);
    return $OPERATION{ $request->{op} }->($self, $request, $state);
}

sub has_listener ($self) {
    return $self->{listener} && !$self->{listener}->is_over ? 1 : 0;
}

sub uses_listener ($self) {
    return defined $self->{listener} ? 1 : 0;
}

sub demand_listener ($self) {
    die 'what was on its way over the direct connections is lost: '
        . $self->{listener}->reason . "\n"
        if $self->{listener}->is_over;
    return;
}

sub _hello ($self, $request, $state) {
    my $withheld = $self->_withheld;
    my @caps = grep { !exists $withheld->{$_} } map { $CAPABILITY{$_} } qw(tls tcp);
    return {
        # A constant that was once put into a text would go over as one.
        protocol => 0 + PROTOCOL,
        oldest => 0 + OLDEST_PROTOCOL,
        caps => \@caps,
        withheld => $withheld,
        version => $VERSION,
    };
}

# What this software can do and this node does not offer, with the reason.
sub _withheld ($self) {
    my $text = eval { $self->_configuration };
    my $general = defined($text) ? eval { $self->_select($text, 'secure') } : undef;
    if (!$general) {
        chomp(my $reason = $@);
        return { map { $_ => $reason } values %CAPABILITY };
    }
    my $tcp = $CAPABILITY{tcp};
    return { $tcp => "$self->{configuration} of this node requires encryption" }
        if $general->{require_encryption};
    return {} if $self->_may || $self->_any_insecure($text);
    return {
        $tcp => $self->_lacks . ", and no network in $self->{configuration} allows clear text" };
}

sub _open ($self, $request, $state) {
    die "a listener is open already\n" if $self->has_listener;
    die "protocol $request->{protocol} is not spoken here, only " . PROTOCOL . "\n"
        if $request->{protocol} < OLDEST_PROTOCOL || $request->{protocol} > PROTOCOL;
    my ($plane, $network) = @$request{qw(plane network)};
    my $selected = $self->_select($self->_configuration, $TYPE{$plane}, $network);
    die "$self->{configuration} of this node requires encryption: clear text is refused\n"
        if $plane eq 'tcp' && $selected->{require_encryption};

    $self->_demand_privilege($plane eq 'tcp' ? 'clear text' : "migration network '$network'")
        if ($plane eq 'tcp' || defined $network) && !$selected->{configured};

    my ($listener, $opened) = PVE::Tunnel::Seam::Listener->start(
        {
            plane => $plane,
            network => defined($selected->{network}) ? _clean($selected->{network}) : undef,
            node => $self->_node,
            fingerprint => $plane eq 'tls' ? $request->{fingerprint} : undef,
            public => $selected->{public} ? 1 : 0,
            hello_timeout => HELLO_TIMEOUT,
            dead_peer_timeout => $request->{dead_peer_timeout} // DEAD_PEER_TIMEOUT,
        }
    );
    $self->{listener} = $listener;
    return $opened;
}

# The rule of the worker's command `ticket`.
sub _forward ($self, $request, $state) {
    my $listener = $self->_listener('forward');
    my $sockets = $state->{sockets};
    my ($path) =
        ref($sockets) eq 'HASH'
        ? grep { $_ eq $request->{path} && defined $sockets->{$_} } keys %$sockets
        : ();
    die "socket '"
        . PVE::Tunnel::Seam::Message::one_line($request->{path})
        . "' is not known here\n"
        if !defined $path;
    return $listener->ask('forward', path => $path);
}

sub _stat ($self, $request, $state) {
    return $self->_listener('stat')->ask('stat');
}

sub _close ($self, $request, $state) {
    my $listener = $self->_listener('close');
    delete $self->{listener};
    return $listener->close;
}

sub _listener ($self, $op) {
    return $self->{listener} // die "$op: no listener is open\n";
}

sub _demand_privilege ($self, $wish) {
    die "$wish is refused: " . $self->_lacks . "; the ID of a configured network needs none\n"
        if !$self->_may;
    return;
}

# Whoever cannot be asked has said no.
sub _may ($self) {
    my $user = $self->_user;
    my $check = $self->{check};
    my $may = eval {
              $check
            ? $check->($user, PATH, PRIVILEGE)
            : defined($user) && PVE::RPCEnvironment::get()->check($user, PATH, [PRIVILEGE], 1);
    };
    return $may ? 1 : 0;
}

# The user of the API whose worker this is; undef where nobody can tell.
sub _user ($self) {
    my $user = eval {
        require PVE::RPCEnvironment;
        PVE::RPCEnvironment::get()->get_user();
    };
    return defined($user) && length($user) ? $user : undef;
}

sub _lacks ($self) {
    my $user = $self->_user;
    my $who = defined($user) ? "user '$user'" : 'the user of this tunnel';
    return "$who lacks " . PRIVILEGE . " on '" . PATH . q{'};
}

sub _node ($self) {
    my $name = $self->{node} // eval { require PVE::INotify; PVE::INotify::nodename() };
    # As there: the name without its domain.
    $name //= (POSIX::uname())[1] =~ s/\..*//r;
    return _clean($name);
}

# The file's content; empty without a file.
sub _configuration ($self) {
    my $file = $self->{configuration};
    my $text = '';
    if (open(my $in, '<:raw', $file)) {
        # One byte more, so that what is too long is seen to be.
        defined read($in, $text, MAX_CONFIGURATION + 1) or die "cannot read '$file': $!\n";
    } elsif (!$!{ENOENT}) {
        die "cannot read '$file': $!\n";
    }
    return $text;
}

sub _select ($self, $text, $type, $network = undef) {
    my %input = (side => 'target', migration_type => $type, migration_network => $network);
    my $selected = eval { PVE::Tunnel::Native::configuration_select($text, \%input) };
    return $selected if $selected;
    my $reason = PVE::Tunnel::Seam::Message::one_line($@ =~ s/\Apve_tunnel_\w+: //r);
    # Mistakes in the file come with their line.
    $reason = "$self->{configuration}, $reason" if $reason =~ /\Aline [0-9]/;
    die "$reason\n";
}

# Whether there is a network that a source without privileges may use for clear text. Which sections
# the file has is asked here; what they allow, of those who read it strictly.
sub _any_insecure ($self, $text) {
    for my $id ($text =~ /^network:[ \t]*(\S+)/gm) {
        my $selected = eval { $self->_select($text, 'insecure', $id) };
        return 1 if $selected && $selected->{configured};
    }
    return 0;
}

# What a library has checked is as tainted as what it was made of.
sub _clean ($text) {
    my ($clean) = $text =~ /\A([\x21-\x7e]{1,255})\z/
        or die "'network' or node name is malformed\n";
    return $clean;
}

1;

__END__

=encoding utf8

=head1 NAME

PVE::Tunnel::Seam::Session - what one worker says to the source about direct connections

=head1 DESCRIPTION

A part of L<PVE::Tunnel::Seam>, which describes the operations. Decides who may have a listener, has
at most one, and lets it connect only to sockets that the worker knows.

=head1 METHODS

=head2 new

    PVE::Tunnel::Seam::Session->new(
        configuration => $file,
        check => $check,
        node => $name,
    );

Class method. C<check> and C<node> are optional; L<PVE::Tunnel::Seam/install> describes them.

=head2 handle

C<< $session->handle($state, $direct) >>: the answer to a request, a hash. C<$state> is the
worker's. Dies with one line.

=head2 has_listener

Whether a listener is open, as far as is known.

=head2 uses_listener

Whether one was opened that has not been closed, dead or alive.

=head2 demand_listener

Dies with one line if that one is dead.

=cut
