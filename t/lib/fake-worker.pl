#!/usr/bin/perl

# A tunnel worker without a guest: its sockets echo, consume or produce data, and it reports the
# data of each connection. Each connection has its own process, so that commands are answered while
# data flows or stalls.

use v5.36;

use FindBin ();
use lib "$FindBin::RealBin", "$FindBin::RealBin/../../testnode/lib";

use Errno qw(EINTR);
use IO::Select ();
use IO::Socket::UNIX ();
use JSON ();
use POSIX ();
use Socket qw(AF_UNIX PF_UNSPEC SHUT_WR SOCK_STREAM);
use Time::HiRes ();

use Test::Pattern qw($BLOCK pattern_block);
use TestNode::Sha256;
use TestNode::Ticket qw(make_ticket);

=head1 NAME

fake-worker.pl - a tunnel worker for tests of node and connector

=head1 COMMANDS

Each line has one JSON object. Each answer is one line with C<success> and, on failure, C<msg>.
Besides the commands C<version>, C<ticket {path}> and C<quit {cleanup?}> of a real worker:

=over

=item open {kind, bytes?, rate?, stalled?}

Creates a UNIX socket and answers C<{"socket":path}>. For every connection to it:

C<echo> sends received bytes back until their end. C<sink> reads until the end and closes. C<source>
sends the first C<bytes> bytes of the stream of L<Test::Pattern>, with at most C<rate> bytes per
second if given, and closes; it does not read. With C<stalled> a connection begins stalled, as after
C<stall>.

=item admit {path}

From now on C<ticket> accepts the socket at C<path>, on which another program listens.

=item stall {socket}, go {socket}

Connections to this socket stop reading and writing, or continue. The answer is sent after all
connections have done so.

=item result {socket, connection?, wait?}

The result of a connection to that socket: the one with this number, counted from 1, or the newest.
Waits up to C<wait> seconds (30) for the connection and its end. Answers C<{"finished","connection",
"bytes","sha256","eof","error"}>: the number of bytes read (C<source>: written), their SHA-256 in
hexadecimal, whether the peer ended cleanly (C<source>: whether all was written), and the error if
one occurred. Before the end of the connection, C<finished> is false, C<bytes> is the number so far,
and there is no digest.

=item params {}

The form of the request that opened the tunnel: C<{"params":{...}}>.

=item query-disk-import {direct}

Only if the form that opened the tunnel has the field C<seam>: what a worker with
L<PVE::Tunnel::Seam> answers.

=item list {}

All sockets: C<{"sockets":{path:{"kind","connections"}}}>.

=back

=cut

my $request = JSON::decode_json(scalar <STDIN>);
my $json = JSON->new->utf8->canonical;
my $key = pack 'H*', $request->{ticket_key};
my %sockets = ($request->{socket} => { kind => 'control', connections => [] });
my $control_listener = listen_on($request->{socket});
my $control;
my $input = '';
my $quitting = 0;
my $made = 0;

STDOUT->autoflush(1);
local $SIG{PIPE} = 'IGNORE';
local $SIG{CHLD} = 'IGNORE';
say $json->encode({ ready => 1 });

my %commands = (
    version => sub ($params) {
        return { api => 2, age => 0, ($request->{old} ? () : (caps => ['insecure-remote'])) };
    },
    ticket => sub ($params) {
        my $path = $params->{path} // '';
        die "no socket '$path'\n" if !$sockets{$path};
        return { ticket => make_ticket($key, $request->{user}, $path) };
    },
    quit => sub ($params) {
        unlink "$request->{dir}/$request->{vmid}.conf" if $params->{cleanup};
        $quitting = 1;
        return {};
    },
    params => sub ($params) { return { params => $request->{params} } },
    open => \&open_socket,
    admit => sub ($params) {
        $sockets{ $params->{path} } = { kind => 'foreign', connections => [] };
        return {};
    },
    stall => sub ($params) { return switch_all($params, 'stall') },
    go => sub ($params) { return switch_all($params, 'go') },
    result => \&result,
    list => sub ($params) {
        my %shown = map {
            $_ =>
                { kind => $sockets{$_}{kind}, connections => scalar $sockets{$_}{connections}->@*, }
        } keys %sockets;
        return { sockets => \%shown };
    },
);

install_seam() if $request->{params}{seam};

turn() while 1;

# One round of the event loop. $with_commands is false while a command waits: the next command must
# not run before its answer.
sub turn ($with_commands = 1, $limit = undef) {
    my $select = IO::Select->new(\*STDIN, $control_listener);
    $select->add($control) if $control && $with_commands;
    for my $socket (values %sockets) {
        $select->add($socket->{listener}) if $socket->{listener};
        $select->add(map { $_->{commands} } grep { !$_->{finished} } $socket->{connections}->@*);
    }
    my @ready = $select->can_read($limit);
    # Commands come last: a command may wait for handles that are ready now, and serve them.
    my $commands = $control && grep { $_ == $control } @ready;
    for my $handle (grep { !$control || $_ != $control } @ready) {
        if ($handle == \*STDIN) {
            finish(0) if !sysread STDIN, my $ignored, 4096;
        } elsif ($handle == $control_listener) {
            $control = $control_listener->accept;
        } else {
            serve($handle);
        }
    }
    read_commands() if $commands;
    return;
}

sub read_commands () {
    if (!sysread $control, $input, 65536, length $input) {
        say 'client left without quit' if !$quitting;
        finish($quitting ? 0 : 1);
    }
    while ($input =~ s/\A([^\n]*)\n//) {
        my $answer = answer($1);
        print {$control} $json->encode($answer) . "\n";
        $control->flush;
    }
    return;
}

sub answer ($line) {
    my $params = eval { $json->decode($line) };
    return { success => JSON::false, msg => 'not a JSON object' } if ref $params ne 'HASH';
    my $name = delete $params->{cmd} // '';
    my $command = $commands{$name};
    # Standard output goes through the node. Standard error is in the log before the answer is sent.
    say STDERR 'command: ' . ($command ? $name : 'unknown');
    return { success => JSON::false, msg => "unknown command '$name'" } if !$command;
    my $answer = eval { $command->($params) };
    if (my $error = $@) {
        chomp $error;
        return { success => JSON::false, msg => $error };
    }
    return { $answer->%*, success => JSON::true };
}

sub listen_on ($path) {
    unlink $path;
    return IO::Socket::UNIX->new(Local => $path, Listen => 16) || die "listen on $path: $!\n";
}

sub install_seam () {
    require lib;
    lib->import(map { "$FindBin::RealBin/../../perl/blib/$_" } qw(lib arch));
    require PVE::Tunnel::Seam::Session;
    my $seam = PVE::Tunnel::Seam::Session->new(
        configuration => "$request->{dir}/remote-migration.cfg",
        check => sub (@) { return 1 },
        node => 'localhost',
    );
    my %state = (sockets => {}, socket => $control_listener);
    $commands{'query-disk-import'} = sub ($params) {
        die "no import is running\n" if !$params->{direct};
        $state{sockets}{$_} = 1 for keys %sockets;
        my $answer = $seam->handle(\%state, $params->{direct});
        # The listener has made its own.
        $sockets{$_} //= { kind => 'foreign', connections => [] } for keys $state{sockets}->%*;
        return { direct => $answer };
    };
    return;
}

sub open_socket ($params) {
    my $kind = $params->{kind} // '';
    die "no kind of socket is called '$kind'\n" if $kind !~ m/\A(?:echo|sink|source)\z/;
    die "bytes is not a number\n" if $kind eq 'source' && ($params->{bytes} // '') !~ m/\A[0-9]+\z/;
    my $path = sprintf '%s/%d-%d.%s', $request->{dir}, $request->{vmid}, ++$made, $kind;
    $sockets{$path} = {
        kind => $kind,
        bytes => $params->{bytes},
        rate => $params->{rate},
        stalled => $params->{stalled} ? 1 : 0,
        listener => listen_on($path),
        connections => [],
    };
    return { socket => $path };
}

sub socket_of ($params) {
    my $path = $params->{socket} // '';
    return $sockets{$path} || die "no socket '$path'\n";
}

sub switch_all ($params, $command) {
    my $socket = socket_of($params);
    $socket->{stalled} = $command eq 'stall' ? 1 : 0;
    ask($_, $command) for grep { !$_->{finished} } $socket->{connections}->@*;
    return {};
}

# Sends a command to the process of a connection and waits for its answer, or for its result, which
# the process may have sent before it received the command.
sub ask ($connection, $command) {
    print { $connection->{commands} } "$command\n";
    $connection->{commands}->flush;
    take($connection);
    return;
}

sub take ($connection) {
    my $line = readline $connection->{commands};
    my $report =
        defined $line
        ? $json->decode($line)
        : { finished => JSON::true, error => 'the process of the connection died' };
    $connection->{bytes} = $report->{bytes};
    if ($report->{finished}) {
        $connection->{finished} = $report;
        close $connection->{commands};
    }
    return;
}

sub result ($params) {
    my $socket = socket_of($params);
    my $limit = Time::HiRes::time() + ($params->{wait} // 30);
    my ($number, $connection);
    while (1) {
        $number = $params->{connection} // scalar $socket->{connections}->@*;
        $connection = $number ? $socket->{connections}[$number - 1] : undef;
        last if $connection && $connection->{finished};
        my $left = $limit - Time::HiRes::time();
        last if $left <= 0;
        turn(0, $left);
    }
    return { finished => JSON::false, connection => undef, bytes => 0 } if !$connection;
    ask($connection, 'count') if !$connection->{finished};
    return {
        finished => JSON::false,
        connection => $number,
        bytes => $connection->{bytes},
        ($connection->{finished} // {})->%*,
    };
}

# Accepts a connection on a listener, or takes the result from the process of a connection.
sub serve ($handle) {
    for my $socket (values %sockets) {
        if ($socket->{listener} && $handle == $socket->{listener}) {
            my $data = $handle->accept or return;
            accepted($socket, $data);
            return;
        }
        my ($connection) =
            grep { !$_->{finished} && $handle == $_->{commands} } $socket->{connections}->@*;
        return take($connection) if $connection;
    }
    return;
}

sub accepted ($socket, $data) {
    socketpair my $commands, my $connection_end, AF_UNIX, SOCK_STREAM, PF_UNSPEC
        or die "socketpair: $!\n";
    my $pid = fork // die "fork: $!\n";
    if (!$pid) {
        # Descriptors of the parent must be closed at the end of the parent, not of this process.
        close $_ for $commands, $control_listener, $control // (), \*STDIN;
        for my $other (values %sockets) {
            close $other->{listener} if $other->{listener};
            close $_->{commands} for grep { !$_->{finished} } $other->{connections}->@*;
        }
        my $report = eval { transfer($socket, $data, $connection_end) };
        $report //= { error => $@ };
        print {$connection_end} $json->encode({ $report->%*, finished => JSON::true }) . "\n";
        $connection_end->flush;
        # The peer sees the end only now, so the result is available when it does.
        close $data;
        POSIX::_exit(0);
    }
    close $connection_end;
    push $socket->{connections}->@*, { commands => $commands, bytes => 0 };
    return;
}

# Runs in the connection's process.
sub transfer ($socket, $data, $commands) {
    my $state = {
        sha => TestNode::Sha256->new,
        bytes => 0,
        stalled => $socket->{stalled},
        commands => $commands,
        data => $data,
    };
    my $error = $socket->{kind} eq 'source' ? produce($socket, $state) : consume($socket, $state);
    return {
        bytes => $state->{bytes},
        sha256 => $state->{sha}->hexdigest,
        eof => defined $error ? JSON::false : JSON::true,
        error => $error,
    };
}

sub consume ($socket, $state) { ## no critic (RequireFinalReturn)
    while (1) {
        wait_for($state, 'read');
        my $bytes;
        my $count = sysread $state->{data}, $bytes, $BLOCK;
        next if !defined $count && $! == EINTR;
        return "read: $!" if !defined $count;
        return if !$count;
        $state->{sha}->add($bytes);
        $state->{bytes} += $count;
        next if $socket->{kind} ne 'echo';
        my $error = send_all($state, $bytes, sub ($written) { });
        return $error if defined $error;
    }
}

sub produce ($socket, $state) {
    my $start = Time::HiRes::time();
    for (my $index = 0; $state->{bytes} < $socket->{bytes}; $index++) {
        my $left = $socket->{bytes} - $state->{bytes};
        my $block = substr pattern_block($index), 0, $left < $BLOCK ? $left : $BLOCK;
        my $error = send_all(
            $state, $block,
            sub ($written) {
                $state->{sha}->add($written);
                $state->{bytes} += length $written;
                return if !$socket->{rate};
                my $ahead = $start + $state->{bytes} / $socket->{rate} - Time::HiRes::time();
                Time::HiRes::sleep($ahead) if $ahead > 0;
            },
        );
        return $error if defined $error;
    }
    shutdown $state->{data}, SHUT_WR;
    return;
}

# Writes as much as the socket accepts, piece by piece, and answers commands in between.
sub send_all ($state, $bytes, $written) {
    $state->{data}->blocking(0);
    my $offset = 0;
    while ($offset < length $bytes) {
        wait_for($state, 'write');
        my $count = syswrite $state->{data}, $bytes, length($bytes) - $offset, $offset;
        if (!defined $count) {
            next if $!{EAGAIN} || $!{EINTR};
            return "write: $!";
        }
        $written->(substr $bytes, $offset, $count);
        $offset += $count;
    }
    $state->{data}->blocking(1);
    return;
}

# Waits until the data socket is ready and not stalled, and answers commands in the meantime.
sub wait_for ($state, $direction) { ## no critic (RequireFinalReturn)
    my ($commands, $data) = map { fileno $state->{$_} } qw(commands data);
    while (1) {
        my ($read, $write) = ('', '');
        vec($read, $commands, 1) = 1;
        if (!$state->{stalled}) {
            vec($direction eq 'read' ? $read : $write, $data, 1) = 1;
        }
        next if select($read, $write, undef, undef) < 0;
        if (vec $read, $commands, 1) {
            # The parent has ended, and so has the test.
            POSIX::_exit(1) if !sysread $state->{commands}, my $command, 64;
            $state->{stalled} = 1 if $command eq "stall\n";
            $state->{stalled} = 0 if $command eq "go\n";
            print { $state->{commands} } $json->encode({ bytes => $state->{bytes} }) . "\n";
            $state->{commands}->flush;
            next;
        }
        return if vec($read, $data, 1) || vec($write, $data, 1);
    }
}

sub finish ($code) {
    unlink keys %sockets;
    exit $code;
}
