#!/usr/bin/perl

# The real listener, started by the seam: it ends with its worker, however the worker ends. The seam
# works under taint.

use v5.36;

use FindBin;
use lib "$FindBin::RealBin/lib";

use IO::Select;
use IO::Socket::INET;
use POSIX ();
use Test::More;

use Test::SeamWorker qw(in_perl);

# A test that waits in vain fails.
local $SIG{ALRM} = sub { die "the test timed out\n" };
alarm(300);
local $SIG{PIPE} = 'IGNORE';

my $OPEN = <<'END';
use Test::SeamWorker qw(direct open_request);
$| = 1;
$PVE::Tunnel::Seam::CONFIGURATION = '/nonexistent';
PVE::Tunnel::Seam::install(check => sub { 1 });
our $state = {};
my $opened = direct($state, %{ open_request(network => '127.0.0.0/8') });
print "$opened->{addresses}[0] $opened->{port}\n";
END

# A child that inherits only the worker's socket to the listener, and standard input.
my $CHILD = <<'END';
if (!fork()) {
    my $stdout = readlink('/proc/self/fd/1');
    POSIX::close($_) for grep { (readlink("/proc/self/fd/$_") // '') eq $stdout } 1 .. 99;
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
            'exit while another child of the worker lives',
            $CHILD . 'POSIX::_exit(0);'
        ],
        )
    {
        my ($name, $end) = @$row;
        pipe(my $held, my $hold) or die "pipe: $!\n";
        pipe(my $output, my $stdout) or die "pipe: $!\n";
        my $pid = fork() // die "fork: $!\n";
        if (!$pid) {
            open(STDIN, '<&', $held);
            open(STDOUT, '>&', $stdout);
            open(STDERR, '>&', $stdout);
            close($_) for $hold, $output, $stdout, $held;
            my @command =
                ($^X, (map { "-I$_" } grep { !ref } @INC), '-e', "use v5.36; $OPEN <STDIN>; $end");
            exec { $command[0] } @command or POSIX::_exit(127);
        }
        close($_) for $stdout, $held;
        # The log of the listener may come first.
        my ($address, $port);
        while (defined(my $line = readline $output)) {
            last if ($address, $port) = $line =~ /\A(127\.\S+) (\d+)\n/;
        }
        my $connection = IO::Socket::INET->new(PeerAddr => $address, PeerPort => $port);
        ok($connection, "$name: the listener accepts connections") or next;
        syswrite($hold, "now\n");
        waitpid($pid, 0);
        # The listener holds standard output and error, too: their end shows its end.
        my $ended = IO::Select->new($output)->can_read(60)
            && do { 1 while sysread($output, my $x, 4096); 1 };
        ok($ended, '... it ends with the worker');
        ok(
            IO::Select->new($connection)->can_read(60) && !sysread($connection, my $byte, 1),
            '... and closes its connections'
        );
        close($hold);
    }
};

subtest 'under taint' => sub {
    my $output = in_perl(<<'END', '-T');
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
    # The log of the listener may come first.
    like(
        $output, qr{^0 0 0 0 0\ntls 1 /run/a\n\z}m,
        'every operation succeeds, and no answer is tainted'
    );
};

done_testing;
