#!/usr/bin/perl

# pve-tunnel check: each mistake that it finds before it opens a tunnel, with its advice.

use v5.36;

use FindBin ();
use lib map { "$FindBin::RealBin/$_" } qw(lib ../testnode/lib ../perl/blib/lib ../perl/blib/arch);

use File::Temp qw(tempdir);
use IO::Socket::INET;
use POSIX ();
use Test::More;

use Test::CheckCommand qw(
    check defaults node_tree problems remote reports start_check write_file $PROGRAM
);
use Test::TunnelNode;

local $SIG{ALRM} = sub { die "the test timed out\n" };
alarm 300;

my $DIR = tempdir(CLEANUP => 1);
my $WORKER = "$FindBin::RealBin/../testnode/worker.pl";
my @NETWORK = ('--network', '127.0.0.0/8');

sub node (%options) {
    return Test::TunnelNode->start(worker => $WORKER, create_guests => 1, %options);
}

my $node = node();

# The steps that create nothing.
sub reads ($remote, @arguments) { return check($remote, '--read-only', @arguments) }

subtest 'a node that is ready' => sub {
    my $ready = check(remote($node), '--seconds', 0, @NETWORK);
    reports($ready, 0);
    is($ready->{report}{outcome}, 'ok', 'the outcome');
    is($ready->{report}{plane}, 'tls', 'the plane');
    reports(check(remote($node), '--seconds', 0.1, @NETWORK), 0);
    unlike($node->log, qr/ [45]\d\d$/m, 'the target has refused nothing');
};

subtest 'read-only' => sub {
    my $fresh = node();
    my $result = reads(remote($fresh));
    reports($result, 0);
    unlike($fresh->log, qr/^(?:POST|DELETE|PUT)/m, 'no request changes anything');
    is($result->{report}{plane}, undef, 'the plane is not known');
};

subtest 'this node' => sub {
    my %expected = (
        off => [[worse => qr/\Apve-tunnel is off/, qr/\Arun 'pve-tunnel enable'/]],
        none => [[worse => qr/\Athis is not a Proxmox VE node/, qr/\Arun the check on a node of/]],
        helper => [[worse => qr/\Aonly the connector/, qr/\Arun 'pve-tunnel enable'/]],
    );
    for my $state (sort keys %expected) {
        reports(reads(remote($node), '--root', node_tree($state)), 1, $expected{$state}->@*);
    }
    my ($broken, @details) = problems(reads(remote($node), '--root', node_tree('broken')));
    like($broken->[1], qr/neither on nor off/, 'one of two modules');
    like($broken->[2], qr/'pve-tunnel enable' or 'pve-tunnel disable'/, '... its advice');
};

subtest 'the configuration of this node' => sub {
    my $tree = node_tree('on');
    my $own = "$tree/etc/pve/remote-migration.cfg";
    write_file($own, "network: dc2\n\tsuorce 10.0.0.0/8\n");
    my $mistake = qr/\Q$own\E: line 2.*suorce/;
    reports(
        reads(remote($node), '--root', $tree, '--configuration', $own),
        2, [failed => $mistake, qr/correct the file/]
    );
    reports(
        reads(remote($node), '--root', $tree, '--configuration', '/nonexistent'),
        1, [worse => $mistake, qr/'pve-tunnel status' shows the details/]
    );
    unlink $own;
    my $file = "$DIR/remote-migration.cfg";
    my @with = ('--configuration', $file);
    write_file($file, "network: dc2\n\tcomment y\n\tsuorce 10.0.0.0/8\n");
    reports(
        reads(remote($node), @with),
        2, [failed => qr/\Q$file\E: line 3.*suorce/, qr/correct the file: see remote-migration/]
    );
    chmod 0000, $file or die "$file: $!\n";
    my @check = ($PROGRAM, qw(check --read-only --json --to), remote($node), @with);
    push @check, defaults(@with);
    # Without the capabilities, root cannot read every file.
    unshift @check, qw(setpriv --bounding-set -all) if $> == 0;
    my ($program, @arguments) = @check;
    reports(
        start_check(program => $program, arguments => \@arguments)->wait,
        2, [failed => qr/cannot read \Q$file\E: Permission denied/, qr/\Arun the check as root\z/]
    );
    chmod 0644, $file or die "$file: $!\n";
    reports(
        reads(remote($node), '--configuration', $DIR), 2,
        [
            failed => qr/\Q$DIR\E: Is a directory/,
            qr/\Acheck that it is a file, and that pve-cluster/
        ]
    );
    write_file($file, "policy: cluster\n\trequire-encryption 1\n");
    reports(
        reads(remote($node), @with, '--type', 'insecure'),
        2, [failed => qr/require-encryption/, qr/change the arguments, or the configuration/]
    );
    write_file($file, "network: dc2\n\tremote 127.0.0.1\n\tsource 127.0.0.0/8\n");
    my $result = check('dc2', '--read-only', @with);
    is($result->{code}, 2, 'a configured remote has the port 8006, where nothing listens');
    like($result->{out}, qr/127\.0\.0\.1:8006/, 'the address of the configured remote');
};

subtest 'addresses' => sub {
    reports(
        reads(remote($node, host => 'no-such-host.invalid')),
        2, [failed => qr/'no-such-host\.invalid' cannot be resolved/, qr/check the name/]
    );
    my $unused = IO::Socket::INET->new(Listen => 1, LocalAddr => '127.0.0.1')->sockport;
    reports(
        reads(remote($node, port => $unused)), 2,
        [failed => qr/127\.0\.0\.1:$unused refuses the connection/, qr/check host and port/]
    );
};

subtest 'TLS' => sub {
    my $other = join ':', ('AB') x 32;
    my $fingerprint = qr/\Q$node->{fingerprint}\E/;
    reports(
        reads(remote($node, fingerprint => $other)),
        2, [failed => qr/$other/, qr/shows $fingerprint.*Otherwise another machine/]
    );
    reports(
        reads(remote($node, fingerprint => 'AB:CD')),
        2, [failed => qr/fingerprint/, qr/run 'pvenode cert info'.*as fingerprint=/]
    );
    reports(
        reads(remote($node, fingerprint => undef)),
        2, [failed => qr/certificate/, qr/'pvenode cert info'.*add fingerprint=$fingerprint\z/]
    );
    unlike($node->log, qr/ 401$/m, 'the token was sent to none of them');
    my $old = node(tls => '1.2');
    my $result = reads(remote($old));
    # ChaCha20 has no limit of bytes, which AES-GCM has in TLS 1.2.
    reports($result, 0);
    like($result->{out}, qr/agreed on TLSv1_2 \w*CHACHA20/, 'TLS 1.2 is shown');
    my $limited = node(tls => '1.2-aes');
    my $advice = qr/\Aallow TLS 1\.3 at the target: see DISABLE_TLS_1_3 in its \S+pveproxy\z/;
    reports(
        reads(remote($limited)),
        1, [worse => qr/\ATLSv1_2 \w*AES_\w+ can send \d+ \w+ at most over one connection/, $advice]
    );
    my $plain = node(plain => 1);
    reports(
        reads(remote($plain, fingerprint => $other)),
        2, [failed => qr/no TLS connection/, qr/check that pveproxy answers at this port/]
    );
};

subtest 'the token' => sub {
    my $secret = '99999999-8888-7777-6666-555555555555';
    my $wrong = 'PVEAPIToken=root@pam!demo=' . $secret;
    my $result = reads(remote($node, apitoken => $wrong));
    reports($result, 2, [failed => qr/refuses the token: 401/, qr/pveum user token list USER/]);
    unlike("$result->{out}$result->{err}", qr/$secret/, 'its secret is not printed');
    $result = reads(remote($node, apitoken => "root\@pam!demo=$secret"));
    is($result->{code}, 2, 'a malformed token: exit code 2');
    like($result->{err}, qr/not of the form PVEAPIToken=user\@realm!name=uuid/, '... the reason');
    unlike($result->{err}, qr/$secret/, '... without the secret');
    reports(
        reads(remote($node, apitoken => undef)),
        1, [worse => qr/no API token was given/, qr/give the remote as/]
    );
};

subtest 'node, VMID and clock' => sub {
    reports(
        reads(remote($node), '--node', 'pve7'),
        2, [failed => qr/is node 'target', and not node 'pve7'/, qr/address of node 'pve7'/]
    );
    reports(reads(remote($node), '--node', 'target'), 0);
    my $busy = node();
    write_file("$busy->{dir}/400.conf", "memory: 16\n");
    reports(
        reads(remote($busy), '--target-vmid', 400),
        2, [failed => qr/VMID 400 is not free/, qr/another one with --target-vmid/]
    );
    write_file("$DIR/guests/qemu-server/400.conf", "memory: 16\n");
    my @own = ('--guests', "$DIR/guests", '--vmid', 400);
    reports(
        check(remote($busy), @own, '--seconds', 0),
        2,
        [
            failed => qr/VMID 400, which the guest would keep, is not free at the target/,
            qr/\Achoose another one, here with --target-vmid: 'qm remote-migrate 400 OTHER /
        ]
    );
    unlike($busy->log, qr/^POST/m, 'no tunnel is opened');
    reports(reads(remote($busy), @own, '--target-vmid', 401), 0);
    write_file("$DIR/guests/qemu-server/403.conf", "memory: 16\n\n[before]\nmemory: 16\n");
    reports(
        check(remote($busy), '--guests', "$DIR/guests", '--vmid', 403, '--seconds', 0),
        2, [failed => qr/has the snapshot 'before'/, qr/: qm delsnapshot 403 before\z/]
    );
    write_file("$DIR/guests/lxc/402.conf", "memory: 16\n");
    write_file("$busy->{dir}/402.conf", "memory: 16\n");
    my ($container) = problems(reads(remote($busy), '--guests', "$DIR/guests", '--vmid', 402));
    like($container->[2], qr/'pct remote-migrate 402 OTHER /, 'the command of a container');
    my $advice = qr/synchronize both nodes/;
    reports(reads(remote(node(clock => 60))), 1, [worse => qr/clocks differ by \d+ s/, $advice]);
    reports(
        reads(remote(node(clock => -2 * 86_400))),
        2, [failed => qr/clocks differ by 1728\d\d s/, $advice]
    );
};

subtest 'high availability and replication' => sub {
    my $cluster = "$DIR/cluster";
    my @own = ('--guests', "$cluster/local", '--vmid', 410);
    write_file("$cluster/local/qemu-server/410.conf", "memory: 16\n");
    reports(reads(remote($node), @own), 0);
    write_file("$cluster/ha/resources.cfg", "vm: 410\n\tcomment caf\xe9\n\tstate ignored\n");
    write_file("$cluster/replication.cfg", "local: 410-0\n\ttarget b\n\n");
    my $ha = [failed => qr/\AHA manages the guest\z/, qr/: ha-manager remove vm:410\z/];
    my $job = [failed => qr/has the replication job 410-0\z/, qr/: pvesr delete 410-0\z/];
    reports(reads(remote($node), @own), 2, $ha, $job);
    # A named pipe has no content, and reading it could wait without limit.
    unlink "$cluster/$_" for qw(ha/resources.cfg replication.cfg);
    POSIX::mkfifo("$cluster/replication.cfg", 0600) or die "mkfifo: $!\n";
    mkdir "$cluster/ha/resources.cfg" or die "mkdir: $!\n";
    my $unread = qr/cannot read \Q$cluster\E/;
    my $check = qr/\Acheck that pve-cluster runs; '\S+ (?:config|list)' shows it, too\z/;
    reports(
        reads(remote($node), @own),
        1,
        [worse => qr/whether HA manages the guest: $unread\S+: Is a directory/, $check],
        [worse => qr/whether the guest has replication jobs: $unread\S+: .*named pipe/, $check]
    );
};

subtest 'a guest file that is not UTF-8' => sub {
    my @own = ('--guests', "$DIR/guests", '--vmid');
    write_file("$DIR/guests/qemu-server/411.conf", "#caf\xe9\nmemory: 16\nlock: backup\n");
    my $lock = [failed => qr/is locked \('backup'\)/, qr/\Await until/];
    reports(reads(remote($node), @own, 411), 2, $lock);
    POSIX::mkfifo("$DIR/guests/qemu-server/412.conf", 0600) or die "mkfifo: $!\n";
    my $result = reads(remote($node), @own, 412);
    is($result->{code}, 2, 'a named pipe: exit code 2');
    like(
        $result->{err}, qr{\Apve-tunnel: --vmid: cannot read \S+/412\.conf: .*named pipe},
        '... why'
    );
};

subtest 'the version of the target' => sub {
    my $upgrade = qr/\Aupgrade the target to Proxmox VE 8 or 9/;
    my %expected = (
        '6.4.13' => [2, failed => qr/runs Proxmox VE 6\.4\.13, which accepts no guests/, $upgrade],
        '7.2.11' => [2, failed => qr/runs Proxmox VE 7\.2\.11, which accepts no guests/, $upgrade],
        '7.4.15' => [1, worse => qr/runs Proxmox VE 7\.4\.15, .* does not support/, $upgrade],
        '10.0.1' => [1, worse => qr/10\.0\.1, which is newer/, qr/newer version of pve-tunnel/],
    );
    for my $version (sort keys %expected) {
        my ($code, @finding) = $expected{$version}->@*;
        my $result = check(remote(node(pve_version => $version)), '--seconds', 0, @NETWORK);
        reports($result, $code, [@finding]);
    }
    reports(reads(remote(node(pve_version => '8.0.3'))), 0);
    my $long = reads(remote(node(pve_version => '9.1.' . '7' x 400)));
    like($long->{out}, qr/"the target runs Proxmox VE 9\.1\.7{33}\.\.\."/, 'a long one is cut');
};

subtest 'an answer that does not come' => sub {
    my $silent = node(misbehave => ['hang-handshake']);
    my $result = reads(remote($silent));
    reports($result, 2, [failed => qr/no answer within 10 s/, qr/check that pveproxy answers/]);
    cmp_ok($result->{time}, '<', 30, "the limit holds ($result->{time} s)");
};

done_testing;
