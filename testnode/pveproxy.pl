#!/usr/bin/perl

# The API server of the test node, based on PVE::APIServer::AnyEvent, which is also the base of
# pveproxy. Command line, ready line and tickets are those of `testnode`, so that the same tests run
# with both.

use v5.36;

use FindBin ();
use lib "$FindBin::RealBin/lib";

use File::Temp ();
use Getopt::Long qw(GetOptions);
use IO::Socket::IP ();
use JSON ();
use POSIX ();
use Pod::Usage qw(pod2usage);

use TestNode::Node;

=head1 NAME

pveproxy.pl - the target node of a migration, for tests, with the real PVE::APIServer::AnyEvent

=head1 SYNOPSIS

    perl testnode/pveproxy.pl --dir DIR --worker WORKER [--listen ADDR]
        [--port 0] [--node NAME] [--token-file F] [--old] [--no-direct]
        [--no-privilege] [--configuration FILE] [--permissions FILE]
        [--pve-version VERSION] [--create-guests] [--tls 1.2|1.3] [--plain]
        [--storage ID[,PROPERTY]...]... [--bridge NAME]... [--workers 1]

=head1 DESCRIPTION

Options and ready line are those of C<testnode --help>, without C<--misbehave> and C<--clock>: this
program behaves as pveproxy does. As behind pveproxy, another process answers the requests: a
C<testnode> without TLS, whose log is F<DIR/daemon.log>.

C<target/release/testnode --make-certificate> creates the certificate. Its key is in a directory with
mode 0700, which is removed as soon as the key has been read.

C<--workers> is the number of processes that accept connections, as pveproxy has three. The ready
line has their IDs.

Ends on SIGTERM, SIGINT or end of file on stdin, and stops the workers first.

=cut

my %options = (listen => '127.0.0.1', port => 0, workers => 1);
# These are options of `testnode`.
my @flags = qw(old no-direct no-privilege create-guests);
my @values = qw(node token-file configuration permissions pve-version);
my @lists = qw(storage bridge);
my @known = (qw(listen=s port=i workers=i dir=s worker=s tls=s plain help), @flags);
push @known, (map { "$_=s" } @values), (map { "$_=s@" } @lists);
pod2usage(2) if !GetOptions(\%options, @known) || @ARGV;
pod2usage(-exitval => 0, -verbose => 1) if $options{help};
# Not before --help: it loads modules of Proxmox VE.
require TestNode::Proxy;
length($options{$_} // '') || die "--$_ is required\n" for qw(dir worker);
die "--tls must be 1.2 or 1.3\n" if ($options{tls} // '1.2') !~ m/\A1\.[23]\z/;
die "--plain is for loopback addresses only\n"
    if $options{plain} && $options{listen} !~ m/\A(?:127\.[0-9.]+|::1)\z/;

my ($ssl, $fingerprint) = $options{plain} ? () : tls();
my $socket = IO::Socket::IP->new(
    LocalAddr => $options{listen},
    LocalPort => $options{port},
    Listen => 128,
    ReuseAddr => 1,
    GetAddrInfoFlags => Socket::AI_NUMERICHOST(),
) || die "listen on $options{listen} port $options{port}: $@\n";
my $lock_file = "$options{dir}/accept.lock";
my $daemon = TestNode::Node->start(
    listen => '127.0.0.1',
    (map { $_ => $options{$_} } qw(dir worker)),
    log => "$options{dir}/daemon.log",
    options => ['--plain', forwarded()],
);
my @workers = map { start_worker() } 2 .. $options{workers};

STDOUT->autoflush(1);
say JSON->new->utf8->canonical->encode(
    {
        address => $socket->sockhost,
        port => $socket->sockport,
        fingerprint => $fingerprint,
        token_file => $daemon->{token_file},
        workers => [$$, @workers],
    }
);
serve();
kill TERM => @workers;
waitpid $_, 0 for @workers;
$daemon->stop;
unlink $lock_file;

sub serve () {
    # Remains open until the program ends. The processes exclude each other by separate handles.
    open my $lock, '>', $lock_file ## no critic (RequireBriefOpen)
        or die "$lock_file: $!\n";
    my $proxy = TestNode::Proxy->new(
        socket => $socket,
        lockfile => $lock_file,
        lockfh => $lock,
        daemon => $daemon,
        ssl => $ssl,
    );
    $proxy->serve;
    return;
}

# A process beside this one. Returns its ID.
sub start_worker () { ## no critic (RequireFinalReturn)
    my $pid = fork // die "fork: $!\n";
    return $pid if $pid;
    my $served = eval { serve(); 1 };
    print STDERR $@ if !$served;
    POSIX::_exit($served ? 0 : 1);
}

# The arguments of the daemon.
sub forwarded () {
    my @arguments = map { "--$_" } grep { $options{$_} } @flags;
    push @arguments, map { ("--$_" => $options{$_}) } grep { defined $options{$_} } @values;
    for my $name (@lists) {
        push @arguments, map { ("--$name" => $_) } ($options{$name} // [])->@*;
    }
    return @arguments;
}

# Returns the arguments of AnyEvent::TLS and the fingerprint.
sub tls () {
    my $directory = File::Temp->newdir('pveproxy-XXXXXX', TMPDIR => 1);
    my $profile = $ENV{CARGO_PROFILE} // 'release';
    my @command = (
        "$FindBin::RealBin/../target/$profile/testnode",
        '--make-certificate', "$directory", '--listen', $options{listen},
    );
    open my $made, '-|', @command or die "$command[0]: $!\n";
    my $line = readline $made;
    close $made or die "$command[0] created no certificate\n";
    my $identity = JSON::decode_json($line);
    my %tls = map { $_->[0] => slurp($_->[1]) } ['cert', $identity->{certificate}],
        ['key', $identity->{key}];
    $tls{tlsv1_3} = 0 if ($options{tls} // '') eq '1.2';
    $tls{$_} = 0 for ($options{tls} // '') eq '1.3' ? qw(tlsv1 tlsv1_1 tlsv1_2) : ();
    return (\%tls, $identity->{fingerprint});
}

sub slurp ($path) {
    open my $handle, '<', $path or die "$path: $!\n";
    local $/ = undef;
    my $text = readline $handle;
    close $handle or die "$path: $!\n";
    return $text;
}
