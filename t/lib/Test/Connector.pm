package Test::Connector;

# Drives the connector as the caller of proxmox-websocket-tunnel does: it makes the API calls, and
# sends and receives JSON lines over two pipes. All output of the connector is kept, so that a test
# can search it for secrets.

use v5.36;

use Carp qw(croak);
use Cwd ();
use File::Basename ();
use File::Temp ();
use IO::Handle ();
use IO::Select ();
use IO::Socket::UNIX ();
use JSON ();
use POSIX ();
use Time::HiRes ();
use URI::Escape qw(uri_escape);

use Test::DefaultSignals ();
use Test::TunnelClient;
use Test::TunnelLog qw(wait_line);
use Test::TunnelNode;

=head1 NAME

Test::Connector - runs a connector and exchanges lines with it

=head1 SYNOPSIS

    my $connector = Test::Connector->start($node);
    my ($remote, $local) = $connector->open(kind => 'sink');
    my $socket = $connector->dial($local);
    is($connector->finish->{code}, 0);

=head1 METHODS

=head2 launch(%options)

Class method. Runs C<target/release/pve-tunnel connect> and sends nothing to it; the variable
C<CARGO_PROFILE> of the environment names another profile than C<release>. Options:
C<arguments>, a list of further arguments; C<name>, run it through a symlink with this name, without
arguments.

The object has C<pid> and C<dir>, a directory for local sockets.

=head2 begin($node, %options)

Class method. Launches a connector, calls the API of the node, and sends C<connect>. Further options
with their defaults: C<kind> (C<qemu>), C<vmid> (100), C<form> (empty). The object also has C<upid>.
Dies if the API refuses.

=head2 start($node, %options)

Class method. Does what C<begin> does, and sends C<version>. The object also has the decoded answer
as C<version>. Dies unless the answer is a success.

=head2 connect($node, $url)

Sends C<connect> with this URL.

=head2 send_line($line)

Sends a line: a hash as JSON, a string unchanged.

=head2 read_line($seconds = 30)

Returns the next line without its end, undef at the end of output. Dies after that time.

=head2 command($name, %params)

Sends a command for the worker, returns the decoded answer.

=head2 forward($local, $remote)

Sends a C<forward> command, returns the decoded answer.

=head2 open(%socket)

Makes the node's worker open a socket (see F<t/lib/fake-worker.pl>) and forwards it. Returns the
remote and the local path.

=head2 dial($local)

Connects to a local socket.

=head2 memory

Returns the peak resident memory of the process in bytes (C<VmHWM>).

=head2 log, wait_log($pattern, $seconds = 30)

C<log> returns what the connector has written to stderr. C<wait_log> waits until a line of it
matches and returns this line, undef after that time.

=head2 printed

Returns all output to stdout and stderr so far.

=head2 finish

Sends C<quit>, and then does what C<end_input> does.

=head2 end_input, wait_end

C<end_input> closes the input of the connector and waits for its end, C<wait_end> only waits. Both
return C<{code, seconds}>: the exit code (128 plus the number of a signal) and the time waited. Both
die after a minute.

=head2 leaks, printed_length

Class methods about all connectors of this process whose objects are destroyed. C<leaks> returns the
tokens and tickets that they have printed, an empty list if there are none. C<printed_length>
returns the number of characters that they have printed.

=cut

my $root = Cwd::realpath(File::Basename::dirname(__FILE__) . '/../../..');

# The output of connectors whose objects are destroyed, and the secrets that no connector may print.
my $all_printed = '';
my %secrets;

sub launch ($class, %options) {
    my $temporary = File::Temp->newdir('connector-XXXXXX', TMPDIR => 1);
    my $self = bless {
        temporary => $temporary,
        dir => Cwd::realpath("$temporary"),
        owner => $$,
        stdout => '',
        buffer => '',
    }, $class;
    my $program = "$root/target/" . ($ENV{CARGO_PROFILE} // 'release') . '/pve-tunnel';
    my @command = ($program, 'connect', ($options{arguments} // [])->@*);
    if (my $name = $options{name}) {
        @command = ("$self->{dir}/$name");
        symlink $program, $command[0] or die "symlink $command[0]: $!\n";
    }
    pipe my $input, $self->{writer} or die "pipe: $!\n";
    pipe $self->{reader}, my $output or die "pipe: $!\n";
    $self->{pid} = fork // die "fork: $!\n";
    if (!$self->{pid}) {
        open STDIN, '<&', $input or POSIX::_exit(127);
        open STDOUT, '>&', $output or POSIX::_exit(127);
        open STDERR, '>>', "$self->{dir}/log" or POSIX::_exit(127);

        # The tests end the connector by signals.
        Test::DefaultSignals->import;
        exec { $command[0] } @command or do {
            print STDERR "exec $command[0]: $! (built?)\n";
            POSIX::_exit(127);
        };
    }
    $self->{writer}->autoflush(1);
    return $self;
}

sub begin ($class, $node, %options) {
    my $kind = delete $options{kind} // 'qemu';
    my $vmid = delete $options{vmid} // 100;
    my $form = delete $options{form} // '';
    my $self = $class->launch(%options);
    my $answer = Test::TunnelClient->request(
        $node, 'POST', "/api2/json/nodes/$node->{name}/$kind/$vmid/mtunnel",
        headers => ["Authorization: $node->{token}"],
        body => $form,
    );
    die "$answer->{status} $answer->{reason}\n" if $answer->{status} != 200;
    my $data = JSON::decode_json($answer->{body})->{data};
    $secrets{ $data->{ticket} } = 'ticket';
    $self->{upid} = $data->{upid};
    $self->{base} = $node->url($kind, $vmid, 'mtunnelwebsocket') =~ s/\Ahttp/ws/r;
    my ($ticket, $socket) = map { uri_escape($_) } $data->@{qw(ticket socket)};
    $self->connect($node, "$self->{base}?ticket=$ticket&socket=$socket");
    return $self;
}

sub start ($class, $node, %options) {
    my $self = $class->begin($node, %options);
    $self->{version} = $self->command('version');
    $self->{version}{success} || die "version: $self->{version}{msg}\n";
    return $self;
}

sub connect ($self, $node, $url) { ## no critic (ProhibitBuiltinHomonyms)
    $self->{trust} = {
        headers => [['Authorization', $node->{token}]],
        ($node->{fingerprint} ? (fingerprint => $node->{fingerprint}) : ()),
    };
    $secrets{ $node->{token} =~ s/\A.*=//r } = 'token';
    $self->control('connect', url => $url);
    return;
}

sub control ($self, $name, %data) {
    $self->send_line(
        {
            control => JSON::true,
            cmd => $name,
            data => { $self->{trust}->%*, %data },
        }
    );
    return;
}

sub send_line ($self, $line) {
    $line = JSON::encode_json($line) if ref $line;
    print { $self->{writer} } "$line\n";
    return;
}

sub read_line ($self, $seconds = 30) {
    my $limit = Time::HiRes::time() + $seconds;
    while ($self->{buffer} !~ m/\n/) {
        my $left = $limit - Time::HiRes::time();
        if ($left <= 0 || !IO::Select->new($self->{reader})->can_read($left)) {
            croak "no line within $seconds s; stderr:\n" . $self->log;
        }
        $self->fill or return;
    }
    $self->{buffer} =~ s/\A([^\n]*)\n//;
    return $1;
}

# Reads available output; returns false at its end.
sub fill ($self) {
    my $count = sysread $self->{reader}, my $bytes, 65536;
    return 0 if !$count;
    $self->{buffer} .= $bytes;
    $self->{stdout} .= $bytes;
    return 1;
}

sub command ($self, $name, %params) {
    $self->send_line({ %params, cmd => $name });
    my $line = $self->read_line // croak "no answer to $name; stderr:\n" . $self->log;
    return JSON::decode_json($line);
}

sub forward ($self, $local, $remote) {
    unlink $local;
    $self->control(
        'forward',
        url => "$self->{base}?socket=" . uri_escape($remote) . '&',
        unix => $local,
        ticket => { path => $remote },
    );
    my $line = $self->read_line // croak "no answer to forward; stderr:\n" . $self->log;
    return JSON::decode_json($line);
}

sub open ($self, %socket) { ## no critic (ProhibitBuiltinHomonyms)
    my $opened = $self->command('open', %socket);
    my $remote = $opened->{socket} // croak "open: $opened->{msg}";
    my $local = "$self->{dir}/" . File::Basename::basename($remote);
    my $answer = $self->forward($local, $remote);
    croak "forward: $answer->{msg}" if !$answer->{success};
    return ($remote, $local);
}

sub dial ($self, $local) {
    return IO::Socket::UNIX->new(Peer => $local) || croak "connect to $local: $!";
}

sub memory ($self) {
    my ($kib) = Test::TunnelNode::slurp("/proc/$self->{pid}/status") =~ m/^VmHWM:\s+([0-9]+) kB/m
        or croak 'the connector has ended';
    return $kib * 1024;
}

sub log ($self) { ## no critic (ProhibitBuiltinHomonyms)
    return Test::TunnelNode::slurp("$self->{dir}/log");
}

sub wait_log ($self, $pattern, $seconds = 30) {
    return wait_line(sub () { $self->log }, $pattern, $seconds);
}

sub printed ($self) {
    return $self->{stdout} . $self->log;
}

sub finish ($self) {
    $self->command('quit');
    return $self->end_input;
}

sub end_input ($self) {
    close $self->{writer};
    return $self->wait_end;
}

sub wait_end ($self) {
    my $start = Time::HiRes::time();
    # The connector has ended when its output ends.
    while (1) {
        IO::Select->new($self->{reader})->can_read(60)
            or croak "the connector does not end; stderr:\n" . $self->log;
        $self->fill or last;
    }
    waitpid $self->{pid}, 0;
    my $status = $?;
    delete $self->{pid};
    return {
        code => $status & 127 ? 128 + ($status & 127) : $status >> 8,
        seconds => Time::HiRes::time() - $start,
    };
}

sub leaks ($class) {
    my @leaks = grep { index($all_printed, $_) >= 0 } sort keys %secrets;
    # Only the connector has the tickets of forwards, so these are found by their form.
    push @leaks, $1 if $all_printed =~ m/(PVETUNNEL\S*)/;
    push @leaks, $1 if $all_printed =~ m/(ticket(?:=|%3A)\S*)/;
    return map { ($secrets{$_} // 'ticket') . " $_" } @leaks;
}

sub printed_length ($class) {
    return length $all_printed;
}

sub DESTROY ($self) {
    # A forked child has a copy of this object and must not end the connector of its parent.
    return if $self->{owner} != $$;
    local ($@, $!, $?);
    if ($self->{pid}) {
        kill 'KILL', $self->{pid};
        waitpid $self->{pid}, 0;
    }
    $all_printed .= $self->printed;
    return;
}

1;
