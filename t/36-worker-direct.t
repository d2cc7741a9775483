#!/usr/bin/perl

# Direct connections to a node: the requests go over the control plane, through the front of the
# node and its worker. A volume goes over a direct connection, past both.

use v5.36;

use FindBin;
use lib map { "$FindBin::Bin/$_" } qw(lib ../testnode/lib ../perl/blib/lib ../perl/blib/arch);

use Digest::SHA qw(sha256_hex);
use File::Temp qw(tempdir);
use JSON;
use Test::More;

use PVE::Tunnel::Client;
use Test::MinimalClient;
use Test::MinimalStream;
use Test::Pattern qw(pattern_block);
use TestNode::Node;

# Limits the run time of the test.
local $SIG{ALRM} = sub { die "the test timed out\n" };
alarm(300);
local $SIG{PIPE} = 'IGNORE';

my $DIR = tempdir(CLEANUP => 1);
my $LOOPBACK = '127.0.0.0/8';
my $VMID = 100;
my $nodes = 0;

# Starts a node with these options.
sub node (@options) {
    return TestNode::Node->start(
        dir => "$DIR/node" . ++$nodes,
        listen => '127.0.0.1',
        options => \@options
    );
}

sub tunnel ($node, $kind = 'qemu') {
    my $vmid = ++$VMID;
    return (
        PVE::Tunnel::Client::fork_websocket_tunnel(
            $node->conn,
            $node->path($vmid) =~ s/qemu/$kind/r,
            {},
            { url => $node->url($vmid) =~ s/qemu/$kind/r, planes => [] },
            sub ($level, $text) { },
        ),
        $vmid
    );
}

sub command ($tunnel, $name, %params) {
    return PVE::Tunnel::Client::write_tunnel($tunnel, 30, $name, \%params);
}

sub direct ($tunnel, %request) {
    return command($tunnel, 'query-disk-import', direct => \%request)->{direct};
}

sub refused ($tunnel, $request, $pattern, $what) {
    my $answer = eval { direct($tunnel, %$request) };
    like($answer ? 'accepted' : $@, $pattern, $what);
    return;
}

sub hello ($tunnel) {
    return direct($tunnel, op => 'hello', protocol => 1, version => '0.1.0');
}

my $IDENTITY = Test::MinimalStream::one_time_identity();

sub open_request ($plane, %more) {
    return {
        op => 'open',
        protocol => 1,
        plane => $plane,
        $plane eq 'tls' ? (fingerprint => $IDENTITY->{fingerprint}) : (), %more
    };
}

# Sends a volume as PVE::StorageTunnel does: a half-close ends the stream, the connection stays
# open, and the source polls the status until the import has ended.
sub send_volume ($tunnel, $stream, $content) {
    $stream->write_all(pack('Q<', length $content) . $content);
    $stream->finish;
    my $status;
    do { $status = command($tunnel, 'query-disk-import') } while $status->{status} eq 'pending';
    $stream->hang_up;
    return $status;
}

sub start_import ($tunnel, $name) {
    return command(
        $tunnel, 'disk-import',
        volname => $name,
        format => 'raw',
        storage => 'local',
        export_formats => 'raw+size',
    )->{socket};
}

my $node = node();

for my $kind (qw(qemu lxc)) {
    for my $plane (qw(tls tcp)) {
        subtest "a volume for $kind on $plane" => sub {
            my ($tunnel, $vmid) = tunnel($node, $kind);
            is_deeply(
                $tunnel->{caps}, ['insecure-remote'],
                'the version reply has only the capabilities of the worker'
            );
            is_deeply(
                hello($tunnel),
                {
                    protocol => 2,
                    oldest => 1,
                    caps => [qw(direct-tls direct-tcp)],
                    withheld => {},
                    meter => JSON::true,
                    compression => ['zstd'],
                    websocket_lanes => JSON::true,
                    version => $PVE::Tunnel::Seam::VERSION // '0.1.0'
                },
                'hello returns the offer'
            );
            refused(
                $tunnel, { op => 'forward', path => '/etc/passwd' }, qr/no listener is open/,
                'forward before open is refused'
            );
            my $opened = direct($tunnel, %{ open_request($plane, network => $LOOPBACK) });
            is_deeply($opened->{addresses}, ['127.0.0.1'], 'open returns one address');
            ok(
                $opened->{port} >= 60_000 && $opened->{port} < 60_050,
                '... and a port in the migration range'
            );

            my $socket = start_import($tunnel, "$vmid/vm-$vmid-disk-0.raw");
            is(
                direct($tunnel, op => 'forward', path => $socket)->{number}, 1,
                'forward returns a number'
            );
            refused(
                $tunnel, { op => 'forward', path => $_ }, qr/socket '\Q$_\E' is not known here/,
                "... but not for $_"
            ) for '/etc/passwd', "$node->{dir}/$vmid.mtunnel";
            my $content = pattern_block(0) x 3 . 'end';
            my $stream = Test::MinimalClient::connect_forward($opened, 1, identity => $IDENTITY);
            my $status = send_volume($tunnel, $stream, $content);
            is($status->{status}, 'complete', 'the volume is complete') or diag(explain($status));
            my $file = "$node->{dir}/vm-$vmid-disk-0.raw";
            is(
                sha256_hex(TestNode::Node::slurp($file)), sha256_hex($content),
                '... with the right content'
            );
            refused(
                $tunnel, { op => 'forward', path => $socket }, qr/not known here/,
                '... and its socket is removed'
            );
            eval {
                Test::MinimalClient::connect_forward(
                    $opened, 1, identity => $IDENTITY,
                    key => '00' x 32
                );
            };
            is($@, "refused\n", 'a connection with another key is refused');

            my $stat = direct($tunnel, op => 'close');
            my ($forward) = @{ $stat->{forwards} };
            is($forward->{received}, 8 + length $content, 'close returns the number of bytes');
            is($forward->{path}, $socket, '... the path of the socket');
            is($stat->{refused}{key}, 1, '... and the connection with the wrong key');
            refused($tunnel, { op => 'stat' }, qr/no listener is open/, 'close ends the listener');
            PVE::Tunnel::Client::finish_tunnel($tunnel);
            my $log = $node->worker_log($vmid);
            like($log, qr/^command: query-disk-import$/m, 'the worker\'s log has the commands');
            unlike($log, qr/\Q$opened->{key}\E/i, '... but not the session key');
        };
    }
}

subtest 'a source that ends' => sub {
    for my $how (qw(quit vanish)) {
        my ($tunnel) = tunnel($node);
        my $opened = direct($tunnel, %{ open_request('tcp', network => $LOOPBACK) });
        my $connection = Test::MinimalClient::dial($opened);
        sysread($connection, my $challenge, 40);
        if ($how eq 'quit') {
            PVE::Tunnel::Client::finish_tunnel($tunnel);
        } else {
            kill(KILL => $tunnel->{pid});
            close($tunnel->{$_}) for qw(writer reader);
            PVE::Tunnel::Client::Child::reap($tunnel);
        }
        is(sysread($connection, my $byte, 1) // 0, 0, "$how without close: the listener has ended");
    }
};

subtest 'a worker that dies' => sub {
    my $other = node();
    my ($tunnel) = tunnel($other);
    my $opened = direct($tunnel, %{ open_request('tcp', network => $LOOPBACK) });
    my $connection = Test::MinimalClient::dial($opened);
    sysread($connection, my $challenge, 40);
    my @workers = split ' ',
        TestNode::Node::slurp("/proc/$other->{pid}/task/$other->{pid}/children");
    is(scalar(@workers), 1, 'one worker runs');
    kill(KILL => @workers);
    is(sysread($connection, my $byte, 1) // 0, 0, '... and its listener ends with it');
    eval { PVE::Tunnel::Client::finish_tunnel($tunnel) };
};

subtest 'a node without pve-tunnel' => sub {
    for my $option (qw(--old --no-direct)) {
        my $other = node($option);
        my ($tunnel) = tunnel($other);
        refused(
            $tunnel, { op => 'hello', protocol => 1 }, qr/direct: .*no such parameter/,
            "$option: the probe is refused"
        );
        ok(command($tunnel, 'bwlimit', storages => ['local']), '... and the worker continues');
        PVE::Tunnel::Client::finish_tunnel($tunnel);
        pass('... until the tunnel ends');
    }
};

subtest 'a user without Sys.Modify' => sub {
    my $file = "$DIR/networks.cfg";
    open(my $out, '>', $file) or die "$file: $!\n";
    print {$out} "network: loop\n    source $LOOPBACK\n    allow secure,insecure\n";
    close($out) or die "$file: $!\n";
    for my $row ([[], 0], [['--configuration', $file], 1]) {
        my ($options, $configured) = @$row;
        my $other = node('--no-privilege', @$options);
        my ($tunnel) = tunnel($other);
        my $hello = hello($tunnel);
        is_deeply(
            [@$hello{qw(caps)}, [keys %{ $hello->{withheld} }]],
            $configured ? [[qw(direct-tls direct-tcp)], []] : [['direct-tls'], ['direct-tcp']],
            $configured
            ? 'with a configured network both planes are offered'
            : 'without a configured network clear text is withheld'
        );
        refused(
            $tunnel, open_request($_->[0], network => $LOOPBACK), $_->[1],
            "... $_->[0] on a CIDR is refused"
            )
            for ['tcp', qr/clear text is refused: .* lacks Sys\.Modify/],
            ['tls', qr/migration network '127\.0\.0\.0\/8' is refused: .* lacks Sys\.Modify/];
        for my $plane (qw(tls tcp)) {
            my $answer = eval { direct($tunnel, %{ open_request($plane, network => 'loop') }) };
            is(
                $answer ? $answer->{addresses}[0] : 'refused',
                $configured ? '127.0.0.1' : 'refused',
                "... $plane on the ID of the network"
            ) or diag($@);
            direct($tunnel, op => 'close') if $answer;
        }
        PVE::Tunnel::Client::finish_tunnel($tunnel);
    }
};

subtest 'the configuration file of the node' => sub {
    my $other = node();
    open(my $out, '>', "$other->{dir}/remote-migration.cfg") or die "configuration: $!\n";
    print {$out} "policy: cluster\n    require-encryption 1\n";
    close($out) or die "configuration: $!\n";
    my ($tunnel) = tunnel($other);
    like(
        hello($tunnel)->{withheld}{'direct-tcp'}, qr/requires encryption/,
        'clear text is withheld'
    );
    refused(
        $tunnel, open_request('tcp', network => $LOOPBACK), qr/requires encryption/,
        '... and refused'
    );
    ok(direct($tunnel, %{ open_request('tls', network => $LOOPBACK) }), 'tls is accepted');
    PVE::Tunnel::Client::finish_tunnel($tunnel);
};

done_testing;
