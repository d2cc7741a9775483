package Test::MinimalLanes;

# One end of a stream of protocol 2, written from docs/protocol.md alone: a peer for the connector and
# for the listener that shares no code with them.

use v5.36;

use Carp qw(croak);
use List::Util qw(max min);
use Time::HiRes qw(clock_gettime CLOCK_MONOTONIC);

use parent 'Test::LaneSet';

use Test::LaneFrame qw(frame $KIND_DATA $KIND_ZEROS $KIND_END $KIND_ACKNOWLEDGEMENT $KIND_ABORT);

=head1 NAME

Test::MinimalLanes - one end of a stream that is carried by lanes

=head1 SYNOPSIS

    my $end = Test::MinimalLanes->new;
    $end->add_lane($_) for @connections;    # Test::MinimalStream, after status 0
    $end->write('bytes');
    $end->end_input;
    $end->run_until(sub { $end->is_over });
    say $end->{output};

=head1 DESCRIPTION

Data is sent in pieces of very different lengths. Several of them are sent at a time, in the reverse
order, each on the next lane. Zeros are sent as zeros. Data of a lane that was lost is sent again in
other pieces.

=head1 FUNCTIONS

=head2 new(%options)

Class method. Options: C<deliver>, code that receives bytes in order, an empty string for the end, and
returns how many it has taken (default: all are appended to C<output>); C<window>, the bytes that the
peer may send beyond those taken (1 MiB); C<lengths>, those of the pieces; C<vanish>, to not acknowledge
the end of the peer, and to reset all lanes when the stream is complete.

The functions of L<Test::LaneSet> apply, too. The object has C<output> and C<output_ended>; C<failed>, a
reason, if the stream has failed; and C<seen>, the number of received frames of each kind.

=head2 write($bytes), end_input

Data of the local program, and its end.

=head2 hold($yes)

While it is true, nothing is delivered, and so nothing is acknowledged.

=head2 step

Reads and writes what can be read and written without waiting; false if there is nothing.

=head2 run_until($condition)

Moves data until the condition is true. Dies after 30 s.

=head2 is_complete, is_over

Whether the stream is complete at this end; whether all lanes have ended after that, too.

=head2 is_complete_at_peer

Takes status 4 for all acknowledgements.

=head2 fail($reason)

Sends C<abort> on one lane and ends all of them.

=cut

use constant {
    FIRST_WINDOW => 262_144,
    MOST_UNACKNOWLEDGED => 4096,
    # When to acknowledge: bytes, frames, seconds.
    ACKNOWLEDGE_BYTES => 262_144,
    ACKNOWLEDGE_FRAMES => 64,
    ACKNOWLEDGE_AFTER => 0.5,
    # Frames that are sent in the reverse order.
    REVERSED => 12,
    # Bytes that wait for a lane, beyond which nothing more is given to it.
    MOST_WAITING => 524_288,
    # Shorter zeros are sent as data.
    LEAST_ZEROS => 4096,
    WINDOW => 1_048_576,
    LIMIT => 30,
};

my @LENGTHS = (131_072, 1, 777, 65_536, 3, 16_384, 131_071, 40_000);

sub new ($class, %options) {
    my $self = bless {
        window => $options{window} // WINDOW,
        deliver => $options{deliver},
        vanish => $options{vanish},
        lengths => $options{lengths} // [@LENGTHS],
        lanes => [],
        turn => 0,
        moved => 0,
        # This direction: what waits, the pieces that are not acknowledged, and those to send again.
        input => '',
        sent => 0,
        acknowledged => 0,
        limit => FIRST_WINDOW,
        pieces => [],
        # The other direction: pieces by their offset, and what the local program has taken.
        held => {},
        highest => 0,
        taken => 0,
        granted => FIRST_WINDOW,
        last_window => FIRST_WINDOW,
        since => { bytes => 0, frames => 0 },
        output => '',
        seen => {},
    }, $class;
    $self->{deliver} //= sub ($bytes) {
        $self->{output} .= $bytes;
        return length $bytes;
    };
    return $self;
}

sub write ($self, $bytes) { ## no critic (ProhibitBuiltinHomonyms)
    $self->{input} .= $bytes;
    return;
}

sub end_input ($self) {
    $self->{input_ended} = 1;
    return;
}

sub hold ($self, $yes) {
    $self->{on_hold} = $yes;
    return;
}

sub is_complete ($self) {
    return $self->{end_sent} && $self->{acknowledged} > $self->{sent} && $self->{output_ended};
}

sub is_over ($self) {
    return defined $self->{failed} || $self->is_complete && !$self->lanes;
}

sub is_complete_at_peer ($self) {
    $self->{pieces} = [];
    $self->{acknowledged} = $self->{sent} + 1;
    return;
}

sub run_until ($self, $condition) {
    my $deadline = clock_gettime(CLOCK_MONOTONIC) + LIMIT;
    until ($condition->()) {
        my $moved = $self->step;
        last if $condition->();
        croak 'nothing has happened within ' . LIMIT . ' s; ' . $self->describe
            if clock_gettime(CLOCK_MONOTONIC) > $deadline;
        next if $moved;
        my ($read, $write) = ('', '');
        $self->watch(\$read, \$write);
        select $read, $write, undef, 0.1;
    }
    return;
}

sub describe ($self) {
    my @values = map { "$_ " . ($self->{$_} // 'none') }
        qw(sent acknowledged limit taken highest granted output_ended failed);
    return join ', ', scalar($self->lanes) . ' lanes', @values;
}

sub step ($self) {
    return 0 if defined $self->{failed};
    my $before = $self->{moved};
    my $done = eval {
        $self->read_lane($_) for $self->lanes;
        $self->deliver_held;
        $self->acknowledge if $self->acknowledgement_is_due;
        $self->send_pieces;
        $self->end_lanes if $self->is_complete;
        $self->write_lane($_) for $self->lanes;
        1;
    };
    $self->fail($@ =~ s/\n\z//r) if !$done;
    # Lanes that have ended leave the list here, not within the loops above.
    for my $lane (grep { $_->{lost} || $_->{ended} } $self->lanes) {
        if ($lane->{lost} || !$self->is_complete) {
            $self->leave($lane);
        } elsif ($lane->{finished}) {
            $lane->{stream}->hang_up;
            $self->{lanes} = [grep { $_ != $lane } $self->lanes];
        }
    }
    return $self->{moved} != $before;
}

sub take_frame ($self, $kind, $count, $offset, $payload) {
    if ($kind == $KIND_DATA || $kind == $KIND_ZEROS) {
        die "a frame without bytes\n" if !$count;
        die "data beyond the window\n" if $offset > $self->{granted} - $count;
        $self->{highest} = max $self->{highest}, $offset + $count;
        my $held = $self->{held}{$offset};
        $self->{held}{$offset} = { count => $count, payload => $payload }
            if $offset + $count > $self->{taken} && (!$held || $held->{count} < $count);
    } elsif ($kind == $KIND_END) {
        die "an end with a count\n" if $count;
        die "another end\n" if defined $self->{length} && $self->{length} != $offset;
        $self->{length} = $offset;
    } elsif ($kind == $KIND_ACKNOWLEDGEMENT) {
        die "an acknowledgement of the future\n"
            if $offset > $self->{sent} + ($self->{end_sent} ? 1 : 0);
        $self->{acknowledged} = max $self->{acknowledged}, $offset;
        $self->{limit} = max $self->{limit}, $offset + $count;
        my $pieces = $self->{pieces};
        shift @$pieces while @$pieces && $pieces->[0]{end} <= $offset;
    } elsif ($kind == $KIND_ABORT) {
        die "abort\n";
    } else {
        die "unknown kind $kind\n";
    }
    die "data beyond the end\n" if $self->{highest} > ($self->{length} // $self->{highest});
    return;
}

# Gives bytes in order to the local program.
sub deliver_held ($self) {
    return if $self->{on_hold};
    my $held = $self->{held};
    while (%$held) {
        my $offset = $self->{taken};
        if (!$held->{$offset}) {
            my ($covers) = grep { $_ < $offset && $_ + $held->{$_}{count} > $offset } keys %$held;
            delete @$held{ grep { $_ + $held->{$_}{count} <= $offset } keys %$held };
            $offset = $covers // last;
        }
        my $piece = $held->{$offset};
        my $bytes = length $piece->{payload} ? $piece->{payload} : "\0" x $piece->{count};
        $bytes = substr $bytes, $self->{taken} - $offset;
        my $taken = $self->{deliver}->($bytes) or return;
        $self->{moved}++;
        $self->{taken} += $taken;
        $self->{since}{bytes} += $taken;
        $self->{since}{time} //= clock_gettime(CLOCK_MONOTONIC);
        next if $taken < length $bytes;
        $self->{since}{frames}++;
        delete $held->{$offset};
    }
    return if $self->{output_ended} || $self->{taken} != ($self->{length} // -1);
    $self->{deliver}->('');
    $self->{output_ended} = $self->{acknowledge} = 1;
    return;
}

sub acknowledgement_is_due ($self) {
    my $since = $self->{since};
    return
           $self->{acknowledge}
        || $since->{bytes} >= min(ACKNOWLEDGE_BYTES, $self->{last_window} / 2)
        || $since->{frames} >= ACKNOWLEDGE_FRAMES
        || $since->{time} && clock_gettime(CLOCK_MONOTONIC) > $since->{time} + ACKNOWLEDGE_AFTER;
}

sub acknowledge ($self) {
    return if $self->{vanish} && $self->{output_ended};
    my $lane = $self->next_lane // return;
    my $offset = $self->{taken} + ($self->{output_ended} ? 1 : 0);
    $lane->{out} .= frame($KIND_ACKNOWLEDGEMENT, $self->{window}, $offset);
    $self->{granted} = max $self->{granted}, $offset + $self->{window};
    $self->{since} = { bytes => 0, frames => 0 };
    $self->{last_window} = $self->{window};
    $self->{acknowledge} = 0;
    return;
}

sub send_pieces ($self) {
    my $usable = grep { length $_->{out} < MOST_WAITING } $self->lanes;
    return if !$usable || $usable < $self->{lanes}->@*;
    my @pieces = grep { !$_->{lane} } $self->{pieces}->@*;
    while (@pieces < REVERSED && $self->{pieces}->@* < MOST_UNACKNOWLEDGED) {
        my $piece = $self->cut_piece // last;
        push $self->{pieces}->@*, $piece;
        push @pieces, $piece;
    }
    for my $piece (reverse splice @pieces, 0, REVERSED) {
        $piece->{lane} = $self->next_lane // return;
        $piece->{lane}{out} .= frame($piece->@{qw(kind count offset payload)});
        $self->{moved}++;
    }
    return;
}

# The next piece within the window, or the end of the stream.
sub cut_piece ($self) {
    my $offset = $self->{sent};
    my $most = min length $self->{input}, $self->{limit} - $offset;
    if ($most > 0) {
        my $zeros = $self->{input} =~ m/\A(\0+)/ ? min length $1, $most : 0;
        my $is_data = $zeros < LEAST_ZEROS;
        my $lengths = $self->{lengths};
        my $count = $is_data ? min $lengths->[$self->{cuts}++ % @$lengths], $most : $zeros;
        my $bytes = substr $self->{input}, 0, $count, '';
        $self->{sent} += $count;
        return piece($is_data ? $KIND_DATA : $KIND_ZEROS, $count, $offset, $is_data ? $bytes : '');
    }
    return if !$self->{input_ended} || $self->{end_sent} || length $self->{input};
    $self->{end_sent} = 1;
    return piece($KIND_END, 0, $offset);
}

sub piece ($kind, $count, $offset, $payload = '') {
    return {
        kind => $kind,
        count => $count,
        offset => $offset,
        payload => $payload,
        end => $offset + ($count || 1),
    };
}

# What was sent on the lane is sent again in halves.
sub forget ($self, $lane) {
    $self->{lanes} = [grep { $_ != $lane } $self->lanes];
    $self->{acknowledge} = 1;
    my @pieces = map { ($_->{lane} // 0) == $lane ? halves($_) : $_ } $self->{pieces}->@*;
    $self->{pieces}->@* = @pieces;
    return;
}

sub halves ($piece) {
    my ($kind, $count, $offset, $payload) = $piece->@{qw(kind count offset payload)};
    return piece($kind, $count, $offset, $payload) if $count < 2;
    my $half = $count >> 1;
    my @payloads =
        $kind == $KIND_DATA ? (substr($payload, 0, $half), substr $payload, $half) : ('', '');
    return piece($kind, $half, $offset, $payloads[0]),
        piece($kind, $count - $half, $offset + $half, $payloads[1]);
}

sub fail ($self, $reason) {
    $self->{failed} = $reason;
    my $lane = $self->next_lane;
    eval { $lane->{stream}->write_all($lane->{out} . frame($KIND_ABORT, 0, 0)) } if $lane;
    $self->leave($_) for $self->lanes;
    return;
}

sub end_lanes ($self) {
    if ($self->{vanish}) {
        $self->cut($_) for $self->lanes;
        return;
    }
    $self->acknowledge if !$self->{ended_lanes} && $self->lanes;
    $self->{ended_lanes} = 1;
    for my $lane (grep { !$_->{finished} && !$_->{lost} } $self->lanes) {
        my $ended = eval {
            $lane->{stream}->write_all($lane->{out});
            $lane->{out} = '';
            $lane->{stream}->finish;
            1;
        };
        $lane->{ $ended ? 'finished' : 'lost' } = 1;
        $self->{moved}++;
    }
    return;
}

1;
