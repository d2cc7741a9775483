package Test::MinimalListener;

# The target's end of direct connections, written from docs/protocol.md alone: a peer for the
# connector that shares no code with the listener of pve-tunnel.

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

Test::MinimalListener - accepts direct connections, with one process for each

=head1 SYNOPSIS

    my $listener = Test::MinimalListener->start(plane => 'tls', fingerprint => $source);
    my $open = $listener->announced;    # the answer to `open`
    my $number = $listener->ask(op => 'forward', path => '/run/...')->{number};
    my $counters = $listener->stop; # the answer to `close`

=head1 FUNCTIONS

The functions of L<Test::ListenerControl>, and:

=head2 start(%options)

Class method. Options: C<plane>; C<fingerprint> of the source (C<tls>); C<address> (default
127.0.0.1). Options for faults:

=over

=item step_1

Sends these bytes, at most 40, in place of the first step, and closes the connection.

=item status

Answers each forward with this status.

=item cut_after

Kills the process of a forward by SIGKILL after this number of bytes from the source.

=item mute

Does not answer on the heartbeat.

=item identity

Uses this identity of L<Test::MinimalStream> in place of a new one.

=item announce

Announces this fingerprint in place of the right one.

=back

=head1 DESCRIPTION

Bytes are counted at the end of a connection. This listener differs from the protocol in three
points: the program at the socket of the target receives an end of stream however the connection
ended, the number of half-open connections is not limited, and the time limit of a handshake is 30
s.

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

# The process of the listener: control lines, connections, and the reports of their processes.
sub serve ($control, $options) {
    my $socket = listen_on($options->{address} // '127.0.0.1');
    my $state = initial_state($options, $socket, 1);
    local $SIG{TERM} = sub { end_children($state); POSIX::_exit(0) };
    $control->autoflush(1);
    print {$control} $JSON->encode($state->{open}) . "\n";

    my $buffer = '';
    while (1) {
        my @reports = map { $_->{pipe} } values $state->{children}->%*;
        my @ready = IO::Select->new($control, $socket, @reports)->can_read;
        take_connection($state, $socket, $control) if grep { $_ == $socket } @ready;
        # Reports are counted before an answer with counters is sent.
        take_reports($state);
        next if !grep { $_ == $control } @ready;
        my $count = sysread $control, $buffer, 65536, length $buffer;
        return end_children($state) if !$count;
        while ($buffer =~ s/\A(.*)\n//) {
            my $line = $JSON->decode($1);
            print {$control} $JSON->encode(execute($state, $line)) . "\n";
            return end_children($state) if $line->{op} eq 'close';
        }
    }
    return;
}

# What a listener of this protocol counts and announces.
sub initial_state ($options, $socket, $protocol) {
    my $identity = $options->{identity} // Test::MinimalStream::one_time_identity();
    my $open = {
        protocol => $protocol,
        plane => $options->{plane},
        addresses => [$socket->sockhost],
        port => $socket->sockport + 0,
        key => random_hex(32),
        $options->{plane} eq 'tls'
        ? (fingerprint => $options->{announce} // $identity->{fingerprint})
        : (),
    };
    return {
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
}

sub take_reports ($state) {
    my %children = $state->{children}->%*;
    while (my @ready = IO::Select->new(map { $_->{pipe} } values %children)->can_read(0)) {
        for my $child (map { $children{ fileno $_ } } @ready) {
            if (sysread $child->{pipe}, $child->{report}, 65536, length $child->{report}) {
                note_event($state, $JSON->decode($1)) while $child->{report} =~ s/\A(.*)\n//;
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

sub execute ($state, $line) {
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
    $state->{half_open}-- if $event->{handshake};
    $state->{refused}{ $event->{refused} }++ if $event->{refused};
    my $forward = $event->{number} && $state->{forwards}[$event->{number} - 1];
    return if !$forward;
    $forward->{connections}++ if $event->{handshake};
    $forward->{open} += $event->{handshake} ? 1 : -1;
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
        my $report = sub (%event) { print {$writer} $JSON->encode(\%event) . "\n" };
        serve_connection($state, $connection, $report);
        POSIX::_exit(0);
    }
    close $writer;
    $state->{children}{ fileno $reader } = { pid => $pid, pipe => $reader, report => '' };
    return;
}

# The process of a connection.
sub serve_connection ($state, $connection, $report) {
    my $open = $state->{open};
    my $stream = eval {
        $open->{plane} eq 'tcp'
            ? Test::MinimalStream->clear($connection)
            : Test::MinimalStream->tls($connection, 'server', $state->@{qw(identity fingerprint)});
    };
    return $report->(handshake => 1, refused => $@ eq "timeout\n" ? 'silent' : 'tls') if !$stream;

    if (defined $state->{step_1}) {
        eval { $stream->write_all($state->{step_1}) };
        # A reset could arrive before the source has read the bytes.
        $stream->hang_up;
        return $report->(handshake => 1, refused => 'malformed');
    }
    my $nonce = random_bytes(32);
    my $answer = eval {
        $stream->write_all('pvetun' . pack('n', $open->{protocol}) . $nonce);
        $stream->read_exactly(36);
    };
    return $report->(handshake => 1, refused => $@ eq "timeout\n" ? 'silent' : 'malformed')
        if !defined $answer;
    my ($forward, $proof) = unpack 'a4 a32', $answer;
    return $report->(handshake => 1, refused => 'key')
        if $proof ne hmac_sha256($nonce . $forward, pack 'H*', $open->{key});
    my $number = unpack 'N', $forward;
    return heartbeat($state, $stream, $report) if $number == 0;

    # This process has the paths from the time of its fork. The source connects only after its
    # forward is registered, so its path is among them.
    my $path = $state->{forwards}[$number - 1] && $state->{forwards}[$number - 1]{path};
    return $report->(handshake => 1, refused => 'number') if !defined $path;
    my $local = IO::Socket::UNIX->new(Peer => $path);
    my $status = $state->{status} // ($local ? 0 : 1);
    $report->(handshake => 1, $status ? (refused => 'socket') : (number => $number));
    eval { $stream->write_all(chr $status) };
    return $stream->finish if $status;

    my %moved = (there => 0, back => 0);
    my $count = sub ($direction, $bytes) {
        $moved{$direction} += $bytes;
        kill KILL => $$
            if defined($state->{cut_after}) && $moved{there} >= $state->{cut_after};
    };
    my $clean = eval {
        Test::MinimalStream::carry($stream, Test::MinimalStream->clear($local), $count);
        1;
    };
    $report->(
        number => $number,
        failed => $clean ? 0 : 1,
        received => $moved{there},
        sent => $moved{back}
    );
    return $clean ? $stream->hang_up : $stream->abort;
}

# Sends received bytes back until the source ends the connection or this process is killed.
sub heartbeat ($state, $stream, $report) {
    $report->(handshake => 1);
    my $beat = sub {
        my $bytes = $stream->take;
        $stream->wait_for('read') if !defined $bytes;
        $stream->write_all($bytes) if length($bytes // '') && !$state->{mute};
        return !defined($bytes) || length $bytes;
    };
    my $continue = eval { $stream->write_all("\0"); 1 };
    while ($continue) {
        $continue = eval { $beat->() };
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
    open(my $random, '<:raw', '/dev/urandom') or die "cannot open /dev/urandom: $!\n";
    sysread($random, my $bytes, $count) == $count or die "cannot read /dev/urandom\n";
    close $random;
    return $bytes;
}

sub random_hex ($count) {
    return unpack 'H*', random_bytes($count);
}

1;
