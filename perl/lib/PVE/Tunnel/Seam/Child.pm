package PVE::Tunnel::Seam::Child;

use v5.36;

use Fcntl qw(F_GETFD F_SETFD FD_CLOEXEC);
use Socket qw(AF_UNIX PF_UNSPEC SOCK_STREAM);

use PVE::Tunnel::Process;

our $VERSION = '0.1.0';

use constant {
    # Seconds for a child to end after the end of its control socket.
    END_LIMIT => 5,
};

sub fork_child ($class, $handles, $code) {
    socketpair(my $control, my $child_end, AF_UNIX, SOCK_STREAM, PF_UNSPEC)
        or die "socketpair: $!\n";
    # QEMU, which the same worker starts, must not inherit it: the child would not detect the end of
    # the worker.
    my $flags = fcntl($control, F_GETFD, 0);
    fcntl($control, F_SETFD, $flags | FD_CLOEXEC) or die "close-on-exec: $!\n";
    my $process =
        PVE::Tunnel::Process::start([$child_end, @$handles], sub { return $code->($child_end) });
    close($child_end);
    return bless { process => $process, control => $control, owner => $$ }, $class;
}

sub has_ended ($self) {
    return
           $self->{owner} == $$
        && $self->{process}
        && PVE::Tunnel::Process::ended($self->{process}, 0);
}

sub pid ($self) {
    return $self->{process}{pid};
}

# The end of its control socket ends the child. SIGKILL ends it if it does not.
sub end ($self) {
    my $process = delete $self->{process} // return;
    # The caller may still need its own values.
    local ($!, $?);
    close(delete $self->{control});
    kill(KILL => $process->{pid}) if !PVE::Tunnel::Process::ended($process, END_LIMIT);
    PVE::Tunnel::Process::reap($process);
    return;
}

sub DESTROY ($self) {
    # In a forked child this is a copy, which must not end the child of the parent.
    return if $self->{owner} != $$;
    local $@; ## no critic (RequireInitializationForLocalVars)
    eval { $self->end };
    return;
}

1;

__END__

=encoding utf8

=head1 NAME

PVE::Tunnel::Seam::Child - a process of a worker, which ends with the worker

=head1 DESCRIPTION

The base class of L<PVE::Tunnel::Seam::Listener> and L<PVE::Tunnel::Seam::Meter>. The object owns a
process, and a socket pair to it. The process ends if the object is destroyed, and if the worker
dies: the kernel then closes the worker's end of the socket pair. The object belongs to the process
that created it. In a forked child, destroying the object does not end the process.

=head1 METHODS

=head2 fork_child

    my $child = $class->fork_child(
        \@handles,
        sub ($control) { ...; return 0 },
    );

Class method. Runs the code in a new process, which keeps the handles and C<$control>, its end of
the socket pair. The code returns the exit code. It has to return at the end of C<$control>. Dies
with one line if the process cannot be started.

=head2 has_ended

True if the process has ended by itself, and C<end> was not called.

=head2 pid

The ID of the process, while there is one.

=head2 end

Closes the socket pair and waits for the end of the process, up to 5 s. Then it is killed.

=cut
