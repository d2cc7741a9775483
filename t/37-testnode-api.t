#!/usr/bin/perl

# The queries that the test node answers as pveproxy does, its options for them, and the refusals of
# POST mtunnel that depend on them.

use v5.36;

use FindBin ();
use lib "$FindBin::RealBin/lib";

use Test::More;
use Time::HiRes ();
use Time::Piece ();

use Test::TunnelClient;
use Test::TunnelNode;

local $SIG{ALRM} = sub { die "the test timed out\n" };
alarm 300;
local $SIG{PIPE} = 'IGNORE';

my $node = Test::TunnelNode->start;

# The data of a query that succeeds.
sub data ($from, $path) {
    my $answer = Test::TunnelClient->get($from, $path);
    is($answer->{status}, 200, "GET $path");
    return $answer->{body}{data};
}

# A query that fails has the reason in its status line and in its body.
sub refused ($from, $path, $status, $reason, $errors = undef) {
    my $answer = Test::TunnelClient->get($from, $path);
    is("$answer->{status} $answer->{reason}", "$status $reason", "GET $path: the status line");
    is_deeply(
        $answer->{body},
        { data => undef, message => "$reason\n", $errors ? (errors => $errors) : () },
        '... and the body'
    );
    return;
}

# The status line of a refused POST mtunnel, or the empty string.
sub opening ($to, $kind, $vmid, $form = '') {
    return eval { Test::TunnelClient->open($to, $kind, $vmid, $form); 1 } ? '' : $@;
}

my $PARAMETER = 'Parameter verification failed.';
# RFC 9110, section 5.6.7.
my $DATE = q{%a, %d %b %Y %H:%M:%S GMT};

subtest 'version and cluster' => sub {
    my $version = data($node, '/version');
    like(delete $version->{repoid}, qr/\A[0-9a-f]{16}\z/, 'the repository');
    is_deeply($version, { version => '9.1.4', release => '9.1' }, 'version and release');
    my ($entry, @others) = data($node, '/cluster/status')->@*;
    is_deeply([@others], [], 'one entry: the node is not in a cluster');
    is_deeply(
        [$entry->@{qw(type id name ip local online)}],
        ['node', 'node/target', 'target', '127.0.0.1', 1, 1],
        'the entry of the node'
    );
    my $other = Test::TunnelNode->start(pve_version => '8.4.9', listen => '::1', node => 'pve2');
    $version = data($other, '/version');
    is_deeply([$version->@{qw(version release)}], ['8.4.9', '8.4'], 'another version');
    is_deeply(
        [data($other, '/cluster/status')->[0]->@{qw(name ip)}],
        ['pve2', '::1'], 'another name and address'
    );
};

subtest 'every query needs the token' => sub {
    my @paths = qw(version cluster/status cluster/options cluster/nextid access/permissions);
    push @paths, map { "nodes/target/$_" } qw(storage/local/status network/vmbr0 qemu/100/config);
    for my $path (@paths, 'unknown') {
        my $answer = Test::TunnelClient->request($node, 'GET', "/api2/json/$path");
        is("$answer->{status} $answer->{reason}", '401 No ticket', $path);
    }
};

subtest 'an unknown path' => sub {
    for my $path ('/', '/cluster', '/nodes/target/qemu', '/nodes/target/storage/local') {
        refused($node, $path, 501, "Method 'GET /api2/json$path' not implemented");
    }
    refused($node, '/nodes/other/storage/local/status', 500, 'no such cluster node');
    data($node, '/nodes/localhost/storage/local/status');
};

subtest 'the clock of the node' => sub {
    my $slow = Test::TunnelNode->start(clock => -3600);
    my $fast = Test::TunnelNode->start(clock => 90);
    for my $row ([$node, 0], [$slow, -3600], [$fast, 90]) {
        my ($from, $shift) = @$row;
        for my $path ('/version', '/unknown') {
            # Not time(): its seconds begin up to a tick of the kernel later than the node's.
            my $before = int Time::HiRes::time;
            my $head = Test::TunnelClient->get($from, $path)->{head};
            my @dates = $head =~ m/^date: ([^\r\n]+)/gim;
            is(scalar @dates, 1, "$path: one date");
            my $after = Time::HiRes::time;
            my $shown = Time::Piece->strptime($dates[0], $DATE)->epoch - $shift;
            ok($shown >= $before && $shown <= $after, "... with a shift of $shift s: $dates[0]");
        }
    }
};

subtest 'the next free guest ID' => sub {
    my $own = Test::TunnelNode->start;
    my $next = sub ($id = undef) {
        return data($own, '/cluster/nextid' . (defined $id ? "?vmid=$id" : ''));
    };
    is($next->(), '100', 'of an empty node');
    is($next->(777), '777', 'a free ID');
    my $client = Test::TunnelClient->open($own, 'qemu', 100);
    is($next->(), '101', 'a guest with a tunnel is in use');
    my $taken = { vmid => 'VM 100 already exists' };
    refused($own, '/cluster/nextid?vmid=100', 400, $PARAMETER, $taken);
    $client->command('quit');
    $client->disconnect;
    # The worker ends after it has seen the end of the connection.
    Time::HiRes::sleep(0.02)
        while Test::TunnelClient->get($own, '/cluster/nextid?vmid=100')->{status} == 400;
    is($next->(), '100', 'it is free after the tunnel');
    write_file("$own->{dir}/100.conf", "memory: 512\n");
    is($next->(), '101', 'a configuration that was left is in use');
    for my $row (
        ['abc', q{type check ('integer') failed - got 'abc'}],
        ['99', 'value must have a minimum value of 100'],
        ['1000000000', 'value must have a maximum value of 999999999'],
        ['99999999999', 'value must have a maximum value of 999999999'],
        )
    {
        my ($id, $reason) = @$row;
        refused($own, "/cluster/nextid?vmid=$id", 400, $PARAMETER, { vmid => $reason });
    }
};

subtest 'storages and bridges' => sub {
    my $status = data($node, '/nodes/target/storage/local/status');
    is_deeply([$status->@{qw(enabled active content)}], [1, 1, 'images,rootdir'], 'a storage');
    cmp_ok($status->{avail}, '>', 0, '... with free space');
    is(data($node, '/nodes/target/network/vmbr0')->{type}, 'bridge', 'a bridge');
    my @listed = map { $_->{iface} } data($node, '/nodes/target/network?type=any_bridge')->@*;
    is_deeply(\@listed, ['vmbr0'], 'the list of bridges');
    my $storage = { storage => 'No such storage.' };
    my $interface = { iface => 'interface does not exist' };
    refused($node, '/nodes/target/storage/zfs/status', 400, $PARAMETER, $storage);
    refused($node, '/nodes/target/network/vmbr1', 400, $PARAMETER, $interface);

    my $own = Test::TunnelNode->start(storage => ['zfs,avail=5000', 'nfs'], bridge => ['vmbr7']);
    is(data($own, '/nodes/target/storage/zfs/status')->{avail}, 5000, 'free space as configured');
    data($own, '/nodes/target/storage/nfs/status');
    data($own, '/nodes/target/network/vmbr7');
    refused($own, '/nodes/target/storage/local/status', 400, $PARAMETER, $storage);
    refused($own, '/nodes/target/network/vmbr0', 400, $PARAMETER, $interface);

    is(
        opening($own, 'qemu', 100, 'storages=zfs,local'),
        "500 storage 'local' does not exist\n",
        'a tunnel for a missing storage'
    );
    is(
        opening($own, 'lxc', 100, 'storages=zfs&bridges=vmbr7%2Cvmbr0'),
        "500 bridge 'vmbr0' does not exist\n",
        'a tunnel for a missing bridge'
    );
    is(opening($own, 'qemu', 100, 'storages=zfs%2C%20nfs&bridges=vmbr7'), '', 'all exist');
};

subtest 'the privileges of the token' => sub {
    my $all = data($node, '/access/permissions');
    my @expected = (
        ['/' => qw(Sys.Audit Sys.Incoming Sys.Modify)],
        ['/nodes' => qw(Sys.Audit)],
        ['/vms' => qw(VM.Allocate VM.Audit VM.Config.Disk VM.Config.Network)],
        ['/storage' => qw(Datastore.AllocateSpace)],
        ['/sdn/zones/localnetwork' => qw(SDN.Use)],
    );
    for my $row (@expected) {
        my ($path, @privileges) = @$row;
        is($all->{$path}{$_}, 1, "$_ at $path") for @privileges;
    }
    my $one = data($node, '/access/permissions?path=%2Fvms%2F100');
    is_deeply($one, { '/vms/100' => $all->{'/vms'} }, 'the privileges at one path');
    my ($token) = $node->{token} =~ m/=(.*)=/;
    is_deeply(data($node, "/access/permissions?userid=$token"), $all, 'the token by its name');

    my $less = Test::TunnelNode->start(no_privilege => 1);
    delete $all->{$_}{'Sys.Modify'} for keys %$all;
    is_deeply(data($less, '/access/permissions'), $all, 'without Sys.Modify');
    my $unlisted = Test::TunnelNode->start(permissions => { '/' => { 'Sys.Audit' => 1 } });
    is_deeply(data($unlisted, '/nodes/target/network'), [], 'a bridge that it may not use');
};

subtest 'privileges that the token lacks' => sub {
    my $full = data($node, '/access/permissions');
    my $with = sub (%changes) {
        my $own = Test::TunnelNode->start(permissions => { %$full, %changes });
        return $own;
    };
    my $bare = $with->(map { $_ => {} } keys %$full);
    is_deeply(data($bare, '/access/permissions'), {}, 'a path without privileges is not listed');
    data($bare, '/version');
    data($bare, '/cluster/nextid');
    my %options = ('registered-tags' => ['prod'], 'allowed-tags' => ['web']);
    my $tagged = Test::TunnelNode->start(cluster_options => \%options);
    is_deeply(data($tagged, '/cluster/options'), \%options, 'the options of the cluster');
    $tagged = Test::TunnelNode->start(cluster_options => \%options, permissions => { '/' => {} });
    is_deeply(
        data($tagged, '/cluster/options'),
        { 'allowed-tags' => ['web'] }, '... without Sys.Audit'
    );
    my @table = (
        ['/cluster/status', '/, Sys.Audit'],
        ['/access/permissions?userid=root@pam', '/access, Sys.Audit'],
        [
            '/nodes/target/storage/local/status',
            '/storage/local, Datastore.Audit|Datastore.AllocateSpace'
        ],
        ['/nodes/target/network/vmbr0', '/nodes/target, Sys.Audit'],
        ['/nodes/target/qemu/100/config', '/vms/100, VM.Audit'],
    );
    refused($bare, $_->[0], 403, "Permission check failed ($_->[1])") for @table;

    my $reason = sub ($what) { "403 Permission check failed ($what)\n" };
    is(opening($bare, 'qemu', 100), $reason->('/vms/100, VM.Allocate'), 'a tunnel');
    my $own = $with->('/' => { 'Sys.Audit' => 1 });
    is(opening($own, 'lxc', 100), $reason->('/, Sys.Incoming'), 'Sys.Incoming');
    $own = $with->('/vms/100' => {}, '/storage/local' => {});
    is(opening($own, 'qemu', 100), $reason->('/vms/100, VM.Allocate'), 'one guest');
    is(opening($own, 'qemu', 101), '', '... and not another');
    is(
        opening($own, 'qemu', 102, 'storages=local'),
        $reason->('/storage/local, Datastore.AllocateSpace'),
        'one storage'
    );
};

subtest 'the configuration of a guest' => sub {
    my $own = Test::TunnelNode->start;
    my $missing = sub ($directory, $vmid) {
        return "Configuration file 'nodes/target/$directory/$vmid.conf' does not exist";
    };
    refused($own, '/nodes/target/qemu/100/config', 500, $missing->('qemu-server', 100));
    refused($own, '/nodes/target/lxc/100/config', 500, $missing->('lxc', 100));
    my $client = Test::TunnelClient->open($own, 'lxc', 100);
    is(data($own, '/nodes/target/lxc/100/config')->{lock}, 'create', 'a guest with a tunnel');
    refused($own, '/nodes/target/qemu/100/config', 500, $missing->('qemu-server', 100));
    write_file("$own->{dir}/101.conf", "memory: 512\nlock: migrate\n");
    my $options = data($own, '/nodes/target/qemu/101/config');
    is_deeply(
        [$options->@{qw(memory lock)}],
        ['512', 'migrate'], 'a configuration that was left'
    );
};

subtest 'a tunnel creates the configuration of its guest, if enabled' => sub {
    my %workers = (fake => [], real => [worker => "$FindBin::RealBin/../testnode/worker.pl"]);
    for my $name (sort keys %workers) {
        # Without pve-tunnel, the real worker needs no compiled module.
        my $own = Test::TunnelNode->start(
            create_guests => 1,
            no_direct => 1,
            $workers{$name}->@*
        );
        created_guest($own, $name, 'qemu', 100, 'VM');
        created_guest($own, $name, 'lxc', 101, 'CT');
    }
};

# What a tunnel of this node does with the configuration of its guest.
sub created_guest ($own, $worker, $kind, $vmid, $noun) {
    my $config = "/nodes/target/$kind/$vmid/config";
    my $client = Test::TunnelClient->open($own, $kind, $vmid);
    is(data($own, $config)->{lock}, 'create', "$kind, $worker worker: a locked configuration");
    my $again = Test::TunnelClient->request(
        $own, 'POST', "/api2/json/nodes/target/$kind/$vmid/mtunnel",
        headers => ["Authorization: $own->{token}"],
    );
    is("$again->{status} $again->{reason}", "400 $PARAMETER", 'it cannot be created twice');
    is_deeply(
        JSON::decode_json($again->{body})->{errors},
        {
            vmid => "unable to create empty $noun config"
                . " - $noun $vmid already exists on node 'target'\n"
        },
        '... and the error names the guest'
    );
    ok($client->command('quit', cleanup => JSON::true)->{success}, 'quit with a clean-up');
    $client->disconnect;
    ok(!-e "$own->{dir}/$vmid.conf", '... removes the configuration');
    # A guest has one worker at a time.
    Time::HiRes::sleep(0.02) while opening($own, $kind, $vmid) =~ m/\A500 .*already has a tunnel/;
    # That client has disconnected without quit.
    Time::HiRes::sleep(0.02) while $own->worker_log($vmid) !~ m/without '?quit/;
    is(data($own, $config)->{lock}, 'create', 'an interrupted tunnel leaves its guest');
    like(opening($own, $kind, $vmid), qr/\A400 /, '... which blocks the next tunnel');
    like(
        Test::TunnelClient->get($own, "/cluster/nextid?vmid=$vmid")->{body}{errors}{vmid},
        qr/already exists/, '... and its ID is in use'
    );
    return;
}

subtest 'the command line' => sub {
    my $profile = $ENV{CARGO_PROFILE} // 'release';
    my $dir = File::Temp->newdir('testnode-XXXXXX', TMPDIR => 1);
    my $testnode = "$FindBin::RealBin/../target/$profile/testnode --worker w --dir $dir";
    write_file("$dir/bad.json", '{"vms": {}}');
    my @table = (
        ['--pve-version 9', qr/'9' .*expected a version like 9\.1\.4/],
        ['--storage a/b', qr/'a\/b' is not a name/],
        ['--storage a,size=1', qr/unknown property 'size=1', expected avail=BYTES/],
        ['--bridge ""', qr/'' is not a name/],
        ['--clock 1e3', qr/invalid value '1e3'/],
        ['--clock -99999999999', qr/-99999999999 is not in/],
        ["--permissions $dir/none", qr/cannot read the permissions in .*none: No such file/],
        ["--permissions $dir/bad.json", qr/bad\.json are not valid: 'vms' is not a path/],
    );
    for my $row (@table) {
        my ($arguments, $reason) = @$row;
        my $output = `$testnode $arguments 2>&1 </dev/null`;
        isnt($?, 0, "refused: $arguments");
        like($output, $reason, '... with a reason');
    }
};

sub write_file ($path, $text) {
    open my $file, '>', $path or die "$path: $!\n";
    print {$file} $text;
    close $file or die "$path: $!\n";
    return;
}

done_testing;
