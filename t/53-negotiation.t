#!/usr/bin/perl

# The plan for the guest's data is made while a tunnel opens. It depends on the call, the
# configuration file, the privileges of the caller, and the capabilities of the target.

use v5.36;

use FindBin ();
use lib map { "$FindBin::RealBin/$_" } qw(lib ../testnode/lib);

use File::Temp qw(tempdir);
use IO::Handle ();
use IO::Select ();
use IO::Socket::UNIX ();
use JSON ();
use POSIX ();

use Test::More;

use PVE::Tunnel::Client;
use Test::ScriptedConnector;
use Test::TunnelLog qw(log_line death);
use Test::VolumeImport qw(send_volume volume_arrived);
use TestNode::Node;

# Clear text and an explicit migration network require the privilege Sys.Modify.
plan skip_all => 'only root has Sys.Modify outside of Proxmox VE' if $> != 0;

# A test that hangs must fail.
local $SIG{ALRM} = sub { die "the test timed out\n" };
alarm(600);

# The network of both nodes.
my $NETWORK = '127.0.0.0/8';

my $dir = tempdir(CLEANUP => 1);
# The test of an unprivileged user needs access to the files in it.
chmod(oct(711), $dir) or die "chmod: $!\n";
my $log_file = "$dir/log";
$Test::TunnelLog::FILE = $log_file;
my $vmid = 100;

$PVE::Tunnel::Client::Negotiation::CONFIGURATION = "$dir/configuration";

sub configure (@lines) {
    my $file = "$dir/configuration";
    return unlink $file if !@lines;
    open(my $out, '>', $file) or die "$file: $!\n";
    print {$out} map { "$_\n" } @lines;
    close($out) or die "$file: $!\n";
    return;
}

# Opens a tunnel for a new guest ID. The log has the lines of this tunnel only.
sub open_tunnel ($node, %params) {
    $vmid++;
    unlink $log_file;
    return PVE::Tunnel::Client::fork_websocket_tunnel(
        $node->conn, $node->path($vmid),
        {}, { url => $node->url($vmid), %params }, \&log_line
    );
}

# The commands that the worker of the last tunnel has received; none if no worker was started.
sub commands ($node) { return [$node->worker_log($vmid) =~ /^command: (.*)$/mg] }

# The lines of these levels in the log of the last tunnel, without those of the connector.
sub logged (@levels) {
    my $levels = join('|', @levels);
    return [grep { /\A(?:$levels): (?!tunnel: )/ } split(/\n/, TestNode::Node::slurp($log_file))];
}

# Sends a volume over a forward and tests that it has arrived. Returns the number of bytes sent.
sub migrate_volume ($tunnel, $node) {
    my $import = PVE::Tunnel::Client::write_tunnel(
        $tunnel, 10,
        'disk-import',
        {
            volname => "vm-$vmid-disk-0.raw", format => 'raw', storage => 'local',
            export_formats => 'raw+size',
        }
    );
    my $local = "$dir/$vmid.storage";
    PVE::Tunnel::Client::forward_unix_socket($tunnel, $local, $import->{socket});
    my $data = join('', map { pack('N', $_) } 1 .. 300_000);
    my $socket = IO::Socket::UNIX->new(Peer => $local) or die "connect to $local: $!\n";
    send_volume(
        $socket, $data,
        sub { PVE::Tunnel::Client::write_tunnel($tunnel, 30, 'query-disk-import') }
    );
    volume_arrived("$node->{dir}/vm-$vmid-disk-0.raw", $data);
    return 8 + length $data;
}

# The address to which QEMU may connect, if the target announces this one.
sub endpoint ($tunnel, $address) {
    my %announced = (migrate => { proto => 'tcp', addr => $address, port => 60_000 });
    my $rules = $tunnel->{rules};
    return PVE::Tunnel::Native::endpoint_check({ %{ $rules->{endpoint} }, %announced })->{address};
}

my $node = TestNode::Node->start(dir => "$dir/new", listen => '127.0.0.1');
my $old = TestNode::Node->start(dir => "$dir/old", listen => '127.0.0.1', old => 1);
my @first_commands = qw(version query-disk-import);

subtest 'to an old node' => sub {
    my $tunnel = open_tunnel($old);
    is($tunnel->{plan}{plane}, 'websocket', 'secure takes the websocket');
    is($tunnel->{direct}, undef, 'the tunnel has no listener');
    is_deeply(logged('warn'), [], 'there is no warning');
    is(scalar(@{ logged('info') }), 2, 'the log has two lines');
    like(
        logged('info')->[1],
        qr/\Ainfo: guest data uses plane 'websocket' through the target's API, encrypted: .+/,
        'the second line has the plane'
    );
    my $sent = migrate_volume($tunnel, $old);
    PVE::Tunnel::Client::finish_tunnel($tunnel, 1);
    is($tunnel->{record}{sent}, $sent, 'the record has the bytes sent');
    is_deeply(
        [@{ commands($old) }[0 .. 1]],
        \@first_commands, 'the old node gets one request of the seam'
    );

    my $message = death(sub { open_tunnel($old, migration_type => 'insecure') });
    like(
        $message,
        qr/\Acannot open the tunnel: [^\n]*upgrade the target node, or omit migration_type=insecure\n\z/,
        'insecure is refused with advice'
    );
    is_deeply(commands($old), [@first_commands, 'quit'], 'the next command is quit');
};

subtest 'to a new node' => sub {
    my $tunnel = open_tunnel($node, migration_network => $NETWORK);
    is($tunnel->{plan}{plane}, 'tls', 'secure takes the plane tls');
    my $direct = $tunnel->{direct};
    is($direct->{address}, '127.0.0.1', 'the address of the listener');
    like($direct->{port}, qr/\A600[0-4][0-9]\z/, 'the port is in the migration range');
    is_deeply(logged('warn'), [], 'there is no warning');
    my $line = logged('info')->[1];
    like(
        $line, qr/uses plane 'tls' to 127\.0\.0\.1:$direct->{port}, /,
        'the log has the endpoint of the listener'
    );
    like(
        $line, qr/\Q$direct->{cipher}, network $NETWORK: \E/,
        'the log has the cipher and the network'
    );
    like(
        $line, qr/\Q$tunnel->{plan}{reason}\E; .*network '\Q$NETWORK\E' was given/,
        'the log has the reason'
    );
    my $sent = migrate_volume($tunnel, $node);
    ok(!grep({ $_ eq 'ticket' } @{ commands($node) }), 'the volume takes no websocket');
    PVE::Tunnel::Client::finish_tunnel($tunnel, 1);
    is_deeply(
        [@{ $tunnel->{record} }{qw(plane sent forwards connections)}],
        ['tls', $sent, 1, 1],
        'the record has plane, bytes and counts'
    );
    is(
        scalar(() = TestNode::Node::slurp($log_file) =~ /^info: tunnel: record: /mg), 1,
        'the log has one record'
    );

    $tunnel = open_tunnel($node, migration_type => 'insecure', migration_network => $NETWORK);
    is($tunnel->{plan}{plane}, 'tcp', 'insecure takes the plane tcp');
    my $warnings = logged('warn');
    cmp_ok(scalar(@$warnings), '>=', 1, 'there are warnings');
    like($_, qr/\Awarn: WARNING: .*CLEAR TEXT.*UNENCRYPTED/, 'the warning is in capitals')
        for @$warnings;
    like(
        logged('info')->[1], qr/uses plane 'tcp' to 127\.0\.0\.1:\d+, UNENCRYPTED, /,
        'the log reports clear text'
    );
    migrate_volume($tunnel, $node);
    PVE::Tunnel::Client::finish_tunnel($tunnel, 1);

    my @planes = (planes => [qw(tls tcp qemu)]);
    my @clear = (migration_type => 'insecure', migration_network => $NETWORK);
    $tunnel = open_tunnel($node, @clear, @planes);
    is_deeply(
        [@{ $tunnel->{plan} }{qw(plane offline)}], [qw(qemu tcp)],
        'a caller that starts QEMU on TCP gets the plane qemu'
    );
    like(
        logged('info')->[1],
        qr/uses plane 'qemu' from QEMU to QEMU, UNENCRYPTED, network \Q$NETWORK\E, and offline volumes use plane 'tcp' to /,
        'the log has both planes'
    );
    is(
        endpoint($tunnel, '127.0.0.9'), '127.0.0.9',
        'QEMU may connect to an address in the network'
    );
    like(
        death(sub { endpoint($tunnel, '10.9.9.9') }),
        qr/outside the migration network \Q$NETWORK\E/,
        '... and to no other address'
    );
    is($tunnel->{rules}{guard}{network}, $NETWORK, 'the rules for clear text have the network');
    PVE::Tunnel::Client::finish_tunnel($tunnel, 1);

    $tunnel = open_tunnel($node, migration_type => 'insecure', planes => ['qemu']);
    is($tunnel->{plan}{plane}, 'qemu', 'the plane qemu without a network');
    like(
        death(sub { endpoint($tunnel, '10.9.9.9') }),
        qr/announces address 10\.9\.9\.9, but its API was reached at 127\.0\.0\.1, /,
        'without a network, QEMU may connect only to the address of the API'
    );
    PVE::Tunnel::Client::finish_tunnel($tunnel, 1);

    $tunnel = open_tunnel($node, planes => []);
    is($tunnel->{plan}{plane}, 'websocket', 'a caller without direct planes gets the websocket');
    is_deeply(commands($node), ['version'], 'the target gets no request of the seam');
    PVE::Tunnel::Client::finish_tunnel($tunnel, 1);
};

subtest 'refused requests' => sub {
    my $message = death(
        sub {
            open_tunnel($node, migration_type => 'insecure', migration_network => '192.0.2.128/28');
        }
    );
    like(
        $message,
        qr{\Acannot open the tunnel: clear text is not possible: [^\n]*'192\.0\.2\.128/28'[^\n]*\n\z},
        'clear text on a network that the target does not have is refused'
    );
    my ($first, @rest) = @{ commands($node) };
    is($first, 'version', 'the first command is version');
    is($rest[-1], 'quit', 'the last command is quit');
    is_deeply(
        [grep { $_ ne 'query-disk-import' } @rest],
        ['quit'], 'between them are only requests of the seam'
    );
    is_deeply([grep { !/\.log\z/ } glob "$dir/new/$vmid*"], [], 'no file is left at the target');

    for my $case (
        ['an unknown type', { migration_type => 'fast' }, qr/fast/],
        ['an invalid network', { migration_network => '10.0.0.0/99' }, qr{10\.0\.0\.0/99}],
        ['planes that are not a list', { planes => 'tls' }, qr/planes is not an array/],
        ['an unknown plane', { planes => ['pigeon'] }, qr/pigeon/],
        [
            'clear text without a plane for it',
            { migration_type => 'insecure', planes => ['tls'] },
            qr/this node supports none of these/
        ],
        )
    {
        my ($what, $params, $reason) = @$case;
        like(death(sub { open_tunnel($node, %$params) }), $reason, "$what is refused");
        is_deeply(commands($node), [], "$what: the target gets no command");
    }
};

subtest 'the configuration' => sub {
    configure(
        'network: lo', "\tremote 127.0.0.1", "\tsource $NETWORK", "\ttarget $NETWORK",
        "\tallow secure,insecure", "\tdefault insecure",
    );
    my $tunnel = open_tunnel($node);
    is($tunnel->{plan}{plane}, 'tcp', 'the configuration decides for a call without a type');
    like(
        logged('info')->[1], qr/; network 'lo' is configured for remote '127\.0\.0\.1'\z/,
        'the log names the configured network'
    );
    cmp_ok(scalar(@{ logged('warn') }), '>=', 1, 'there are warnings');
    PVE::Tunnel::Client::finish_tunnel($tunnel, 1);

    $tunnel = open_tunnel($node, migration_type => 'secure');
    is($tunnel->{plan}{plane}, 'tls', 'the type in the call has priority');
    PVE::Tunnel::Client::finish_tunnel($tunnel, 1);

    $tunnel = open_tunnel($node, migration_network => 'lo', planes => ['tls', 'tcp']);
    is($tunnel->{plan}{plane}, 'tcp', 'a call can request the configured network by its ID');
    PVE::Tunnel::Client::finish_tunnel($tunnel, 1);

    my %wrong = (
        'a type that is not allowed' =>
            [['network: lo', "\tremote 127.0.0.1", "\tallow secure"], qr/does not allow/],
        'clear text against the policy' =>
            [['policy: cluster', "\trequire-encryption 1"], qr/requires encryption/],
        'a mistake in the file' => [['network: lo', "\tcolour green"], qr/line 2: .*colour/],
    );
    for my $what (sort keys %wrong) {
        my ($lines, $reason) = @{ $wrong{$what} };
        configure(@$lines);
        my $message = death(sub { open_tunnel($node, migration_type => 'insecure') });
        like($message, qr{\A\Q$dir/configuration: \E[^\n]+\n\z}, "$what is refused");
        like($message, $reason, "$what: the error has the reason");
        is_deeply(commands($node), [], "$what: the target gets no command");
    }
    configure();
    mkdir "$dir/configuration" or die "mkdir: $!\n";
    like(
        death(sub { open_tunnel($node) }),
        qr{\Acannot read '\Q$dir\E/configuration': Is a directory\n\z},
        'an unreadable configuration is refused'
    );
    is_deeply(commands($node), [], 'the target gets no command');
    rmdir "$dir/configuration" or die "rmdir: $!\n";
};

subtest 'privileges outside of the programs of Proxmox VE' => sub {
    # Makes a request with another effective user, in a process of its own. Returns the error.
    my $as_nobody = sub ($params) {
        pipe(my $reader, my $writer) or die "pipe: $!\n";
        my $pid = fork() // die "fork: $!\n";
        if (!$pid) {
            local $> = 65534;
            my $error = death(
                sub {
                    PVE::Tunnel::Client::Negotiation::wish({ host => '127.0.0.1' }, {%$params});
                }
            );
            syswrite($writer, $error);
            POSIX::_exit(0);
        }
        close($writer);
        my $error = join('', <$reader>);
        waitpid($pid, 0);
        return $error;
    };
    for my $params ({ migration_type => 'insecure' }, { migration_network => $NETWORK }) {
        my ($what) = map { "$_=$params->{$_}" } keys %$params;
        is(
            death(sub { PVE::Tunnel::Client::Negotiation::wish({ host => 'x' }, {%$params}) }),
            '', "root may request $what"
        );
        like(
            $as_nobody->($params),
            qr{\A\Q$what\E needs the privilege Sys\.Modify on '/' at this node, and only root has it},
            "other users may not request $what"
        );
    }
    is($as_nobody->({}), '', 'other users may make a call without options');
};

# A fake of the module that the programs of Proxmox VE load.
package PVE::RPCEnvironment { ## no critic (ProhibitMultiplePackages)
    our ($user, %privileges, @checked);

    sub environment () {
        die "not initialized\n" if !defined $user;
        return bless {}, 'PVE::RPCEnvironment';
    }
    sub get_user ($self) { return $user }

    sub check ($self, $who, $path, $needed, $noerr) {
        push @checked, [$who, $path, $needed, $noerr];
        return !grep { !$privileges{"$who $path $_"} } @$needed;
    }
}

subtest 'privileges in the programs of Proxmox VE' => sub {
    no warnings 'once'; ## no critic (ProhibitNoWarnings)
    local *PVE::RPCEnvironment::get = \&PVE::RPCEnvironment::environment;
    my @insecure = (migration_type => 'insecure', migration_network => $NETWORK);
    my @network = (migration_network => $NETWORK);
    like(
        death(sub { open_tunnel($node, @insecure) }),
        qr/not initialized/, 'without a user, the call is refused'
    );
    is_deeply(commands($node), [], 'the target gets no command');

    $PVE::RPCEnvironment::user = 'anna@pve';
    for my $case (
        [\@insecure, 'migration_type=insecure'],
        [\@network, "migration_network=$NETWORK"],
        )
    {
        my ($params, $what) = @$case;
        %PVE::RPCEnvironment::privileges = ('anna@pve / Sys.Audit' => 1);
        my $message = death(sub { open_tunnel($node, @$params) });
        like($message, qr/\A\Q$what\E needs the privilege Sys\.Modify on '\/'/, "$what is refused");
        like(
            $message, qr/user 'anna\@pve' does not have it: .*omit \Q$what\E/,
            "$what: the error names user and remedy"
        );
        is_deeply(commands($node), [], "$what: the target gets no command");
        is_deeply(
            $PVE::RPCEnvironment::checked[-1],
            ['anna@pve', '/', ['Sys.Modify'], 1],
            "$what: only Sys.Modify on '/' is checked"
        );

        %PVE::RPCEnvironment::privileges = ('anna@pve / Sys.Modify' => 1);
        my $tunnel = open_tunnel($node, @$params);
        ok($tunnel->{direct}, "$what is accepted with the privilege");
        PVE::Tunnel::Client::finish_tunnel($tunnel, 1);
    }

    %PVE::RPCEnvironment::privileges = ();
    @PVE::RPCEnvironment::checked = ();
    my $tunnel = open_tunnel($node);
    ok($tunnel, 'a call without options needs no privilege');
    PVE::Tunnel::Client::finish_tunnel($tunnel, 1);
    configure('network: lo', "\tsource $NETWORK", "\ttarget $NETWORK", "\tallow insecure");
    $tunnel = open_tunnel($node, migration_type => 'insecure', migration_network => 'lo');
    is($tunnel->{plan}{plane}, 'tcp', 'a configured network needs no privilege');
    PVE::Tunnel::Client::finish_tunnel($tunnel, 1);
    is_deeply(\@PVE::RPCEnvironment::checked, [], 'neither call checks a privilege');
    configure();
};

subtest 'the connector' => sub {
    my %plan = (
        plane => 'tls', offline => 'tls', network => undef, privileges => [], reason => 'so be it',
        warnings => ['one', 'WARNING: two', "three\nfour"],
    );
    my %direct = (plane => 'tls', address => '2001:db8::7', port => 60007, cipher => 'ROT13');
    my %answer = (success => 1, plan => \%plan, direct => \%direct);
    my $script = Test::ScriptedConnector->install("$dir/received", direct => \%answer);
    my %params = (migration_type => 'secure', planes => ['tls']);
    my $tunnel = open_tunnel($node, %params);
    is_deeply(
        $script->received('direct'),
        {
            migration_type => 'secure', migration_network => undef, configured => JSON::false,
            network => undef, source_network => undef, caps => ['insecure-remote', 'multifd'],
            planes => ['tls'], require_encryption => JSON::false, public => JSON::false,
            gateway => JSON::false, dead_peer_timeout => 60, congestion => 'auto',
            buffer => 'auto', lanes => undef, threads => undef, compression => 'none',
            api => $tunnel->{params},
        },
        'the connector receives the complete request'
    );
    is_deeply([@$tunnel{qw(plan direct)}], [\%plan, \%direct], 'the tunnel has its answer');
    is_deeply(
        logged('warn'),
        ['warn: WARNING: one', 'warn: WARNING: two', 'warn: WARNING: three four'],
        'each warning is one line of the log'
    );
    like(
        logged('info')->[1], qr/to \[2001:db8::7\]:60007, ROT13: so be it; /,
        'the log has endpoint, cipher and reason'
    );
    is_deeply(
        [sort keys %{ $tunnel->{params} }], [qw(fingerprint headers url)],
        'the parameters for forwards have no part of the request'
    );
    PVE::Tunnel::Client::finish_tunnel($tunnel, 1);

    for my $case (
        ['a refusal', { success => 0, msg => "no\nway" }, qr/: no way\n\z/],
        [
            'an answer without a plan', { success => 1 },
            qr/: the connector's answer has no plan\n\z/
        ],
        )
    {
        my ($what, $refusal, $reason) = @$case;
        undef $script;
        $script = Test::ScriptedConnector->install("$dir/received", direct => $refusal);
        my $message = death(sub { open_tunnel($node) });
        like($message, $reason, "$what is an error");
        is_deeply(commands($node), [qw(version quit)], "$what: the worker gets quit");
    }

    undef $script;
    $script = Test::ScriptedConnector->install("$dir/received", direct => undef);
    like(
        death(sub { open_tunnel($node) }),
        qr/\Acannot open the tunnel: .*the tunnel has ended\n\z/,
        'a connector that ends is an error'
    );
    like(
        "@{logged('warn')}", qr/the tunnel worker of the target was stopped/,
        'a warning reports that the worker did not get quit, and was stopped'
    );
    is(waitpid(-1, POSIX::WNOHANG()), 0, 'no child is left except the nodes');

    undef $script;
    $script =
        Test::ScriptedConnector->install("$dir/received", finish => { success => 0, msg => 'no' });
    $tunnel = open_tunnel($node, planes => []);
    PVE::Tunnel::Client::finish_tunnel($tunnel, 1);
    is($tunnel->{record}, undef, 'a connector may have no record');
    is_deeply(
        logged('warn'),
        ['warn: no record of this migration: no'],
        'a missing record is a warning'
    );
    is(commands($node)->[-1], 'quit', 'the worker still gets quit');
};

subtest 'late answers' => sub {
    pipe(my $commands, my $writer) or die "pipe: $!\n";
    pipe(my $reader, my $answers) or die "pipe: $!\n";
    $answers->autoflush(1);
    my %tunnel = (
        writer => $writer, reader => $reader, pending => '', requests => [],
        read_line => \&PVE::Tunnel::Client::Lines::read_line,
    );
    my $ask = sub ($name) { PVE::Tunnel::Client::Lines::ask(\%tunnel, 0.1, { cmd => $name }) };
    like(
        death(sub { $ask->('slow') }),
        qr/\Ano answer to 'slow': timeout/, 'a missing answer is an error'
    );
    like(
        death(sub { $ask->('slower') }),
        qr/\Ano answer to 'slower': timeout/, 'another missing answer is an error'
    );
    print {$answers} map { qq({"success":1,"to":"$_"}\n) } qw(slow slower next);
    is($ask->('next')->{to}, 'next', 'late answers are dropped');
    print {$answers} qq({"success":1,"to":"last"}\n);
    is($ask->('last')->{to}, 'last', 'the next command gets its own answer');

    # The caller wrote commands by itself, and a signal interrupted the wait for their answers.
    print {$answers} map { qq({"success":1,$_}\n) } '"to":"unknown"', '"to":"unknown"', '"id":"1"',
        '"to":"quit"';
    my @requests =
        map { PVE::Tunnel::Client::Lines::request(\%tunnel, 0.1, $_) }
        ({ control => JSON::true, cmd => 'finish' }, { cmd => 'quit' });
    my @answers = map { PVE::Tunnel::Client::Lines::answer(\%tunnel, 0.1, $_) } @requests;
    is($answers[0]{id}, '1', 'a control command gets the answer with its id');
    is($answers[1]{to}, 'quit', 'the answers to unknown commands are dropped');
    my ($late, $next) =
        map { PVE::Tunnel::Client::Lines::request(\%tunnel, 0.1, $_) }
        ({ control => JSON::true, cmd => 'finish' }, { cmd => 'quit' });
    like(
        death(sub { PVE::Tunnel::Client::Lines::answer(\%tunnel, 0.1, $late) }),
        qr/\Ano answer to 'finish': timeout/, 'a control command without an answer is an error'
    );
    print {$answers} map { qq({"success":1,$_}\n) } '"to":"unknown"', '"id":"2"', '"to":"quit"';
    is(
        PVE::Tunnel::Client::Lines::answer(\%tunnel, 0.1, $next)->{to},
        'quit', 'its late answer is not that of the next command'
    );
};

$_->stop for $node, $old;
done_testing;
