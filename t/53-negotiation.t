#!/usr/bin/perl

# How the guest's data will travel is decided while a tunnel opens: by the call, by the file of
# configured networks, by the caller's privileges, and by what the target can do.

use v5.36;

use FindBin ();
use lib map { "$FindBin::RealBin/$_" } qw(lib ../testnode/lib);

use Digest::SHA qw(sha256_hex);
use File::Temp qw(tempdir);
use IO::Handle ();
use IO::Select ();
use IO::Socket::UNIX ();
use JSON ();
use POSIX ();
use Socket qw(SHUT_WR);
use Test::More;

use PVE::Tunnel::Client;
use Test::ScriptedConnector;
use Test::TunnelLog qw(log_line death);
use TestNode::Node;

# Clear text and an explicit network need it.
plan skip_all => 'only root has Sys.Modify outside of Proxmox VE' if $> != 0;

# A test that stands still is a failed test.
local $SIG{ALRM} = sub { die "the test stands still\n" };
alarm(600);

# What both ends are on.
my $NETWORK = '127.0.0.0/8';

my $dir = tempdir(CLEANUP => 1);
# For those who may not read everything.
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

# A tunnel to a guest that no other has; the log is of this one alone.
sub open_tunnel ($node, %asked) {
    $vmid++;
    unlink $log_file;
    return PVE::Tunnel::Client::fork_websocket_tunnel(
        $node->conn, $node->path($vmid),
        {}, { url => $node->url($vmid), %asked }, \&log_line
    );
}

# What the last guest's worker was asked for; nothing if there never was one.
sub commands ($node) { return [$node->worker_log($vmid) =~ /^command: (.*)$/mg] }

# The lines of the last tunnel's log, less those of the connector.
sub logged (@levels) {
    my $levels = join('|', @levels);
    return [grep { /\A(?:$levels): (?!tunnel: )/ } split(/\n/, TestNode::Node::slurp($log_file))];
}

# Sends to a forward and reads what came; the worker's import is a sink.
sub send_volume ($tunnel, $node) {
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
    print {$socket} pack('Q<', length $data), $data;
    $socket->flush;
    shutdown($socket, SHUT_WR);
    my $status;
    do { $status = PVE::Tunnel::Client::write_tunnel($tunnel, 30, 'query-disk-import') }
        while $status->{status} eq 'pending';
    is($status->{status}, 'complete', 'a volume arrives') or diag(explain($status));
    my $arrived = TestNode::Node::slurp("$node->{dir}/vm-$vmid-disk-0.raw");
    is(sha256_hex($arrived), sha256_hex($data), '... as it was');
    return 8 + length $data;
}

my $node = TestNode::Node->start(dir => "$dir/new", listen => '127.0.0.1');
my $old = TestNode::Node->start(dir => "$dir/old", listen => '127.0.0.1', old => 1);
my @probed = qw(version query-disk-import);

subtest 'to an old node' => sub {
    my $tunnel = open_tunnel($old);
    is($tunnel->{plan}{plane}, 'websocket', 'secure takes the websocket');
    is($tunnel->{direct}, undef, '... and no listener');
    is_deeply(logged('warn'), [], '... without a warning');
    is(scalar(@{ logged('info') }), 2, '... but with a line about it');
    like(
        logged('info')->[1],
        qr/\Ainfo: guest data goes by plane 'websocket' through the target's API, encrypted: .+/,
        '... which says so'
    );
    my $sent = send_volume($tunnel, $old);
    PVE::Tunnel::Client::finish_tunnel($tunnel, 1);
    is($tunnel->{record}{sent}, $sent, '... and the record knows what was sent');
    is_deeply([@{ commands($old) }[0 .. 1]], \@probed, 'the old node is asked once');

    my $message = death(sub { open_tunnel($old, migration_type => 'insecure') });
    like(
        $message,
        qr/\Acannot open the tunnel: [^\n]*upgrade the target node, or omit migration_type=insecure\n\z/,
        'insecure is refused, with advice'
    );
    is_deeply(
        commands($old), [@probed, 'quit'],
        '... and nothing remains but what quit takes away'
    );
};

subtest 'to a new node' => sub {
    my $tunnel = open_tunnel($node, migration_network => $NETWORK);
    is($tunnel->{plan}{plane}, 'tls', 'secure takes TLS past the API');
    my $direct = $tunnel->{direct};
    is($direct->{address}, '127.0.0.1', '... to the address');
    like($direct->{port}, qr/\A600[0-4][0-9]\z/, '... and a port of the migration range');
    is_deeply(logged('warn'), [], '... without a warning');
    my $line = logged('info')->[1];
    like($line, qr/by plane 'tls' to 127\.0\.0\.1:$direct->{port}, /, 'the log says whereto');
    like($line, qr/\Q$direct->{cipher}, network $NETWORK: \E/, '... by which cipher and network');
    like($line, qr/\Q$tunnel->{plan}{reason}\E; .*network '\Q$NETWORK\E' was given/, '... and why');
    my $sent = send_volume($tunnel, $node);
    ok(!grep({ $_ eq 'ticket' } @{ commands($node) }), '... without a websocket of its own');
    PVE::Tunnel::Client::finish_tunnel($tunnel, 1);
    is_deeply(
        [@{ $tunnel->{record} }{qw(plane sent forwards connections)}],
        ['tls', $sent, 1, 1],
        'the record has it'
    );
    is(
        scalar(() = TestNode::Node::slurp($log_file) =~ /^info: tunnel: record: /mg), 1,
        '... and the log once'
    );

    $tunnel = open_tunnel($node, migration_type => 'insecure', migration_network => $NETWORK);
    is($tunnel->{plan}{plane}, 'tcp', 'insecure takes clear text');
    my $warnings = logged('warn');
    cmp_ok(scalar(@$warnings), '>=', 1, '... with warnings');
    like($_, qr/\Awarn: WARNING: .*CLEAR TEXT.*UNENCRYPTED/, '... that cannot be missed')
        for @$warnings;
    like(logged('info')->[1], qr/by plane 'tcp' to 127\.0\.0\.1:\d+, UNENCRYPTED, /, '... told');
    send_volume($tunnel, $node);
    PVE::Tunnel::Client::finish_tunnel($tunnel, 1);

    my @planes = (planes => [qw(tls tcp qemu)]);
    my @clear = (migration_type => 'insecure', migration_network => $NETWORK);
    $tunnel = open_tunnel($node, @clear, @planes);
    is_deeply(
        [@{ $tunnel->{plan} }{qw(plane offline)}], [qw(qemu tcp)],
        'a caller that starts QEMU on TCP says so'
    );
    like(
        logged('info')->[1],
        qr/by plane 'qemu' from QEMU to QEMU, UNENCRYPTED, network \Q$NETWORK\E, and offline volumes by plane 'tcp' to /,
        '... which is told'
    );
    PVE::Tunnel::Client::finish_tunnel($tunnel, 1);

    $tunnel = open_tunnel($node, planes => []);
    is($tunnel->{plan}{plane}, 'websocket', 'a caller may want none of it');
    is_deeply(commands($node), ['version'], '... and then the target is not asked');
    PVE::Tunnel::Client::finish_tunnel($tunnel, 1);
};

subtest 'what cannot be had' => sub {
    my $message = death(
        sub {
            open_tunnel($node, migration_type => 'insecure', migration_network => '192.0.2.128/28');
        }
    );
    like(
        $message,
        qr{\Acannot open the tunnel: clear text is not possible: [^\n]*'192\.0\.2\.128/28'[^\n]*\n\z},
        'clear text on a network that the target does not have'
    );
    my ($first, @rest) = @{ commands($node) };
    is($first, 'version', '... after the version');
    is($rest[-1], 'quit', '... ends with quit');
    is_deeply([grep { $_ ne 'query-disk-import' } @rest], ['quit'], '... and nothing between');
    is_deeply([grep { !/\.log\z/ } glob "$dir/new/$vmid*"], [], '... and leaves nothing');

    for my $case (
        ['a type that there is not', { migration_type => 'fast' }, qr/fast/],
        ['a network that is none', { migration_network => '10.0.0.0/99' }, qr{10\.0\.0\.0/99}],
        ['planes that are no list', { planes => 'tls' }, qr/planes is not an array/],
        ['a plane that there is not', { planes => ['pigeon'] }, qr/pigeon/],
        [
            'clear text by no plane',
            { migration_type => 'insecure', planes => ['tls'] },
            qr/this node can do none of these/
        ],
        )
    {
        my ($what, $asked, $reason) = @$case;
        like(death(sub { open_tunnel($node, %$asked) }), $reason, $what);
        is_deeply(commands($node), [], '... is refused before the target is asked');
    }
};

subtest 'the configuration' => sub {
    configure(
        'network: lo', "\tremote 127.0.0.1", "\tsource $NETWORK", "\ttarget $NETWORK",
        "\tallow secure,insecure", "\tdefault insecure",
    );
    my $tunnel = open_tunnel($node);
    is($tunnel->{plan}{plane}, 'tcp', 'decides for calls that say nothing');
    like(
        logged('info')->[1], qr/; network 'lo' is configured for remote '127\.0\.0\.1'\z/,
        '... which is told'
    );
    cmp_ok(scalar(@{ logged('warn') }), '>=', 1, '... and warned of');
    PVE::Tunnel::Client::finish_tunnel($tunnel, 1);

    $tunnel = open_tunnel($node, migration_type => 'secure');
    is($tunnel->{plan}{plane}, 'tls', 'what the call says counts more');
    PVE::Tunnel::Client::finish_tunnel($tunnel, 1);

    $tunnel = open_tunnel($node, migration_network => 'lo', planes => ['tls', 'tcp']);
    is($tunnel->{plan}{plane}, 'tcp', 'its network can be asked for by its ID');
    PVE::Tunnel::Client::finish_tunnel($tunnel, 1);

    my %wrong = (
        'a type that is not allowed' =>
            [['network: lo', "\tremote 127.0.0.1", "\tallow secure"], qr/does not allow/],
        'clear text against the policy' =>
            [['policy: cluster', "\trequire-encryption 1"], qr/requires encryption/],
        'a mistake in it' => [['network: lo', "\tcolour green"], qr/line 2: .*colour/],
    );
    for my $what (sort keys %wrong) {
        my ($lines, $reason) = @{ $wrong{$what} };
        configure(@$lines);
        my $message = death(sub { open_tunnel($node, migration_type => 'insecure') });
        like($message, qr{\A\Q$dir/configuration: \E[^\n]+\n\z}, "$what is refused");
        like($message, $reason, '... with the reason');
        is_deeply(commands($node), [], '... before the target is asked');
    }
    configure();
    mkdir "$dir/configuration" or die "mkdir: $!\n";
    like(
        death(sub { open_tunnel($node) }),
        qr{\Acannot read '\Q$dir\E/configuration': Is a directory\n\z},
        'one that cannot be read is refused'
    );
    is_deeply(commands($node), [], '... before the target is asked');
    rmdir "$dir/configuration" or die "rmdir: $!\n";
};

subtest 'privileges outside of Proxmox VE\'s programs' => sub {
    # An effective user of another kind, in a process of its own; for a target nobody needs.
    my $as_nobody = sub ($asked) {
        pipe(my $reader, my $writer) or die "pipe: $!\n";
        my $pid = fork() // die "fork: $!\n";
        if (!$pid) {
            local $> = 65534;
            my $said = death(
                sub {
                    PVE::Tunnel::Client::Negotiation::wish({ host => '127.0.0.1' }, {%$asked});
                }
            );
            syswrite($writer, $said);
            POSIX::_exit(0);
        }
        close($writer);
        my $said = join('', <$reader>);
        waitpid($pid, 0);
        return $said;
    };
    for my $asked ({ migration_type => 'insecure' }, { migration_network => $NETWORK }) {
        my ($what) = map { "$_=$asked->{$_}" } keys %$asked;
        is(
            death(sub { PVE::Tunnel::Client::Negotiation::wish({ host => 'x' }, {%$asked}) }),
            '', "root may ask for $what"
        );
        like(
            $as_nobody->($asked),
            qr{\A\Q$what\E needs the privilege Sys\.Modify on '/' at this node, and only root has it},
            '... others may not'
        );
    }
    is($as_nobody->({}), '', 'others may ask for nothing special');
};

# What Proxmox VE's programs have.
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

subtest 'privileges in Proxmox VE\'s programs' => sub {
    no warnings 'once'; ## no critic (ProhibitNoWarnings)
    local *PVE::RPCEnvironment::get = \&PVE::RPCEnvironment::environment;
    my @insecure = (migration_type => 'insecure', migration_network => $NETWORK);
    my @network = (migration_network => $NETWORK);
    like(death(sub { open_tunnel($node, @insecure) }), qr/not initialized/, 'nobody may nothing');
    is_deeply(commands($node), [], '... and the target is not asked');

    $PVE::RPCEnvironment::user = 'anna@pve';
    for my $case (
        [\@insecure, 'migration_type=insecure'],
        [\@network, "migration_network=$NETWORK"],
        )
    {
        my ($asked, $what) = @$case;
        %PVE::RPCEnvironment::privileges = ('anna@pve / Sys.Audit' => 1);
        my $message = death(sub { open_tunnel($node, @$asked) });
        like($message, qr/\A\Q$what\E needs the privilege Sys\.Modify on '\/'/, "$what is refused");
        like(
            $message, qr/user 'anna\@pve' does not have it: .*omit \Q$what\E/,
            '... with the way out'
        );
        is_deeply(commands($node), [], '... before the target is asked');
        is_deeply(
            $PVE::RPCEnvironment::checked[-1],
            ['anna@pve', '/', ['Sys.Modify'], 1],
            '... after asking for just that'
        );

        %PVE::RPCEnvironment::privileges = ('anna@pve / Sys.Modify' => 1);
        my $tunnel = open_tunnel($node, @$asked);
        ok($tunnel->{direct}, '... but not with the privilege');
        PVE::Tunnel::Client::finish_tunnel($tunnel, 1);
    }

    %PVE::RPCEnvironment::privileges = ();
    @PVE::RPCEnvironment::checked = ();
    my $tunnel = open_tunnel($node);
    ok($tunnel, 'a call that asks for nothing needs none');
    PVE::Tunnel::Client::finish_tunnel($tunnel, 1);
    configure('network: lo', "\tsource $NETWORK", "\ttarget $NETWORK", "\tallow insecure");
    $tunnel = open_tunnel($node, migration_type => 'insecure', migration_network => 'lo');
    is($tunnel->{plan}{plane}, 'tcp', 'nor does a configured network');
    PVE::Tunnel::Client::finish_tunnel($tunnel, 1);
    is_deeply(\@PVE::RPCEnvironment::checked, [], '... which is not even looked up');
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
    my %asked = (migration_type => 'secure', planes => ['tls']);
    my $tunnel = open_tunnel($node, %asked);
    is_deeply(
        $script->received('direct'),
        {
            migration_type => 'secure', migration_network => undef, configured => JSON::false,
            network => undef, source_network => undef, caps => ['insecure-remote'],
            planes => ['tls'], require_encryption => JSON::false, public => JSON::false,
            gateway => JSON::false, dead_peer_timeout => 60, dial_timeout => 5,
        },
        'is told all that is known'
    );
    is_deeply([@$tunnel{qw(plan direct)}], [\%plan, \%direct], 'its plan is kept');
    is_deeply(
        logged('warn'),
        ['warn: WARNING: one', 'warn: WARNING: two', 'warn: WARNING: three four'],
        '... each warning is a line'
    );
    like(logged('info')->[1], qr/to \[2001:db8::7\]:60007, ROT13: so be it; /, '... the way, too');
    is_deeply(
        [sort keys %{ $tunnel->{params} }], [qw(fingerprint headers url)],
        'forwards are not told what was asked for'
    );
    PVE::Tunnel::Client::finish_tunnel($tunnel, 1);

    for my $case (
        ['that refuses', { success => 0, msg => "no\nway" }, qr/: no way\n\z/],
        ['without a plan', { success => 1 }, qr/: the connector gave no plan\n\z/],
        )
    {
        my ($what, $refusal, $reason) = @$case;
        undef $script;
        $script = Test::ScriptedConnector->install("$dir/received", direct => $refusal);
        my $message = death(sub { open_tunnel($node) });
        like($message, $reason, "one $what is an error");
        is_deeply(commands($node), [qw(version quit)], '... and the target is told to clean up');
    }

    undef $script;
    $script = Test::ScriptedConnector->install("$dir/received", direct => undef);
    like(
        death(sub { open_tunnel($node) }),
        qr/\Acannot open the tunnel: .*the tunnel has ended\n\z/,
        'one that dies is an error'
    );
    like("@{logged('warn')}", qr/the target was not told to clean up: /, '... and that is told');
    is(waitpid(-1, POSIX::WNOHANG()), 0, '... and no child is left but the nodes');

    undef $script;
    $script = Test::ScriptedConnector->install("$dir/received", finish => { success => 0, msg => 'no' });
    $tunnel = open_tunnel($node, planes => []);
    PVE::Tunnel::Client::finish_tunnel($tunnel, 1);
    is($tunnel->{record}, undef, 'one without a record');
    is_deeply(logged('warn'), ['warn: no record of this migration: no'], '... is a warning');
    is(commands($node)->[-1], 'quit', '... and no obstacle');
};

subtest 'late answers' => sub {
    pipe(my $commands, my $writer) or die "pipe: $!\n";
    pipe(my $reader, my $answers) or die "pipe: $!\n";
    $answers->autoflush(1);
    my %tunnel = (
        writer => $writer, reader => $reader, pending => '', unanswered => 0,
        read_line => \&PVE::Tunnel::Client::Lines::read_line,
    );
    my $ask = sub ($name) { PVE::Tunnel::Client::Lines::ask(\%tunnel, 0.1, { cmd => $name }) };
    like(death(sub { $ask->('slow') }), qr/\Ano answer to 'slow': timeout/, 'are waited for');
    like(death(sub { $ask->('slower') }), qr/\Ano answer to 'slower': timeout/, '... not for ever');
    print {$answers} map { qq({"success":1,"to":"$_"}\n) } qw(slow slower next);
    is($ask->('next')->{to}, 'next', '... and not taken for another\'s');
    print {$answers} qq({"success":1,"to":"last"}\n);
    is($ask->('last')->{to}, 'last', '... then or later');
};

$_->stop for $node, $old;
done_testing;
