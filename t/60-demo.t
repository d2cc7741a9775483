#!/usr/bin/perl

# Runs the demo with small sizes on every plane, and tests its report, its exit code, and that it
# leaves no files.
use v5.36;

use File::Temp qw(tempdir);
use FindBin;
use JSON;
use Test::More;

use lib map { "$FindBin::Bin/../$_" } qw(t/lib demo/lib testnode/lib perl/blib/lib perl/blib/arch);
use Demo::Migration;
use Demo::Plane;
use Demo::Progress;
use Demo::Report;
use Test::EmulatedGuest;
use TestNode::Node;

# A test that hangs must fail.
local $SIG{ALRM} = sub { die "the test timed out\n" };
alarm(600);

my $DEMO = "$FindBin::Bin/../demo/demo";
my $DIR = tempdir(CLEANUP => 1);
my $REPORT = "$DIR/report.json";
mkdir "$DIR/tmp" or die;
open(my $nowhere, '>', '/dev/null') or die;

plan skip_all => 'no qemu-system-x86_64'
    if !grep { -x "$_/qemu-system-x86_64" } split(/:/, $ENV{PATH});

# Runs the demo. Returns its exit code and its output, errors included. Calls $each with the process
# ID of the demo and each line of the output.
sub demo ($arguments, $each = undef) {
    local $ENV{TMPDIR} = "$DIR/tmp";
    local @ENV{qw(RAM DISK OFFLINE PLANES PLANE LINK CHANNELS MIRROR)};
    my $pid = open(my $output, '-|') // die "fork: $!";
    if (!$pid) {
        open(STDERR, '>&', \*STDOUT) or die;
        exec($^X, $DEMO, "REPORT=$REPORT", @$arguments) or die "exec: $!";
    }
    my $printed = '';
    while (my $line = <$output>) {
        $printed .= $line;
        $each->($pid, $line) if $each;
    }
    close($output);
    return ($? >> 8, $printed);
}

sub cpu ($crossing, $process) {
    return $crossing->{ $process eq 'connector' ? 'cpu_s_per_gib' : "${process}_cpu_s_per_gib" };
}

sub leftovers () { return [glob("$DIR/tmp/*")] }

{
    my ($code, $printed) = demo([qw(RAM=64 DISK=32 OFFLINE=24)]);
    is($code, 0, 'every migration succeeds') or diag($printed);
    open(my $in, '<', $REPORT) or die "no report: $!";
    my $crossings = decode_json(do { local $/ = undef; <$in> })->{crossings};
    is_deeply(
        [map { $_->{plane} } @$crossings],
        [Demo::Plane::defaults(0)],
        'one migration on each plane'
    );
    for my $crossing (@$crossings) {
        my $plane = $crossing->{plane};
        is_deeply(
            [sort keys %$crossing],
            [
                sort
                    qw(plane ram_bytes disk_bytes offline_bytes seconds offline_seconds mb_per_s cpu_s_per_gib),
                qw(disk_seconds ram_seconds),
                qw(cipher endpoint record),
                qw(listener_cpu_s_per_gib pveproxy_cpu_s_per_gib),
                qw(ram_sha256 disk_sha256 offline_sha256 ok),
            ],
            "$plane: the report has all fields",
        );
        ok($crossing->{ok}, "$plane: ok");
        cmp_ok($crossing->{disk_bytes}, '>=', 32 << 20, "$plane: the whole disk was sent");
        # 32 of the 64 MiB are random, and cannot be compressed.
        cmp_ok($crossing->{ram_bytes}, '>=', 32 << 20, "$plane: the random RAM was sent");
        is($crossing->{offline_bytes}, 24 << 20, "$plane: the offline disk was sent");
        for my $what (qw(ram_sha256 disk_sha256 offline_sha256)) {
            like($crossing->{$what}{source}, qr/\A[0-9a-f]{64}\z/, "$plane: $what of the source");
            is(
                $crossing->{$what}{target},
                $crossing->{$what}{source},
                "$plane: $what of the target is the same"
            );
        }
        cmp_ok($crossing->{$_}, '>', 0, "$plane: $_ is positive")
            for qw(seconds disk_seconds ram_seconds offline_seconds mb_per_s);
    }
    my %crossing = map { $_->{plane} => $_ } @$crossings;
    for my $case (
        # Plane, port of the endpoint, cipher, and the processes that must use CPU.
        ['websocket', qr/:(?!600[0-4]\d\z)\d+\z/, qr/\ATLS/, 'connector', 'pveproxy'],
        ['tls', qr/:600[0-4]\d\z/, qr/\ATLSv1_3/, 'connector', 'listener'],
        ['tcp', qr/:600[0-4]\d\z/, qr/\AUNENCRYPTED\z/, 'connector', 'listener'],
        # The offline disk is not sent by QEMU.
        ['qemu', qr/:600[0-4]\d\z/, qr/\AUNENCRYPTED\z/, 'connector', 'listener'],
        )
    {
        my ($plane, $endpoint, $cipher, @busy) = @$case;
        like($crossing{$plane}{endpoint}, $endpoint, "$plane: the endpoint");
        like($crossing{$plane}{cipher}, $cipher, "$plane: the cipher");
        is($crossing{$plane}{record}{plane}, $plane, "$plane: the record has the plane");
        cmp_ok(cpu($crossing{$plane}, $_), '>', 0, "$plane: $_ uses CPU") for @busy;
    }
    is(cpu($crossing{websocket}, 'listener'), 0, 'the websocket plane has no listener');
    cmp_ok(
        cpu($crossing{$_}, 'pveproxy'),
        '<',
        cpu($crossing{websocket}, 'pveproxy') / 2,
        "$_: the data does not pass pveproxy"
    ) for qw(tls tcp qemu);
    cmp_ok(
        cpu($crossing{qemu}, 'connector'),
        '<',
        cpu($crossing{websocket}, 'connector'),
        'qemu: only the offline disk passes a connector'
    );
    like(
        $printed, qr/^the guest's last write is on the target's disk: \d+$/m,
        'the guest wrote to its disk until the end'
    );
    like($printed, qr/^warn: WARNING: CLEAR TEXT!/m, 'a warning reports clear text');
    like($printed, qr/^plane +wire +MiB +seconds/m, 'a table follows');
    like(
        $printed,
        qr/^$_->{name} +$_->{wire} .* equal +equal +equal +running$/m,
        "the table has the plane '$_->{name}', $_->{wire}"
    ) for map { Demo::Plane::get($_) } Demo::Plane::defaults(0);
    like($printed, qr/^$_ +\d+\.\d\d +\d+\.\d\d +\d+\.\d\d$/m, "a table has the CPU time of $_")
        for Demo::Plane::defaults(0);
    # The lines of the tunnel and the names of files may be longer.
    my @own = grep { !/^(?:tunnel|remote|warn|guest data|report)\b|^'/ } split(/\n/, $printed);
    is_deeply([grep { length > 80 } @own], [], 'the text and the table of the demo fit 80 columns');
    unlike($printed, qr/[\r\e]/, 'without a terminal there is no progress bar');
    is_deeply(leftovers(), [], 'no file is left');
}

{
    my ($code, $printed) = demo([qw(PLANES=pigeon)]);
    is($code, 2, 'an unknown plane is refused');
    like($printed, qr/\Ademo: bad plane 'pigeon'\nusage: /, 'the error has the usage');
    ($code, $printed) = demo([qw(RAM=1)]);
    is($code, 2, 'too little RAM is refused');
    like($printed, qr/RAM must be a number of MiB from 64 to 65536/, 'the error has the limits');
}

{
    for my $option (qw(--help -h)) {
        my $printed = qx('$^X' '$DEMO' $option 2>/dev/null);
        is($?, 0, "$option succeeds");
        like($printed, qr/\Ausage: /, '... and prints the usage to standard output');
        is_deeply([grep { length > 80 } split(/\n/, $printed)], [], '... in 80 columns');
    }
}

{
    my ($code, $printed) = demo(["REPORT=$DIR"]);
    is($code, 2, 'a report that cannot be written is refused');
    like(
        $printed,
        qr/\Ademo: cannot write the report '\Q$DIR\E': it is a directory: set REPORT= /,
        '... before the demo starts, with the reason'
    );
    open(my $out, '>', "$DIR/file") or die "$DIR/file: $!";
    close($out);
    ($code, $printed) = demo(["REPORT=$DIR/file/report.json"]);
    is($code, 2, 'so is one in a folder that cannot be created');
    like(
        $printed, qr{\Ademo: cannot write the report '\Q$DIR\E/file/report.json': [^\n]+\n\z},
        '... too'
    );
}

# The report becomes impossible during the migration.
{
    my $obstruct = sub ($pid, $line) {
        mkdir $REPORT if $line =~ /stands for/;
    };
    my ($code, $printed) = demo([qw(RAM=64 DISK=1 OFFLINE=1 PLANES=tls)], $obstruct);
    is($code, 1, 'the demo fails if the report cannot be written');
    like($printed, qr/^tls +encrypted .* running$/m, '... after it has printed the table');
    like($printed, qr/^demo: cannot write the report '\Q$REPORT\E': /m, '... with the reason');
    unlike($printed, qr/^report: /m, '... and names no report');
    rmdir $REPORT;
}

{
    for my $bad (qw(LINK=fast LINK=40), 'LINK=40ms,1', 'CHANNELS=1', 'CHANNELS=17', 'MIRROR=0') {
        my ($code, $printed) = demo([$bad]);
        is($code, 2, "$bad is refused");
        my ($name) = $bad =~ /\A(\w+)/;
        like($printed, qr/\Ademo: $name must be /, '... with what is expected');
    }
}

# The plane tls has a forward for each disk and one for the RAM.
{
    my ($code, $printed) = demo([qw(RAM=64 DISK=32 CHANNELS=3 MIRROR=64), 'PLANES=tls,qemu']);
    is($code, 0, 'multifd: every migration succeeds') or diag($printed);
    like(
        $printed,
        qr/^tunnel: migration data: plane tls .* 3 forwards, 6 connections, 0 of them failed/m,
        'multifd: the RAM has a connection for each channel, and one more'
    );
}

SKIP: {
    my $profile = $ENV{CARGO_PROFILE} // 'release';
    skip('only root can emulate a link', 5) if $>;
    skip('this system has no TUN devices', 5) if !-e '/dev/net/tun';
    skip('the emulated link is not built', 5)
        if !-x "$FindBin::Bin/../target/$profile/emulated-link";
    my ($code, $printed) =
        demo([qw(RAM=64 DISK=32 OFFLINE=8), 'PLANES=websocket,tcp,tls-lanes', 'LINK=20ms,1%']);
    is($code, 0, 'long, lossy link: every migration succeeds') or diag($printed);
    is_deeply(leftovers(), [], 'long, lossy link: no file is left');
    my $row = qr/^tls-lanes +encrypted .* equal +equal +equal +running$/m;
    like($printed, $row, 'long, lossy link: the table has the plane with several connections');

    # The guest writes more often than once per round trip.
    ($code, $printed) = demo([qw(RAM=64 DISK=1 OFFLINE=1 PLANES=tls LINK=100ms)]);
    is($code, 0, 'longer link: the migration ends') or diag($printed);
    is_deeply(leftovers(), [], 'longer link: no file is left');
}

# The demo fails if the target does not support the plane to show.
SKIP: {
    skip('only root may ask for a network and for clear text, outside of Proxmox VE', 9) if $> != 0;
    my $node = TestNode::Node->start(dir => "$DIR/old", listen => '127.0.0.1', old => 1);
    my $vmid = 200;
    for my $case (
        [
            'tls',
            qr/\Athe demo expects plane 'tls', .* but the plan is 'websocket' and 'websocket': /
        ],
        ['tcp', qr/upgrade the target node, or omit migration_type=insecure/],
        ['qemu', qr/upgrade the target node, or omit migration_type=insecure/],
        )
    {
        my ($plane, $pattern) = @$case;
        my $migration = Demo::Migration->new(
            plane => $plane,
            guest => { vmid => 100 },
            node => $node,
            target_vmid => ++$vmid,
            dir => $DIR,
            network => '127.0.0.0/8',
            loopback => 1,
            progress => Demo::Progress->new($nowhere),
            log => sub { },
        );
        ok(!eval { $migration->run }, "$plane fails with an old target");
        like($@, $pattern, "$plane: the error has the reason");
        unlike(
            $node->worker_log($vmid),
            qr/^command: (?:disk|config|start)/m,
            "$plane: it fails before the target has created anything"
        );
    }
}

for my $plane (qw(websocket tls)) {
    my $interrupt = sub ($pid, $line) {
        kill(TERM => $pid) if $line =~ /stands for/;
    };
    my ($code, $printed) = demo(['RAM=64', 'DISK=64', "PLANES=$plane"], $interrupt);
    is($code, 1, "$plane: an interrupted demo fails");
    like($printed, qr/^demo: plane '$plane': .*SIGTERM$/m, "$plane: the error has the reason");
    is_deeply(leftovers(), [], "$plane: no file is left");
    ok(!-e $REPORT, "$plane: an old report is removed");
}

{
    local $ENV{TMPDIR} = "$DIR/tmp";
    my @command = ($^X, $DEMO, "REPORT=$REPORT", qw(RAM=64 DISK=32 PLANES=tls));
    my $pid = open(my $output, '-|', 'sh', '-c', 'exec "$@" 2>&1', 'sh', @command)
        // die "fork: $!";
    my $first = <$output>;
    like($first, qr/\Asource /, 'a reader that ends after the first line, such as head');
    close($output);
    is($? >> 8, 1, '... stops the demo');
    is_deeply(leftovers(), [], '... and no file is left');
}

{
    my $sum = 'a' x 64;
    my %right = (
        plane => 'tls',
        record => { plane => 'tls', forwards_plane => 'tls' },
        running => 1,
        ram_sha256 => { source => $sum, target => $sum },
        disk_sha256 => { source => $sum, target => $sum },
        offline_sha256 => { source => $sum, target => $sum },
    );
    is_deeply([Demo::Report::faults(\%right)], [], 'a correct migration has no fault');
    my %wrong = (
        (map { ("${_}_sha256" => { source => $sum, target => 'b' x 64 }) } qw(ram disk offline)),
        record => { plane => 'websocket', forwards_plane => 'websocket' },
        running => 0,
    );
    for my $what (sort keys %wrong) {
        my @faults = Demo::Report::faults({ %right, $what => $wrong{$what} });
        is(scalar(@faults), 1, "a wrong $what is one fault");
        like($faults[0], qr/\Aplane 'tls': /, "a wrong $what: the fault names the plane");
    }
    my $offline = { plane => 'qemu', forwards_plane => 'websocket' };
    my @faults = Demo::Report::faults({ %right, plane => 'qemu', record => $offline });
    is(scalar(@faults), 1, 'another plane for the offline disk alone is one fault');
}

done_testing;
