#!/usr/bin/perl

# The worker over its UNIX socket, without a node in front: every command, and every refusal.
use v5.36;

use Digest::SHA qw(hmac_sha256_hex sha256_hex);
use File::Temp qw(tempdir);
use FindBin;
use IO::Select;
use IO::Socket::UNIX;
use JSON;
use Test::More;

use lib "$FindBin::Bin/../testnode/lib";
use TestNode::QMP;

# A test that stands still is a failed test.
local $SIG{ALRM} = sub { die "the test stands still\n" };
alarm(600);

my $WORKER = "$FindBin::Bin/../testnode/worker.pl";
my $KEY = 'ab' x 32;
my $LIMIT = 60;
my $HAVE_QEMU = grep { -x "$_/qemu-system-x86_64" } split(/:/, $ENV{PATH});

# --- a worker under test ------------------------------------------------------------------------------------------

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
    pipe(my $stdin, my $to) or die;
    pipe(my $from, my $stdout) or die;
    my $pid = fork() // die "fork: $!";
    if (!$pid) {
        open(STDIN, '<&', $stdin) or die;
        open(STDOUT, '>&', $stdout) or die;
        open(STDERR, '>&', $stdout) or die;
        exec(@{ $option{wrap} // [] }, $^X, $WORKER) or die "exec: $!";
    }
    close($_) for $stdin, $stdout;
    syswrite($to, encode_json(\%request) . "\n");
    my $self = bless { dir => $dir, pid => $pid, to => $to, from => $from, log => '' }, 'Worker';
    return $self if $option{no_client};
    $self->wait_log(qr/^\{"ready":1\}$/m);
    $self->{client} = IO::Socket::UNIX->new(Peer => "$dir/100.mtunnel") or die "connect: $!";
    return $self;
}

sub Worker::wait_log ($self, $pattern) {
    while ($self->{log} !~ $pattern) {
        die "no $pattern in the log:\n$self->{log}"
            if !IO::Select->new($self->{from})->can_read($LIMIT);
        sysread($self->{from}, $self->{log}, 65536, length $self->{log})
            or die "the worker ended:\n$self->{log}";
    }
    return;
}

sub Worker::line ($self, $line) {
    local $SIG{PIPE} = 'IGNORE';
    $self->{client}->print($line);
    $self->{client}->flush;
    return $self->reply;
}

# The log is read meanwhile: a worker that cannot write it would stand still.
sub Worker::reply ($self) {
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

sub Worker::command ($self, $name, %parameters) {
    return $self->line(encode_json({ cmd => $name, %parameters }) . "\n");
}

# Closes the connection, and with it (or by the node's end) the process; returns its exit code.
sub Worker::end ($self, $node_ends = 1) {
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

# --- refusals, and going on after them ------------------------------------------------------------------------------

{
    my $worker = worker();
    is(
        (stat "$worker->{dir}/100.mtunnel")[2] // 'gone',
        'gone', 'the socket is for one client only'
    ) if $worker->command('version')->{success};
    is_deeply(
        $worker->command('version'),
        { success => JSON::true, api => 2, age => 0, caps => ['insecure-remote'] },
        'version of a new node',
    );
    refused(
        $worker->line("{ memory: secret-word\n"),
        qr/not a JSON object/,
        'a line that is not JSON'
    );
    unlike($worker->line("{ memory: secret-word\n")->{msg}, qr/secret-word/, '... is not quoted');
    refused($worker->line("[1]\n"), qr/not a JSON object/, 'a line that is no object');
    refused($worker->line("{}\n"), qr/no 'cmd'/, 'no command');
    refused($worker->line("{\"cmd\":{}}\n"), qr/no 'cmd'/, 'a command that is no string');
    refused(
        $worker->command('format-disk'),
        qr/unknown command 'format-disk'/,
        'an unknown command'
    );
    refused(
        $worker->command('version', x => 1),
        qr/x: this command has no such parameter/,
        'an unknown parameter'
    );
    refused($worker->command('ticket'), qr/path: this parameter is missing/, 'a missing parameter');
    refused(
        $worker->command('ticket', path => [1]),
        qr/path: not a string/,
        'a parameter of the wrong type'
    );
    refused(
        $worker->command('quit', cleanup => 'maybe'),
        qr/cleanup: not a boolean/,
        'a boolean that is none'
    );
    refused(
        $worker->command('query-disk-import', direct => {}),
        qr/direct: .*no such parameter/,
        'the probe of a newer source'
    );
    refused(
        $worker->command('query-disk-import'),
        qr/no import is running/,
        'a question about no import'
    );
    refused($worker->command($_), qr/the guest does not run/, "$_ without a guest")
        for qw(resume stop nbdstop);
    refused(
        $worker->command('ticket', path => '/etc/passwd'),
        qr/not known here/,
        'a ticket for a foreign socket'
    );
    refused(
        $worker->command('ticket', path => "$worker->{dir}/100.mtunnel"),
        qr/not known here/,
        'a ticket for the own socket'
    );
    refused(
        $worker->command('config', conf => "cores: 1\n"),
        qr/no 'memory'/,
        'a configuration without memory'
    );
    is($worker->command('bwlimit', storages => ['local'], bwlimit => 77)->{bwlimit}, 77, 'bwlimit');
    ok($worker->command('fstrim')->{success}, 'fstrim');
    ok($worker->command('unlock')->{success}, 'unlock');
    ok($worker->command('quit')->{success}, 'quit');
    refused($worker->command('version'), qr/too late/, 'a command after quit');
    is($worker->end(0), 0, 'the worker ends by itself after quit and disconnect');
    my @commands = $worker->{log} =~ /^command: (.*)$/mg;
    is_deeply(
        [@commands[0 .. 2], $commands[-1]],
        [qw(version version format-disk version)],
        'the log names the commands'
    );
    unlike($worker->{log}, qr/secret-word|$KEY/, '... and no secret');
}

{
    my $worker = worker();
    is($worker->end(0), 1, 'a connection that ends without quit is an error');
    like($worker->{log}, qr/ended without 'quit'/, '... that is told');
}

{
    my $worker = worker();
    my $reply = $worker->line('x' x ((1 << 20) + 1000));
    refused($reply, qr/longer than 1048576/, 'an over-long line');
    is($worker->reply, undef, '... ends the connection');
    is($worker->end(0), 1, '... and the worker');
}

{
    my $worker = worker(no_client => 1);
    $worker->wait_log(qr/ready/);
    is($worker->end, 1, 'the end of the node ends a worker that waits');
    ok(!-e "$worker->{dir}/100.mtunnel", '... and removes its socket');
}

{
    my $worker = worker(no_client => 1, request => { dir => 'relative' });
    is($worker->end(0), 1, 'a request that makes no sense');
    like($worker->{log}, qr/\Aerror: bad dir/, '... is refused in one line');
}

# --- an old node, a container ------------------------------------------------------------------------------------------

sub start_parameters ($statefile, $type, @more) {
    return (start_params => { statefile => $statefile }, migrate_opts => { type => $type, @more });
}

{
    my $worker = worker(request => { old => JSON::true });
    is_deeply(
        $worker->command('version'),
        { success => JSON::true, api => 2, age => 0 },
        'an old node has no caps'
    );
    refused(
        $worker->command('start', start_parameters('tcp', 'websocket')),
        qr/statefile: value 'tcp'/,
        '... takes no TCP'
    );
    refused(
        $worker->command('start', start_parameters('unix', 'insecure')),
        qr/type: value 'insecure'/,
        '... and no clear text'
    );
    $worker->command('quit');
    $worker->end;
}

{
    my $worker = worker(request => { kind => 'lxc' });
    refused(
        $worker->command('start', start_parameters('unix', 'websocket')),
        qr/unknown command/,
        'a container has no start'
    );
    ok($worker->command('version')->{success}, '... but a version');
    $worker->command('quit');
    $worker->end;
}

# --- disks ---------------------------------------------------------------------------------------------------------------

sub disk_parameters ($size, $index = 0) {
    return (
        format => 'raw',
        storage => 'local',
        drive => { interface => 'scsi', index => $index, size => $size }
    );
}

{
    my $worker = worker();
    my $disk = $worker->command('disk', disk_parameters(1 << 20));
    is($disk->{volid}, 'local:100/vm-100-disk-0.raw', 'disk: a volume');
    my $file = "$worker->{dir}/vm-100-disk-0.raw";
    is(-s $file, 1 << 20, '... of the right size');
    cmp_ok((stat $file)[12] * 512, '>=', 1 << 20, '... whose space is really taken');
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
        'start with a mixture'
    );
    refused(
        $worker->command('start', start_parameters('unix', 'websocket', nbd => { scsi5 => {} })),
        qr/'scsi5' was not allocated/,
        'start with a foreign disk',
    );
    $worker->command('quit', cleanup => 1);
    is($worker->end(0), 0, 'quit with cleanup');
    ok(!-e $file && !-e "$worker->{dir}/100.conf", '... removes disk and configuration');
}

SKIP: {
    skip 'a full file system needs root to make one', 3
        if $> || system('unshare --mount true 2>/dev/null');
    my $dir = tempdir(CLEANUP => 1);
# A file system of 4 MiB that only this worker sees, and that goes with it; the socket lies outside.
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
        '... and a smaller one that fits: nothing was left behind'
    );
    $worker->command('quit');
    is($worker->end(0), 0, '... and the worker goes on');
}

# --- imports -----------------------------------------------------------------------------------------------------------------

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
    # As the storage layer does: the end is told by the half-close, the socket stays open.
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
    is($status->{status}, 'complete', 'an import') or diag(explain($status));
    is($status->{volid}, 'local:100/vm-100-disk-7.raw', '... names its volume');
    is(
        sha256_hex(
            do { local (@ARGV, $/) = $file; <> }
        ),
        sha256_hex($data),
        '... has the right content'
    );
    refused(
        $worker->command('disk-import', import_parameters()),
        qr/exists already/,
        'the same volume again'
    );
    my $renamed = $worker->command('disk-import', import_parameters(allow_rename => JSON::true));
    ok($renamed->{success}, '... unless it may be renamed');
    is($renamed->{format}, 'raw+size', '... in the one format there is');
    refused(
        $worker->command('disk-import', import_parameters()),
        qr/running already/,
        'two at once'
    );
    is(
        $worker->command('query-disk-import')->{status},
        'pending', 'an import nobody feeds is pending'
    );
    my $ticket = $worker->command('ticket', path => $renamed->{socket})->{ticket} // '';
    like($ticket, qr/\APVETUNNEL:[0-9A-F]{8}::[0-9a-f]{64}\z/, 'a ticket for its socket');
    my ($time, $mac) = $ticket =~ /:([0-9A-F]+)::(.*)/;
    is(
        $mac,
        hmac_sha256_hex("root\@pam\n$renamed->{socket}\n$time", pack('H*', $KEY)),
        '... is the user\'s, for this path and time'
    );
    $worker->command('quit', cleanup => 1);
    $worker->end;
    ok(!-e $renamed->{socket}, 'the socket goes with the worker');
    unlike($worker->{log}, qr/\Q$mac\E/, 'no ticket in the log');
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
    like($status->{msg}, $pattern, '... that says why');
    ok(!-e "$worker->{dir}/vm-100-disk-7.raw", '... and leaves no file');
    ok($worker->command('version')->{success}, '... and the worker goes on');
    $worker->command('quit');
    $worker->end;
}

# --- a real guest ---------------------------------------------------------------------------------------------------------------

SKIP: {
    skip 'no qemu-system-x86_64', 1 if !$HAVE_QEMU;
    my $worker = worker();
    my $dir = $worker->{dir};
    ok($worker->command('disk', disk_parameters(1 << 20))->{success}, 'a disk');
    ok($worker->command('config', conf => "memory: 64\n")->{success}, 'a configuration');
    my $started =
        $worker->command('start', start_parameters('unix', 'websocket', nbd => { scsi0 => {} }));
    is_deeply(
        $started,
        {
            success => JSON::true,
            migrate => {
                proto => 'unix',
                addr => "$dir/100.migrate",
                unix_sockets => ["$dir/100.migrate", "$dir/100_nbd.migrate"],
            },
            drives => {
                scsi0 => {
                    drivestr => 'local:100/vm-100-disk-0.raw,size=1048576',
                    nbd_uri => "nbd:unix:$dir/100_nbd.migrate:exportname=drive-scsi0",
                },
            },
        },
        'start on UNIX sockets',
    ) or diag(explain($started));
    refused(
        $worker->command('start', start_parameters('unix', 'websocket')),
        qr/runs already/,
        'start again'
    );
    ok(
        $worker->command('ticket', path => "$dir/100$_.migrate")->{ticket},
        "a ticket for 100$_.migrate"
    ) for '', '_nbd';
    my $nbd = IO::Socket::UNIX->new(Peer => "$dir/100_nbd.migrate");
    read($nbd, my $magic, 8);
    is($magic, 'NBDMAGIC', 'QEMU serves the disk');
    close($nbd);
    my $monitor = TestNode::QMP->new("$dir/100.qmp");
    is($monitor->command('query-status')->{status}, 'inmigrate', 'QEMU waits for the guest');
    ok($worker->command('nbdstop')->{success}, 'nbdstop');
    ok($worker->command('nbdstop')->{success}, '... once more');
    refused(
        $worker->command('ticket', path => "$dir/100_nbd.migrate"),
        qr/not known/, '... ends the tickets for it'
    );
    ok($worker->command('stop')->{success}, 'stop');
    ok(!eval { $monitor->command('query-status'); 1 }, '... ends QEMU');
    refused($worker->command('resume'), qr/does not run/, '... for good');

    ok(
        $worker->command('start', start_parameters('unix', 'websocket'))->{success},
        'start after stop'
    );
    my ($pid) = grep { readlink("/proc/$_/exe") =~ /qemu/ } children($worker->{pid});
    ok($pid, 'QEMU is the worker\'s child');
    is($worker->end, 1, 'a worker that loses its client');
    ok(!kill(0 => $pid), '... takes the guest along');
    ok(!-e "$dir/100.migrate", '... and its sockets');
}

sub children ($parent) {
    my @pids;
    for my $stat (glob '/proc/[0-9]*/stat') {
        open(my $in, '<', $stat) or next;
        my ($pid, $ppid) = (readline($in) // '') =~ /\A(\d+) \(.*\) \S (\d+)/s or next;
        push @pids, $pid if $ppid == $parent;
    }
    return @pids;
}

done_testing;
