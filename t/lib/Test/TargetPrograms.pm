package Test::TargetPrograms;

# Programs at the UNIX sockets of a target, and a transfer that runs while a test does other things.

use v5.36;

use IO::Select;
use IO::Socket::UNIX;
use POSIX ();
use Socket qw(SHUT_WR);

use Test::MinimalClient;
use Test::Pattern qw(pattern_block);

=head1 NAME

Test::TargetPrograms - programs at the target's end of a forward

=head1 FUNCTIONS

=head2 echo($path)

Listens there and sends back what it receives. Ends a connection when the peer has ended it. Returns
an object; the program ends when the object is destroyed.

=head2 greeter($path, $greeting)

Listens there, sends the greeting, shuts down its writing side, and only then reads to the end of
the stream. C<received($length)> waits for so many of the bytes read and returns them.

=head2 reader($path)

Listens there, sends C<hello> on each connection, and reads. At the end of the connection,
C<received(8)> returns a report of 8 bytes: the number of bytes read, then C<end> or C<RESET>.

=head2 continuous_transfer($open, $number, $identity)

Starts a transfer through that forward to an echo, in a process of its own: it sends blocks of
L<Test::Pattern>, and each must come back. Returns an object. C<finish> ends the transfer and
returns the number of blocks; dies if a block was wrong or the stream had no clean end.

=cut

sub echo ($path) {
    return serve(
        $path,
        sub ($socket, $report) {
            while (sysread $socket, my $bytes, 65536) {
                print {$socket} $bytes;
                $socket->flush;
            }
            shutdown $socket, SHUT_WR;
        }
    );
}

sub greeter ($path, $greeting) {
    return serve(
        $path,
        sub ($socket, $report) {
            print {$socket} $greeting;
            $socket->flush;
            shutdown $socket, SHUT_WR;
            local $/ = undef;
            print {$report} readline $socket;
        }
    );
}

sub reader ($path) {
    return serve(
        $path,
        sub ($socket, $report) {
            print {$socket} 'hello';
            $socket->flush;
            my $count = 1;
            my $bytes = '';
            while ($count) {
                $count = sysread $socket, $bytes, 65536, length $bytes;
            }
            my $how = defined $count ? 'end' : $!{ECONNRESET} ? 'RESET' : "$!";
            printf {$report} '%-8.8s', length($bytes) . " $how";
            shutdown $socket, SHUT_WR;
        }
    );
}

sub serve ($path, $code) {
    my $listener = IO::Socket::UNIX->new(Local => $path, Listen => 256)
        or die "cannot listen at '$path': $!\n";
    pipe(my $reader, my $writer) or die "pipe: $!\n";
    my $pid = fork() // die "fork: $!\n";
    if ($pid == 0) {
        $SIG{CHLD} = 'IGNORE';
        while (1) {
            my $socket = $listener->accept or next;
            next if fork();
            $code->($socket, $writer);
            $writer->flush;
            POSIX::_exit(0);
        }
    }
    return bless { pid => $pid, owner => $$, reader => $reader }, __PACKAGE__;
}

sub received ($self, $length) {
    my $bytes = '';
    while (length $bytes < $length) {
        IO::Select->new($self->{reader})->can_read(30) or die "nothing received within 30 s\n";
        sysread($self->{reader}, $bytes, $length - length $bytes, length $bytes)
            or die "the program has ended\n";
    }
    return $bytes;
}

sub DESTROY ($self) {
    return if $self->{owner} != $$;
    local $?;
    kill KILL => $self->{pid};
    waitpid $self->{pid}, 0;
    return;
}

sub continuous_transfer ($open, $number, $identity) {
    pipe(my $from_child, my $to_parent) or die "pipe: $!\n";
    pipe(my $from_parent, my $to_child) or die "pipe: $!\n";
    my $pid = fork() // die "fork: $!\n";
    if ($pid == 0) {
        close $_ for $from_child, $to_child;
        $to_parent->autoflush(1);
        my $count = eval { transfer_blocks($open, $number, $identity, $from_parent, $to_parent) };
        print {$to_parent} $count // "failed: $@";
        POSIX::_exit(0);
    }
    close $_ for $to_parent, $from_parent;
    my $first = readline $from_child;
    return bless {
        pid => $pid, owner => $$, state => $first, reader => $from_child,
        stop => $to_child
        },
        __PACKAGE__;
}

sub transfer_blocks ($open, $number, $identity, $stop, $report) {
    my $stream = Test::MinimalClient::connect_forward($open, $number, identity => $identity);
    my $stopped = IO::Select->new($stop);
    my $count = 0;
    while (!$stopped->can_read(0)) {
        my $block = substr pattern_block($count), 0, 65536;
        $stream->write_all($block);
        die "block $count came back changed\n" if $stream->read_exactly(65536) ne $block;
        print {$report} "started\n" if !$count++;
    }
    die "more bytes came back than were sent\n" if $stream->exchange('') ne '';
    $stream->hang_up;
    return $count;
}

sub finish ($self) {
    die "the transfer $self->{state}" if $self->{state} ne "started\n";
    close delete $self->{stop};
    my $count = readline $self->{reader};
    die "the transfer $count" if $count !~ /\A\d+\z/;
    return $count;
}

1;
