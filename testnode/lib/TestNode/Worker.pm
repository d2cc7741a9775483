package TestNode::Worker;

=head1 NAME

TestNode::Worker - the mtunnel worker of the test node

=head1 SYNOPSIS

    exit(TestNode::Worker->new(*STDIN, *STDOUT)->run);

=head1 DESCRIPTION

Replaces the worker that C<POST .../mtunnel> forks on a Proxmox VE node. It reads its settings from
its input as one JSON line, listens on a UNIX socket, prints C<{"ready":1}>, and serves one client.
Each command and each reply is one JSON line. A reply contains C<success>, and C<msg> if that is
false. L<TestNode::Commands> implements the commands.

The settings are C<socket>, C<vmid>, C<kind> (C<qemu> or C<lxc>), C<node>, C<dir>, C<user>,
C<ticket_key> (64 hex digits), C<old> and C<params>. The input remains open after that line, and the
worker ends at its end of file.

Unless C<old> or C<no_direct> is true, the worker installs L<PVE::Tunnel::Seam>, as a node with
pve-tunnel does. C<user> is the API user, whose listeners are counted. C<configuration> is then the file with the node's networks (by default
F<remote-migration.cfg> in C<dir>). If C<no_privilege> is true, the user lacks C<Sys.Modify>.

After C<quit> the worker waits for the client to disconnect. If a guest was started, it keeps
running, and so does the worker, until the end of the input. A connection that ends without C<quit>
is an error, and the worker kills the guest.

The output of the worker is its log: one line C<command: NAME> for each command received, and no
ticket, key or configuration.

=cut

use v5.36;

use Errno qw(EINTR);
use IO::Handle;
use IO::Select;
use IO::Socket::UNIX;
use JSON;
use POSIX ();
use Time::HiRes qw(clock_gettime CLOCK_MONOTONIC);

use TestNode::Commands;

use constant {
    # Bytes. A command has a few KiB, and a configuration some tens at most. A longer line is an
    # attack or an error.
    MAX_LINE => 1 << 20,
    # Seconds for the source to connect, as in Proxmox VE.
    CLIENT_LIMIT => 300,
    # Size of sun_path without the terminating zero byte.
    MAX_SOCKET_PATH => 107,
};

my $JSON = JSON->new->utf8->canonical;

=head1 METHODS

=head2 new

Class method: C<< TestNode::Worker->new($input, $output) >>.

=head2 run

Runs the worker. Returns the exit code: 0 after C<quit>, 1 otherwise.

=cut

sub new ($class, $input, $output) {
    $output->autoflush(1);
    return bless { input => $input, output => $output, buffer => '' }, $class;
}

sub run ($self) {
    # The worker of Proxmox VE also leads a process group, which receives the signals of a stop.
    POSIX::setpgid(0, 0);
    local $SIG{PIPE} = 'IGNORE';
    my $done = eval {
        my $request = read_request($self->{input});
        $self->{commands} = TestNode::Commands->new($request);
        install_seam($request) if !$request->{old} && !$request->{no_direct};
        # A signal may arrive at any point, so the handler kills the guest.
        local @SIG{qw(TERM INT HUP)} = (sub { $self->{commands}->abort; POSIX::_exit(1) }) x 3;
        $self->serve;
        $self->keep_guest;
        1;
    };
    my $error = $@;
    $self->{commands}->abort if $self->{commands};
    return 0 if $done;
    $self->record("error: $error");
    return 1;
}

# Writes to stderr, which is the log file. Standard output passes through the node, and a command
# must be in the log before the worker replies to it.
sub record ($self, $text) {
    chomp $text;
    print STDERR "$text\n";
    return;
}

sub serve ($self) {
    my $path = $self->{commands}{socket};
    die "the path of the socket is longer than " . MAX_SOCKET_PATH . " bytes: '$path'\n"
        if length($path) > MAX_SOCKET_PATH;
    # A worker that was killed has left it.
    unlink $path;
    my $umask = umask(0177);
    my $listener = IO::Socket::UNIX->new(Local => $path, Listen => 1);
    umask($umask);
    die "cannot listen on '$path': $!\n" if !$listener;

    print { $self->{output} } '{"ready":1}' . "\n";
    my $accepted = eval { $self->wait_for($listener, CLIENT_LIMIT) && $listener->accept };
    my $error = $@;
    # The worker serves one client, so the path is removed now. As in Proxmox VE, the handle stays.
    $self->{commands}{state}{socket} = $listener;
    unlink $path;
    $self->{client} = $accepted || die($error || "no client within " . CLIENT_LIMIT . " s\n");

    while (defined(my $line = $self->next_line)) {
        $self->reply($self->answer($line));
    }
    die "the tunnel ended without 'quit'\n" if !$self->{commands}{exit};
    $self->record('tunnel ended');
    close($self->{client});
    return;
}

# Waits for the end of the input or of QEMU.
sub keep_guest ($self) {
    my $monitor = $self->{commands}->monitor // return;
    $self->record('guest keeps running');
    eval {
        while ($self->wait_for($monitor->{socket}, undef)) {
            $monitor->read_message(1);
            $monitor->forget_events;
        }
    };
    $self->record("guest: $@");
    return;
}

# Returns true if the handle is readable, false after $limit seconds. Dies at the end of the input.
sub wait_for ($self, $handle, $limit) { ## no critic (RequireFinalReturn)
    my $deadline = defined($limit) ? clock_gettime(CLOCK_MONOTONIC) + $limit : undef;
    my $select = IO::Select->new($handle, $self->{input});
    while (1) {
        my $left = defined($deadline) ? $deadline - clock_gettime(CLOCK_MONOTONIC) : undef;
        return 0 if defined($left) && $left <= 0;
        for my $ready ($select->can_read($left)) {
            return 1 if $ready == $handle;
            my $got = sysread($self->{input}, my $ignored, 4096);
            die "the node ended\n" if defined($got) && !$got || !defined($got) && !$!{EINTR};
        }
    }
}

sub next_line ($self) {
    my $end;
    while (($end = index($self->{buffer}, "\n")) < 0) {
        if (length($self->{buffer}) > MAX_LINE) {
            $self->reply(
                { success => JSON::false, msg => 'command longer than ' . MAX_LINE . ' bytes' });
            die "over-long command\n";
        }
        $self->wait_for($self->{client}, undef);
        my $got = sysread($self->{client}, $self->{buffer}, 65536, length $self->{buffer});
        next if !defined($got) && $!{EINTR};
        return if !$got;
    }
    return substr($self->{buffer}, 0, $end + 1, '');
}

sub reply ($self, $reply) {
    my $bytes = $JSON->encode($reply) . "\n";
    while (length $bytes) {
        my $wrote = syswrite($self->{client}, $bytes);
        next if !defined($wrote) && $!{EINTR};
        # The client has disconnected. The next read reports it.
        return if !defined $wrote;
        substr($bytes, 0, $wrote, '');
    }
    return;
}

sub answer ($self, $line) {
    my $command = eval { $JSON->decode($line) };
    # The parser's message is not used: it quotes the line, which may contain a guest's
    # configuration.
    return failure('the command is not a JSON object') if ref($command) ne 'HASH';
    my $name = delete $command->{cmd};
    return failure("the command has no 'cmd'") if !defined($name) || ref $name;
    $self->record('command: ' . ($name =~ /\A[\w-]{1,40}\z/ ? $name : '(not a name)'));
    my $result = eval { $self->{commands}->handle($name, $command) };
    if (!$result) {
        chomp(my $error = $@);
        $self->record("failed: $error");
        return failure($error);
    }
    return { %$result, success => JSON::true };
}

sub failure ($message) { return { success => JSON::false, msg => $message } }

sub install_seam ($request) {
    require PVE::RPCEnvironment;
    PVE::RPCEnvironment::init($request->{user});
    require PVE::Tunnel::Seam;
    $PVE::Tunnel::Seam::CONFIGURATION = $request->{configuration}
        // "$request->{dir}/remote-migration.cfg";
    my $may = !$request->{no_privilege};
    PVE::Tunnel::Seam::install(
        # This node has one user, and only this privilege is checked.
        check => sub ($user, $path, $privilege) { return $may },
        node => $request->{node},
    );
    return;
}

sub read_request ($input) {
    my $line = '';
    while ($line !~ /\n/) {
        # Byte by byte, so that nothing after the line is read.
        my $got = sysread($input, $line, 1, length $line);
        next if !defined($got) && $!{EINTR};
        die "the node sent no request\n" if !$got || length($line) > MAX_LINE;
    }
    my $request = eval { $JSON->decode($line) } // die "the node's request is not JSON\n";
    for my $name (qw(socket vmid kind node dir user ticket_key)) {
        die "the node's request lacks '$name'\n" if !defined $request->{$name};
    }
    return $request;
}

1;
