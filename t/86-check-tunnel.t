#!/usr/bin/perl

# pve-tunnel check: privileges, the tunnel, and the planes of the target, each with its advice.

use v5.36;

use FindBin ();
use lib map { "$FindBin::RealBin/$_" } qw(lib ../testnode/lib ../perl/blib/lib ../perl/blib/arch);

use File::Temp qw(tempdir);
use Test::More;

use Test::CheckCommand qw(check defaults start_check problems remote reports write_file);
use Test::TunnelNode;

local $SIG{ALRM} = sub { die "the test timed out\n" };
alarm 300;

my $DIR = tempdir(CLEANUP => 1);
my $WORKER = "$FindBin::RealBin/../testnode/worker.pl";
my @NETWORK = ('--network', '127.0.0.0/8');

sub node (%options) {
    return Test::TunnelNode->start(worker => $WORKER, create_guests => 1, %options);
}

# A check without a measurement.
sub quick ($node, @arguments) { return check(remote($node), '--seconds', 0, @arguments) }

sub nothing_left ($node) {
    is_deeply([glob "$node->{dir}/*.conf"], [], 'the target has no guest');
    return;
}

my @GUEST = map { "VM.$_" } (
    'Allocate',
    map { "Config.$_" } qw(CPU Memory Disk HWType Network Options)
);
my %ALL = (
    '/' => [qw(Sys.Audit Sys.Incoming Sys.Modify)],
    '/vms' => [@GUEST],
    '/storage/local' => ['Datastore.AllocateSpace'],
    '/sdn/zones/localnetwork/vmbr0' => ['SDN.Use'],
);

# All privileges, except one.
sub permissions ($path, $without) {
    my %permissions;
    for my $each (keys %ALL) {
        my @names = grep { $each ne $path || $_ ne $without } $ALL{$each}->@*;
        $permissions{$each} = { map { $_ => 1 } @names };
    }
    return \%permissions;
}

subtest 'each missing privilege' => sub {
    my @targets = qw(--target-storage local --target-bridge vmbr0 --target-vmid 500 --read-only);
    for my $path (sort keys %ALL) {
        my $shown = $path eq '/vms' ? '/vms/500' : $path;
        for my $name ($ALL{$path}->@*) {
            my $node = node(permissions => permissions($path, $name));
            my $text = qr/root\@pam!demo lacks \Q$name\E on \Q$shown\E: /;
            my $advice =
                qr/--privs \Q$name\E && pveum acl modify \Q$shown\E --tokens 'root\@pam!demo'/;
            my @network = $name eq 'Sys.Modify' ? @NETWORK : ();
            reports(quick($node, @targets, @network), 2, [failed => $text, $advice]);
        }
    }
    # Without a VMID: that of the tunnel is another one at the next check.
    my $every = node(permissions => permissions('/vms', 'VM.Allocate'));
    reports(
        quick($every, '--read-only'),
        2, [failed => qr/lacks VM\.Allocate on \/vms: /, qr/ acl modify \/vms --tokens /]
    );
    my $node = node(permissions => permissions('/', 'Sys.Modify'));
    reports(
        quick($node, @targets, '--type', 'insecure'),
        2, [failed => qr/lacks Sys\.Modify on \/: for clear text/, qr/--privs Sys\.Modify/]
    );
    reports(quick($node, @targets), 0);
    # The configuration of this node permits clear text here, and not at the target.
    my $file = "$DIR/clear.cfg";
    write_file(
        $file,
        "network: dc2\n\tremote 127.0.0.1\n\tsource 127.0.0.0/8\n\tallow secure,insecure\n"
    );
    reports(
        quick($node, @targets, '--type', 'insecure', '--configuration', $file),
        2, [failed => qr/lacks Sys\.Modify on \/: for clear text/, qr/--privs Sys\.Modify/]
    );
};

subtest 'what the options of a guest need' => sub {
    my %given = map {
        $_ => { map { $_ => 1 } $ALL{$_}->@* }
    } keys %ALL;
    my $node = node(permissions => \%given);
    my $of = sub ($kind, $text, @arguments) {
        write_file("$DIR/guests/$kind/710.conf", $text);
        my @guest = ('--guests', "$DIR/guests", '--vmid', 710);
        my $result = quick($node, @guest, '--read-only', @arguments);
        unlink "$DIR/guests/$kind/710.conf";
        return $result;
    };
    my $grant = sub ($path, $name) {
        my $word = $path =~ m/[; ]/ ? "'$path'" : $path;
        return qr/--privs \Q$name\E && pveum acl modify \Q$word\E --tokens 'root\@pam!demo'/;
    };
    my @table = (
        [
            'ide2: local:710/vm-710-cloudinit.qcow2,media=cdrom', '/vms/710', 'VM.Config.CDROM',
            'ide2'
        ],
        ['usb0: mapping=stick', '/mapping/usb/stick', 'Mapping.Use', 'usb0'],
        ['usb0: mapping=a;b c', '/mapping/usb/a;b c', 'Mapping.Use', 'usb0'],
        ['hostpci0: mapping=gpu,pcie=1', '/mapping/pci/gpu', 'Mapping.Use', 'hostpci0'],
        ['rng0: source=/dev/hwrng', '/mapping/hwrng', 'Mapping.Use', 'rng0'],
        ['vmstatestorage: fast', '/storage/fast', 'Datastore.AllocateSpace', 'vmstatestorage'],
    );
    for my $row (@table) {
        my ($line, $path, $name, $key) = @$row;
        my $name_of_two = $key eq 'ide2' ? 'VM.Config.CDROM, VM.Config.Cloudinit' : $name;
        my $granted = $name_of_two =~ s/ //gr;
        reports(
            $of->('qemu-server', "memory: 16\n$line\n"),
            2,
            [
                failed => qr/ lacks \Q$name_of_two\E on \Q$path\E: for its option '$key'/,
                $grant->($path, $granted)
            ]
        );
    }
    my $limited = node(permissions => permissions('/', 'Sys.Modify'));
    $node = $limited;
    reports(
        $of->('qemu-server', "startup: order=1\n"),
        2,
        [
            failed => qr{ lacks Sys\.Modify on /: for its option 'startup'\z},
            $grant->('/', 'Sys.Modify')
        ]
    );
    reports(
        $of->('lxc', "cores: 1\n"),
        2,
        [
            failed => qr{ lacks Sys\.Modify on /: for its option 'unprivileged 0'\z},
            $grant->('/', 'Sys.Modify')
        ]
    );
    # Only what the guest has.
    $node = node(permissions => permissions('/vms', 'VM.Config.HWType'));
    reports($of->('lxc', "cores: 1\nunprivileged: 1\nstartup: order=1\nnet0: bridge=vmbr0\n"), 0);
    reports(
        $of->('qemu-server', "vga: qxl\nserial0: socket\n"),
        2,
        [
            failed => qr/lacks VM\.Config\.HWType on \S+: for its options 'vga' and 'serial0'\z/,
            $grant->('/vms/710', 'VM.Config.HWType')
        ]
    );
    my $remove = qr/remove it here before: qm set 710 --delete args,hostpci0,hookscript\z/;
    reports(
        $of->('qemu-server', "args: -S\nhostpci0: 0000:01:00\nhookscript: local:snippets/x\n"),
        2,
        [
            failed => qr/rejects the options 'args', 'hostpci0' and 'hookscript'.* a token is not/,
            $remove
        ]
    );
    reports(
        $of->('lxc', "features: keyctl=1,nesting=1\nunprivileged: 1\n"),
        2,
        [failed => qr/rejects the option 'features' of/, qr/: pct set 710 --delete features\z/]
    );
    # The tag of the device, on the only bridge.
    my %tagged = (%given, '/sdn/zones/localnetwork/vmbr0/7' => { 'SDN.Use' => 1 });
    $tagged{'/sdn/zones/localnetwork/vmbr0'} = {};
    $node = node(permissions => \%tagged);
    my $nets = "net0: virtio,bridge=a,tag=7\n";
    reports($of->('qemu-server', $nets, '--target-bridge', 'vmbr0'), 0);
    my $path = '/sdn/zones/localnetwork/vmbr0/8';
    reports(
        $of->('qemu-server', "${nets}net1: virtio,bridge=a,tag=8\n", '--target-bridge', 'vmbr0'),
        2, [failed => qr/lacks SDN\.Use on \Q$path\E: .*'net1'/, $grant->($path, 'SDN.Use')]
    );
};

subtest 'tags that only administrators may set' => sub {
    write_file("$DIR/guests/qemu-server/720.conf", "tags: prod;web\n");
    my @guest = ('--guests', "$DIR/guests", '--vmid', 720, '--read-only');
    my $without = permissions('/', 'Sys.Modify');
    my $of = sub (%options) { return quick(node(cluster_options => \%options), @guest) };
    my $of_user = sub (%options) {
        return quick(node(permissions => $without, cluster_options => \%options), @guest);
    };
    my @registered = ('registered-tags' => ['prod'], 'allowed-tags' => ['web']);
    my @listed = ('user-tag-access' => { 'user-allow' => 'list' }, 'allowed-tags' => []);
    my $grant = qr/--privs Sys\.Modify && pveum acl modify \/ /;
    reports($of->(@registered), 0);
    reports(
        $of_user->(@registered),
        2, [failed => qr{lacks Sys\.Modify on /: for its tags prod\z}, $grant]
    );
    reports(
        $of_user->(@listed),
        2, [failed => qr{lacks Sys\.Modify on /: for its tags prod, web\z}, $grant]
    );
    reports($of_user->('allowed-tags' => []), 0);
};

subtest 'storages and bridges that do not exist' => sub {
    my $node = node();
    reports(
        quick($node, '--target-storage', 'fast'),
        2, [failed => qr/storage 'fast' does not exist/, qr/\Aname a storage that the target has/]
    );
    reports(
        quick($node, '--target-bridge', 'vmbr9'),
        2, [failed => qr/bridge 'vmbr9' does not exist/, qr/\Aname a bridge of the target/]
    );
    nothing_left($node);
    # The same without a tunnel.
    my @missing = qw(--target-storage fast --target-storage local --target-bridge vmbr9);
    reports(
        quick($node, '--read-only', @missing, '--target-bridge', 'vmbr0'),
        2,
        [failed => qr/storage 'fast' does not exist/, qr/\Aname a storage that the target has/],
        [failed => qr/bridge 'vmbr9' does not exist/, qr/\Aname a bridge of the target/]
    );
};

subtest 'storages that the guest cannot use' => sub {
    my @storages = ('idle,inactive', 'iso,content=iso', 'small,avail=1073741824');
    my $node = node(storage => [@storages, 'large,avail=99999999999']);
    write_file("$DIR/guests/qemu-server/700.conf", "scsi0: local:700/a.raw,size=2G\n");
    my @guest = ('--guests', "$DIR/guests", '--vmid', 700, '--read-only');
    my %expected = (
        idle =>
            [2, failed => qr/'idle' is not active/, qr/\Asee why: 'pvesm status' on the target/],
        iso => [2, failed => qr/'iso' does not store images/, qr/or add the content type 'images'/],
        small => [
            1,
            worse => qr/1\.0 GiB free, and the disks of the guest have 2\.0 GiB/,
            qr/\Amake room/
        ],
    );
    for my $storage (sort keys %expected) {
        my ($code, @finding) = $expected{$storage}->@*;
        reports(quick($node, @guest, '--target-storage', $storage), $code, [@finding]);
    }
    reports(quick($node, @guest, '--target-storage', 'large'), 0);
    my ($no_images) = problems(quick($node, '--read-only', '--target-storage', 'iso'));
    like($no_images->[1], qr/does not store images or rootdir/, 'without a guest');
};

subtest 'maps of storages and bridges' => sub {
    my $node = node(storage => ['data', 'nvme', 'iso,content=iso'], bridge => [qw(vmbr0 vmbr1)]);
    my $file = "$DIR/guests/qemu-server/730.conf";
    write_file(
        $file,
        "scsi0: local:730/a.raw,size=1G\nscsi1: fast:vm-730-disk-1,size=1G\nnet0: virtio,bridge=vmbr0,tag=7\n"
    );
    my $of = sub ($storages, $bridges, @more) {
        my @arguments = ('--target-storage' => $storages, '--target-bridge' => $bridges, @more);
        return quick($node, @arguments);
    };
    my @guest = ('--guests', "$DIR/guests", '--vmid', 730);
    reports($of->('local:data,fast:nvme', 'vmbr0:vmbr1', @guest, @NETWORK), 0);
    reports($of->('local:data,fast:nvme', 'vmbr0:vmbr1', @NETWORK), 0);
    # What the guest does not use is not needed.
    reports($of->('local:data,other:none,nvme', '1', @guest, '--read-only'), 0);
    my $no_storage = sub ($id) {
        return [failed => qr/storage '\Q$id\E' does not exist/, qr/\Aname a storage/];
    };
    my $read_only = $of->('local:data', 'vmbr0:vmbr9', @guest, '--read-only');
    my $no_bridge = [failed => qr/bridge 'vmbr9' does not exist/, qr/\Aname a bridge/];
    reports($read_only, 2, $no_storage->('fast'), $no_bridge);
    reports($of->('local:data,other:none', 'vmbr0', '--read-only'), 2, $no_storage->('none'));
    my %wrong = (
        'a:b:c' => qr/--target-storage: 'a:b:c' is neither ID nor HERE:TARGET/,
        '1' => qr/--target-storage: 'qm remote-migrate' accepts '1' only for bridges/,
    );
    for my $storages (sort keys %wrong) {
        my $result = $of->($storages, '1');
        is($result->{code}, 2, "--target-storage $storages: exit code 2");
        like($result->{err}, $wrong{$storages}, '... the reason');
    }
};

my $ENABLE = qr/\Ainstall pve-tunnel on the target, and run 'pve-tunnel enable' there/;

subtest 'targets without direct planes' => sub {
    for my $options ({ no_direct => 1 }, { old => 1 }) {
        my $node = node(%$options);
        my $result = check(remote($node), '--seconds', 0.1);
        my ($missing, @others) = problems($result);
        is($result->{code}, 1, join ' ', 'exit code 1 for', %$options);
        like($missing->[1], qr/\Athe target has no direct planes/, 'the target has no pve-tunnel');
        like($missing->[2], $ENABLE, '... its advice');
        like($others[0][1], qr/\Anothing can be measured/, 'nothing is measured');
        is($result->{report}{plane}, 'websocket', 'a migration uses the websocket');
        is_deeply($result->{report}{measurements}, [], 'no measurement');
        my @command = ('check', '--to', remote($node), defaults(), '--seconds', 0.1);
        my %headings;
        $headings{$_}++ for start_check(arguments => \@command)->wait->{out} =~ m/^(\w.*)$/gm;
        is_deeply([grep { $headings{$_} > 1 } sort keys %headings], [], 'no heading is repeated');
        ok($headings{$_}, "heading $_") for qw(Tunnel Speed);
        $result = quick($node, '--type', 'insecure');
        is($result->{code}, 2, 'clear text is refused');
        nothing_left($node);
    }
};

subtest 'a network that permits several lanes' => sub {
    my $node = node();
    my $file = "$DIR/lanes.cfg";
    write_file($file, <<~'END');
        network: lab
            source 127.0.0.0/8
            target 127.0.0.0/8
            lanes 3
        END
    my @arguments = ('--network', 'lab', '--configuration', $file);
    my $result = check(remote($node), '--seconds', 0.2, @arguments);
    reports($result, 0);
    my @measured = map { join ' ', $_->{plane}, $_->{lanes} // '-', $_->{direction} }
        $result->{report}{measurements}->@*;
    is_deeply(
        \@measured,
        [
            'websocket - sent', 'websocket - received',
            map { ("tls $_ sent", "tls $_ received") } 1, 3
        ],
        'the direct plane is measured with one lane and with all'
    );
    my @speed = map { $_->{text} } grep { $_->{step} eq 'speed' } $result->{report}{findings}->@*;
    like($speed[2], qr/\Atls, 1 lane: [0-9.]+ MB\/s to the target/, 'the text has the one lane');
    like($speed[4], qr/\Atls, 3 lanes: [0-9.]+ MB\/s to the target/, '... and the three');
    my $factor = qr/[0-9.]+ times as fast as one: a migration opens more lanes while they help/;
    my $none = qr/not faster than one: a migration continues with few of them/;
    like($speed[6], qr/\A3 lanes are (?:$factor|$none)\z/, '... and compares them');
    nothing_left($node);
};

subtest 'the configuration of the target' => sub {
    my $file = "$DIR/target.cfg";
    write_file($file, "network: dc1\n\ttraget 10.0.0.0/8\n");
    reports(
        quick(node(configuration => $file), @NETWORK),
        2,
        [
            failed => qr/configuration of the target has a mistake: .*line 2/,
            qr/\Acorrect it on the target node/
        ]
    );
    write_file($file, "policy: cluster\n\trequire-encryption 1\n");
    my $result = quick(node(configuration => $file), @NETWORK, '--type', 'insecure');
    is($result->{code}, 2, 'a target that requires encryption: exit code 2');
    my ($withheld, $refused) = problems($result);
    like(
        $withheld->[1],
        qr/\Athe target withholds direct-tcp: \Q$file\E of the target requires encryption\z/,
        'the text calls the target so'
    );
    like($withheld->[2], qr/remote-migration\.cfg on the target/, '... its advice');
    like($refused->[1], qr/\Q$file\E of the target requires encryption/, 'the reason of the plan');
    like($refused->[2], qr/\Ause --type secure, or change the configuration/, '... its advice');
    my $absent = quick(node(), '--network', '198.51.100.0/24');
    my ($address) = problems($absent);
    like($address->[1], qr/no usable address on the target/, 'a network that the target lacks');
    unlike($absent->{out}, qr/on this node/, '... and not this node');
};

subtest 'clear text' => sub {
    my $node = node();
    my $result = quick($node, '--type', 'insecure', @NETWORK);
    my $advice = qr/\Ause --type secure/;
    my $path = qr/\ACLEAR TEXT: .* UNENCRYPTED from 127\.0\.0\.1/;
    reports($result, 1, [worse => qr/\AWARNING: CLEAR TEXT/, $advice], [worse => $path, $advice]);
    is($result->{report}{plane}, 'tcp', 'the plane');
    nothing_left($node);
    # The configuration requests it, so there is no argument to omit.
    my $file = "$DIR/insecure.cfg";
    write_file($file, <<~'END');
        network: dc2
            remote 127.0.0.1
            source 127.0.0.0/8
            target 127.0.0.0/8
            allow secure,insecure
            default insecure
        END
    my @configured = ('--configuration', $file);
    reports(
        quick($node, @configured), 1, [worse => qr/\AWARNING/, $advice],
        [worse => $path, $advice]
    );
    reports(quick($node, @configured, '--type', 'secure'), 0);
};

subtest 'a target that fails' => sub {
    my $refusing = node(misbehave => ['control:refuse=500:no such guest']);
    my ($tunnel, @others) = problems(check(remote($refusing), '--seconds', 0));
    is($tunnel->[0], 'failed', 'the websocket is refused');
    like($tunnel->[1], qr/\Athe tunnel failed: .*no such guest/, '... the text has the reason');
    like(
        $tunnel->[2], qr/\Acheck pveproxy, .* on the target, and see its task log\z/,
        '... its advice'
    );
    my $broken = node(misbehave => ['data:refuse=500:no data today']);
    my $log = qr/see the task log of the target\z/;
    my $no_data = qr/\Aplane 'websocket' does not transfer data: /;
    my $not_used =
        qr/no data today.*\. A migration would not use it for guest data, which takes plane/;
    reports(
        check(remote($broken), '--seconds', 0.1, @NETWORK),
        1,
        [
            worse => qr/$no_data.*$not_used 'tls'\. Its commands take another websocket, which/,
            qr/\Aa migration whose listener cannot be reached would use it: $log/
        ]
    );
    reports(
        check(remote($broken), '--seconds', 0.1, @NETWORK, '--type', 'insecure'),
        1,
        [worse => qr/\AWARNING: CLEAR TEXT/, qr/./],
        [worse => qr/\ACLEAR TEXT: /, qr/./],
        [worse => qr/$no_data.*$not_used 'tcp'\. /, qr/\A$log/]
    );
    # A migration would use the websocket, because the target has no address of that network.
    reports(
        check(remote($broken), '--seconds', 0.1, '--network', '198.51.100.0/24'),
        2,
        [worse => qr/no usable address on the target/, qr/./],
        [worse => qr/migration network '\S+' is not used/, qr/./],
        [worse => qr/one websocket for each stream instead of several: .*no data today/, qr/./],
        [failed => qr/$no_data(?!.*would not use it)/, qr/\A$log/]
    );
    nothing_left($broken);
    my $occupied = node();
    mkdir "$occupied->{dir}/500.mtunnel.meter" or die "mkdir: $!\n";
    reports(
        check(remote($occupied), '--seconds', 0.1, '--target-vmid', 500, @NETWORK),
        1,
        [
            worse => qr/\Anothing can be measured: .*cannot start the meter: .*500\.mtunnel\.meter/,
            qr/\Asee the task log of the target\z/
        ]
    );
    nothing_left($occupied);
};

done_testing;
