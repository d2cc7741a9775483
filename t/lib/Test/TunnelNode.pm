package Test::TunnelNode;

use v5.36;

use Carp qw(croak);
use Cwd ();
use File::Basename ();
use File::Temp ();
use IO::Handle ();
use JSON ();
use POSIX ();
use Time::HiRes ();

=head1 NAME

Test::TunnelNode - a target node for one test, with a temporary directory of its own

=head1 SYNOPSIS

    my $node = Test::TunnelNode->start(misbehave => ['no-close-frame', 'bare-fin'], old => 1);
    say "$node->{address}:$node->{port} $node->{fingerprint} $node->{token}";

    my $proxy = Test::TunnelNode->start(front => 'pveproxy')
        or note "skipped: $Test::TunnelNode::reason";

=head1 METHODS

=head2 start(%options)

Class method. Starts a node and waits until it listens. Options:

C<front>: C<testnode> (default) or C<pveproxy>, the real PVE::APIServer::AnyEvent; where that does
not load, undef is returned and C<$Test::TunnelNode::reason> says why. C<worker>: path of the
worker, default t/lib/fake-worker.pl. C<misbehave>: list of words as in C<testnode --help> (not with
C<pveproxy>). C<old>: no capabilities. C<no_direct>: without pve-tunnel. C<no_privilege>: its user
lacks Sys.Modify. C<configuration>: the file with its networks. C<tls>: C<1.2> or C<1.3>. C<plain>: no TLS. C<node>: name of
the node, default C<target>. C<listen>: address, default 127.0.0.1.

The object has C<address>, C<port>, C<fingerprint>, C<token> (the whole C<PVEAPIToken=...>), C<dir>
and C<pid>. Dies if the node does not start. The node ends, and its directory goes, when the object
does.

=head2 url($kind, $vmid, $action)

URL of C<.../nodes/NODE/KIND/VMID/ACTION>.

=head2 log

What the node has logged so far.

=head2 wait_log($pattern, $seconds = 10)

Waits until a line of the log matches and returns it; undef after that time.

=head2 worker_log($vmid)

What the worker for that guest has logged so far.

=head2 release

Lets stalled connections go on (SIGUSR1).

=head2 stop

Ends the node now and returns its exit code (128 plus the signal, if one ended it). Its directory
stays until the object goes.

=head2 end_input

Ends the node by the end of its stdin, and returns its exit code.

=head2 missing(@modules)

A function: why these modules do not load here, undef if they do.

=cut

our $reason;

my $root = Cwd::realpath(File::Basename::dirname(__FILE__) . '/../../..');

sub start ($class, %options) {
    my %known = map { $_ => 1 } qw(
        front worker misbehave old no_direct no_privilege configuration tls plain node listen
    );
    my @unknown = grep { !$known{$_} } sort keys %options;
    croak "unknown options: @unknown" if @unknown;

    my $front = $options{front} // 'testnode';
    if ($front eq 'pveproxy') {
        $reason = missing('PVE::APIServer::AnyEvent', 'AnyEvent::TLS');
        return if defined $reason;
    }
    my $temporary = File::Temp->newdir('tunnel-node-XXXXXX', TMPDIR => 1);
    my $self = bless {
        temporary => $temporary,
        dir => Cwd::realpath("$temporary") . '/node',
        log_path => "$temporary/log",
        owner => $$,
        name => $options{node} // 'target',
        scheme => $options{plain} ? 'http' : 'https',
    }, $class;
    mkdir($self->{dir}, oct 700) or die "mkdir $self->{dir}: $!\n";
    my @command =
        $front eq 'pveproxy'
        ? ($^X, "$root/testnode/pveproxy.pl")
        : ("$root/target/release/testnode");
    push @command, '--listen', $options{listen} // '127.0.0.1', '--dir', $self->{dir},
        '--worker', $options{worker} // "$root/t/lib/fake-worker.pl",
        '--node', $self->{name};
    push @command, '--old' if $options{old};
    push @command, '--no-direct' if $options{no_direct};
    push @command, '--no-privilege' if $options{no_privilege};
    push @command, '--configuration', $options{configuration} if $options{configuration};
    push @command, '--plain' if $options{plain};
    push @command, '--tls', $options{tls} if $options{tls};
    push @command, '--misbehave', join ',', $options{misbehave}->@* if $options{misbehave};
    $self->launch(@command);
    return $self;
}

sub launch ($self, @command) {
    pipe my $input, $self->{stdin} or die "pipe: $!\n";
    pipe my $ready, my $output or die "pipe: $!\n";
    my $pid = fork // die "fork: $!\n";
    if (!$pid) {
        close $self->{stdin};
        open STDIN, '<&', $input or POSIX::_exit(127);
        open STDOUT, '>&', $output or POSIX::_exit(127);
        open STDERR, '>', $self->{log_path} or POSIX::_exit(127);
        exec { $command[0] } @command or do {
            print STDERR "exec $command[0]: $!\n";
            POSIX::_exit(127);
        };
    }
    $self->{pid} = $pid;
    close $input;
    close $output;
    my $line = readline $ready;
    if (!defined $line) {
        $self->stop;
        die "$command[0] did not start (built?):\n" . $self->log;
    }
    my $told = JSON::decode_json($line);
    $self->@{qw(address port fingerprint)} = $told->@{qw(address port fingerprint)};
    $self->{token} = slurp($told->{token_file});
    return;
}

sub url ($self, $kind, $vmid, $action) {
    my $host = $self->{address} =~ m/:/ ? "[$self->{address}]" : $self->{address};
    my $path = "/api2/json/nodes/$self->{name}/$kind/$vmid/$action";
    return "$self->{scheme}://$host:$self->{port}$path";
}

sub log ($self) { ## no critic (ProhibitBuiltinHomonyms)
    return slurp($self->{log_path});
}

sub wait_log ($self, $pattern, $seconds = 10) { ## no critic (RequireFinalReturn)
    my $limit = Time::HiRes::time() + $seconds;
    while (1) {
        my ($line) = grep { m/$pattern/ } split m/\n/, $self->log;
        return $line if defined $line;
        return if Time::HiRes::time() > $limit;
        # A file cannot be waited for with select; the log is looked at until the line is there.
        Time::HiRes::sleep(0.02);
    }
}

sub worker_log ($self, $vmid) {
    return slurp("$self->{dir}/$vmid.log");
}

sub release ($self) {
    kill 'USR1', $self->{pid};
    return defined $self->wait_log(qr/^released$/);
}

sub stop ($self) {
    return $self->{ended} if defined $self->{ended};
    kill 'TERM', $self->{pid};
    return $self->end_input;
}

sub end_input ($self) {
    close $self->{stdin};
    waitpid $self->{pid}, 0;
    return $self->{ended} = $? & 127 ? 128 + ($? & 127) : $? >> 8;
}

sub DESTROY ($self) {
    # A forked child has a copy of this object, and must not end the node of its parent.
    return if $self->{owner} != $$ || !$self->{pid};
    local ($@, $!, $?);
    $self->stop;
    return;
}

# Why modules cannot be loaded here; undef if they can. Another process tries.
sub missing (@modules) {
    my @command = ($^X, '-e', join ';', map { "require $_" } @modules);
    my $pid = open my $output, '-|' // die "fork: $!\n";
    if (!$pid) {
        open STDERR, '>&', \*STDOUT or POSIX::_exit(127);
        exec { $command[0] } @command or POSIX::_exit(127);
    }
    my ($first) = readline $output;
    return if close $output;
    chomp($first //= 'perl ended without a word');
    return "$modules[0] does not load: $first";
}

sub slurp ($path) {
    open my $handle, '<:raw', $path or return '';
    local $/ = undef;
    my $text = readline $handle;
    close $handle or die "$path: $!\n";
    return $text;
}

1;
