package Test::Stream;

# Moves the stream of Test::Pattern through many sockets at once, from one process: a forked child
# could keep a descriptor open that a test closes.

use v5.36;

use Carp qw(croak);
use Errno qw(EAGAIN EINTR);
use Exporter 'import';
use Socket qw(SHUT_WR);

use Test::Pattern qw(pattern_block pattern_sha256 $BLOCK);
use TestNode::Sha256;

our @EXPORT_OK = qw(pump blocked_after);

=head1 NAME

Test::Stream - sends and receives data through local sockets

=head1 FUNCTIONS

=head2 new($socket, %options)

Class method. C<send>: how many bytes of the pattern to write (0), beginning with the block C<first>
(0). C<half_close>: when to shut down the writing side: C<sent>, when all bytes are written
(default); C<received>, when as many bytes have come back; or C<never>. C<read>: false to read
nothing.

The object has C<sent> and C<received>, in bytes; C<eof>, true after a clean end; C<error> and
C<write_error>, names such as C<ECONNRESET>. The kernel reports a reset once, to a reader or to a
writer; in both cases it is in C<error>.

=head2 sha256, sent_sha256

Digests of the bytes received and sent, as hex. To be called when the transfer has ended.

=head2 pump(@streams)

Runs all streams until each has written all its bytes and has received an end (a stream that does
not read: until it has written all). Dies if no byte moves for a minute. For a pair C<[$handle,
$code]> in the list, it calls C<$code> when C<$handle> is readable, until C<$code> returns false.

=head2 blocked_after($stream, $seconds = 0.5)

Writes and reads until no byte has moved for that time or the stream is over. Returns true if bytes
are still to be written.

=cut

# Bytes of one read.
my $CHUNK = 256 * 1024;

sub new ($class, $socket, %options) {
    my %known = map { $_ => 1 } qw(send first half_close read);
    my @unknown = grep { !$known{$_} } sort keys %options;
    croak "unknown options: @unknown" if @unknown;
    $socket->blocking(0);
    return bless {
        socket => $socket,
        total => $options{send} // 0,
        first => $options{first} // 0,
        half_close => $options{half_close} // 'sent',
        reads => $options{read} // 1,
        sent => 0,
        received => 0,
        digest => TestNode::Sha256->new,
    }, $class;
}

sub pump (@streams) {
    my @watched = grep { ref $_ eq 'ARRAY' } @streams;
    my @open = grep { ref $_ ne 'ARRAY' } @streams;
    while (@open || @watched) {
        round(60, \@open, \@watched) or die "nothing has moved for a minute\n";
        @open = grep { !$_->is_over } @open;
    }
    return;
}

sub blocked_after ($stream, $seconds = 0.5) {
    while (!$stream->is_over && round($seconds, [$stream], [])) { }
    return $stream->wants_to_write;
}

sub sha256 ($self) {
    return $self->{sha256} //= $self->{digest}->hexdigest;
}

sub sent_sha256 ($self) {
    return pattern_sha256($self->{sent}, $self->{first});
}

sub is_over ($self) {
    return 1 if $self->{error};
    return !$self->wants_to_write && (!$self->{reads} || $self->{eof});
}

sub wants_to_write ($self) {
    return !$self->{write_error} && $self->{sent} < $self->{total};
}

# Serves the sockets that are ready; returns false if none is ready within $seconds.
sub round ($seconds, $streams, $watched) {
    my ($read, $write) = ('', '');
    vec($read, fileno $_->[0], 1) = 1 for $watched->@*;
    for my $stream ($streams->@*) {
        $stream->end_when_due;
        my $fd = fileno $stream->{socket};
        vec($read, $fd, 1) = 1 if $stream->{reads} && !$stream->{eof};
        vec($write, $fd, 1) = 1 if $stream->wants_to_write;
    }
    my $count = select $read, $write, undef, $seconds;
    return 1 if $count < 0 && $! == EINTR;
    return 0 if $count <= 0;
    my @finished = grep { vec($read, fileno $_->[0], 1) && !$_->[1]->() } $watched->@*;
    for my $done (@finished) {
        $watched->@* = grep { $_ != $done } $watched->@*;
    }
    for my $stream ($streams->@*) {
        my $fd = fileno $stream->{socket};
        $stream->take if vec $read, $fd, 1;
        $stream->give if vec $write, $fd, 1;
        $stream->end_when_due;
    }
    return 1;
}

sub take ($self) {
    my $bytes;
    my $count = sysread $self->{socket}, $bytes, $CHUNK;
    if (!defined $count) {
        $self->{error} = errno() if $! != EAGAIN && $! != EINTR;
    } elsif (!$count) {
        $self->{eof} = 1;
    } else {
        $self->{digest}->add($bytes);
        $self->{received} += $count;
    }
    return;
}

sub give ($self) {
    my $index = $self->{first} + int $self->{sent} / $BLOCK;
    if (($self->{index} // -1) != $index) {
        $self->@{qw(index block)} = ($index, pattern_block($index));
    }
    my $offset = $self->{sent} % $BLOCK;
    my $left = $self->{total} - $self->{sent};
    my $length = $left < $BLOCK - $offset ? $left : $BLOCK - $offset;
    my $count = syswrite $self->{socket}, $self->{block}, $length, $offset;
    if (!defined $count) {
        return if $! == EAGAIN || $! == EINTR;
        $self->{write_error} = errno();
        $self->{error} = 'ECONNRESET' if $self->{write_error} eq 'ECONNRESET';
        return;
    }
    $self->{sent} += $count;
    return;
}

sub end_when_due ($self) {
    return if $self->{half_closed} || $self->{half_close} eq 'never';
    return if $self->{sent} < $self->{total};
    return if $self->{half_close} eq 'received' && $self->{received} < $self->{total};
    $self->{half_closed} = 1;
    shutdown $self->{socket}, SHUT_WR;
    return;
}

sub errno () {
    my ($name) = grep { $!{$_} } qw(ECONNRESET EPIPE);
    return $name // "$!";
}

1;
