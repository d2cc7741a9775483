package TestNode::Import;

=head1 NAME

TestNode::Import - writes a volume that it receives over a UNIX socket

=head1 SYNOPSIS

    my $import = TestNode::Import->start(socket => $path, file => $file, volid => $volid);
    my $status = $import->status;    # { status => 'pending' }

=head1 DESCRIPTION

A process that accepts one connection and writes the stream to a file. The stream format is
C<raw+size>: the size in bytes as a 64 bit little endian number, that many bytes, and end of file. A
shorter or longer stream is an error, and so is a failed write. After an error the file is removed.

=cut

use v5.36;

use Errno qw(EINTR);
use IO::Handle;
use IO::Select;
use IO::Socket::UNIX;
use JSON ();
use POSIX ();
use Time::HiRes qw(clock_gettime CLOCK_MONOTONIC);

use constant {
    BLOCK => 1 << 20,
    # Seconds to wait for the connection, and for each further part of the stream.
    IDLE_LIMIT => 300,
    # Seconds that a query waits for the end of the import, as in Proxmox VE.
    QUERY_LIMIT => 5,
};

=head1 METHODS

=head2 start

Class method. Takes C<socket> (the path to listen on, mode 0600), C<file> (an existing file to write
to) and C<volid>. Returns when the socket is listening.

=cut

sub start ($class, %option) {
    my $self = bless { %option, owner => $$ }, $class;
    unlink $self->{socket};
    my $umask = umask(0177);
    my $listener = IO::Socket::UNIX->new(Local => $self->{socket}, Listen => 1);
    umask($umask);
    die "cannot listen on '$self->{socket}': $!\n" if !$listener;

    pipe(my $result, my $result_end) or die "pipe: $!\n";
    # The kernel closes the other end when the worker ends for any reason.
    pipe(my $worker_end, my $worker) or die "pipe: $!\n";
    my $pid = fork() // die "fork: $!\n";
    if (!$pid) {
        local @SIG{qw(TERM INT HUP PIPE)} = ('DEFAULT') x 4;
        close($result);
        close($worker);
        my $bytes = eval { receive($listener, $worker_end, $self->{file}) };
        unlink $self->{file} if !defined $bytes;
        syswrite($result_end, defined($bytes) ? "ok $bytes\n" : "error $@");
        POSIX::_exit(0);
    }
    @$self{qw(pid result worker)} = ($pid, $result, $worker);
    return $self;
}

=head2 status

C<< { status => 'pending' } >> after 5 s, C<< { status => 'complete', volid => ... } >> or
C<< { status => 'error', msg => ... } >>. The last two are final.

=cut

sub status ($self) {
    return { status => 'pending', msg => 'waiting for data' }
        if !IO::Select->new($self->{result})->can_read(QUERY_LIMIT);
    my $result = join('', readline $self->{result});
    waitpid($self->{pid}, 0);
    delete $self->{pid};
    unlink $self->{socket};
    if ($result =~ /\Aok /) {
        $self->{complete} = 1;
        return { status => 'complete', volid => $self->{volid} };
    }
    unlink $self->{file};
    chomp $result;
    return {
        status => 'error',
        msg => $result =~ s/\Aerror //r || 'the import process ended without a result'
    };
}

=head2 abort

Kills a running import and removes the file. The file of a complete import stays, as in Proxmox VE.

=cut

sub abort ($self) {
    return if !$self->{pid} || $self->{owner} != $$;
    my $is_over = IO::Select->new($self->{result})->can_read(0);
    kill(KILL => $self->{pid});
    waitpid($self->{pid}, 0);
    delete $self->{pid};
    unlink $self->{socket}, $is_over ? () : $self->{file};
    return;
}

sub receive ($listener, $worker, $file) {
    wait_for($listener, $worker);
    my $stream = $listener->accept or die "accept: $!\n";
    close($listener);
    open(my $out, '+<:raw', $file) or die "cannot open '$file': $!\n";

    my $head = '';
    while (length($head) < 8) {
        read_some($stream, $worker, \$head, 8 - length $head)
            or die "the stream ended before its size\n";
    }
    my $size = unpack('Q<', $head);
    my $done = 0;
    while (read_some($stream, $worker, \my $block, BLOCK)) {
        $done += length $block;
        die "the stream is longer than the $size bytes it announced\n" if $done > $size;
        while (length $block) {
            my $wrote = syswrite($out, $block) // die "cannot write '$file': $!\n";
            substr($block, 0, $wrote, '');
        }
    }
    die "the stream ended after $done of $size bytes\n" if $done != $size;
    $out->sync or die "cannot write '$file': $!\n";
    close($out) or die "cannot write '$file': $!\n";
    return $done;
}

sub read_some ($stream, $worker, $block, $max) { ## no critic (RequireFinalReturn)
    $$block //= '';
    while (1) {
        wait_for($stream, $worker);
        my $got = sysread($stream, $$block, $max, length $$block);
        return $got if defined $got;
        die "the stream broke: $!\n" if !$!{EINTR};
    }
}

sub wait_for ($handle, $worker) {
    my $deadline = clock_gettime(CLOCK_MONOTONIC) + IDLE_LIMIT;
    my $select = IO::Select->new($handle, $worker);
    while ((my $left = $deadline - clock_gettime(CLOCK_MONOTONIC)) > 0) {
        my @ready = $select->can_read($left);
        die "the worker ended\n" if grep { $_ == $worker } @ready;
        return if @ready;
    }
    die "no data for " . IDLE_LIMIT . " s\n";
}

1;
