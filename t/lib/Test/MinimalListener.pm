package Test::MinimalListener;

# The target's side of direct connections, written from docs/protocol.md alone: a peer for the
# connector that shares nothing with our listener.

use v5.36;

use Digest::SHA qw(hmac_sha256);
use IO::Select;
use IO::Socket::IP;
use IO::Socket::UNIX;
use JSON ();
use POSIX ();

use parent 'Test::ListenerControl';

use Test::MinimalStream;

=head1 NAME

Test::MinimalListener - takes direct connections, a process for each

=head1 SYNOPSIS

    my $listener = Test::MinimalListener->start(plane => 'tls', fingerprint => $source);
    my $open = $listener->announced;    # what `open` is answered with
    my $number = $listener->ask(op => 'forward', path => '/run/...')->{number};
    my $counters = $listener->stop; # what `close` is answered with

=head1 FUNCTIONS

Those of L<Test::ListenerControl>, and:

=head2 start(%options)

Class method. C<plane>; C<fingerprint> of the source (C<tls>); C<address> (127.0.0.1). To misbehave:

=over

=item step_1

40 other bytes, or fewer, instead of the first step; it closes then

=item status

another status for each forward

=item cut_after

dies by SIGKILL in the middle of each forward, once that many bytes have come from the source

=item mute

leaves the watch without answers

=item identity

one of L<Test::MinimalStream>'s, instead of its own. C<announce>: the fingerprint told instead of
its own.

=back

=head1 DESCRIPTION

Bytes are counted when a connection is over. Unlike what the protocol asks for, the program at the
target's socket gets an end of stream however the connection ended, there is no limit of half-open
ones, and a hello has 30 s.

=cut

use constant {
    FIRST_PORT => 60000,
    LAST_PORT => 60049,
    MAX_FORWARDS => 256,
};

my $JSON = JSON->new->utf8->canonical;

sub start ($class, %options) {
    return $class->fork_with(sub ($control) { serve($control, {%options}) });
}

# The listener's process: control lines, connections, and what has become of these.
sub serve ($control, $options) {
    my $socket = listen_on($options->{address} // '127.0.0.1');
    my $identity = $options->{identity} // Test::MinimalStream::one_time_identity();
    my $open = {
        protocol => 1,
        plane => $options->{plane},
        addresses => [$socket->sockhost],
        port => $socket->sockport + 0,
        key => random_hex(32),
        $options->{plane} eq 'tls'
        ? (fingerprint => $options->{announce} // $identity->{fingerprint})
        : (),
    };
    my $state = {
        %$options,
        open => $open,
        identity => $identity,
        paths => {},
        forwards => [],
        connections => 0,
        half_open => 0,
        refused => { map { $_ => 0 } qw(tls silent malformed key number crowded socket) },
        children => {},
    };
    local $SIG{TERM} = sub { end_children($state); POSIX::_exit(0) };
    $control->autoflush(1);
    print {$control} $JSON->encode($open) . "\n";

    my $buffer = '';
    while (1) {
        my @reports = map { $_->{pipe} } values $state->{children}->%*;
        my @ready = IO::Select->new($control, $socket, @reports)->can_read;
        take_connection($state, $socket, $control) if grep { $_ == $socket } @ready;
        # What has happened is counted before anybody is told the counters.
        take_reports($state);
        next if !grep { $_ == $control } @ready;
        my $count = sysread $control, $buffer, 65536, length $buffer;
        return end_children($state) if !$count;
        while ($buffer =~ s/\A(.*)\n//) {
            my $line = $JSON->decode($1);
            print {$control} $JSON->encode(obey($state, $line)) . "\n";
            return end_children($state) if $line->{op} eq 'close';
        }
    }
    return;
}

sub take_reports ($state) {
    my %children = $state->{children}->%*;
    while (my @ready = IO::Select->new(map { $_->{pipe} } values %children)->can_read(0)) {
        for my $child (map { $children{ fileno $_ } } @ready) {
            if (sysread $child->{pipe}, $child->{said}, 65536, length $child->{said}) {
                note_event($state, $JSON->decode($1)) while $child->{said} =~ s/\A(.*)\n//;
                next;
            }
            delete $_->{ fileno $child->{pipe} } for \%children, $state->{children};
            waitpid $child->{pid}, 0;
            close $child->{pipe};
        }
    }
    return;
}

sub end_children ($state) {
    my @pids = map { $_->{pid} } values $state->{children}->%*;
    kill KILL => @pids;
    waitpid $_, 0 for @pids;
    return;
}

sub obey ($state, $line) {
    if ($line->{op} eq 'forward') {
        my $path = $line->{path};
        return { number => $state->{paths}{$path} } if $state->{paths}{$path};
        return { error => 'no more forwards' } if $state->{forwards}->@* >= MAX_FORWARDS;
        push $state->{forwards}->@*,
            {
            path => $path,
            number => $state->{forwards}->@* + 1,
            map { $_ => 0 } qw(connections open failed received sent),
            };
        return { number => $state->{paths}{$path} = scalar $state->{forwards}->@* };
    }
    return { error => 'unknown op' } if $line->{op} !~ /\A(?:stat|close)\z/;
    return {
        plane => $state->{open}{plane},
        map { $_ => $state->{$_} } qw(connections half_open forwards refused),
    };
}

sub note_event ($state, $event) {
    $state->{half_open}-- if $event->{hello};
    $state->{refused}{ $event->{refused} }++ if $event->{refused};
    my $forward = $event->{number} && $state->{forwards}[$event->{number} - 1];
    return if !$forward;
    $forward->{connections}++ if $event->{hello};
    $forward->{open} += $event->{hello} ? 1 : -1;
    $forward->{$_} += $event->{$_} // 0 for qw(failed received sent);
    return;
}

sub take_connection ($state, $socket, $control) {
    my $connection = $socket->accept or return;
    $state->{connections}++;
    $state->{half_open}++;
    pipe(my $reader, my $writer) or die "pipe: $!\n";
    my $pid = fork() // die "fork: $!\n";
    if ($pid == 0) {
        local $SIG{TERM} = 'DEFAULT';
        close $_ for $reader, $socket, $control;
        $writer->autoflush(1);
        my $say = sub (%event) { print {$writer} $JSON->encode(\%event) . "\n" };
        attend($state, $connection, $say);
        POSIX::_exit(0);
    }
    close $writer;
    $state->{children}{ fileno $reader } = { pid => $pid, pipe => $reader, said => '' };
    return;
}

# A connection's process.
sub attend ($state, $connection, $say) {
    my $open = $state->{open};
    my $stream = eval {
        $open->{plane} eq 'tcp'
            ? Test::MinimalStream->clear($connection)
            : Test::MinimalStream->tls($connection, 'server', $state->@{qw(identity fingerprint)});
    };
    return $say->(hello => 1, refused => $@ eq "timeout\n" ? 'silent' : 'tls') if !$stream;

    if (defined $state->{step_1}) {
        eval { $stream->write_all($state->{step_1}) };
        # Not with a reset, which could be there before the bytes are read.
        $stream->hang_up;
        return $say->(hello => 1, refused => 'malformed');
    }
    my $nonce = random_bytes(32);
    my $answer = eval {
        $stream->write_all('pvetun' . pack('n', $open->{protocol}) . $nonce);
        $stream->read_exactly(36);
    };
    return $say->(hello => 1, refused => $@ eq "timeout\n" ? 'silent' : 'malformed')
        if !defined $answer;
    my ($forward, $proof) = unpack 'a4 a32', $answer;
    return $say->(hello => 1, refused => 'key')
        if $proof ne hmac_sha256($nonce . $forward, pack 'H*', $open->{key});
    my $number = unpack 'N', $forward;
    return watch($state, $stream, $say) if $number == 0;

    # The paths known are those of when this process was forked: what the source asks for has been
    # registered before it connects.
    my $path = $state->{forwards}[$number - 1] && $state->{forwards}[$number - 1]{path};
    return $say->(hello => 1, refused => 'number') if !defined $path;
    my $local = IO::Socket::UNIX->new(Peer => $path);
    my $status = $state->{status} // ($local ? 0 : 1);
    $say->(hello => 1, $status ? (refused => 'socket') : (number => $number));
    eval { $stream->write_all(chr $status) };
    return $stream->finish if $status;

    my %moved = (there => 0, back => 0);
    my $count = sub ($way, $bytes) {
        $moved{$way} += $bytes;
        kill KILL => $$
            if defined($state->{cut_after}) && $moved{there} >= $state->{cut_after};
    };
    my $well = eval {
        Test::MinimalStream::carry($stream, Test::MinimalStream->clear($local), $count);
        1;
    };
    $say->(
        number => $number,
        failed => $well ? 0 : 1,
        received => $moved{there},
        sent => $moved{back}
    );
    return $well ? $stream->hang_up : $stream->abort;
}

# Sends back what comes, until the source ends it or this process is killed.
sub watch ($state, $stream, $say) {
    $say->(hello => 1);
    my $beat = sub {
        my $bytes = $stream->take;
        $stream->wait_for('read') if !defined $bytes;
        $stream->write_all($bytes) if length($bytes // '') && !$state->{mute};
        return !defined($bytes) || length $bytes;
    };
    my $goes_on = eval { $stream->write_all("\0"); 1 };
    while ($goes_on) {
        $goes_on = eval { $beat->() };
    }
    return;
}

sub listen_on ($address) {
    for my $port (FIRST_PORT .. LAST_PORT) {
        my $socket = IO::Socket::IP->new(
            LocalHost => $address, LocalPort => $port, Listen => 64, ReuseAddr => 1,
        );
        return $socket if $socket;
    }
    die "no free port on $address\n";
}

sub random_bytes ($count) {
    open(my $random, '<:raw', '/dev/urandom') or die "no randomness: $!\n";
    sysread($random, my $bytes, $count) == $count or die "no randomness\n";
    close $random;
    return $bytes;
}

sub random_hex ($count) {
    return unpack 'H*', random_bytes($count);
}

1;
