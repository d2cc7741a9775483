#!/usr/bin/perl

# PVE::Tunnel::Overlay on a module with the calls and the data of PVE::Tunnel, against a node.

use v5.36;

use FindBin ();
use lib map { "$FindBin::RealBin/$_" } qw(lib lib/fake ../testnode/lib);

use Digest::SHA qw(sha256_hex);
use Fcntl qw(:flock);
use File::Temp qw(tempdir);
use IO::Handle ();
use IO::Socket::UNIX ();
use JSON ();
use Socket qw(SHUT_RD SHUT_WR);
use Test::More;

use PVE::Tunnel::Overlay;
use Test::ScriptedConnector;
use Test::TunnelLog qw(log_line death);
use TestNode::Node;

# A test that stands still is a failed test.
local $SIG{ALRM} = sub { die "the test stands still\n" };
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

# The names of what went to stock functions, reading and writing aside.
sub stock_calls () {
    my @names = grep { !/\A(?:read|write)_tunnel\z/ } map { $_->[0] } @PVE::Tunnel::CALLS;
    @PVE::Tunnel::CALLS = ();
    return \@names;
}

subtest 'loading' => sub {
    is_deeply([grep { m{\APVE/(?!Tunnel/)} } keys %INC], [], 'loads nothing of Proxmox VE');
    is_deeply(
        PVE::Tunnel::Overlay::status(),
        {
            installed => 0,
            module => $INC{'PVE/Tunnel.pm'},
            functions => { map { $_ => 'stock' } @REPLACED },
            refusal => undef,
        },
        'what would be replaced is known by asking'
    );
    like($INC{'PVE/Tunnel.pm'}, qr{/fake/PVE/Tunnel\.pm\z}, '... which loads PVE::Tunnel');
};

my $stock = functions(@REPLACED, @KEPT);

# What other versions of the module might have.
package PVE::Tunnel {
    sub longer { my ($tunnel, $cleanup, $reason) = @_; return }
    sub swapped { my ($tunnel, $remote, $local) = @_; return }
    sub shifting { my $tunnel = shift; return }
    sub signed ($tunnel, $cleanup = 0) { return }
    sub signed_longer ($tunnel, $cleanup = 0, %more) { return }
    sub declared;
}

sub foreign { my ($tunnel, $cleanup) = @_; return }

subtest 'shapes' => sub {
    for my $case (
        ['finish_tunnel', 'longer', qr/'finish_tunnel' takes \(\$tunnel, \$cleanup, \$reason\)/],
        ['forward_unix_socket', 'swapped', qr/takes \(\$tunnel, \$remote, \$local\)/],
        ['finish_tunnel', 'shifting', qr/parameters of .*'finish_tunnel' cannot be made out/],
        ['finish_tunnel', 'signed_longer', qr/takes \(\$tunnel, \$cleanup, %more\)/],
        ['finish_tunnel', 'declared', qr/'finish_tunnel' cannot be made out/],
        ['read_tunnel', 'signed', qr/'read_tunnel' takes \(\$tunnel, \$cleanup\)/],
        ['write_tunnel', 'longer', qr/'write_tunnel' takes/],
        )
    {
        my ($name, $other, $reason) = @$case;
        put($name, PVE::Tunnel->can($other));
        my $before = functions(@REPLACED);
        my $message = death(\&PVE::Tunnel::Overlay::install);
        like(
            $message, qr/\APVE::Tunnel is left as it is: [^\n]*its function '[^\n]*\n\z/,
            "$other $name"
        );
        like($message, $reason, '... is refused with the reason');
        like(PVE::Tunnel::Overlay::status()->{refusal}, $reason, '... which status tells, too');
        is_deeply(functions(@REPLACED), $before, '... and nothing is replaced');
        put($name, $stock->{$name});
    }
    put('finish_tunnel', \&foreign);
    like(
        death(\&PVE::Tunnel::Overlay::install),
        qr/'finish_tunnel' comes from main/,
        'somebody else\'s function is refused'
    );
    put('finish_tunnel', $stock->{finish_tunnel});
    like(
        PVE::Tunnel::Overlay::Shape::fault('Test::More'),
        qr/\Ait has no function 'finish_tunnel'\z/,
        'a missing function is refused'
    );
    put('finish_tunnel', PVE::Tunnel->can('signed'));
    is(PVE::Tunnel::Overlay::status()->{refusal}, undef, 'the same by a signature is the same');
    put('finish_tunnel', $stock->{finish_tunnel});

    my @command = ($^X, (map { "-I$_" } grep { m{/blib/} } @INC), '-e');
    my $code = 'use PVE::Tunnel::Overlay; eval { PVE::Tunnel::Overlay::install(); 1 } or print $@';
    local $ENV{PERL5LIB} = '';
    open(my $out, '-|', @command, $code) or die "cannot run perl: $!\n";
    like(
        join('', <$out>),
        qr/\APVE::Tunnel is left as it is: it cannot be loaded: [^\n]*\n\z/,
        'no PVE::Tunnel is refused'
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
    is($status->{installed}, 1, 'status says so');
    is_deeply($status->{functions}, { map { $_ => 'overlay' } @REPLACED }, '... of each');
    PVE::Tunnel::Overlay::install();
    is_deeply(functions(@REPLACED, @KEPT), $now, 'once more changes nothing');
};

my $node = TestNode::Node->start(dir => "$dir/node", listen => '127.0.0.1');

subtest 'a volume, as PVE::StorageTunnel sends it' => sub {
    unlink $log_file;
    my $vmid = 100;
    # As qemu-server writes it, which means a websocket all the same.
    my %params = (url => $node->url($vmid) =~ s/\Awss/https/r);
    my $tunnel = PVE::Tunnel::fork_websocket_tunnel(
        $node->conn, $node->path($vmid),
        { storages => 'local', bridges => '' },
        \%params, \&log_line
    );
    is_deeply([@$tunnel{qw(version age)}], [2, 0], 'version and age');
    is($tunnel->{log}, \&log_line, 'the log');
    ok(kill(0 => $tunnel->{pid}), 'the process');
    ok(defined fileno $tunnel->{$_}, "the $_") for qw(reader writer);
    is($tunnel->{params}, \%params, 'the parameters are completed in place');
    like($params{url}, qr{\Ahttps://.*/mtunnelwebsocket\?\z}, '... without a ticket');
    is_deeply($params{headers}, [['Authorization', $node->token]], '... with the token');
    is($params{fingerprint}, $node->{fingerprint}, '... and the fingerprint');
    is($tunnel->{pending}, '', 'nothing was read past read_tunnel');
    is((grep { $_->[0] eq 'read_tunnel' } @PVE::Tunnel::CALLS) + 0, 2, '... but all through it');
    is_deeply(stock_calls(), [], '... and no other function of the stock module was called');
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
    is($tunnel->{forwarded}{$local}, $import->{socket}, 'the forward is remembered');
    my $socket = IO::Socket::UNIX->new(Peer => $local) or die "connect to $local: $!\n";
    shutdown($socket, SHUT_RD);
    my $data = join('', map { pack('N', $_) } 1 .. 1_000_000);
    print {$socket} pack('Q<', length $data), $data;
    $socket->flush;
    shutdown($socket, SHUT_WR);
    my $status;
    do { $status = PVE::Tunnel::write_tunnel($tunnel, 10, 'query-disk-import') }
        while $status->{status} eq 'pending';
    is($status->{status}, 'complete', 'the volume arrived while the socket is open')
        or diag(explain($status));
    close($socket);
    is(
        sha256_hex(TestNode::Node::slurp("$dir/node/vm-1-disk-9.raw")),
        sha256_hex($data), '... as it was'
    );
    like(
        death(sub { PVE::Tunnel::write_tunnel($tunnel, 10, 'no-such') }),
        qr/no-such/, 'a refusal is the stock function\'s error'
    );
    like(
        death(sub { PVE::Tunnel::forward_unix_socket($tunnel, "$dir/missing/x", '/nowhere') }),
        qr{\Acannot forward '\Q$dir\E/missing/x': [^\n]+\n\z},
        'a forward that cannot be made dies'
    );
    is_deeply([keys %{ $tunnel->{forwarded} }], [$local], '... and is none');

    $tunnel->{unix_sockets} = ["$dir/leftover"];
    open(my $leftover, '>', "$dir/leftover") or die "cannot create: $!";
    close($leftover);
    PVE::Tunnel::finish_tunnel($tunnel, 1);
    ok(!kill(0 => $tunnel->{pid}), 'at the end the process is gone');
    ok(!-e $_, "$_ too") for $local, "$dir/leftover", "$dir/node/vm-1-disk-9.raw";
    is(ref $tunnel->{record}, 'HASH', 'and there is a record of what happened');
    is_deeply(stock_calls(), [], 'no other function of the stock module was called');
    my @commands = $node->worker_log($vmid) =~ /^command: (.*)$/mg;
    is($commands[0], 'version', 'the worker was asked for its version first');
    is($commands[-1], 'quit', '... and told to quit last');
};

subtest 'the guest\'s lock' => sub {
    open(my $lock, '>', "$dir/lock") or die;
    flock($lock, LOCK_EX) or die;
    my $tunnel = open_tunnel(101);
    close($lock);
    open(my $again, '>', "$dir/lock") or die;
    ok(flock($again, LOCK_EX | LOCK_NB), 'does not live on in the child');
    PVE::Tunnel::finish_tunnel($tunnel);
};

subtest 'what is not ours' => sub {
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
        'tunnels over ssh and from before go to the stock functions, as they came'
    );
    stock_calls();
    $reference->($ssh);
    is_deeply(stock_calls(), ['finish_tunnel'], 'a reference from before is stock');
};

subtest 'a node that cannot be reached' => sub {
    my $message = death(sub { open_tunnel(102, url => $node->url(102) =~ s/socket\z/nothing/r) });
    like($message, qr/\Acannot open the tunnel: [^\n]*\b[45]\d\d\b[^\n]*\n\z/, 'says why');
    like(
        death(sub { open_tunnel(102, conn => { apitoken => undef }) }),
        qr/no API token/, 'so does one without a token'
    );
};

subtest 'a connector that ends by itself' => sub {
    my $script = Test::ScriptedConnector->install("$dir/received", finish => undef);
    my $tunnel = open_tunnel(103);
    like(
        death(sub { PVE::Tunnel::finish_tunnel($tunnel) }),
        qr/\Athe tunnel was not ended in order: [^\n]*\bthe tunnel has ended\n\z/,
        'is told at the end'
    );
    ok(!kill(0 => $tunnel->{pid}), '... and leaves no process');
};

subtest 'under taint' => sub {
    # pvedaemon runs with -T. What this program is told comes over a pipe, as tainted as it gets.
    my $program = <<'END';
use v5.36;
use PVE::Tunnel::Overlay;
PVE::Tunnel::Overlay::install();
my ($host, $port, $token, $print, $path, $url, $local, $left, $file) =
    map { chomp; $_ } readline(STDIN);
die "not tainted\n" if !Scalar::Util::tainted($token);
# The cluster's files are tainted as well.
($PVE::Tunnel::Client::Negotiation::CONFIGURATION) = $file =~ /\A(.*)\z/;
my $conn = {
    protocol => 'https', host => $host, port => $port, apitoken => $token,
    cached_fingerprints => { $print => 1 },
};
my @said;
my $tunnel = PVE::Tunnel::fork_websocket_tunnel(
    $conn, $path, {}, { url => $url }, sub ($level, $text) { push @said, "$level: $text" });
my $import = PVE::Tunnel::write_tunnel($tunnel, 10, 'disk-import', {
    volname => 'vm-1-disk-3.raw', format => 'raw', storage => 'local', export_formats => 'raw+size',
});
print "unchecked: $@" if !eval { PVE::Tunnel::forward_unix_socket($tunnel, $local, $import->{socket}); 1 };
($local) = $local =~ m{\A(/[\w/.-]+)\z};
PVE::Tunnel::forward_unix_socket($tunnel, $local, $import->{socket});
$tunnel->{unix_sockets} = [$left, $local];
PVE::Tunnel::finish_tunnel($tunnel, 1);
print "plane $tunnel->{plan}{plane}\n", map { "$_\n" } grep { /cannot remove/ } @said;
END
    my $file = "$dir/taint.pl";
    open(my $out, '>', $file) or die "cannot create: $!";
    print {$out} $program;
    close($out) or die;
    open($out, '>', "$dir/configuration") or die;
    print {$out} "network: lo\n\tremote 127.0.0.1\n\ttarget 127.0.0.0/8\n",
        "policy: cluster\n\trequire-encryption 1\n";
    close($out) or die;
    my $conn = $node->conn;
    open($out, '>', "$dir/told") or die;
    print {$out} map { "$_\n" } @$conn{qw(host port apitoken)}, $node->{fingerprint},
        $node->path(104), $node->url(104), "$dir/taint.storage", "$dir/left", "$dir/configuration";
    close($out) or die;
    my @lib = map { "-I$FindBin::RealBin/$_" } qw(lib/fake ../perl/blib/lib ../perl/blib/arch);
    my $said = qx($^X -T @lib $file <$dir/told 2>&1);
    like(
        $said, qr/^unchecked: Insecure dependency in unlink /m,
        'a name that nobody checked is refused'
    );
    like($said, qr/^plane tls$/m, '... and one that was does for a whole tunnel');
    like($said, qr{^warn: cannot remove '\Q$dir\E/left'}m, '... whose end removes only the latter');
    is(scalar(() = $said =~ /\n/g), 3, '... without a word more') or diag($said);
};

subtest 'uninstall' => sub {
    my $tunnel = open_tunnel(105);
    for my $wrapped (@REPLACED) {
        my $ours = PVE::Tunnel->can($wrapped);
        my $wrapper = sub { goto &$ours };
        put($wrapped, $wrapper);
        my $message = qr/\Asomebody has replaced PVE::Tunnel::$wrapped since/;
        like(
            death(\&PVE::Tunnel::Overlay::uninstall), $message,
            "refuses once $wrapped is wrapped"
        );
        like(death(\&PVE::Tunnel::Overlay::install), $message, '... as does another install');
        is(PVE::Tunnel->can($wrapped), $wrapper, '... which stays');
        my $status = PVE::Tunnel::Overlay::status();
        is($status->{installed}, 0, '... and status knows');
        is($status->{functions}{$wrapped}, 'other', '... which it is');
        put($wrapped, $ours);
    }
    PVE::Tunnel::Overlay::uninstall();
    is_deeply(functions(@REPLACED, @KEPT), $stock, 'puts back what was there');
    is(PVE::Tunnel::Overlay::status()->{installed}, 0, 'status says so');
    PVE::Tunnel::Overlay::uninstall();
    is_deeply(functions(@REPLACED, @KEPT), $stock, 'once more changes nothing');
    PVE::Tunnel::Overlay::install();
    PVE::Tunnel::finish_tunnel($tunnel);
    ok(!kill(0 => $tunnel->{pid}), 'a tunnel outlives an uninstall and an install');

    put($_, $stock->{$_}) for @REPLACED;
    is(PVE::Tunnel::Overlay::status()->{functions}{$_}, 'stock', "a module loaded anew: $_")
        for @REPLACED;
    PVE::Tunnel::Overlay::install();
    is(PVE::Tunnel::Overlay::status()->{installed}, 1, '... is one to install on');
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
done_testing;
