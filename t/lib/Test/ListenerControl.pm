package Test::ListenerControl;

# The worker's end of the control socket of a listener.

use v5.36;

use JSON ();
use POSIX ();
use Socket qw(AF_UNIX PF_UNSPEC SOCK_STREAM);
use Time::HiRes qw(clock_gettime CLOCK_MONOTONIC);

=head1 NAME

Test::ListenerControl - runs a listener and exchanges control lines with it

=head1 DESCRIPTION

The base class of L<Test::MinimalListener> and L<Test::NativeListener>. The control lines are those
of docs/protocol.md.

=head1 FUNCTIONS

=head2 fork_with($code)

Class method. Calls C<$code> with the listener's end of the control socket, in a process of its own.
Dies if the first line of the listener has an C<error>.

=head2 announced

The listener's answer to C<open>, a hash.

=head2 control

The worker's end of the control socket.

=head2 pid

The process ID of the listener.

=head2 ask(%line)

Sends a line and returns the answer, a hash.

=head2 stat_when($condition)

Requests the counters until C<$condition>, called with them, is true, and returns them. Dies with
the last counters after 20 s.

=head2 stop

Sends C<close>, waits for the end of the listener and returns the last counters. The exit status is
in C<$?>. An object that goes out of scope ends its listener, too.

=cut

# Seconds until the counters must have the expected values. The listener does not report changes, so
# the test polls it.
use constant STAT_TIMEOUT => 20;

my $JSON = JSON->new->utf8->canonical;

sub fork_with ($class, $code) {
    socketpair(my $ours, my $theirs, AF_UNIX, SOCK_STREAM, PF_UNSPEC) or die "socketpair: $!\n";
    my $pid = fork() // die "fork: $!\n";
    if ($pid == 0) {
        close $ours;
        my $ended = eval { $code->($theirs); 1 };
        print {*STDERR} "$class: $@" if !$ended;
        POSIX::_exit($ended ? 0 : 1);
    }
    close $theirs;
    $ours->autoflush(1);
    my $self = bless { control => $ours, pid => $pid, owner => $$ }, $class;
    $self->{open} = $self->answer;
    die "$self->{open}{error}\n" if defined $self->{open}{error};
    return $self;
}

sub announced ($self) {
    return $self->{open};
}

sub control ($self) {
    return $self->{control};
}

sub pid ($self) {
    return $self->{pid};
}

sub ask ($self, %line) {
    print { $self->{control} } $JSON->encode(\%line) . "\n";
    return $self->answer;
}

sub answer ($self) {
    my $line = readline($self->{control}) // die "the listener has ended\n";
    return $JSON->decode($line);
}

sub stat_when ($self, $condition) {
    my $deadline = clock_gettime(CLOCK_MONOTONIC) + STAT_TIMEOUT;
    my $stat;
    while (clock_gettime(CLOCK_MONOTONIC) < $deadline) {
        $stat = $self->ask(op => 'stat');
        return $stat if $condition->($stat);
    }
    die 'the counters stay ' . $JSON->encode($stat) . "\n";
}

sub stop ($self) {
    my $counters = $self->ask(op => 'close');
    waitpid delete $self->{pid}, 0;
    return $counters;
}

sub DESTROY ($self) {
    return if $self->{owner} != $$ || !$self->{pid};
    local $?;
    close $self->{control};
   # Later child processes may hold the socket open, too, so its end alone may not end the listener.
    kill TERM => $self->{pid};
    waitpid delete $self->{pid}, 0;
    return;
}

1;
