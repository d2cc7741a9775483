#!/usr/bin/perl

# PVE::Tunnel::Overlay with a test node, on a fake with the calls and the data of PVE::Tunnel.

use v5.36;

use FindBin ();
use lib map { "$FindBin::RealBin/$_" } qw(lib lib/fake ../testnode/lib);

use Fcntl qw(:flock);
use File::Temp qw(tempdir);
use IO::Socket::INET ();
use IO::Socket::UNIX ();
use JSON ();
use Socket qw(SHUT_RD);
use Test::More;

use PVE::Tunnel::Overlay;
use Test::ScriptedConnector;
use Test::TaintedProgram qw(run_tainted);
use Test::TunnelLog qw(log_line death);
use Test::VolumeImport qw(send_volume volume_arrived);
use TestNode::Node;

# A test that hangs must fail.
local $SIG{ALRM} = sub { die "the test timed out\n" };
alarm(600);

my @REPLACED = qw(fork_websocket_tunnel forward_unix_socket finish_tunnel);
my @KEPT = qw(read_tunnel write_tunnel fork_ssh_tunnel within);

my $dir = tempdir(CLEANUP => 1);
my $log_file = "$dir/log";
$Test::TunnelLog::FILE = $log_file;

sub functions (@names) {
    return { map { $_ => PVE::Tunnel->can($_) } @names };
}

sub put ($name, $code) {
    no warnings 'redefine'; ## no critic (ProhibitNoWarnings)
    no strict 'refs'; ## no critic (ProhibitNoStrict)
    *{"PVE::Tunnel::$name"} = $code;
    return;
}

# The names of the stock functions that were called since the last time, without read_tunnel and
# write_tunnel.
sub stock_calls () {
    my @names = grep { !/\A(?:read|write)_tunnel\z/ } map { $_->[0] } @PVE::Tunnel::CALLS;
    @PVE::Tunnel::CALLS = ();
    return \@names;
}

subtest 'loading' => sub {
    is_deeply([grep { m{\APVE/(?!Tunnel/)} } keys %INC], [], 'no module of Proxmox VE is loaded');
    is_deeply(
        PVE::Tunnel::Overlay::status(),
        {
            installed => 0,
            module => $INC{'PVE/Tunnel.pm'},
            functions => { map { $_ => 'stock' } @REPLACED },
            refusal => undef,
        },
        'status reports the functions to replace'
    );
    like($INC{'PVE/Tunnel.pm'}, qr{/fake/PVE/Tunnel\.pm\z}, 'status loads PVE::Tunnel');
};

my $stock = functions(@REPLACED, @KEPT);

# Functions as other versions of the module might have them.
package PVE::Tunnel {
    sub longer { my ($tunnel, $cleanup, $reason) = @_; return }
    sub swapped { my ($tunnel, $remote, $local) = @_; return }
    sub shifting { my $tunnel = shift; return }
    sub signed ($tunnel, $cleanup = 0) { return }
    sub signed_longer ($tunnel, $cleanup = 0, %more) { return }
    sub declared;
}

sub foreign { my ($tunnel, $cleanup) = @_; return }

subtest 'unknown functions' => sub {
    for my $case (
        ['finish_tunnel', 'longer', qr/'finish_tunnel' takes \(\$tunnel, \$cleanup, \$reason\)/],
        ['forward_unix_socket', 'swapped', qr/takes \(\$tunnel, \$remote, \$local\)/],
        ['finish_tunnel', 'shifting', qr/parameters of .*'finish_tunnel' cannot be determined/],
        ['finish_tunnel', 'signed_longer', qr/takes \(\$tunnel, \$cleanup, %more\)/],
        ['finish_tunnel', 'declared', qr/'finish_tunnel' cannot be determined/],
        ['read_tunnel', 'signed', qr/'read_tunnel' takes \(\$tunnel, \$cleanup\)/],
        ['write_tunnel', 'longer', qr/'write_tunnel' takes/],
        )
    {
        my ($name, $other, $reason) = @$case;
        put($name, PVE::Tunnel->can($other));
        my $before = functions(@REPLACED);
        my $message = death(\&PVE::Tunnel::Overlay::install);
        like(
            $message, qr/\APVE::Tunnel is not changed: [^\n]*its function '[^\n]*\n\z/,
            "'$other' as $name is refused"
        );
        like($message, $reason, 'the error has the reason');
        like(PVE::Tunnel::Overlay::status()->{refusal}, $reason, 'status reports the reason');
        is_deeply(functions(@REPLACED), $before, 'no function is replaced');
        put($name, $stock->{$name});
    }
    put('finish_tunnel', \&foreign);
    like(
        death(\&PVE::Tunnel::Overlay::install),
        qr/'finish_tunnel' comes from main/,
        'a function of another package is refused'
    );
    put('finish_tunnel', $stock->{finish_tunnel});
    like(
        PVE::Tunnel::Overlay::Shape::fault('Test::More'),
        qr/\Ait has no function 'finish_tunnel'\z/,
        'a missing function is refused'
    );
    put('finish_tunnel', PVE::Tunnel->can('signed'));
    is(
        PVE::Tunnel::Overlay::status()->{refusal},
        undef, 'the same parameters as a signature are accepted'
    );
    put('finish_tunnel', $stock->{finish_tunnel});

    my @command = ($^X, (map { "-I$_" } grep { m{/blib/} } @INC), '-e');
    my $code = 'use PVE::Tunnel::Overlay; eval { PVE::Tunnel::Overlay::install(); 1 } or print $@';
    local $ENV{PERL5LIB} = '';
    open(my $out, '-|', @command, $code) or die "cannot run perl: $!\n";
    like(
        join('', <$out>),
        qr/\APVE::Tunnel is not changed: it cannot be loaded: [^\n]*\n\z/,
        'a missing PVE::Tunnel is refused'
    );
    close($out);
};

my $early = PVE::Tunnel::fork_websocket_tunnel({}, '/early', {}, {}, \&log_line);
my $reference = \&PVE::Tunnel::finish_tunnel;
stock_calls();

subtest 'install' => sub {
    PVE::Tunnel::Overlay::install();
    my $now = functions(@REPLACED, @KEPT);
    isnt($now->{$_}, $stock->{$_}, "$_ is replaced") for @REPLACED;
    is($now->{$_}, $stock->{$_}, "$_ is kept") for @KEPT;
    my $status = PVE::Tunnel::Overlay::status();
    is($status->{installed}, 1, 'status reports that the overlay is installed');
    is_deeply(
        $status->{functions},
        { map { $_ => 'overlay' } @REPLACED },
        'status reports each function'
    );
    PVE::Tunnel::Overlay::install();
    is_deeply(functions(@REPLACED, @KEPT), $now, 'another install changes nothing');
};

my $node = TestNode::Node->start(dir => "$dir/node", listen => '127.0.0.1');

subtest 'a volume, as PVE::StorageTunnel sends it' => sub {
    unlink $log_file;
    my $vmid = 100;
    # qemu-server passes an https URL, which also means a websocket.
    my %params = (url => $node->url($vmid) =~ s/\Awss/https/r);
    my $tunnel = PVE::Tunnel::fork_websocket_tunnel(
        $node->conn, $node->path($vmid),
        { storages => 'local', bridges => '' },
        \%params, \&log_line
    );
    is_deeply([@$tunnel{qw(version age)}], [2, 0], 'version and age');
    is($tunnel->{log}, \&log_line, 'the tunnel has the log function');
    ok(kill(0 => $tunnel->{pid}), 'the process runs');
    ok(defined fileno $tunnel->{$_}, "the $_ is open") for qw(reader writer);
    is($tunnel->{params}, \%params, 'the parameters are completed in place');
    like($params{url}, qr{\Ahttps://.*/mtunnelwebsocket\?\z}, 'the URL has no ticket');
    is_deeply($params{headers}, [['Authorization', $node->token]], 'the headers have the token');
    is($params{fingerprint}, $node->{fingerprint}, 'the fingerprint is that of the node');
    is($tunnel->{pending}, '', 'no line was read past read_tunnel');
    is(
        (grep { $_->[0] eq 'read_tunnel' } @PVE::Tunnel::CALLS) + 0,
        2, 'all answers of the worker and of the negotiation were read by read_tunnel'
    );
    is_deeply(stock_calls(), [], 'no other function of the stock module was called');
    like(
        TestNode::Node::slurp($log_file),
        qr/^info: remote: .*worker 'UPID:/m,
        'the log names the worker'
    );

    my $import = PVE::Tunnel::write_tunnel(
        $tunnel, 600,
        'disk-import',
        {
            volname => 'vm-1-disk-9.raw', format => 'raw', storage => 'local',
            export_formats => 'raw+size', migration_snapshot => 0, with_snapshots => 0,
            allow_rename => JSON::true,
        }
    );
    my $local = "$dir/1.storage";
    PVE::Tunnel::forward_unix_socket($tunnel, $local, $import->{socket});
    is($tunnel->{forwarded}{$local}, $import->{socket}, 'the tunnel has the forward');
    my $socket = IO::Socket::UNIX->new(Peer => $local) or die "connect to $local: $!\n";
    shutdown($socket, SHUT_RD);
    my $data = join('', map { pack('N', $_) } 1 .. 1_000_000);
    send_volume(
        $socket, $data,
        sub { PVE::Tunnel::write_tunnel($tunnel, 10, 'query-disk-import') }
    );
    close($socket);
    volume_arrived("$dir/node/vm-1-disk-9.raw", $data);
    like(
        death(sub { PVE::Tunnel::write_tunnel($tunnel, 10, 'no-such') }),
        qr/no-such/, 'a refusal is an error of the stock function'
    );
    like(
        death(sub { PVE::Tunnel::forward_unix_socket($tunnel, "$dir/missing/x", '/nowhere') }),
        qr{\Acannot forward '\Q$dir\E/missing/x': [^\n]+\n\z},
        'a forward that cannot be made dies'
    );
    is_deeply([keys %{ $tunnel->{forwarded} }], [$local], 'the tunnel does not have it');

    $tunnel->{unix_sockets} = ["$dir/leftover"];
    open(my $leftover, '>', "$dir/leftover") or die "cannot create: $!";
    close($leftover);
    PVE::Tunnel::finish_tunnel($tunnel, 1);
    ok(!kill(0 => $tunnel->{pid}), 'at the end the process is gone');
    ok(!-e $_, "$_ is gone") for $local, "$dir/leftover", "$dir/node/vm-1-disk-9.raw";
    is(ref $tunnel->{record}, 'HASH', 'the tunnel has a record');
    is_deeply(stock_calls(), [], 'no other function of the stock module was called');
    my @commands = $node->worker_log($vmid) =~ /^command: (.*)$/mg;
    is($commands[0], 'version', 'the first command for the worker is version');
    is($commands[-1], 'quit', 'the last command for the worker is quit');
};

subtest 'the lock of the guest' => sub {
    open(my $lock, '>', "$dir/lock") or die;
    flock($lock, LOCK_EX) or die;
    my $tunnel = open_tunnel(101);
    close($lock);
    open(my $again, '>', "$dir/lock") or die;
    ok(flock($again, LOCK_EX | LOCK_NB), 'the child does not hold the lock');
    PVE::Tunnel::finish_tunnel($tunnel);
};

subtest 'tunnels that the overlay has not opened' => sub {
    stock_calls();
    my $ssh = PVE::Tunnel::fork_ssh_tunnel(['ssh'], ['mtunnel'], [], \&log_line);
    for my $tunnel ($ssh, $early) {
        PVE::Tunnel::forward_unix_socket($tunnel, "$dir/a", '/b');
        PVE::Tunnel::finish_tunnel($tunnel, 1);
    }
    is_deeply(
        \@PVE::Tunnel::CALLS,
        [
            ['fork_ssh_tunnel', ['ssh'], ['mtunnel'], [], \&log_line],
            ['forward_unix_socket', $ssh, "$dir/a", '/b'],
            ['finish_tunnel', $ssh, 1],
            ['forward_unix_socket', $early, "$dir/a", '/b'],
            ['finish_tunnel', $early, 1],
        ],
        'the stock functions get tunnels over ssh and earlier tunnels, with unchanged arguments'
    );
    stock_calls();
    $reference->($ssh);
    is_deeply(stock_calls(), ['finish_tunnel'], 'an earlier reference is the stock function');
};

subtest 'a node that cannot be reached' => sub {
    my $message = death(sub { open_tunnel(102, url => $node->url(102) =~ s/socket\z/nothing/r) });
    like(
        $message, qr/\Acannot open the tunnel: [^\n]*\b[45]\d\d\b[^\n]*\n\z/,
        'the error has the status'
    );
    like(
        death(sub { open_tunnel(102, conn => { apitoken => undef }) }),
        qr/no API token/, 'a missing token is an error'
    );

    my $silent = IO::Socket::INET->new(LocalAddr => '127.0.0.1', Listen => 1) or die "socket: $!\n";
    my $open = sub { open_tunnel(102, conn => { port => $silent->sockport }) };
    like(
        death(sub { PVE::Tunnel::within(1, $open) }),
        qr/: got timeout\n\z/, 'a time limit of the caller interrupts the opening'
    );
    alarm(600);
};

subtest 'a connector that ends by itself' => sub {
    my $script = Test::ScriptedConnector->install("$dir/received", finish => undef);
    my $tunnel = open_tunnel(103);
    like(
        death(sub { PVE::Tunnel::finish_tunnel($tunnel) }),
        qr/\Athe tunnel did not end cleanly: [^\n]*\bthe tunnel has ended\n\z/,
        'finish_tunnel is an error'
    );
    ok(!kill(0 => $tunnel->{pid}), 'no process is left');
};

subtest 'under taint' => sub {
    my $program = <<'END';
use v5.36;
use PVE::Tunnel::Overlay;
PVE::Tunnel::Overlay::install();
my ($host, $port, $token, $print, $path, $url, $local, $left, $file) =
    map { chomp; $_ } readline(STDIN);
die "not tainted\n" if !Scalar::Util::tainted($token);
# The files of the cluster are tainted, too.
($PVE::Tunnel::Client::Negotiation::CONFIGURATION) = $file =~ /\A(.*)\z/;
my $conn = {
    protocol => 'https', host => $host, port => $port, apitoken => $token,
    cached_fingerprints => { $print => 1 },
};
my @logged;
my $tunnel = PVE::Tunnel::fork_websocket_tunnel(
    $conn, $path, {}, { url => $url }, sub ($level, $text) { push @logged, "$level: $text" });
my $import = PVE::Tunnel::write_tunnel($tunnel, 10, 'disk-import', {
    volname => 'vm-1-disk-3.raw', format => 'raw', storage => 'local', export_formats => 'raw+size',
});
print "unchecked: $@" if !eval { PVE::Tunnel::forward_unix_socket($tunnel, $local, $import->{socket}); 1 };
($local) = $local =~ m{\A(/[\w/.-]+)\z};
PVE::Tunnel::forward_unix_socket($tunnel, $local, $import->{socket});
$tunnel->{unix_sockets} = [$left, $local];
PVE::Tunnel::finish_tunnel($tunnel, 1);
print "plane $tunnel->{plan}{plane}\n", map { "$_\n" } grep { /cannot remove/ } @logged;
END
    open(my $out, '>', "$dir/configuration") or die;
    print {$out} "network: lo\n\tremote 127.0.0.1\n\ttarget 127.0.0.0/8\n",
        "policy: cluster\n\trequire-encryption 1\n";
    close($out) or die;
    my $conn = $node->conn;
    my @input = (
        @$conn{qw(host port apitoken)}, $node->{fingerprint}, $node->path(104), $node->url(104),
        "$dir/taint.storage", "$dir/left", "$dir/configuration",
    );
    my $printed = run_tainted(
        $dir, $program,
        join('', map { "$_\n" } @input),
        "$FindBin::RealBin/lib/fake"
    );
    like(
        $printed, qr/^unchecked: Insecure dependency in unlink /m,
        'an unchecked file name is refused'
    );
    like($printed, qr/^plane tls$/m, 'with a checked name, a tunnel opens, forwards and ends');
    like(
        $printed, qr{^warn: cannot remove '\Q$dir\E/left'}m,
        'the end removes only the file with the checked name'
    );
    is(scalar(() = $printed =~ /\n/g), 3, 'nothing else is printed') or diag($printed);
};

subtest 'uninstall' => sub {
    my $tunnel = open_tunnel(105);
    for my $wrapped (@REPLACED) {
        my $ours = PVE::Tunnel->can($wrapped);
        my $wrapper = sub { goto &$ours };
        put($wrapped, $wrapper);
        my $message = qr/\Aanother module has replaced PVE::Tunnel::$wrapped since/;
        like(
            death(\&PVE::Tunnel::Overlay::uninstall), $message,
            "uninstall refuses if $wrapped is wrapped"
        );
        like(death(\&PVE::Tunnel::Overlay::install), $message, 'another install refuses, too');
        is(PVE::Tunnel->can($wrapped), $wrapper, 'the wrapper stays');
        my $status = PVE::Tunnel::Overlay::status();
        is($status->{installed}, 0, 'status does not report the overlay as installed');
        is($status->{functions}{$wrapped}, 'other', 'status reports the wrapped function');
        put($wrapped, $ours);
    }
    PVE::Tunnel::Overlay::uninstall();
    is_deeply(functions(@REPLACED, @KEPT), $stock, 'uninstall restores the stock functions');
    is(PVE::Tunnel::Overlay::status()->{installed}, 0, 'status reports that it is uninstalled');
    PVE::Tunnel::Overlay::uninstall();
    is_deeply(functions(@REPLACED, @KEPT), $stock, 'another uninstall changes nothing');
    PVE::Tunnel::Overlay::install();
    PVE::Tunnel::finish_tunnel($tunnel);
    ok(!kill(0 => $tunnel->{pid}), 'a tunnel ends in order after an uninstall and an install');

    put($_, $stock->{$_}) for @REPLACED;
    is(
        PVE::Tunnel::Overlay::status()->{functions}{$_},
        'stock', "$_ is stock after the module was loaded again"
    ) for @REPLACED;
    PVE::Tunnel::Overlay::install();
    is(PVE::Tunnel::Overlay::status()->{installed}, 1, 'the overlay installs on it');
    PVE::Tunnel::Overlay::uninstall();
};

sub open_tunnel ($vmid, %change) {
    return PVE::Tunnel::fork_websocket_tunnel(
        { %{ $node->conn }, %{ $change{conn} // {} } },
        $node->path($vmid), {},
        { url => $change{url} // $node->url($vmid) }, \&log_line
    );
}

$node->stop;
# The daemons of a node and each of their workers have the overlay and the seam loaded. Modules that
# Proxmox VE itself loads do not count. HTTP::Tiny is not one of them.
subtest 'memory' => sub {
    my $code = q{
        use v5.36;
        use IO::Pipe (); use IO::Select (); use IO::Socket::SSL ();
        use IO::Socket::UNIX (); use JSON (); use POSIX (); use PVE::Tunnel; use Time::HiRes ();
        sub private_memory {
            open(my $file, '<', '/proc/self/smaps_rollup') or die "no smaps_rollup: $!\n";
            my ($kib) = join('', <$file>) =~ /^Private_Dirty:\s+(\d+) kB/m;
            return $kib;
        }
        my $before = private_memory();
        require PVE::Tunnel::Overlay;
        require PVE::Tunnel::Seam;
        PVE::Tunnel::Overlay::install();
        print private_memory() - $before;
    };
    open(my $out, '-|', $^X, (map { "-I$_" } "$FindBin::Bin/lib/fake", @INC), '-e', $code)
        or die "cannot run perl: $!\n";
    my $kib = join('', <$out>);
    close($out);
    cmp_ok(
        $kib, '<=', 2000,
        "overlay and seam add $kib KiB to a process that has their dependencies"
    );
};

done_testing;
