#!/usr/bin/perl

# PVE::Tunnel::Client with new and old nodes.
use v5.36;

use Fcntl qw(:flock S_IMODE);
use File::Temp qw(tempdir);
use FindBin;
use IO::Select;
use IO::Socket::INET;
use IO::Socket::IP;
use IO::Socket::SSL;
use IO::Socket::SSL::Utils qw(CERT_create KEY_create_rsa);
use IO::Socket::UNIX;
use JSON;
use Net::SSLeay;
use POSIX ();
use Test::More;

use lib map { "$FindBin::Bin/../$_" } qw(testnode/lib perl/blib/lib perl/blib/arch);
use PVE::Tunnel::Client;
use Test::Processes qw(children);
use Test::TaintedProgram qw(run_tainted);
use Test::TunnelLog qw(log_line death);
use Test::VolumeImport qw(send_volume volume_arrived);
use TestNode::Node;

# A test that hangs must fail.
local $SIG{ALRM} = sub { die "the test timed out\n" };
alarm(600);

my $DIR = tempdir(CLEANUP => 1);
my $LOG = "$DIR/log";
$Test::TunnelLog::FILE = $LOG;
my $VMID = 100;

sub logged () { return TestNode::Node::slurp($LOG) }

sub node_log ($target) { return TestNode::Node::slurp($target->{errors}) }

sub open_tunnel ($node, %change) {
    my $vmid = ++$VMID;
    my $tunnel = PVE::Tunnel::Client::fork_websocket_tunnel(
        { %{ $node->conn }, %{ $change{conn} // {} } },
        $node->path($vmid),
        { storages => 'local' },
        { url => $change{url} // $node->url($vmid) },
        $change{log} // \&log_line,
    );
    return ($tunnel, $vmid);
}

my $node = TestNode::Node->start(dir => "$DIR/new", listen => '127.0.0.1');
my $secret = $node->token =~ s/.*=//r;

subtest 'the tunnel' => sub {
    my ($tunnel, $vmid) = open_tunnel($node);
    is_deeply([@$tunnel{qw(version age)}], [2, 0], 'version and age');
    is_deeply($tunnel->{caps}, ['insecure-remote'], 'capabilities');
    is_deeply($tunnel->{unknown_caps}, ['multifd'], 'a capability that only callers use');
    like(
        $tunnel->{params}{url},
        qr{\Awss://127\.0\.0\.1:\d+/.*mtunnelwebsocket\?\z},
        'the URL for forwards has no ticket'
    );
    is_deeply(
        $tunnel->{params}{headers},
        [['Authorization', $node->token]],
        'the headers have the token'
    );
    is($tunnel->{params}{fingerprint}, $node->{fingerprint}, 'the certificate stays pinned');
    ok(kill(0 => $tunnel->{pid}), 'the child runs');

    is(
        PVE::Tunnel::Client::write_tunnel($tunnel, 10, 'bwlimit', { storages => [], bwlimit => 5 })
            ->{bwlimit},
        5,
        'a command is answered'
    );
    like(
        death(sub { PVE::Tunnel::Client::write_tunnel($tunnel, 10, 'no-such') }),
        qr/\Aunknown command 'no-such'\n\z/,
        'a refusal dies'
    );
    like(
        death(sub { PVE::Tunnel::Client::read_tunnel($tunnel, 0.1) }),
        qr/\Atimeout after 0\.1 s\n\z/,
        'waiting for an answer has a limit'
    );
    like(
        death(sub { PVE::Tunnel::Client::read_tunnel($tunnel, 0) }),
        qr/time limit/, 'a limit of 0 is refused'
    );

    my $error = death(
        sub {
            local $SIG{ALRM} = sub { die "rang\n" };
            alarm(1);
            PVE::Tunnel::Client::read_tunnel($tunnel, 60);
        }
    );
    alarm(600);
    is($error, "rang\n", 'the alarm of the caller interrupts a read');
    ok(
        PVE::Tunnel::Client::write_tunnel($tunnel, 10, 'unlock')->{success},
        'the tunnel still works after the alarm'
    );

    $tunnel->{unix_sockets} = ["$DIR/leftover"];
    open(my $leftover, '>', "$DIR/leftover") or die "cannot create: $!";
    PVE::Tunnel::Client::finish_tunnel($tunnel);
    ok(!kill(0 => $tunnel->{pid}), 'the child has ended');
    ok(!-e "$DIR/leftover", 'the files in unix_sockets are removed');
    like(logged(), qr/^info: tunnel: control connection/m, 'diagnostics reach the log');
    is_deeply(
        [
            grep { !/\A(?:query-disk-import|ticket)\z/ }
                $node->worker_log($vmid) =~ /^command: (.*)$/mg
        ],
        [qw(version bwlimit no-such unlock quit)],
        'what the target received'
    );
};

subtest 'a volume over a forward' => sub {
    my ($tunnel) = open_tunnel($node);
    my $import = PVE::Tunnel::Client::write_tunnel(
        $tunnel, 10,
        'disk-import',
        {
            volname => 'vm-1-disk-9.raw',
            format => 'raw',
            storage => 'local',
            export_formats => 'raw+size',
        }
    );
    my $local = "$DIR/local.storage";
    PVE::Tunnel::Client::forward_unix_socket($tunnel, $local, $import->{socket});
    is($tunnel->{forwarded}{$local}, $import->{socket}, 'the tunnel has the forward');
    is(S_IMODE((stat $local)[2]), oct(600), 'only its owner has access to the socket');

    my $data = join('', map { pack('N', $_) } 1 .. 2_000_000);
    my $socket = IO::Socket::UNIX->new(Peer => $local) or die "connect: $!";
    send_volume(
        $socket, $data,
        sub { PVE::Tunnel::Client::write_tunnel($tunnel, 30, 'query-disk-import') }
    );
    volume_arrived("$DIR/new/vm-1-disk-9.raw", $data);

    like(
        death(
            sub { PVE::Tunnel::Client::forward_unix_socket($tunnel, "$DIR/missing/x", '/nowhere') }
        ),
        qr{\Acannot forward '\Q$DIR\E/missing/x': .*\n\z},
        'a forward that cannot be made dies',
    );
    PVE::Tunnel::Client::finish_tunnel($tunnel, 1);
    ok(!-e $local, 'the end removes the socket of the forward');
    ok(!-e "$DIR/new/vm-1-disk-9.raw", 'with cleanup, the end removes the volume');
};

subtest 'the lock of the guest' => sub {
    open(my $lock, '>', "$DIR/lock") or die;
    flock($lock, LOCK_EX) or die;
    my ($tunnel) = open_tunnel($node);
    close($lock);
    open(my $again, '>', "$DIR/lock") or die;
    ok(flock($again, LOCK_EX | LOCK_NB), 'the child does not hold the lock');
    PVE::Tunnel::Client::finish_tunnel($tunnel);
};

subtest 'a log function that dies' => sub {
    my ($tunnel) = open_tunnel($node, log => sub { die 'no log' });
    ok(
        PVE::Tunnel::Client::write_tunnel($tunnel, 10, 'unlock')->{success},
        'it does not end the tunnel'
    );
    PVE::Tunnel::Client::finish_tunnel($tunnel);
};

subtest 'a killed connector' => sub {
    my ($tunnel) = open_tunnel($node);
    kill(KILL => children($tunnel->{pid}));
    # The connector has ended when its output ends.
    IO::Select->new($tunnel->{reader})->can_read(30) or die;
    like(
        death(sub { PVE::Tunnel::Client::write_tunnel($tunnel, 10, 'unlock') }),
        qr/the tunnel has ended/,
        'a command is an error, not SIGPIPE'
    );
    like(
        death(sub { PVE::Tunnel::Client::finish_tunnel($tunnel) }),
        qr/did not end cleanly: .*ended/,
        'finish_tunnel is an error'
    );
    ok(!kill(0 => $tunnel->{pid}), 'no child is left');
};

subtest 'refusals' => sub {
    my $closed = do {
        my $socket = IO::Socket::INET->new(LocalAddr => '127.0.0.1', Listen => 1) or die;
        $socket->sockport;
    };
    my $other = join(':', ('AB') x 32);
    my $unused = qr/\Athe target's API cannot be used, and nothing was created there/;
    my $requests = () = node_log($node) =~ /^POST /mg;
    my $wrong_token = $node->token =~ s/.\z/x/r;
    for my $case (
        ['no token', { apitoken => undef }, qr/no API token/],
        ['a wrong token', { apitoken => $wrong_token }, qr/failed: 401 /],
        ['a closed port', { port => $closed }, qr/$unused: cannot connect to .*refused/],
        [
            'another certificate',
            { cached_fingerprints => { $other => 1 } },
            qr/$unused: .* \Q$node->{fingerprint}\E, expected \Q$other\E/
        ],
        [
            'a certificate without a trusted issuer',
            { cached_fingerprints => undef },
            qr/$unused: .*is not trusted/
        ],
        [
            'an invalid fingerprint',
            { cached_fingerprints => { 'AB:CD' => 1 } },
            qr/fingerprint/
        ],
        [
            'clear text',
            { protocol => 'http', host => '192.0.2.1' },
            qr/token would be sent in clear text/
        ],
        )
    {
        my ($name, $conn, $expected) = @$case;
        my $message = death(sub { open_tunnel($node, conn => $conn) });
        like($message, $expected, "$name is refused");
        unlike($message, qr/\Q$secret\E|\Q$wrong_token\E/, "$name: the error has no token");
        like($message, qr/\A[^\n]+\n\z/, "$name: the error is one line");
    }
    is(() = node_log($node) =~ /^POST .* 200$/mg, $requests, 'no request was accepted');
    my $lower = lc($node->{fingerprint}) =~ tr/://dr;
    my ($tunnel) = open_tunnel($node, conn => { cached_fingerprints => { $lower => 1 } });
    ok($tunnel, 'a fingerprint in lower case without colons is accepted');
    PVE::Tunnel::Client::finish_tunnel($tunnel);

};

subtest 'a server with which only OpenSSL can connect' => sub {
    # TLS 1.2 with the key exchange of RSA, which the connector does not support.
    my ($certificate, $key) =
        CERT_create(subject => { CN => '127.0.0.1' }, key => KEY_create_rsa(2048));
    my $server = IO::Socket::SSL->new(
        LocalAddr => '127.0.0.1',
        Listen => 5,
        SSL_server => 1,
        SSL_cert => $certificate,
        SSL_key => $key,
        SSL_version => 'TLSv12',
        SSL_cipher_list => 'AES128-SHA',
    ) or die "listen: $!";
    my $pid = fork() // die;
    if (!$pid) {
        while (1) {
            my $client = $server->accept() or next;
            sysread($client, my $request, 4096);
            POSIX::_exit(1) if $request =~ /^POST /;
            print {$client} "HTTP/1.1 400 unexpected\r\n\r\n";
            close($client);
        }
    }
    my %conn = (
        port => $server->sockport,
        cached_fingerprints =>
            { uc(Net::SSLeay::X509_get_fingerprint($certificate, 'sha256')) => 1 },
    );
    my $message = death(sub { open_tunnel($node, conn => \%conn) });
    like($message, qr/\Athe target's API cannot be used, and nothing was created/, 'is refused');
    is(waitpid($pid, POSIX::WNOHANG()), 0, 'the server has received no request');
    kill(KILL => $pid);
    waitpid($pid, 0);
};

# Opens a tunnel to the same guest twice, and returns both errors.
sub open_twice ($target) {
    my $vmid = ++$VMID;
    return map {
        death(
            sub {
                PVE::Tunnel::Client::fork_websocket_tunnel(
                    $target->conn, $target->path($vmid), {},
                    { url => $target->url($vmid) }, \&log_line
                );
            }
        )
    } 1, 2;
}

subtest 'a refused websocket' => sub {
    my $refusing = TestNode::Node->start(
        dir => "$DIR/refusing",
        listen => '127.0.0.1',
        options => ['--misbehave', 'control:refuse=500:no websockets here'],
    );
    for my $message (open_twice($refusing)) {
        like(
            $message,
            qr/\Acannot open the tunnel: .*\b500 no websockets here\n\z/,
            'the error has status and reason'
        );
        unlike($message, qr/\Q$secret\E|PVETUNNEL/, 'it has no token and no ticket');
    }
    my @stopped = node_log($refusing) =~ m{^DELETE /api2/json/nodes/target/tasks/UPID\S* 200$}mg;
    is(@stopped, 2, 'the worker was stopped each time');
    like(
        logged(),
        qr/^warn: the tunnel worker .* was stopped, which removes the empty guest\. .*qm unlock $VMID && qm destroy $VMID$/m,
        'the log has what may be left'
    );

    no warnings 'redefine'; ## no critic (ProhibitNoWarnings)
    local *PVE::Tunnel::Client::API::stop_task = sub { die "no such method\n" };
    (my $first, undef) = open_twice($refusing);
    like($first, qr/500 no websockets here/, 'without a stop the error is the same');
    like(
        logged(),
        qr/^warn: the tunnel worker .* could not be stopped \(no such method\)\. .*5 minutes .*qm unlock $VMID /m,
        'the log has what is left and for how long'
    );
};

subtest 'a malformed version' => sub {
    my $worker = "$DIR/worker.pl";
    open(my $out, '>', $worker) or die;
    print {$out} <<"END";
use v5.36;
use lib '$FindBin::Bin/../testnode/lib', '$FindBin::Bin/../testnode/pve', '$FindBin::Bin/../perl/blib/lib', '$FindBin::Bin/../perl/blib/arch';
use TestNode::Worker;
no warnings 'redefine';
my \$handle = \\&TestNode::Commands::handle;
*TestNode::Commands::handle = sub (\$self, \$name, \@rest) {
    return \$name eq 'version' ? { api => 'two' } : \$handle->(\$self, \$name, \@rest);
};
exit(TestNode::Worker->new(*STDIN, *STDOUT)->run);
END
    close($out) or die;
    my $malformed = TestNode::Node->start(
        dir => "$DIR/malformed",
        listen => '127.0.0.1',
        worker => $worker,
    );
    for my $message (open_twice($malformed)) {
        like($message, qr/\Acannot open the tunnel: .*api/, 'is an error');
    }
    is(
        () = $malformed->worker_log($VMID) =~ /^command: quit$/mg,
        2, 'the worker has received the request to clean up'
    );
};

subtest 'version replies' => sub {
    my $take = sub ($line) {
        return death(sub { PVE::Tunnel::Client::_take_version({}, $line) });
    };
    is(
        $take->('{"success":true,"api":2,"age":0,"caps":["x-y"]}'),
        '', 'an unknown capability is accepted'
    );
    like(
        $take->('{"success":true,"api":2,"age":0,"caps":"insecure-remote"}'),
        qr/caps/, 'caps that are not a list are refused'
    );
    like($take->('{"success":true,"age":0}'), qr/api/, 'a missing version is refused');
    like($take->('nonsense'), qr/JSON/, 'a reply that is not JSON is refused');
    is(
        $take->('{"success":false,"msg":"connect failed\n here"}'),
        "connect failed here\n",
        'the reason of the connector is passed on in one line'
    );
};

subtest 'IPv6' => sub {
    my $probe = IO::Socket::IP->new(LocalHost => '::1', Listen => 1);
    plan skip_all => "no IPv6 loopback: $@" if !$probe;
    my $six = TestNode::Node->start(dir => "$DIR/six", listen => '::1');
    my ($tunnel) = open_tunnel($six);
    ok(
        PVE::Tunnel::Client::write_tunnel($tunnel, 10, 'unlock')->{success},
        'a tunnel to an IPv6 address'
    );
    PVE::Tunnel::Client::finish_tunnel($tunnel);
    ($tunnel) = open_tunnel($six, conn => { host => '[::1]' });
    ok($tunnel, 'the address may be in brackets');
    PVE::Tunnel::Client::finish_tunnel($tunnel);
    # As qemu-server writes it.
    my $plain = 'https://::1:' . $six->{port} . '/api2/json' . $six->path($VMID + 1) . 'websocket';
    ($tunnel) = open_tunnel($six, url => $plain);
    like(
        $tunnel->{params}{url},
        qr{\Ahttps://\[::1\]:\d+/api2/.*websocket\?\z},
        'the URL of the websocket has the host of the connection, in brackets'
    );
    PVE::Tunnel::Client::finish_tunnel($tunnel);
    like(
        death(sub { open_tunnel($six, url => 'target:8006') }),
        qr/\Athe URL of the websocket has no path\n\z/,
        'a URL without a path is refused'
    );
};

subtest 'under taint' => sub {
    my $program = <<'END';
use v5.36;
use JSON;
use PVE::Tunnel::Client;
my ($line) = <STDIN> =~ /\A(.*)\n\z/;
my $input = decode_json($line);
my $tunnel = PVE::Tunnel::Client::fork_websocket_tunnel(@$input{qw(conn path)}, {}, { url => $input->{url} }, sub { });
my $import = PVE::Tunnel::Client::write_tunnel($tunnel, 10, 'disk-import', {
    volname => 'vm-1-disk-3.raw', format => 'raw', storage => 'local', export_formats => 'raw+size',
});
PVE::Tunnel::Client::forward_unix_socket($tunnel, $input->{local}, $import->{socket});
PVE::Tunnel::Client::finish_tunnel($tunnel, 1);
print "plane $tunnel->{plan}{plane}\n";
END
    my $vmid = ++$VMID;
    my %input = (
        conn => $node->conn, path => $node->path($vmid), url => $node->url($vmid),
        local => "$DIR/taint.storage",
    );
    my $printed = run_tainted($DIR, $program, encode_json(\%input) . "\n");
    is($printed, "plane websocket\n", 'a tunnel opens, forwards and ends');
};

$node->stop;
done_testing;
