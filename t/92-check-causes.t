#!/usr/bin/perl

# pve-tunnel check, when something fails on this node, or a process ends: it names the cause, and what to do there.

use v5.36;

use FindBin ();
use lib map { "$FindBin::RealBin/$_" } qw(lib ../testnode/lib ../perl/blib/lib ../perl/blib/arch);

use File::Temp qw(tempdir);
use Test::More;

use Test::CheckCommand qw(check defaults problems remote reports start_check $PROGRAM);
use Test::Processes qw(wait_until);
use Test::TunnelNode;

local $SIG{ALRM} = sub { die "the test timed out\n" };
alarm 300;

my $DIR = tempdir(CLEANUP => 1);
my @NETWORK = ('--network', '127.0.0.0/8');

sub node (%options) {
    my $worker = "$FindBin::RealBin/../testnode/worker.pl";
    return Test::TunnelNode->start(worker => $worker, create_guests => 1, %options);
}

# Without waiting. Options as of Test::CheckCommand::start_check.
sub start ($node, $arguments, %options) {
    my @arguments = ('check', '--to', remote($node), '--json', defaults(), @NETWORK, @$arguments);
    return start_check(%options, arguments => \@arguments);
}

sub nothing_left ($node) {
    is_deeply([glob "$node->{dir}/*.conf"], [], 'the target has no guest');
    return;
}

subtest 'TMPDIR is too long' => sub {
    my $node = node();
    my $tmp = "$DIR/" . 'x' x 100;
    mkdir $tmp or die "$tmp: $!\n";
    my $prepare = sub { $ENV{TMPDIR} = $tmp };
    reports(
        start($node, [qw(--seconds 0.1)], prepare => $prepare)->wait,
        2,
        [
            failed =>
                qr/\ATMPDIR is too long: '\Q$tmp\E' has \d+ bytes, .*the limit of 107 by \d+\z/,
            qr/\Aset TMPDIR to a shorter path for this command, such as \/tmp\z/
        ]
    );
    unlike($node->log, qr/^POST/m, 'no tunnel is opened');
    is_deeply([glob "$tmp/*"], [], 'nothing is created in TMPDIR');
    # Without a measurement there is no socket.
    reports(start($node, [qw(--seconds 0)], prepare => $prepare)->wait, 0);
    nothing_left($node);
};

subtest 'TMPDIR has no room' => sub {
    plan skip_all => 'only root can mount a file system' if $> != 0;
    my $node = node();
# For each number of files until there are enough: the folder, the note, and the sockets of both planes.
    my $script = 'mount -t tmpfs -o size=1m,nr_inodes=$1 tmpfs "$TMPDIR" && shift && exec "$@"';
    my @check = ($PROGRAM, 'check', '--to', remote($node), '--json', defaults(), @NETWORK);
    my @failing;
    for my $files (1 .. 6) {
        my @command = ('--mount', 'sh', '-c', $script, 'sh', $files, @check, '--seconds', 0.1);
        my $result = start_check(program => 'unshare', arguments => \@command)->wait;
        last if $result->{code} == 0;
        push @failing, $files;
        my $advice = qr/\Amake room on this node, in the folder of TMPDIR\z/;
        my @full = ([failed => qr/No space left on device/, $advice]) x problems($result);
        reports($result, 2, @full);
        nothing_left($node);
    }
    is_deeply(\@failing, [1 .. 4], 'it fails for each file that has no room');
};

done_testing;
