package PVE::Tunnel::Seam::Session;

use v5.36;

use POSIX ();

use PVE::Tunnel::Configuration;
use PVE::Tunnel::Native;
use PVE::Tunnel::Seam::Listener;
use PVE::Tunnel::Text;

our $VERSION = '0.1.0';

sub new ($class, %option) {
    return bless {%option}, $class;
}

sub handle ($self, $state, $direct) {
    my $action = $self->_decide($state, $direct);
    return $action->{reply} if $action->{do} eq 'reply';
    return $self->_listen($state, $action->{options}) if $action->{do} eq 'listen';
    return $self->_meter($state, $action->{options}) if $action->{do} eq 'meter';
    return $self->_close($state) if $action->{do} eq 'close';
    return $self->{listener}->ask($action->{request});
}

sub has_listener ($self) {
    return $self->_listener_state eq 'running' ? 1 : 0;
}

sub uses_listener ($self) {
    return $self->_listener_state eq 'none' ? 0 : 1;
}

sub require_listener ($self) {
    die 'the data on its way over the direct connections is lost: '
        . $self->{listener}->reason . "\n"
        if $self->{listener}->is_over;
    return;
}

# The library's decision. It may depend on a privilege, which is checked once.
sub _decide ($self, $state, $direct) {
    my $file = $self->{configuration};
    my $text = eval { PVE::Tunnel::Configuration::read_file($file) };
    my $unreadable = $@;
    $self->_withdraw($state) if $self->_listener_state eq 'ended';
    my $sockets = ref($state->{sockets}) eq 'HASH' ? $state->{sockets} : {};
    my %known = (
        direct => $direct,
        file => $file,
        unreadable => length($unreadable) ? $unreadable : undef,
        node => $self->_node,
        user => $self->_user,
        listener => $self->_listener_state,
        sockets => [grep { defined $sockets->{$_} } sort keys %$sockets],
        socket => _socket_path($state),
        meter => !$self->{meter} ? 'none' : $self->{meter}->is_over ? 'ended' : 'running',
    );
    my $decide = sub () {
        return
            eval { PVE::Tunnel::Native::seam_decide($text, \%known) }
            // die PVE::Tunnel::Text::character_line(PVE::Tunnel::Text::reason($@)) . "\n";
    };
    my $action = $decide->();
    return $action if $action->{do} ne 'check';
    $known{allowed} = $self->_has_privilege(@$action{qw(path privilege)});
    return $decide->();
}

# A socket of its own, which pveproxy connects to, is one of the worker's, for tickets.
sub _listen ($self, $state, $options) {
    my $path = $options->{path};
    my %owner = defined($path) ? (owner => $state->{socket_uid}) : ();
    my ($listener, $opened) = PVE::Tunnel::Seam::Listener->start({ %$options, %owner });
    $self->{listener} = $listener;
    if (defined $path) {
        $self->{listener_path} = $path;
        $state->{sockets}{$path} = 1;
    }
    return $opened;
}

sub _close ($self, $state) {
    my $listener = delete $self->{listener};
    $self->_withdraw($state);
    return $listener->close;
}

# No more tickets for the listener's socket. pveproxy may fail if nothing listens there any more.
sub _withdraw ($self, $state) {
    my $path = delete $self->{listener_path};
    delete $state->{sockets}{$path} if defined $path;
    return;
}

# Its socket is one of the worker's, for tickets and for forwards.
sub _meter ($self, $state, $options) {
    require PVE::Tunnel::Seam::Meter;
    $self->{meter} //= PVE::Tunnel::Seam::Meter->start($options, $state->{socket_uid});
    $state->{sockets}{ $options->{path} } = 1;
    return $options;
}

# The path of the worker's own socket; undef if it has none.
sub _socket_path ($state) {
    my $path = eval { $state->{socket}->hostpath };
    return $path;
}

sub _listener_state ($self) {
    return 'none' if !$self->{listener};
    return $self->{listener}->is_over ? 'ended' : 'running';
}

# A check that fails counts as a refusal.
sub _has_privilege ($self, $path, $privilege) {
    my $user = $self->_user;
    my $check = $self->{check};
    my $has = eval {
              $check
            ? $check->($user, $path, $privilege)
            : defined($user) && PVE::RPCEnvironment::get()->check($user, $path, [$privilege], 1);
    };
    return $has ? 1 : 0;
}

# The API user of this worker; undef if unknown.
sub _user ($self) {
    my $user = eval {
        require PVE::RPCEnvironment;
        PVE::RPCEnvironment::get()->get_user();
    };
    return defined($user) && length($user) ? $user : undef;
}

sub _node ($self) {
    my $name = $self->{node} // eval { require PVE::INotify; PVE::INotify::nodename() };
    # PVE::INotify, too, returns the name without its domain.
    return $name // (POSIX::uname())[1] =~ s/\..*//r;
}

1;

__END__

=encoding utf8

=head1 NAME

PVE::Tunnel::Seam::Session - the seam of one worker

=head1 DESCRIPTION

A part of L<PVE::Tunnel::Seam>, which describes the operations. L<PVE::Tunnel::Native/seam_decide>
decides about each request. A session looks up the facts for the decision and carries it out. It has
at most one listener and one meter.

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

Whether a listener is running.

=head2 uses_listener

Whether a listener was opened and not closed, running or not.

=head2 require_listener

Dies with one line if that listener has ended.

=cut
