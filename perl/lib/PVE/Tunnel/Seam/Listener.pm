package PVE::Tunnel::Seam::Listener;

use v5.36;

use parent 'PVE::Tunnel::Seam::Child';

use Errno qw(EAGAIN EINTR);
use IO::Select;
use JSON ();
use POSIX ();
use Time::HiRes qw(clock_gettime CLOCK_MONOTONIC);

use PVE::Tunnel::Native;
use PVE::Tunnel::Text;

our $VERSION = '0.1.0';

use constant {
    # Seconds for each exchange with the listener. The first one includes resolving the node's name
    # and generating keys.
    ANSWER_LIMIT => 10,
    # Bytes.
    MAX_LINE => PVE::Tunnel::Native::LINE_MAX(),
    # Standard error, which is the task's log.
    LOG => 2,
    ENDED => 'the listener has ended; the log of this task may contain the reason',
};

my $JSON = JSON->new->utf8->canonical;

sub start ($class, $options) {
    my $path = $options->{path};
    # A listener that was killed has left it.
    unlink $path if defined $path;
    my $self = eval {
        $class->fork_child([], sub ($control) { return _serve($control, $options) });
    }
        or die "cannot start the listener: $@";
    @$self{qw(path pending)} = ($path, '');
    my $opened = $self->_receive('open');
    return ($self, $opened);
}

sub ask ($self, $request) {
    die "the listener belongs to process $self->{owner}\n" if $self->{owner} != $$;
    die "$self->{over}\n" if defined $self->{over};
    # A signal handler of the caller may have died during the last exchange. Then the next answer
    # would belong to the previous request.
    $self->_fail('the listener was ended: an earlier exchange with it was interrupted')
        if $self->{asking};
    $self->{asking} = 1;
    my $reason = $self->_write($JSON->encode($request) . "\n");
    $self->_fail($reason) if defined $reason;
    return $self->_receive($request->{op});
}

sub close ($self) { ## no critic (ProhibitBuiltinHomonyms)
    my $last = $self->ask({ op => 'close' });
    $self->_end;
    return $last;
}

sub is_over ($self) {
    $self->_end($self->_last_error // ENDED) if $self->has_ended;
    return defined $self->{over} ? 1 : 0;
}

sub reason ($self) {
    return $self->{over};
}

# In the child.
sub _serve ($listener_end, $options) {
    local $0 = 'pve-tunnel listener';
    my $control = fileno $listener_end;
    return 0 if eval { PVE::Tunnel::Native::listener_run($control, LOG, $options); 1 };
    # The worker reads this as the first line, or as the answer to its next request.
    my $error = PVE::Tunnel::Text::character_line(PVE::Tunnel::Text::reason($@));
    my $line = $JSON->encode({ error => $error }) . "\n";
    POSIX::write($control, $line, length $line);
    return 1;
}

# The answer to $op.
sub _receive ($self, $op) {
    $self->{asking} = 1;
    my ($line, $reason) = $self->_read;
    $self->_fail($reason) if !defined $line;
    my $answer = eval { $JSON->decode($line) };
    $self->_fail('the listener was ended: its answer is not JSON') if ref($answer) ne 'HASH';
    if (defined(my $error = _error($answer))) {
        $self->{asking} = 0;
        # Without an address and a port there is no listener.
        $self->_end($error) if $op eq 'open';
        die "$error\n";
    }
    my $checked = eval { PVE::Tunnel::Native::seam_answer($op, $line) };
    if (!$checked) {
        my $mistake = PVE::Tunnel::Text::reason($@);
        $self->_fail("the listener was ended: its answer to '$op': $mistake");
    }
    $self->{asking} = 0;
    return $checked;
}

# The error of an answer, undef if there is none.
sub _error ($answer) {
    my $error = $answer->{error} // return;
    return 'listener: '
        . (ref($error) ? 'it gave no reason' : PVE::Tunnel::Text::character_line($error));
}

# The error that a listener has left on its socket; undef if there is none.
sub _last_error ($self) {
    local $@; ## no critic (RequireInitializationForLocalVars)
    my $error;
    while (defined(my $line = ($self->_read)[0])) {
        my $answer = eval { $JSON->decode($line) };
        $error = ref($answer) eq 'HASH' ? _error($answer) : undef;
    }
    return $error;
}

# Ends a listener that violated the protocol: its further answers cannot be trusted.
sub _fail ($self, $reason) { ## no critic (RequireFinalReturn)
    $self->_end($reason);
    die "$self->{over}\n";
}

# Returns the reason of a failure. Only a signal handler of the caller may die in here.
sub _write ($self, $bytes) {
    local $SIG{PIPE} = 'IGNORE';
    my $deadline = clock_gettime(CLOCK_MONOTONIC) + ANSWER_LIMIT;
    while (length $bytes) {
        return _timeout_reason() if !_wait_for($self->{control}, 'can_write', $deadline);
        my $wrote = syswrite($self->{control}, $bytes);
        if (!defined $wrote) {
            next if $!{EINTR} || $!{EAGAIN};
            # Its last line may contain the reason.
            return if $!{EPIPE} || $!{ECONNRESET};
            return "the listener was ended: its socket failed: $!";
        }
        substr($bytes, 0, $wrote, '');
    }
    return;
}

sub _read ($self) {
    my $deadline = clock_gettime(CLOCK_MONOTONIC) + ANSWER_LIMIT;
    my $end;
    while (($end = index($self->{pending}, "\n")) < 0) {
        return (undef, 'the listener was ended: it sent a line longer than ' . MAX_LINE . ' bytes')
            if length($self->{pending}) > MAX_LINE;
        return (undef, _timeout_reason()) if !_wait_for($self->{control}, 'can_read', $deadline);
        my $got =
            sysread($self->{control}, $self->{pending}, 65_536, length $self->{pending});
        next if !defined($got) && ($!{EINTR} || $!{EAGAIN});
        return (undef, ENDED) if !$got;
    }
    return substr($self->{pending}, 0, $end + 1, '');
}

sub _timeout_reason() {
    return 'the listener was ended: it did not answer within ' . ANSWER_LIMIT . ' s';
}

# A signal interrupts the wait, so that handlers of the caller run. Then the wait continues.
sub _wait_for ($handle, $readiness, $deadline) {
    my $select = IO::Select->new($handle);
    while ((my $left = $deadline - clock_gettime(CLOCK_MONOTONIC)) > 0) {
        return 1 if $select->$readiness($left);
    }
    return 0;
}

# A listener that is killed leaves nothing behind but its socket: the kernel closes its port.
sub _end ($self, $reason = 'the listener is closed') {
    $self->{over} //= $reason;
    $self->end;
    unlink $self->{path} if defined $self->{path};
    $self->{pending} = '';
    return;
}

1;

__END__

=encoding utf8

=head1 NAME

PVE::Tunnel::Seam::Listener - the worker's control of its listener

=head1 SYNOPSIS

    my ($listener, $opened) =
        PVE::Tunnel::Seam::Listener->start(
            { plane => 'tcp', node => 'pve1' },
        );
    my $path = '/run/qemu-server/100.migrate';
    my $number =
        $listener->ask({ op => 'forward', path => $path })->{number};
    my $stat = $listener->close;

=head1 DESCRIPTION

A part of L<PVE::Tunnel::Seam>. The object owns a process forked for
L<PVE::Tunnel::Native/listener_run>, and a socket pair to it. Each request and each answer is a JSON
line of at most 1 MiB. An exchange may take 10 s.

The listener ends if the worker closes it, if the object is destroyed, and if the worker dies: the
kernel then closes the worker's end of the socket pair. The object belongs to the process that
created it. In a forked child every request dies, and destroying the object does not end the
listener.

The object ends a listener immediately if its answer is late, too long or malformed, because later
answers could not be trusted either. It also ends a listener if a signal handler that died
interrupted the last exchange. After that, every call dies with the first reason.

=head1 METHODS

=head2 start

    my ($listener, $opened) =
        PVE::Tunnel::Seam::Listener->start(\%options);

Class method. C<%options> are those of C<listener_run>. Returns the object and the listener's first
line: C<protocol>, C<plane>, C<addresses>, C<port>, C<fingerprint> (C<tls>), C<echo>, and C<key>, which
is secret. Dies with the listener's reason if it cannot listen. The process has then ended.

=head2 ask

C<< $listener->ask(\%request) >>: the checked answer to a request with C<op>: C<forward> with
C<path>, or C<stat>. Dies with the listener's reason, after which further requests are possible, or
with the reason for which the listener was ended.

=head2 close

Ends the process, and returns its last counters.

=head2 is_over

True after C<close>, after a failure, and if the process has ended by itself.

=head2 reason

Why the listener has ended; undef while it is running.

=head2 pid

The ID of the process, while there is one.

=cut
