#!/usr/bin/perl

# `pve-tunnel leftovers` on a node: with the real kernel's processes and sockets, and with the names
# of tasks that the PVE::UPID of Proxmox VE writes. All of it runs in namespaces: writes to /etc,
# /var, /run and /usr do not change this machine, and processes of other tests are not found.

use v5.36;

use File::Temp qw(tempdir);
use FindBin ();
use IO::Socket::UNIX;
use JSON ();
use Path::Tiny qw(path);
use Test::More;

my $PROGRAM = "$FindBin::RealBin/../target/" . ($ENV{CARGO_PROFILE} // 'release') . '/pve-tunnel';

if (!@ARGV) {
    plan skip_all => 'not root' if $> != 0;
    plan skip_all => 'this is a node of Proxmox VE' if -e '/etc/pve/local';
    plan skip_all => 'pve-tunnel is not built' if !-x $PROGRAM;
    my @unshare = qw(unshare --mount --pid --fork --mount-proc);
    plan skip_all => 'no namespaces here' if system("@unshare true 2>/dev/null") != 0;
    my $outside = tempdir(CLEANUP => 1);
    exit(system(@unshare, $^X, (map { "-I$_" } @INC), $0, $outside) == 0 ? 0 : 1);
}

my $dir = $ARGV[0];
mount_layers();

# A test that hangs must fail.
local $SIG{ALRM} = sub { die "the test timed out\n" };
alarm(60);

path('/etc/pve/nodes/pve1/qemu-server')->mkdir;
symlink('nodes/pve1', '/etc/pve/local') or die "cannot make a link: $!\n";
path('/run/pve-tunnel')->remove_tree;
path("/run/$_")->mkdir for qw(qemu-server pve);
path('/var/log/pve/tasks')->mkdir;
my $PVESM = <<'END';
case "$1" in
status) echo 'Name Type Status Total Used Available %'; echo 'zfs zfspool active 1 1 1 1%' ;;
list) echo 'Volid Format Type Size VMID'; echo 'zfs:vm-105-disk-0 raw images 1 105' ;;
esac
END
pvesm($PVESM);

my $upid_of = eval { require PVE::UPID; \&PVE::UPID::encode } // \&encode_upid;
note($upid_of == \&encode_upid ? 'PVE::UPID does not load here' : 'with the real PVE::UPID');

subtest 'a volume, and nothing else' => sub {
    my ($code, $found) = leftovers();
    is($code, 1, 'the exit code is 1');
    is_deeply([map { $_->{kind} } @{ $found->{leftovers} }], ['volume'], 'one volume is found');
    is_deeply(
        $found->{leftovers}[0]{remedies},
        [{ condition => undef, commands => ['pvesm free zfs:vm-105-disk-0'] }],
        'the command frees it'
    );
    pvesm("echo 'Name Type Status Total Used Available %'");
    is((leftovers())[0], 0, 'the exit code is 0 without it');
};

subtest 'a migration that runs, and then does not' => sub {
    my $socket = listen_on('/run/qemu-server/100.migrate');
    path('/etc/pve/nodes/pve1/qemu-server/100.conf')->spew("memory: 512\nlock: migrate\n");
    my $worker = fork() // die "cannot fork: $!\n";
    if (!$worker) {
        close($socket);
        exec('sleep', '1000') or die "cannot run sleep: $!\n";
    }
    my $upid = $upid_of->(
        {
            node => 'pve1', pid => $worker, pstart => start_of($worker), starttime => time(),
            type => 'qmigrate', id => '100', user => 'root@pam',
        }
    );
    path('/var/log/pve/tasks/active')->spew("$upid 0\n");

    my ($code, $found) = leftovers();
    is($code, 0, 'nothing is listed while the task is running');
    is_deeply(
        $found->{in_progress},
        [{ guest => 100, task => 'qmigrate' }],
        'the guest is in progress'
    );

    kill('KILL', $worker);
    waitpid($worker, 0);
    ($code, $found) = leftovers();
    is($code, 1, 'the exit code is 1 after the worker was killed');
    my @commands = map { $_->{remedies}[0]{commands}[0] } @{ $found->{leftovers} };
    is_deeply(\@commands, ['qm unlock 100'], 'the guest is listed, and its open socket is not');

    close($socket);
    ($code, $found) = leftovers();
    @commands = map { $_->{remedies}[0]{commands}[0] } @{ $found->{leftovers} };
    is_deeply(
        \@commands,
        ['qm unlock 100', 'rm /run/qemu-server/100.migrate'],
        'the socket is listed after its process has closed it'
    );
    my $text = qx($PROGRAM leftovers);
    is(scalar(grep { length > 80 } split(m/\n/, $text)), 0, 'the text fits 80 columns')
        or diag($text);

    for my $option ('', '--json') {
        my $error = qx($PROGRAM leftovers $option 2>&1 >/dev/full);
        is($? >> 8, 2, "leftovers $option: exit code 2 if nothing can be written");
        like($error, qr/^pve-tunnel: cannot write to standard output: No space left/, '... why');
    }

    # The same as a person does.
    path('/etc/pve/nodes/pve1/qemu-server/100.conf')->spew("memory: 512\n");
    system($commands[1]) == 0 or die "cannot run $commands[1]\n";
    is((leftovers())[0], 0, 'nothing is left after the commands');
};

subtest 'a part that cannot be checked' => sub {
    pvesm("echo 'no quorum' >&2; exit 2");
    my ($code, $found) = leftovers();
    is($code, 2, 'the exit code is 2');
    like($found->{unchecked}[0], qr/\Avolumes: .*: no quorum\z/, 'the reason is reported');
};

# Links to themselves cannot be read, also not by root.
subtest 'a volume may belong to a guest that cannot be read' => sub {
    pvesm($PVESM);
    my $nodes = path('/etc/pve/nodes');
    for my $unreadable (
        $nodes->child('pve2/qemu-server'),
        $nodes->child('pve1/qemu-server/300.conf')
        )
    {
        $unreadable->parent->mkdir;
        symlink($unreadable, $unreadable) or die "cannot make a link: $!\n";
        my ($code, $found) = leftovers();
        is($code, 2, "$unreadable: the exit code is 2");
        is_deeply($found->{leftovers}, [], '... no volume is reported');
        like($found->{unchecked}[0], qr/\Q$unreadable\E cannot be read/, '... the reason is');
        like($found->{unchecked}[1], qr/\Avolumes, because /, '... and what it prevents');
        $unreadable->remove;
    }
    is((leftovers())[0], 1, 'afterwards it is reported');
};

done_testing();

# Mounts layers over system directories. Writes go to memory, which is freed with the namespace.
sub mount_layers () {
    my $memory = path($dir, 'memory')->mkdir;
    system('mount', '-t', 'tmpfs', 'none', $memory) == 0 or plan skip_all => 'no tmpfs here';
    for my $name (qw(usr etc var run)) {
        path("$memory/$_")->mkdir for $name, "$name.work";
        my $layers = "lowerdir=/$name,upperdir=$memory/$name,workdir=$memory/$name.work";
        system("mount -t overlay overlay -o $layers /$name 2>/dev/null") == 0
            or plan skip_all => 'no overlay file systems here';
    }
    return;
}

# Installs a pvesm that runs this script.
sub pvesm ($script) {
    my $program = path('/usr/sbin/pvesm');
    $program->spew("#!/bin/sh\n$script\n");
    $program->chmod(0755);
    return;
}

# Returns the exit code and the output of `leftovers --json`.
sub leftovers () {
    my $output = qx($PROGRAM leftovers --json);
    return ($? >> 8, JSON::decode_json($output));
}

sub listen_on ($path) {
    return IO::Socket::UNIX->new(Local => $path, Listen => 1) // die "cannot listen: $!\n";
}

# When the process was started, in the kernel's unit.
sub start_of ($pid) {
    my ($fields) = path("/proc/$pid/stat")->slurp =~ m/\)\s+(.*)\z/s;
    return (split(m/\s+/, $fields))[19];
}

# The form of the names of tasks, if the module of Proxmox VE does not load.
sub encode_upid ($task) {
    my $numbers = join(':', map { sprintf('%08X', $task->{$_}) } qw(pid pstart starttime));
    return join(':', 'UPID', $task->{node}, $numbers, @$task{qw(type id user)}, '');
}
