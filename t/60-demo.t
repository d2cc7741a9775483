#!/usr/bin/perl

# The demo itself, small: every plane, its report, its exit code, and what it leaves behind.
use v5.36;

use File::Temp qw(tempdir);
use FindBin;
use JSON;
use Test::More;

use lib map { "$FindBin::Bin/../$_" } qw(demo/lib testnode/lib perl/blib/lib perl/blib/arch);
use Demo::Migration;
use Demo::Plane;
use Demo::Progress;
use Demo::Report;
use TestNode::Node;

# A test that stands still is a failed test.
local $SIG{ALRM} = sub { die "the test stands still\n" };
alarm(600);

my $DEMO = "$FindBin::Bin/../demo/demo";
my $DIR = tempdir(CLEANUP => 1);
my $REPORT = "$DIR/report.json";
mkdir "$DIR/tmp" or die;
open(my $nowhere, '>', '/dev/null') or die;

plan skip_all => 'no qemu-system-x86_64'
    if !grep { -x "$_/qemu-system-x86_64" } split(/:/, $ENV{PATH});

# What the demo prints, errors included, line by line to $each with its process ID.
sub demo ($arguments, $each = undef) {
    local $ENV{TMPDIR} = "$DIR/tmp";
    local @ENV{qw(RAM DISK OFFLINE PLANES PLANE)};
    my $pid = open(my $output, '-|') // die "fork: $!";
    if (!$pid) {
        open(STDERR, '>&', \*STDOUT) or die;
        exec($^X, $DEMO, "REPORT=$REPORT", @$arguments) or die "exec: $!";
    }
    my $said = '';
    while (my $line = <$output>) {
        $said .= $line;
        $each->($pid, $line) if $each;
    }
    close($output);
    return ($? >> 8, $said);
}

sub cpu ($crossing, $process) {
    return $crossing->{ $process eq 'connector' ? 'cpu_s_per_gib' : "${process}_cpu_s_per_gib" };
}

sub leftovers () { return [glob("$DIR/tmp/*")] }

{
    my ($code, $said) = demo([qw(RAM=64 DISK=32 OFFLINE=24)]);
    is($code, 0, 'every crossing is right') or diag($said);
    open(my $in, '<', $REPORT) or die "no report: $!";
    my $crossings = decode_json(do { local $/ = undef; <$in> })->{crossings};
    is_deeply(
        [map { $_->{plane} } @$crossings],
        [Demo::Plane::names()],
        'one crossing each plane'
    );
    for my $crossing (@$crossings) {
        my $plane = $crossing->{plane};
        is_deeply(
            [sort keys %$crossing],
            [
                sort
                    qw(plane ram_bytes disk_bytes offline_bytes seconds offline_seconds mb_per_s cpu_s_per_gib),
                qw(cipher endpoint record),
                qw(listener_cpu_s_per_gib pveproxy_cpu_s_per_gib),
                qw(ram_sha256 disk_sha256 offline_sha256 ok),
            ],
            "$plane: the report has what it should",
        );
        ok($crossing->{ok}, "$plane: ok");
        cmp_ok($crossing->{disk_bytes}, '>=', 32 << 20, "$plane: the whole disk went over");
        # What is random cannot be squeezed: 32 of the 64 MiB.
        cmp_ok($crossing->{ram_bytes}, '>=', 32 << 20, "$plane: so did the random RAM");
        is($crossing->{offline_bytes}, 24 << 20, "$plane: so did the offline disk");
        for my $what (qw(ram_sha256 disk_sha256 offline_sha256)) {
            like($crossing->{$what}{source}, qr/\A[0-9a-f]{64}\z/, "$plane: $what of the source");
            is(
                $crossing->{$what}{target},
                $crossing->{$what}{source},
                "$plane: ... and of the target"
            );
        }
        cmp_ok($crossing->{$_}, '>', 0, "$plane: $_") for qw(seconds offline_seconds mb_per_s);
    }
    my %crossing = map { $_->{plane} => $_ } @$crossings;
    for my $case (
        # plane, how it ends in port and cipher, who works for it
        ['websocket', qr/:(?!600[0-4]\d\z)\d+\z/, qr/\ATLS/, 'connector', 'pveproxy'],
        ['tls', qr/:600[0-4]\d\z/, qr/\ATLSv1_3/, 'connector', 'listener'],
        ['tcp', qr/:600[0-4]\d\z/, qr/\AUNENCRYPTED\z/, 'connector', 'listener'],
        # The offline disk does not go from QEMU to QEMU.
        ['qemu', qr/:600[0-4]\d\z/, qr/\AUNENCRYPTED\z/, 'connector', 'listener'],
        )
    {
        my ($plane, $endpoint, $cipher, @busy) = @$case;
        like($crossing{$plane}{endpoint}, $endpoint, "$plane: the endpoint");
        like($crossing{$plane}{cipher}, $cipher, "$plane: the cipher");
        is($crossing{$plane}{record}{plane}, $plane, "$plane: so says the record");
        cmp_ok(cpu($crossing{$plane}, $_), '>', 0, "$plane: CPU of $_") for @busy;
    }
    is(cpu($crossing{websocket}, 'listener'), 0, 'the websocket plane has no listener');
    cmp_ok(
        cpu($crossing{$_}, 'pveproxy'),
        '<',
        cpu($crossing{websocket}, 'pveproxy') / 2,
        "$_: pveproxy is not in the way"
    ) for qw(tls tcp qemu);
    cmp_ok(
        cpu($crossing{qemu}, 'connector'),
        '<',
        cpu($crossing{websocket}, 'connector'),
        'qemu: nor is a connector, but for the offline disk'
    );
    like(
        $said, qr/^the guest's last write is on the target's disk: \d+$/m,
        'the disk was written to until the end'
    );
    like($said, qr/^warn: WARNING: CLEAR TEXT!/m, 'clear text is warned of');
    like($said, qr/^plane +wire +MiB +seconds/m, 'a table ends it');
    like(
        $said,
        qr/^$_->{name} +$_->{wire} .* equal +equal +equal +goes on$/m,
        "... with the $_->{wire} plane '$_->{name}'"
    ) for map { Demo::Plane::get($_) } Demo::Plane::names();
    unlike($said, qr/[\r\e]/, 'no bar where there is no terminal');
    is_deeply(leftovers(), [], 'nothing is left behind');
}

{
    my ($code, $said) = demo([qw(PLANES=pigeon)]);
    is($code, 2, 'a plane that does not exist');
    like($said, qr/\Ademo: bad plane 'pigeon'\nusage: /, '... is refused with the usage');
    ($code, $said) = demo([qw(RAM=1)]);
    is($code, 2, 'too little RAM');
    like($said, qr/RAM must be a number of MiB from 64 to 65536/, '... is refused with the limits');
}

# What a target cannot do is not shown as if it could.
SKIP: {
    skip('only root may ask for a network and for clear text, outside of Proxmox VE', 9) if $> != 0;
    my $node = TestNode::Node->start(dir => "$DIR/old", listen => '127.0.0.1', old => 1);
    my $vmid = 200;
    for my $case (
        [
            'tls',
            qr/\A'tls' was to be shown, .* but the plan is 'websocket' and 'websocket': /
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
        ok(!eval { $migration->run }, "$plane, which an old target does not have");
        like($@, $pattern, '... is an error');
        unlike($node->worker_log($vmid), qr/^command: (?:disk|config|start)/m, '... in time');
    }
}

for my $plane (qw(websocket tls)) {
    my $in_the_middle = sub ($pid, $line) {
        kill(TERM => $pid) if $line =~ /stands for/;
    };
    my ($code, $said) = demo(['RAM=64', 'DISK=64', "PLANES=$plane"], $in_the_middle);
    is($code, 1, "$plane: a demo that is interrupted fails");
    like($said, qr/^demo: plane '$plane': .*SIGTERM$/m, '... says why');
    is_deeply(leftovers(), [], '... and leaves nothing behind');
    ok(!-e $REPORT, '... not even an old report');
}

{
    my $sum = 'a' x 64;
    my %right = (
        plane => 'tls',
        record => { plane => 'tls', forwards_plane => 'tls' },
        goes_on => 1,
        ram_sha256 => { source => $sum, target => $sum },
        disk_sha256 => { source => $sum, target => $sum },
        offline_sha256 => { source => $sum, target => $sum },
    );
    is_deeply([Demo::Report::faults(\%right)], [], 'a crossing that is right');
    my %wrong = (
        (map { ("${_}_sha256" => { source => $sum, target => 'b' x 64 }) } qw(ram disk offline)),
        record => { plane => 'websocket', forwards_plane => 'websocket' },
        goes_on => 0,
    );
    for my $what (sort keys %wrong) {
        my @faults = Demo::Report::faults({ %right, $what => $wrong{$what} });
        is(scalar(@faults), 1, "... is wrong by $what");
        like($faults[0], qr/\Aplane 'tls': /, '... which is said');
    }
    my $offline = { plane => 'qemu', forwards_plane => 'websocket' };
    my @faults = Demo::Report::faults({ %right, plane => 'qemu', record => $offline });
    is(scalar(@faults), 1, '... is wrong if only the offline disk took another plane');
}

done_testing;
