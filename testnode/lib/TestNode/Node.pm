package TestNode::Node;

=head1 NAME

TestNode::Node - a test node in a process of its own

=head1 SYNOPSIS

    my $node = TestNode::Node->start(dir => $dir, listen => '127.0.0.1');
    my $tunnel = PVE::Tunnel::Client::fork_websocket_tunnel(
        $node->conn, $node->path(100), {}, { url => $node->url(100) }, $log,
    );

=head1 DESCRIPTION

Starts C<target/release/testnode> with the Perl worker F<testnode/worker.pl>. The node ends on
C<stop>, when the object is destroyed, or when the process that started it ends. It stops its
workers and their guests first.

=cut

use v5.36;

use Cwd qw(abs_path);
use File::Basename qw(dirname);
use IO::Select;
use JSON;
use POSIX ();

my $ROOT = abs_path(dirname(__FILE__) . '/../../..');

# Seconds to create a certificate and listen. A loaded machine is slow.
use constant START_LIMIT => 60;

=head1 METHODS

=head2 start

Class method. Takes C<dir> (absolute; created if missing), C<listen> (an address), and optionally
C<old> (true: a node without capabilities), C<worker> (another worker program), C<options> (array,
further arguments of the program), C<wrap> (array, a command that runs the program, such as
C<nsenter>). Returns when the node is listening. Dies with the output of the program if it does not
start.

C<program>: a program with the same options in place of C<testnode>. C<log>: the file for its standard
error, default C<dir> with the extension F<.log>.

=cut

sub start ($class, %option) {
    my $profile = $ENV{CARGO_PROFILE} // 'release';
    my $program = $option{program} // "$ROOT/target/$profile/testnode";
    die "'$program' is missing: build it with cargo build --release --workspace\n" if !-e $program;
    my @command = (
        @{ $option{wrap} // [] }, $program,
        '--listen', $option{listen},
        '--dir', $option{dir},
        '--worker', $option{worker} // "$ROOT/testnode/worker.pl",
        $option{old} ? '--old' : (), @{ $option{options} // [] },
    );
    pipe(my $input, my $writer) or die "pipe: $!\n";
    pipe(my $reader, my $output) or die "pipe: $!\n";
    my $errors = $option{log} // "$option{dir}.log";
    my $pid = fork() // die "fork: $!\n";
    if (!$pid) {
        open(STDIN, '<&', $input) or POSIX::_exit(127);
        open(STDOUT, '>&', $output) or POSIX::_exit(127);
        open(STDERR, '>', $errors) or POSIX::_exit(127);
        exec(@command) or POSIX::_exit(127);
    }
    my $self = bless {
        pid => $pid,
        owner => $$,
        writer => $writer,
        dir => $option{dir},
        errors => $errors
    }, $class;
    close($_) for $input, $output;
    my $line = IO::Select->new($reader)->can_read(START_LIMIT) ? readline($reader) : undef;
    my $ready = eval { decode_json($line) };
    if (ref($ready) ne 'HASH') {
        my $message = slurp($errors);
        die 'cannot start the test node: '
            . ($message =~ /\S/ ? $message : "'$program' printed nothing\n");
    }
    @$self{ keys %$ready } = values %$ready;
    return $self;
}

=head2 conn

The C<$conn> for L<PVE::Tunnel::Client/fork_websocket_tunnel>, with token and fingerprint.

=head2 path

C<< $node->path($vmid) >>: the C<$url> for the same function. The kind of the guest is C<qemu>.

=head2 url

C<< $node->url($vmid) >>: the URL of the websocket, for the same function.

=head2 api_url

The URL that the paths of the API follow.

=head2 worker_log

C<< $node->worker_log($vmid) >>: the output of the worker of that guest up to now.

=head2 token

The API token, for tests that search output for secrets.

=cut

sub conn ($self) {
    return {
        protocol => defined($self->{fingerprint}) ? 'https' : 'http',
        host => $self->{address},
        port => $self->{port},
        apitoken => $self->token,
        defined($self->{fingerprint}) ? (cached_fingerprints => { $self->{fingerprint} => 1 }) : (),
    };
}

sub path ($self, $vmid) { return "/nodes/target/qemu/$vmid/mtunnel" }

sub url ($self, $vmid) {
    return $self->api_url =~ s/\Ahttp/ws/r . $self->path($vmid) . 'websocket';
}

sub api_url ($self) {
    my $scheme = defined($self->{fingerprint}) ? 'https' : 'http';
    my $host = $self->{address} =~ /:/ ? "[$self->{address}]" : $self->{address};
    return "$scheme://$host:$self->{port}/api2/json";
}

sub worker_log ($self, $vmid) { return slurp("$self->{dir}/$vmid.log") }

sub token ($self) {
    chomp(my $token = slurp($self->{token_file}));
    return $token;
}

=head2 stop

Stops the node and waits for its end.

Returns the exit code, or 128 plus the number of the signal that ended the node.

=cut

sub stop ($self) {
    return $self->{code} if !$self->{pid} || $self->{owner} != $$;
    close($self->{writer});
    waitpid($self->{pid}, 0);
    delete $self->{pid};
    return $self->{code} = $? & 127 ? 128 + ($? & 127) : $? >> 8;
}

sub DESTROY ($self) {
    local ($@, $?, $!);
    $self->stop;
    return;
}

sub slurp ($file) {
    open(my $in, '<', $file) or return '';
    local $/ = undef;
    return readline($in) // '';
}

1;
