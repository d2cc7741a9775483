package TestNode::QMP;

=head1 NAME

TestNode::QMP - a client of the QEMU machine protocol, with a time limit for every operation

=head1 SYNOPSIS

    my $qmp = TestNode::QMP->new("$dir/100.qmp");
    my $status = $qmp->command('query-status')->{status};
    $qmp->wait_event(MIGRATION => sub ($data) { $data->{status} eq 'completed' }, 30);

=head1 DESCRIPTION

Sends one command at a time. Events that arrive meanwhile are stored, and C<wait_event> returns
immediately if the event has already arrived.

=cut

use v5.36;

use Errno qw(EAGAIN EINTR);
use IO::Select;
use IO::Socket::UNIX;
use JSON;
use Time::HiRes qw(clock_gettime CLOCK_MONOTONIC);

# Seconds. QEMU usually replies within milliseconds, but with TCG on a loaded machine it can need
# several seconds.
use constant COMMAND_LIMIT => 60;
# Bytes. Replies of QEMU have a few KiB; a longer line is not from QEMU.
use constant MAX_LINE => 4 << 20;
# Callers only wait for recent events. Older ones are discarded.
use constant MAX_EVENTS => 1000;

=head1 METHODS

=head2 new

Class method: C<< TestNode::QMP->new($path, $limit) >>. Connects to the UNIX socket C<$path> and
reads the greeting within C<$limit> seconds (default 60). The socket must already be listening;
L<TestNode::Guest> creates it before it starts QEMU. Dies with a message.

=cut

sub new ($class, $path, $limit = COMMAND_LIMIT) {
    my $socket = IO::Socket::UNIX->new(Peer => $path)
        or die "cannot connect to QEMU's monitor at '$path': $!\n";
    return $class->attach($socket, $limit);
}

=head2 attach

Class method: C<< TestNode::QMP->attach($socket, $limit) >>. The same with a connected socket.

=cut

sub attach ($class, $socket, $limit = COMMAND_LIMIT) {
    my $self = bless { socket => $socket, buffer => '', events => [] }, $class;
    $socket->blocking(0);
    my $greeting = $self->read_message($limit)
        // die "QEMU's monitor sent no greeting within $limit s\n";
    die "this is not a QEMU monitor\n" if !$greeting->{QMP};
    $self->{version} = $greeting->{QMP}{version}{qemu};
    $self->command('qmp_capabilities');
    return $self;
}

=head2 command

C<< $qmp->command($name, \%arguments, $limit) >>: returns the value that QEMU returns. Dies with
C<"NAME: reason"> if QEMU reports an error, ends, or does not reply within C<$limit> seconds
(default 60).

=cut

sub command ($self, $name, $arguments = undef, $limit = COMMAND_LIMIT) {
    my $line =
        encode_json({ execute => $name, defined($arguments) ? (arguments => $arguments) : () });
    $self->write_all("$line\n", $limit);
    my $deadline = now() + $limit;
    my $message;
    do {
        $self->keep_event($message) if $message;
        $message = $self->read_message($deadline - now())
            // die "$name: QEMU did not answer within $limit s\n";
        die "$name: $message->{error}{desc}\n" if $message->{error};
    } until exists $message->{return};
    return $message->{return};
}

=head2 wait_event

C<< $qmp->wait_event($name, $matches, $limit) >>: waits for an event of that name for which
C<< $matches->($data) >> is true. Returns its data and removes it from the stored events. Returns
undef after C<$limit> seconds. If C<$matches> dies, C<wait_event> dies too.

=cut

sub wait_event ($self, $name, $matches, $limit) { ## no critic (RequireFinalReturn)
    my $deadline = now() + $limit;
    my $seen = 0;
    while (1) {
        my $events = $self->{events};
        for (; $seen < @$events; $seen++) {
            my $event = $events->[$seen];
            next if $event->{event} ne $name || !$matches->($event->{data});
            splice(@$events, $seen, 1);
            return $event->{data};
        }
        my $message = $self->read_message($deadline - now()) // return;
        $seen -= $self->keep_event($message);
    }
}

=head2 forget_events

Discards the stored events.

=cut

sub forget_events ($self) {
    $self->{events} = [];
    return;
}

sub keep_event ($self, $message) {
    return 0 if !$message->{event};
    push @{ $self->{events} }, $message;
    return 0 if @{ $self->{events} } <= MAX_EVENTS;
    shift @{ $self->{events} };
    return 1;
}

sub now () { return clock_gettime(CLOCK_MONOTONIC) }

# Returns the next JSON object, or undef after $limit seconds.
sub read_message ($self, $limit) {
    my $deadline = now() + $limit;
    my $end;
    while (($end = index($self->{buffer}, "\n")) < 0) {
        die "QEMU's monitor sent an over-long line\n" if length($self->{buffer}) > MAX_LINE;
        my $left = $deadline - now();
        return
            if $left < 0
            || !IO::Select->new($self->{socket})->can_read($left) && now() >= $deadline;
        my $got = sysread($self->{socket}, $self->{buffer}, 65536, length $self->{buffer});
        next if !defined($got) && ($!{EAGAIN} || $!{EINTR});
        die "QEMU's monitor failed: $!\n" if !defined $got;
        die "QEMU has ended\n" if !$got;
    }
    return decode_json(substr($self->{buffer}, 0, $end + 1, ''));
}

sub write_all ($self, $bytes, $limit) {
    local $SIG{PIPE} = 'IGNORE';
    my $deadline = now() + $limit;
    while (length $bytes) {
        my $wrote = syswrite($self->{socket}, $bytes);
        if (defined $wrote) {
            substr($bytes, 0, $wrote, '');
            next;
        }
        die "QEMU has ended\n" if !$!{EAGAIN} && !$!{EINTR};
        my $left = $deadline - now();
        die "QEMU's monitor accepts no commands\n" if $left < 0;
        IO::Select->new($self->{socket})->can_write($left);
    }
    return;
}

1;
