#!/usr/bin/perl

# The worker allocates disks and imports volumes on a real file system, and reports every failure.

use v5.36;

use Digest::SHA qw(hmac_sha256_hex sha256_hex);
use File::Temp qw(tempdir);
use IO::Socket::UNIX;
use JSON;
use POSIX ();
use Time::HiRes qw(sleep);
use FindBin;
use lib "$FindBin::RealBin/lib";

use Test::More;

use Test::TunnelWorker qw(worker refused start_parameters disk_parameters $KEY);

# Limits the run time of the test.
local $SIG{ALRM} = sub { die "the test timed out\n" };
alarm(600);

{
    my $worker = worker();
    my $disk = $worker->command('disk', disk_parameters(1 << 20));
    is($disk->{volid}, 'local:100/vm-100-disk-0.raw', 'disk returns a volume');
    my $file = "$worker->{dir}/vm-100-disk-0.raw";
    is(-s $file, 1 << 20, '... whose file has the right size');
    cmp_ok((stat $file)[12] * 512, '>=', 1 << 20, '... and whose space is allocated');
    refused($worker->command('disk', disk_parameters(1 << 20)), qr/already/, 'the same disk again');
    refused(
        $worker->command('disk', disk_parameters(0, 1)),
        qr/size: must be at least/,
        'an empty disk'
    );
    refused(
        $worker->command('disk', disk_parameters(512, 1), format => 'qcow2'),
        qr/not supported/,
        'a format that is not raw'
    );
    refused(
        $worker->command('start', start_parameters('unix', 'websocket')),
        qr/no configuration yet/,
        'start without a configuration',
    );
    ok($worker->command('config', conf => "memory: 64\n")->{success}, 'config');
    refused(
        $worker->command('start', start_parameters('tcp', 'websocket')),
        qr/do not go together/,
        'start with contradictory parameters'
    );
    refused(
        $worker->command('start', start_parameters('unix', 'websocket', nbd => { scsi5 => {} })),
        qr/'scsi5' was not allocated/,
        'start with an unknown disk',
    );
    $worker->command('quit', cleanup => 1);
    is($worker->end(0), 0, 'quit with cleanup');
    ok(!-e $file && !-e "$worker->{dir}/100.conf", '... removes disk and configuration');
}

SKIP: {
    skip 'creating a small file system needs root', 3
        if $> || system('unshare --mount true 2>/dev/null');
    my $dir = tempdir(CLEANUP => 1);
    # A file system of 4 MiB in the worker's own mount namespace. The socket is outside of it.
    my $full = tempdir(CLEANUP => 1);
    my $worker = worker(
        dir => $dir,
        request => { dir => $full },
        wrap => [
            'unshare', '--mount', 'sh', '-c',
            "mount -t tmpfs -o size=4m none $full && exec \"\$@\"", 'sh'
        ],
    );
    refused(
        $worker->command('disk', disk_parameters(64 << 20)),
        qr/No space left on device/,
        'a full disk'
    );
    ok(
        $worker->command('disk', disk_parameters(1 << 20))->{success},
        '... leaves no file: a smaller disk fits'
    );
    $worker->command('quit');
    is($worker->end(0), 0, '... and the worker continues until quit');
}

sub import_parameters (@more) {
    return (
        volname => '100/vm-100-disk-7.raw',
        format => 'raw',
        storage => 'local',
        export_formats => 'zfs,raw+size', @more,
    );
}

sub feed ($worker, $bytes) {
    my $import = $worker->command('disk-import', import_parameters());
    my $stream = IO::Socket::UNIX->new(Peer => $import->{socket}) or die "connect: $!";
    print {$stream} $bytes;
    $stream->flush;
    # The storage layer does the same: a half-close ends the stream, and the socket stays open.
    shutdown($stream, 1);
    my $status;
    do { $status = $worker->command('query-disk-import') }
        while ($status->{status} // '') eq 'pending';
    return $status;
}

{
    my $worker = worker();
    my $data = join '', map { chr(rand 256) } 1 .. 70_001;
    my $file = "$worker->{dir}/vm-100-disk-7.raw";
    my $status = feed($worker, pack('Q<', length $data) . $data);
    is($status->{status}, 'complete', 'an import completes') or diag(explain($status));
    is($status->{volid}, 'local:100/vm-100-disk-7.raw', '... and names its volume');
    is(
        sha256_hex(
            do { local (@ARGV, $/) = $file; <> }
        ),
        sha256_hex($data),
        '... which has the right content'
    );
    refused(
        $worker->command('disk-import', import_parameters()),
        qr/exists already/,
        'the same volume again'
    );
    my $renamed = $worker->command('disk-import', import_parameters(allow_rename => JSON::true));
    ok($renamed->{success}, '... is accepted if it may be renamed');
    is($renamed->{format}, 'raw+size', '... in the only supported format');
    refused(
        $worker->command('disk-import', import_parameters()),
        qr/running already/,
        'a second import at the same time'
    );
    is(
        $worker->command('query-disk-import')->{status},
        'pending', 'an import without input is pending'
    );
    my $ticket = $worker->command('ticket', path => $renamed->{socket})->{ticket} // '';
    like($ticket, qr/\APVETUNNEL:[0-9A-F]{8}::[0-9a-f]{64}\z/, 'a ticket for its socket');
    my ($time, $mac) = $ticket =~ /:([0-9A-F]+)::(.*)/;
    is(
        $mac,
        hmac_sha256_hex("root\@pam\n$renamed->{socket}\n$time", pack('H*', $KEY)),
        '... is for the user, the path and the time'
    );
    $worker->command('quit', cleanup => 1);
    $worker->end;
    ok(!-e $renamed->{socket}, 'the socket is removed at the end of the worker');
    unlike($worker->{log}, qr/\Q$mac\E/, 'the log contains no ticket');
}

# The caller of a failed migration queries once between the loss of its data and the clean-up.
{
    my $worker = worker();
    my $import = $worker->command('disk-import', import_parameters());
    my $stream = IO::Socket::UNIX->new(Peer => $import->{socket}) or die "connect: $!";
    syswrite($stream, pack('Q<', 5) . 'bytes') // die "write: $!";
    my $pid = fork // die "fork: $!";
    if (!$pid) {
        sleep(0.5);
        shutdown($stream, 1);
        POSIX::_exit(0);
    }
    is(
        $worker->command('query-disk-import')->{status},
        'complete', 'a query waits for the end of an import'
    );
    waitpid($pid, 0);
    $worker->command('quit', cleanup => 1);
    $worker->end;
    ok(!-e "$worker->{dir}/vm-100-disk-7.raw", '... so that a clean-up frees its volume');
}

for my $case (
    ['short', pack('Q<', 10) . 'x' x 9, qr/after 9 of 10 bytes/],
    ['long', pack('Q<', 10) . 'x' x 11, qr/longer than the 10 bytes/],
    ['empty', '', qr/before its size/],
    )
{
    my ($name, $bytes, $pattern) = @$case;
    my $worker = worker();
    my $status = feed($worker, $bytes);
    is($status->{status}, 'error', "a stream that is $name is an error");
    like($status->{msg}, $pattern, '... with a reason');
    ok(!-e "$worker->{dir}/vm-100-disk-7.raw", '... and leaves no file');
    ok($worker->command('version')->{success}, '... and the worker continues');
    $worker->command('quit');
    $worker->end;
}

done_testing;
