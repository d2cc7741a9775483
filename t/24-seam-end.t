#!/usr/bin/perl

# The real listener, started by the seam: it ends with its worker, whatever happens to that, and all
# of it works under taint.

use v5.36;

use FindBin;
use lib "$FindBin::RealBin/lib";

use IO::Select;
use IO::Socket::INET;
use POSIX ();
use Test::More;

use Test::SeamWorker qw(in_perl);

# A test that stands still is a failed test.
local $SIG{ALRM} = sub { die "the test stands still\n" };
alarm(300);
local $SIG{PIPE} = 'IGNORE';

my $REAL = <<'END';
use Test::SeamWorker qw(direct open_request);
$| = 1;
$PVE::Tunnel::Seam::CONFIGURATION = '/nonexistent';
PVE::Tunnel::Seam::install(check => sub { 1 });
our $state = {};
my $opened = direct($state, %{ open_request(network => '127.0.0.0/8') });
print "$opened->{addresses}[0] $opened->{port}\n";
END

# It has the worker's socket to the listener, and only that.
my $CHILD = <<'END';
if (!fork()) {
    my $said = readlink('/proc/self/fd/1');
    POSIX::close($_) for grep { (readlink("/proc/self/fd/$_") // '') eq $said } 1 .. 99;
    readline(STDIN);
    POSIX::_exit(0);
}
END

subtest 'the end of the worker' => sub {
    for my $row (
        ['exit', 'exit(0);'],
        ['die', 'die "broken\n";'],
        ['POSIX::_exit', 'POSIX::_exit(0);'],
        ['SIGKILL', 'kill(KILL => $$); sleep;'],
        ['SIGTERM', 'kill(TERM => $$); sleep;'],
        [
            'its end while another child of its lives',
            $CHILD . 'POSIX::_exit(0);'
        ],
        )
    {
        my ($name, $end) = @$row;
        pipe(my $held, my $hold) or die "pipe: $!\n";
        pipe(my $output, my $theirs) or die "pipe: $!\n";
        my $pid = fork() // die "fork: $!\n";
        if (!$pid) {
            open(STDIN, '<&', $held);
            open(STDOUT, '>&', $theirs);
            open(STDERR, '>&', $theirs);
            close($_) for $hold, $output, $theirs, $held;
            my @command =
                ($^X, (map { "-I$_" } grep { !ref } @INC), '-e', "use v5.36; $REAL <STDIN>; $end");
            exec { $command[0] } @command or POSIX::_exit(127);
        }
        close($_) for $theirs, $held;
        # The listener's own line may come before.
        my ($address, $port);
        while (defined(my $line = readline $output)) {
            last if ($address, $port) = $line =~ /\A(127\.\S+) (\d+)\n/;
        }
        my $stranger = IO::Socket::INET->new(PeerAddr => $address, PeerPort => $port);
        ok($stranger, "$name: the listener listens") or next;
        syswrite($hold, "now\n");
        waitpid($pid, 0);
        # Standard output and error are the listener's too: their end is its end.
        my $ended = IO::Select->new($output)->can_read(60)
            && do { 1 while sysread($output, my $x, 4096); 1 };
        ok($ended, '... and ends with the worker');
        ok(
            IO::Select->new($stranger)->can_read(60) && !sysread($stranger, my $byte, 1),
            '... with its connections'
        );
        close($hold);
    }
};

subtest 'under taint' => sub {
    my $said = in_perl(<<'END', '-T');
use Test::SeamWorker qw(direct);
use IO::Socket::UNIX;
use Scalar::Util qw(tainted);
my $t = substr($ENV{PATH}, 0, 0);
die "no taint\n" if !tainted($t);
$PVE::Tunnel::Seam::CONFIGURATION = '/nonexistent';
PVE::Tunnel::Seam::install(check => sub { 1 }, node => "pve7$t");
my $state = { sockets => { '/run/a' => 1 } };
my @answers = (
    direct($state, op => "hello$t", protocol => "1$t", version => "1$t"),
    direct($state, op => "open$t", protocol => "1$t", plane => "tls$t", network => "127.0.0.0/8$t",
        fingerprint => ('AB' x 32) . $t, dead_peer_timeout => "5$t"),
    direct($state, op => "forward$t", path => "/run/a$t"),
    direct($state, op => 'stat'),
    direct($state, op => 'close'),
);
sub leaves ($value) {
    return map { leaves($_) } @$value if ref($value) eq 'ARRAY';
    return map { leaves($_) } values %$value if ref($value) eq 'HASH';
    return $value;
}
say join ' ', map { scalar grep { tainted $_ } leaves($_) } @answers;
say "$answers[1]{plane} $answers[2]{number} $answers[3]{forwards}[0]{path}";
END
    # The listener's own line may come before.
    like($said, qr{^0 0 0 0 0\ntls 1 /run/a\n\z}m, 'all is done, and what comes back is clean');
};

done_testing;
