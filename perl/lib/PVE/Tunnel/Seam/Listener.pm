package PVE::Tunnel::Seam::Listener;

use v5.36;

use Errno qw(EAGAIN EINTR);
use Fcntl qw(F_GETFD F_SETFD FD_CLOEXEC);
use IO::Select;
use JSON ();
use POSIX ();
use Socket qw(AF_UNIX PF_UNSPEC SOCK_STREAM);
use Time::HiRes qw(clock_gettime CLOCK_MONOTONIC);

use PVE::Tunnel::Native;
use PVE::Tunnel::Process;
use PVE::Tunnel::Text;

our $VERSION = '0.1.0';

use constant {
    # Seconds for each exchange with the listener, which only has to look at what it has; the first
    # includes looking up the node's name and making keys.
    ANSWER_LIMIT => 10,
    # Seconds for a listener to end that has been told to. It has nothing to wait for.
    END_LIMIT => 5,
    # Bytes.
    MAX_LINE => PVE::Tunnel::Native::LINE_MAX(),
    # Standard error, the task's log: the one descriptor for lines that the listener is left.
    LOG => 2,
    GONE => 'the listener has ended; the log of this task may say why',
};

my $JSON = JSON->new->utf8->canonical;

sub start ($class, $options) {
    socketpair(my $control, my $theirs, AF_UNIX, SOCK_STREAM, PF_UNSPEC)
        or die "cannot start the listener: socketpair: $!\n";
    # QEMU is started by the same worker, and must not keep the listener from noticing its end.
    my $flags = fcntl($control, F_GETFD, 0);
    fcntl($control, F_SETFD, $flags | FD_CLOEXEC)
        or die "cannot start the listener: close-on-exec: $!\n";

    my $process = eval {
        PVE::Tunnel::Process::start([$theirs], sub { return _serve($theirs, $options) });
    }
        or die "cannot start the listener: $@";
    CORE::close($theirs);
    my $self = bless { process => $process, control => $control, owner => $$, pending => '' },
        $class;
    my $opened = $self->_hear('open');
    return ($self, $opened);
}

sub ask ($self, $request) {
    die "the listener belongs to process $self->{owner}\n" if $self->{owner} != $$;
    die "$self->{over}\n" if defined $self->{over};
    # A handler of the caller's, such as that of an alarm, may have died in the middle of the last
    # exchange, and then the next answer would be to another question.
    $self->_fail('the listener was ended: an earlier exchange with it was cut off')
        if $self->{asking};
    $self->{asking} = 1;
    my $reason = $self->_write($JSON->encode($request) . "\n");
    $self->_fail($reason) if defined $reason;
    return $self->_hear($request->{op});
}

sub close ($self) { ## no critic (ProhibitBuiltinHomonyms)
    my $last = $self->ask({ op => 'close' });
    $self->_end;
    return $last;
}

sub is_over ($self) {
    $self->_end(GONE)
        if $self->{owner} == $$
        && $self->{process}
        && PVE::Tunnel::Process::ended($self->{process}, 0);
    return defined $self->{over} ? 1 : 0;
}

sub reason ($self) {
    return $self->{over};
}

sub pid ($self) {
    return $self->{process}{pid};
}

# In the child.
sub _serve ($theirs, $options) {
    local $0 = 'pve-tunnel listener';
    my $control = fileno $theirs;
    return 0 if eval { PVE::Tunnel::Native::listener_run($control, LOG, $options); 1 };
    # If it ended before its first line, this is that line; later it is the next answer.
    my $error = PVE::Tunnel::Text::ascii_line(PVE::Tunnel::Text::reason($@));
    my $line = $JSON->encode({ error => $error }) . "\n";
    POSIX::write($control, $line, length $line);
    return 1;
}

# The answer to $op.
sub _hear ($self, $op) {
    $self->{asking} = 1;
    my ($line, $reason) = $self->_read;
    $self->_fail($reason) if !defined $line;
    my $answer = eval { $JSON->decode($line) };
    $self->_fail('the listener was ended: its answer is not JSON') if ref($answer) ne 'HASH';
    if (defined(my $error = $answer->{error})) {
        $self->{asking} = 0;
        my $words = ref($error) ? 'it gave no reason' : PVE::Tunnel::Text::ascii_line($error);
        # Without an address or a port there is nothing to go on with.
        $self->_end($words) if $op eq 'open';
        die "listener: $words\n";
    }
    my $checked = eval { PVE::Tunnel::Native::seam_answer($op, $line) };
    if (!$checked) {
        my $mistake = PVE::Tunnel::Text::reason($@);
        $self->_fail("the listener was ended: its answer to '$op': $mistake");
    }
    $self->{asking} = 0;
    return $checked;
}

# A listener that does not keep to the protocol cannot be asked again, and must not serve on.
sub _fail ($self, $reason) { ## no critic (RequireFinalReturn)
    $self->_end($reason);
    die "$self->{over}\n";
}

# Nothing above expects an exception here: those that come are the caller's own, from a signal.
sub _write ($self, $bytes) {
    local $SIG{PIPE} = 'IGNORE';
    my $deadline = clock_gettime(CLOCK_MONOTONIC) + ANSWER_LIMIT;
    while (length $bytes) {
        return _silence() if !_wait_for($self->{control}, 'can_write', $deadline);
        my $wrote = syswrite($self->{control}, $bytes);
        if (!defined $wrote) {
            next if $!{EINTR} || $!{EAGAIN};
            # What it said last may be the reason.
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
        return (undef, _silence()) if !_wait_for($self->{control}, 'can_read', $deadline);
        my $got =
            sysread($self->{control}, $self->{pending}, 65_536, length $self->{pending});
        next if !defined($got) && ($!{EINTR} || $!{EAGAIN});
        return (undef, GONE) if !$got;
    }
    return substr($self->{pending}, 0, $end + 1, '');
}

sub _silence() {
    return 'the listener was ended: it did not answer within ' . ANSWER_LIMIT . ' s';
}

# A signal ends the wait early, so that the caller's own handler is heard; then the rest is waited
# for.
sub _wait_for ($handle, $readiness, $deadline) {
    my $select = IO::Select->new($handle);
    while ((my $left = $deadline - clock_gettime(CLOCK_MONOTONIC)) > 0) {
        return 1 if $select->$readiness($left);
    }
    return 0;
}

# The end of its control socket ends the listener. One that is stuck has nothing that SIGKILL would
# leave behind: no file, and a port that the kernel closes.
sub _end ($self, $reason = 'the listener is closed') {
    $self->{over} //= $reason;
    my $process = delete $self->{process} // return;
    # The caller may be about to look at its own.
    local ($!, $?);
    CORE::close(delete $self->{control});
    kill(KILL => $process->{pid}) if !PVE::Tunnel::Process::ended($process, END_LIMIT);
    PVE::Tunnel::Process::reap($process);
    $self->{pending} = '';
    return;
}

sub DESTROY ($self) {
    # A forked child has a copy of this object, and must not end the listener of its parent.
    return if $self->{owner} != $$;
    local $@; ## no critic (RequireInitializationForLocalVars)
    eval { $self->_end };
    return;
}

1;

__END__

=encoding utf8

=head1 NAME

PVE::Tunnel::Seam::Listener - the listener's process, seen from the worker

=head1 SYNOPSIS

    my ($listener, $opened) =
        PVE::Tunnel::Seam::Listener->start(
            { plane => 'tcp', node => 'pve1' },
        );
    my $path = '/run/qemu-server/100.migrate';
    my $number = $listener->ask('forward', path => $path)->{number};
    my $stat = $listener->close;

=head1 DESCRIPTION

A part of L<PVE::Tunnel::Seam>. A process forked for L<PVE::Tunnel::Native/listener_run>, and the
socket pair to it, over which a JSON line is asked and a JSON line answered, each within 10 s and
1 MiB.

The listener ends with the worker: when the worker closes it, when the object goes, and, because the
worker's end of the socket pair then closes and the kernel tells, when the worker dies, however it
does. The object belongs to the process that made it: in a forked child it refuses to be asked, and
its end there ends nothing.

A listener that answers late, too much or not what was asked is ended at once: it could not be
trusted with the next question. So is one whose last exchange was interrupted by a handler that
died. After that, every call dies with the first reason.

=head1 METHODS

=head2 start

    my ($listener, $opened) =
        PVE::Tunnel::Seam::Listener->start(\%options);

Class method. C<%options> are those of C<listener_run>. Returns the object and the listener's first
line: C<protocol>, C<plane>, C<addresses>, C<port>, C<fingerprint> (C<tls>) and C<key>, which is a
secret. Dies with the listener's reason if it cannot listen; then no process is left.

=head2 ask

C<< $listener->ask($op, %more) >>: the checked answer to C<forward> (with C<path>) or C<stat>. Dies
with the listener's reason, after which it may be asked again, or with why it was ended.

=head2 close

Asks for the last stat, ends the process, and returns the stat.

=head2 is_over

True after C<close>, after a failure, and if it has ended by itself.

=head2 reason

Why it is over; undef as long as it is not known to be.

=head2 pid

The process, as long as there is one.

=cut
