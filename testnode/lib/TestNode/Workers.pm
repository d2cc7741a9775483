package TestNode::Workers;

use v5.36;

use Fcntl qw(O_APPEND O_CREAT O_WRONLY);
use IO::Handle ();
use JSON ();
use POSIX ();
use Time::HiRes ();

use TestNode::Ticket qw(check_ticket make_ticket);

=head1 NAME

TestNode::Workers - starts and stops the workers, and issues and verifies their tickets

=head1 METHODS

=head2 new(%settings)

Class method. Takes C<dir>, C<worker> (path of the program), C<node>, C<user>, and the further
settings of L<TestNode::Worker>: C<old>, C<no_direct>, C<no_privilege>, C<configuration>.

=head2 start($kind, $vmid, \%params)

Starts a worker and waits up to 10 s until it listens. Returns C<{socket, pid, ticket, output,
log}>: its command socket, its process ID, a ticket for the socket, the handle of its output, and
the handle of its log file. The caller copies the output to the log. Dies with a reason. A guest has
one worker at a time.

=head2 authorizes($ticket, $path)

Whether the ticket authorizes the user for that socket now.

=head2 node, user

The values passed to C<new>.

=head2 stop_task($pid)

Stops the worker with that process ID: SIGTERM, and SIGKILL if it has not ended after 5 s.

=head2 stop

Stops all workers, and kills those that have not ended after 10 s.

=head1 FUNCTIONS

=head2 random($count)

Returns C<$count> random bytes of the system.

=cut

# Seconds for a worker to start listening, and to end. At its end it may have to stop QEMU.
my $READY_LIMIT = 10;
my $END_LIMIT = 10;
# Seconds until Proxmox VE kills a task that was stopped.
my $STOP_LIMIT = 5;

sub new ($class, %settings) {
    return bless { %settings, key => random(32), workers => {} }, $class;
}

sub node ($self) { return $self->{node} }

sub user ($self) { return $self->{user} }

sub authorizes ($self, $ticket, $path) {
    return check_ticket($self->{key}, $ticket, $self->{user}, $path);
}

sub start ($self, $kind, $vmid, $params) {
    my $running = $self->{workers}{$vmid};
    die "guest $vmid already has a tunnel\n"
        if $running && waitpid($running->{pid}, POSIX::WNOHANG()) == 0;
    my $socket = $self->{dir} . ($kind eq 'lxc' ? "/ct-$vmid.mtunnel" : "/$vmid.mtunnel");
    my $worker = $self->spawn($vmid);
    my $request = {
        socket => $socket,
        vmid => 0 + $vmid,
        kind => $kind,
        node => $self->{node},
        dir => $self->{dir},
        user => $self->{user},
        ticket_key => unpack('H*', $self->{key}),
        (map { $_ => $self->{$_} ? JSON::true : JSON::false } qw(old no_direct no_privilege)),
        configuration => $self->{configuration},
        params => $params,
    };
    {
        local $SIG{PIPE} = 'IGNORE';
        print { $worker->{stdin} } JSON->new->utf8->canonical->encode($request) . "\n";
        $worker->{stdin}->flush;
    }
    my $reason = not_ready($worker);
    if (defined $reason) {
        kill 'KILL', $worker->{pid};
        waitpid $worker->{pid}, 0;
        die "the worker did not start: $reason\n";
    }
    $worker->{socket} = $socket;
    $self->{workers}{$vmid} = $worker;
    my $ticket = make_ticket($self->{key}, $self->{user}, $socket);
    return { ticket => $ticket, map { $_ => $worker->{$_} } qw(socket pid output log) };
}

sub spawn ($self, $vmid) {
    my $path = "$self->{dir}/$vmid.log";
    sysopen my $log, $path, O_WRONLY | O_CREAT | O_APPEND, 0600 or die "$path: $!\n";
    $log->autoflush(1);
    pipe my $input, my $stdin or die "pipe: $!\n";
    pipe my $output, my $stdout or die "pipe: $!\n";
    my $pid = fork // die "fork: $!\n";
    if (!$pid) {
        open STDIN, '<&', $input or POSIX::_exit(127);
        open STDOUT, '>&', $stdout or POSIX::_exit(127);
        open STDERR, '>&', $log or POSIX::_exit(127);
        exec {$^X} $^X, $self->{worker} or POSIX::_exit(127);
    }
    return { pid => $pid, stdin => $stdin, output => $output, log => $log };
}

# Why a worker's first line is not {"ready":1}; undef if it is.
sub not_ready ($worker) {
    my $limit = Time::HiRes::time() + $READY_LIMIT;
    my $line = '';
    while ($line !~ m/\n/) {
        vec(my $read = '', fileno $worker->{output}, 1) = 1;
        my $left = $limit - Time::HiRes::time();
        return 'it took too long to listen' if $left <= 0;
        next if select($read, undef, undef, $left) <= 0;
        return 'it exited without a ready line, see its log'
            if !sysread $worker->{output}, $line, 4096, length $line;
    }
    my ($first, $rest) = split m/\n/, $line, 2;
    my $answer = eval { JSON::decode_json($first) };
    return 'its first line was not {"ready":1}, see its log'
        if ref $answer ne 'HASH' || ($answer->{ready} // 0) ne '1';
    print { $worker->{log} } $rest;
    return;
}

sub stop_task ($self, $pid) {
    my ($worker) = grep { $_->{pid} == $pid } values $self->{workers}->%* or return;
    kill 'TERM', $pid;
    my $limit = Time::HiRes::time() + $STOP_LIMIT;
    while (waitpid($pid, POSIX::WNOHANG()) == 0) {
        kill 'KILL', $pid if Time::HiRes::time() > $limit;
        Time::HiRes::sleep(0.01);
    }
    return;
}

sub stop ($self) {
    my @workers = values $self->{workers}->%*;
    close $_->{stdin} for @workers;
    for my $worker (@workers) {
        my $ended = eval {
            local $SIG{ALRM} = sub { die "limit\n" };
            alarm $END_LIMIT;
            waitpid $worker->{pid}, 0;
            alarm 0;
            1;
        };
        if (!$ended) {
            kill 'KILL', $worker->{pid};
            waitpid $worker->{pid}, 0;
        }
        # The pipe may still contain the last output of the worker.
        while (sysread $worker->{output}, my $bytes, 65536) {
            print { $worker->{log} } $bytes;
        }
        unlink $worker->{socket};
    }
    $self->{workers} = {};
    return;
}

sub random ($count) {
    open my $source, '<:raw', '/dev/urandom' or die "/dev/urandom: $!\n";
    my $got = sysread $source, (my $bytes = ''), $count;
    close $source;
    die "/dev/urandom: too little\n" if ($got // 0) != $count;
    return $bytes;
}

1;
