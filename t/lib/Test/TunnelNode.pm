package Test::TunnelNode;

use v5.36;

use Carp qw(croak);
use Cwd ();
use File::Basename ();
use File::Temp ();
use JSON ();
use POSIX ();

use lib File::Basename::dirname(__FILE__) . '/../../../testnode/lib';

use Test::TunnelLog qw(wait_line);
use TestNode::Node;

=head1 NAME

Test::TunnelNode - a target node for one test, with its own temporary directory

=head1 SYNOPSIS

    my $node = Test::TunnelNode->start(misbehave => ['no-close-frame', 'bare-fin'], old => 1);
    say "$node->{address}:$node->{port} $node->{fingerprint} $node->{token}";

    my $proxy = Test::TunnelNode->start(front => 'pveproxy')
        or note "skipped: $Test::TunnelNode::reason";

=head1 METHODS

=head2 start(%options)

Class method. Starts a node and waits until it listens. Dies if the node does not start. Options:

=over

=item front

C<testnode> (default), or C<pveproxy>: the real PVE::APIServer::AnyEvent. If that module does not
load, C<start> returns undef, and C<$Test::TunnelNode::reason> has the cause.

=item worker

Path of the worker, default F<t/lib/fake-worker.pl>.

=item misbehave

List of faults as in C<testnode --help> (not with C<pveproxy>).

=item old, no_direct, no_privilege

No capabilities; no pve-tunnel on the node; a user without Sys.Modify.

=item system_buffers

The kernel determines the sizes of buffers. Without it they are small (C<testnode> only).

=item configuration

Path of the file with the networks of the node.

=item workers

The number of processes that accept connections (C<pveproxy> only).

=item tls, plain

TLS C<1.2> or C<1.3> only, or C<1.2-aes>, TLS 1.2 with AES-GCM only (not with C<pveproxy>); no TLS.

=item pve_version, clock

The version that the node reports; the seconds that its clock is ahead (C<testnode> only).

=item permissions

The privileges of the token: a hash of the shape of C<GET /access/permissions>.

=item cluster_options

The data of C<GET /cluster/options>, a hash (C<testnode> only).

=item storage, bridge

Lists of storages (C<ID[,avail=BYTES][,content=TYPE][,inactive]>) and bridges.

=item create_guests

POST mtunnel creates the configuration of the guest, and refuses a guest that has one.

=item node, listen

Name of the node, default C<target>; its address, default 127.0.0.1.

=back

The object has C<address>, C<port>, C<fingerprint>, C<token> (the whole C<PVEAPIToken=...>), C<dir>
and C<pid>. The end of the object stops the node and removes its directory.

=head2 url($kind, $vmid, $action)

The URL of C<.../nodes/NODE/KIND/VMID/ACTION>.

=head2 log

The log of the node so far.

=head2 wait_log($pattern, $seconds = 10)

Waits until a line of the log matches. Returns the line, or undef after that time.

=head2 worker_log($vmid)

The log of the worker for that guest so far.

=head2 release

Ends the stall of connections (SIGUSR1).

=head2 stop

Stops the node now and returns its exit code, or 128 plus the number of the signal that ended it.
Its directory stays until the end of the object.

=head2 end_input

Stops the node by the end of its standard input. Returns the same as C<stop>.

=head2 missing(@modules)

Function. The reason why these modules do not load, or undef if they load.

=head2 slurp($path)

Function. The content of a file, or the empty string if it cannot be opened.

=cut

our $reason;

my $root = Cwd::realpath(File::Basename::dirname(__FILE__) . '/../../..');

# These options are arguments of the node with the same name: flags, and arguments with a value.
my @FLAGS = qw(old no_direct no_privilege plain system_buffers create_guests);
my @VALUES = qw(configuration tls pve_version clock permissions cluster_options workers);
my @LISTS = qw(storage bridge);

sub start ($class, %options) {
    my %known = map { $_ => 1 } qw(front worker misbehave node listen), @FLAGS, @VALUES, @LISTS;
    my @unknown = grep { !$known{$_} } sort keys %options;
    croak "unknown options: @unknown" if @unknown;

    my @program;
    if (($options{front} // 'testnode') eq 'pveproxy') {
        $reason = missing('PVE::APIServer::AnyEvent', 'AnyEvent::TLS');
        return if defined $reason;
        @program = (wrap => [$^X], program => "$root/testnode/pveproxy.pl");
    }
    my $temporary = File::Temp->newdir('tunnel-node-XXXXXX', TMPDIR => 1);
    my $self = bless {
        temporary => $temporary,
        dir => Cwd::realpath("$temporary") . '/node',
        owner => $$,
        name => $options{node} // 'target',
        scheme => $options{plain} ? 'http' : 'https',
    }, $class;
    mkdir($self->{dir}, oct 700) or die "mkdir $self->{dir}: $!\n";
    for my $name (grep { $options{$_} } qw(permissions cluster_options)) {
        my $data = $options{$name};
        $options{$name} = "$temporary/$name.json";
        open my $file, '>', $options{$name} or die "$options{$name}: $!\n";
        print {$file} JSON::encode_json($data);
        close $file or die "$options{$name}: $!\n";
    }
    my $option = sub ($name) { '--' . $name =~ tr/_/-/r };
    my @arguments = (
        '--node' => $self->{name},
        (map { $option->($_) } grep { $options{$_} } @FLAGS),
        (map { ($option->($_) => $options{$_}) } grep { $options{$_} } @VALUES),
    );
    for my $name (@LISTS) {
        push @arguments, map { ($option->($name) => $_) } ($options{$name} // [])->@*;
    }
    push @arguments, '--misbehave' => join ',', $options{misbehave}->@* if $options{misbehave};
    $self->{node} = TestNode::Node->start(
        dir => $self->{dir},
        listen => $options{listen} // '127.0.0.1',
        worker => $options{worker} // "$root/t/lib/fake-worker.pl",
        options => \@arguments,
        @program,
    );
    $self->@{qw(address port fingerprint pid)} =
        $self->{node}->@{qw(address port fingerprint pid)};
    $self->{token} = $self->{node}->token;
    return $self;
}

sub url ($self, $kind, $vmid, $action) {
    my $host = $self->{address} =~ m/:/ ? "[$self->{address}]" : $self->{address};
    my $path = "/api2/json/nodes/$self->{name}/$kind/$vmid/$action";
    return "$self->{scheme}://$host:$self->{port}$path";
}

sub log ($self) { ## no critic (ProhibitBuiltinHomonyms)
    return slurp("$self->{dir}.log");
}

sub wait_log ($self, $pattern, $seconds = 10) {
    return wait_line(sub () { $self->log }, $pattern, $seconds);
}

sub worker_log ($self, $vmid) {
    return $self->{node}->worker_log($vmid);
}

sub release ($self) {
    kill 'USR1', $self->{pid};
    return defined $self->wait_log(qr/^released$/);
}

sub stop ($self) {
    my $pid = $self->{node}{pid};
    kill 'TERM', $pid if $pid;
    return $self->end_input;
}

sub end_input ($self) {
    return $self->{node}->stop;
}

sub DESTROY ($self) {
    # A forked child has a copy of this object, and must not end the node of its parent.
    return if $self->{owner} != $$ || !$self->{node};
    local ($@, $!, $?);
    $self->stop;
    return;
}

# Another process tries to load the modules.
sub missing (@modules) {
    my @load = map { "eval { require $_; 1 } or die qq($_ does not load: \$@)" } @modules;
    my @command = ($^X, '-e', join ';', @load);
    my $pid = open my $output, '-|' // die "fork: $!\n";
    if (!$pid) {
        open STDERR, '>&', \*STDOUT or POSIX::_exit(127);
        exec { $command[0] } @command or POSIX::_exit(127);
    }
    my ($first) = readline $output;
    return if close $output;
    chomp($first //= "perl ended without a message while it loaded @modules");
    # Without the list of directories.
    return $first =~ s/ \(you may need to install .*//r;
}

sub slurp ($path) {
    return TestNode::Node::slurp($path);
}

1;
