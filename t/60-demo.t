#!/usr/bin/perl

# The demo itself, small: every plane, its report, its exit code, and what it leaves behind.
use v5.36;

use File::Temp qw(tempdir);
use FindBin;
use JSON;
use Test::More;

use lib "$FindBin::Bin/../demo/lib";
use Demo::Plane;
use Demo::Report;

# A test that stands still is a failed test.
local $SIG{ALRM} = sub { die "the test stands still\n" };
alarm(600);

my $DEMO = "$FindBin::Bin/../demo/demo";
my $DIR = tempdir(CLEANUP => 1);
my $REPORT = "$DIR/report.json";
mkdir "$DIR/tmp" or die;

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
                sort qw(plane ram_bytes disk_bytes offline_bytes seconds mb_per_s cpu_s_per_gib),
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
        cmp_ok($crossing->{$_}, '>', 0, "$plane: $_") for qw(seconds mb_per_s);
    }
    cmp_ok(
        $crossings->[0]{cpu_s_per_gib},
        '>',
        $crossings->[1]{cpu_s_per_gib},
        'only the websocket plane costs CPU to speak of'
    );
    like(
        $said, qr/^the guest's last write is on the target's disk: \d+$/m,
        'the disk was written to until the end'
    );
    like($said, qr/^warn: WARNING: CLEAR TEXT!/m, 'clear text is warned of');
    like($said, qr/^plane +wire +MiB +seconds/m, 'a table ends it');
    like(
        $said,
        qr/^websocket +encrypted .* equal .* equal .* equal +goes on$/m,
        '... with the encrypted plane'
    );
    like($said, qr/^qemu +clear .* equal .* equal .* equal +goes on$/m, '... and the clear one');
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

{
    my $in_the_middle = sub ($pid, $line) {
        kill(TERM => $pid) if $line =~ /stands for/;
    };
    my ($code, $said) = demo([qw(RAM=64 DISK=64 PLANES=websocket)], $in_the_middle);
    is($code, 1, 'a demo that is interrupted fails');
    like($said, qr/^demo: .*SIGTERM$/m, '... says why');
    is_deeply(leftovers(), [], '... and leaves nothing behind');
    ok(!-e $REPORT, '... not even an old report');
}

{
    my $sum = 'a' x 64;
    my %right = (
        goes_on => 1,
        ram_sha256 => { source => $sum, target => $sum },
        disk_sha256 => { source => $sum, target => $sum },
        offline_sha256 => { source => $sum, target => $sum },
    );
    ok(Demo::Report::is_ok(\%right), 'a crossing that is right');
    ok(!Demo::Report::is_ok({ %right, goes_on => 0 }), '... is not if the guest stands');
    my $differ = { source => $sum, target => 'b' x 64 };
    ok(!Demo::Report::is_ok({ %right, $_ => $differ }), "... is not if $_ differs")
        for qw(ram_sha256 disk_sha256 offline_sha256);
}

done_testing;
