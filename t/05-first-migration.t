#!/usr/bin/perl

# Runs every command of pve-tunnel-first-migration(7), in the order of the page, on two nodes: fake
# commands of Proxmox VE, which accept exactly the arguments of the real ones and migrate to the test
# node, and pve-tunnel as installed from a package. Outputs and log lines of the page are compared
# with those of the run. Everything runs in namespaces, so that nothing on this machine changes.

use v5.36;

use FindBin;
use lib map { "$FindBin::RealBin/../$_" }
    qw(t/lib debian/tests/lib demo/lib testnode/lib perl/blib/lib perl/blib/arch);

use JSON ();
use Path::Tiny qw(path);
use Test::More;

use Demo::Hosts;
use Test::LayeredSystem qw(enter mount_layers package_of_build);
use Test::ManualPage qw(blocks missing_lines);
use Test::PackagedNode qw(run run_ok fake_packages);
use TestNode::Node;

my $ROOT = path("$FindBin::RealBin/..");
my $PAGE = $ROOT->child('docs/man/pve-tunnel-first-migration.pod');
my %ADDRESS = (source => '192.0.2.21', target => '192.0.2.7');
# What the page has in place of secrets.
my $VALUE = '00000000-0000-0000-0000-000000000000';
my $FINGERPRINT = '5C:0B:41:...:7D:E9';

my $dir = enter();
Demo::Hosts::enter($dir);
plan skip_all => 'no qemu-system-x86_64'
    if !grep { -x "$_/qemu-system-x86_64" } split(/:/, $ENV{PATH});

# A test that hangs must fail.
local $SIG{ALRM} = sub { die "the test timed out\n" };
alarm(900);
local $SIG{PIPE} = 'IGNORE';

my $hosts = Demo::Hosts->new;
plan skip_all => 'no network namespaces here' if !$hosts->namespaces;
mount_layers($dir, qw(usr etc var run root));
require Test::FakeProxmox;

run_ok(
    'the packages are installed', 'dpkg', '-i', fake_packages('1.0'),
    package_of_build($dir, '0.1')
);
for my $node (['source', [], 'to-target'], ['target', [$hosts->at_target], 'to-source']) {
    my ($name, $at, $device) = @$node;
    system(@$at, qw(ip address add), "$ADDRESS{$name}/24", 'dev', $device) == 0
        or BAIL_OUT('no address');
}
path('/etc/hosts')->append("$ADDRESS{target} target\n$ADDRESS{source} source\n");

# The secret of the token that the page creates.
my $value = join(
    '-',
    map {
        join('', map { sprintf '%x', rand 16 } 1 .. $_)
    } 8,
    4, 4, 4,
    12
);
my $proxmox = Test::FakeProxmox->new(
    dir => $dir,
    value => $value,
    at_target => [$hosts->at_target],
);
my $node;

# What exists before a section begins.
my %BEFORE = (
    '3. THE FINGERPRINT OF THE TARGET' => \&start_target,
    '7. A RUNNING GUEST' => sub {
        $proxmox->guests->boot(100);
        $proxmox->guests->container(101);
    },
    '8. PRODUCTION' => sub { $proxmox->guests->boot(100) },
    'EXAMPLES' => sub { $proxmox->guests->boot(100) },
    'REMOVE THE TOKEN' => \&examples,
    'IF A MIGRATION FAILS' => sub { $proxmox->guests->interrupted(100) },
);

our $section = '';
my ($output, $from_output) = ('', '');
process($_) for blocks($PAGE);

is(join(' ', $proxmox->access->unused), '', 'each privilege of the page is required');
is($node->stop, 0, 'the test node has no error');
done_testing();

sub process ($block) {
    if ($block->{section} ne $section) {
        $section = $block->{section};
        note($section);
        $BEFORE{$section}->() if $BEFORE{$section};
    }
    my ($kind, @words) = ($block->{kind}, $block->{words}->@*);
    if ($kind eq 'command') {
        $output = join('', map { commands($_, $block) } grep { m/\A[a-z]/ } @words);
        ($from_output) = $output =~ m/^sha256 Fingerprint=(\S+)$/m if $output =~ m/Fingerprint/;
    } elsif ($kind eq 'output') {
        is(join("\n", missing_lines($block->{text}, $output)), '', "$section: the output")
            or diag($output);
    } elsif ($kind eq 'log') {
        my $log = $proxmox->log_text;
        is(join("\n", missing_lines($block->{text}, $log)), '', "$section: the log") or diag($log);
    } elsif ($kind eq 'file' || $kind eq 'line') {
        write_file($kind, @words, $block->{text});
    } elsif ($kind eq 'text') {
        check_times($block->{text}) if $block->{text} =~ m/MB/;
    }
    return;
}

# The examples of the other pages.
sub examples () {
    $proxmox->guests->boot(100);
    local $section = '';
    process($_) for blocks("$ROOT/docs/man/src/examples.pod");
    for my $page (qw(remote-migration.cfg pve-tunnel-planes)) {
        process($_) for blocks("$ROOT/docs/man/$page.pod", 'EXAMPLES');
    }
    return;
}

# Starts the target's API, which knows the token of the page and its privileges.
sub start_target () {
    path("$dir/token")->spew("PVEAPIToken=migration\@pve!source=$value");
    path("$dir/permissions")
        ->spew(JSON::encode_json($proxmox->access->permissions('migration@pve!source')));
    $node = TestNode::Node->start(
        dir => "$dir/target",
        listen => $ADDRESS{target},
        wrap => [$hosts->at_target],
        options => [
            '--port' => 8006,
            '--token-file' => "$dir/token",
            '--permissions' => "$dir/permissions",
            '--storage' => 'local-lvm',
            '--bridge' => 'vmbr0',
        ],
    );
    $proxmox->guests->use_node($node);
    path('/etc/pve/nodes/target')->mkdir;
    my ($certificate) =
        `openssl s_client -connect $ADDRESS{target}:8006 </dev/null 2>/dev/null` =~
        m/(-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----\n)/s;
    path('/etc/pve/nodes/target/pve-ssl.pem')->spew($certificate);
    return;
}

# Runs the commands of a block on a node, and returns their output.
sub commands ($node, $block) {
    my @codes = grep { m/\A\d/ } $block->{words}->@*;
    @codes = (0) if !@codes;
    my $text = $block->{text};
    my ($name) = $text =~ m/\A([^\n]+)/;
    # Measurements of the default duration would use all processors for a minute.
    $text =~ s/pve-tunnel check/pve-tunnel check --seconds 0.2/ if $text !~ m/--seconds/;
    my $result = $proxmox->run($node, $text);
    ok((grep { $_ == $result->{code} } @codes), "$node: $name")
        or diag("exit code $result->{code}, expected one of: @codes\n$text$result->{output}");
    note($result->{output});
    return $result->{output};
}

# The operator puts the value and the fingerprint, which the commands before have printed, in the
# place of those of the page.
sub write_file ($kind, $on, $path, $text) {
    # Both nodes have the same files here, except the configuration, which the test node reads.
    $path = "$node->{dir}/remote-migration.cfg"
        if $on eq 'target' && $path eq '/etc/pve/remote-migration.cfg';
    $text =~ s/\n\s*(?=\S)//g if $kind eq 'line';
    $text =~ s/\Q$VALUE\E/$value/;
    $text =~ s/\Q$FINGERPRINT\E/$from_output/;
    my $file = path($path);
    $file->parent->mkdir;
    $file->append({ truncate => 1 }, $text);
    is($proxmox->run('source', "pve-tunnel config $path")->{code}, 0, "$section: $path is valid")
        if $path =~ m/remote-migration\.cfg\z/;
    return;
}

# Lines such as "100 MB/s    5 h 33 min    ...": the time for 2 TB.
sub check_times ($text) {
    my @lines = $text =~ m/^(\d+ MB\/s +(?:\d+ h )?\d+ min)\b/gm;
    cmp_ok(scalar(@lines), '>=', 3, 'rates and times');
    for my $line (@lines) {
        my ($rate, $hours, $minutes) = $line =~ m/\A(\d+) MB\/s +(?:(\d+) h )?(\d+) min/;
        is(60 * ($hours // 0) + $minutes, int(2e12 / ($rate * 1e6) / 60), "$line is right");
    }
    return;
}
