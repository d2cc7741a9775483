package Test::TunnelWorker;

# A worker of the test node without a node: the test sends the request to the worker and is its
# client.

use v5.36;

use Exporter qw(import);
use File::Basename qw(dirname);
use File::Temp qw(tempdir);
use IO::Select;
use IO::Socket::UNIX;
use JSON;
use Test::More;

our @EXPORT_OK = qw(worker refused start_parameters disk_parameters $KEY);

our $KEY = 'ab' x 32;

my $WORKER = dirname(__FILE__) . '/../../../testnode/worker.pl';
# Seconds for one reply.
my $LIMIT = 60;

# Starts a worker. Options: dir; request (members that differ from the defaults); wrap (a command
# that runs the worker); no_client (without the connection of a client).
sub worker (%option) {
    my $dir = $option{dir} // tempdir(CLEANUP => 1);
    my %request = (
        socket => "$dir/100.mtunnel",
        vmid => 100,
        kind => 'qemu',
        node => 'target',
        dir => $dir,
        user => 'root@pam!demo',
        ticket_key => $KEY,
        old => JSON::false,
        params => {},
        %{ $option{request} // {} },
    );
    pipe(my $stdin, my $to) or die "pipe: $!";
    pipe(my $from, my $stdout) or die "pipe: $!";
    my $pid = fork() // die "fork: $!";
    if (!$pid) {
        open(STDIN, '<&', $stdin) or die "stdin: $!";
        open(STDOUT, '>&', $stdout) or die "stdout: $!";
        open(STDERR, '>&', $stdout) or die "stderr: $!";
        exec(@{ $option{wrap} // [] }, $^X, $WORKER) or die "exec: $!";
    }
    close($_) for $stdin, $stdout;
    syswrite($to, encode_json(\%request) . "\n");
    my $self = bless { dir => $dir, pid => $pid, to => $to, from => $from, log => '' }, __PACKAGE__;
    return $self if $option{no_client};
    $self->wait_log(qr/^\{"ready":1\}$/m);
    $self->{client} = IO::Socket::UNIX->new(Peer => "$dir/100.mtunnel") or die "connect: $!";
    return $self;
}

sub wait_log ($self, $pattern) {
    while ($self->{log} !~ $pattern) {
        die "no $pattern in the log:\n$self->{log}"
            if !IO::Select->new($self->{from})->can_read($LIMIT);
        sysread($self->{from}, $self->{log}, 65536, length $self->{log})
            or die "the worker ended:\n$self->{log}";
    }
    return;
}

sub line ($self, $line) {
    local $SIG{PIPE} = 'IGNORE';
    $self->{client}->print($line);
    $self->{client}->flush;
    return $self->reply;
}

# Reads the log in the meantime: a worker that cannot write its log would block.
sub reply ($self) {
    my $select = IO::Select->new($self->{client}, $self->{from});
    while (my @ready = $select->can_read($LIMIT)) {
        if (grep { $_ == $self->{client} } @ready) {
            my $reply = readline($self->{client}) // return;
            return decode_json($reply);
        }
        sysread($self->{from}, $self->{log}, 65536, length $self->{log})
            or $select->remove($self->{from});
    }
    die "no reply; log:\n$self->{log}";
}

sub command ($self, $name, %parameters) {
    return $self->line(encode_json({ cmd => $name, %parameters }) . "\n");
}

# Closes the connection and, if $node_ends, the worker's standard input. Returns the exit code.
sub end ($self, $node_ends = 1) {
    close($self->{client}) if $self->{client};
    close($self->{to}) if $node_ends;
    while (IO::Select->new($self->{from})->can_read($LIMIT)) {
        last if !sysread($self->{from}, $self->{log}, 65536, length $self->{log});
    }
    waitpid($self->{pid}, 0);
    return $? >> 8;
}

sub refused ($reply, $pattern, $what) {
    my $ok =
        ref($reply) && !$reply->{success} && $reply->{msg} =~ $pattern && $reply->{msg} !~ /\n/;
    ok($ok, $what) or diag(explain($reply));
    return;
}

sub start_parameters ($statefile, $type, @more) {
    return (start_params => { statefile => $statefile }, migrate_opts => { type => $type, @more });
}

sub disk_parameters ($size, $index = 0) {
    return (
        format => 'raw',
        storage => 'local',
        drive => { interface => 'scsi', index => $index, size => $size }
    );
}

1;
