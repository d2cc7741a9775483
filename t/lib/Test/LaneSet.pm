package Test::LaneSet;

# The connections of one end of a stream of protocol 2, written from docs/protocol.md alone.

use v5.36;

use Test::LaneFrame qw(header $KIND_DATA $HEADER);

=head1 NAME

Test::LaneSet - the lanes of a stream, and the frames on them

=head1 DESCRIPTION

The base class of L<Test::MinimalLanes>. A lane is a hash: C<stream>, its L<Test::MinimalStream>; C<in>
and C<out>, bytes that were received and bytes to send; C<lost> and C<ended>, true after its end by an
error and in order.

=head1 FUNCTIONS

=head2 add_lane($stream)

Adds a connection, and returns the lane.

=head2 lanes

The lanes that have not ended.

=head2 next_lane

Another lane at each call, undef if none can be used.

=head2 watch(\$read, \$write)

Adds the lanes to bit masks of select(2).

=head2 read_lane($lane), write_lane($lane)

Read and write what is possible without waiting. C<read_lane> calls C<take_frame> for each frame.

=head2 cut($lane), leave($lane)

Ends a lane by a reset, or in order, and calls C<forget>.

=cut

# A frame has at most so many bytes of the stream.
use constant MOST_DATA => 131_072;

sub add_lane ($self, $stream) {
    my $lane = { stream => $stream, in => '', out => '' };
    push $self->{lanes}->@*, $lane;
    return $lane;
}

sub lanes ($self) {
    return $self->{lanes}->@*;
}

sub next_lane ($self) {
    my @lanes = grep { !$_->{lost} && !$_->{ended} && !$_->{finished} } $self->lanes;
    return $lanes[$self->{turn}++ % @lanes] if @lanes;
    return;
}

sub watch ($self, $read, $write) {
    for my $lane ($self->lanes) {
        my $descriptor = fileno $lane->{stream}{socket};
        vec($$read, $descriptor, 1) = 1 if !$lane->{ended};
        vec($$write, $descriptor, 1) = 1 if length $lane->{out};
    }
    return;
}

sub read_lane ($self, $lane) {
    while (!$lane->{ended} && !$lane->{lost} && !defined $self->{failed}) {
        my $bytes = eval { $lane->{stream}->take // 'none' };
        return $lane->{lost} = 1 if !defined $bytes;
        return if $bytes eq 'none';
        $self->{moved}++;
        $lane->{ended} = 1 if $bytes eq '';
        $lane->{in} .= $bytes;
        while (length $lane->{in} >= $HEADER) {
            my ($kind, $zero, $count, $offset) = header($lane->{in});
            die "reserved bytes are not zero\n" if $zero ne "\0\0\0";
            my $payload = $kind == $KIND_DATA ? $count : 0;
            die "$count bytes in a frame\n" if $payload > MOST_DATA;
            last if length $lane->{in} < $HEADER + $payload;
            my $frame = substr $lane->{in}, 0, $HEADER + $payload, '';
            $self->{seen}{$kind}++;
            $self->take_frame($kind, $count, $offset, substr $frame, $HEADER);
        }
    }
    return;
}

sub write_lane ($self, $lane) {
    while (length $lane->{out} && !$lane->{lost}) {
        my $count = eval { $lane->{stream}->give($lane->{out}) // 0 };
        return $lane->{lost} = 1 if !defined $count;
        return if !$count;
        substr $lane->{out}, 0, $count, '';
        $self->{moved}++;
    }
    return;
}

sub cut ($self, $lane) {
    $lane->{stream}->abort;
    return $self->forget($lane);
}

sub leave ($self, $lane) {
    eval { $lane->{stream}->finish };
    $lane->{stream}->hang_up;
    return $self->forget($lane);
}

1;
