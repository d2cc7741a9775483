#!/usr/bin/perl

# The overlay on the real PVE::Tunnel. Needs that module with PVE::APIClient::LWP, installed or in
# PERL5LIB.

use v5.36;

use FindBin ();
use lib map { "$FindBin::RealBin/$_" } qw(lib ../testnode/lib);

use File::Temp qw(tempdir);
use IO::Socket::INET ();
use IO::Socket::UNIX ();
use JSON ();
use Socket qw(SHUT_RD);
use Test::More;

use PVE::Tunnel::Overlay;
use Test::TunnelNode;
use Test::TunnelLog qw(log_line death);
use Test::VolumeImport qw(send_volume volume_arrived);
use TestNode::Node;

# Loaded at run time: the module may be missing.
BEGIN {
    my $missing = Test::TunnelNode::missing('PVE::Tunnel');
    plan skip_all => $missing if defined $missing;
    require PVE::Tunnel;
}
diag "this test runs on the real PVE::Tunnel ($INC{'PVE/Tunnel.pm'})";

# A test that hangs must fail.
local $SIG{ALRM} = sub { die "the test timed out\n" };
alarm(300);

my @REPLACED = qw(fork_websocket_tunnel forward_unix_socket finish_tunnel);
my @KEPT = qw(read_tunnel write_tunnel fork_ssh_tunnel);

my $dir = tempdir(CLEANUP => 1);
my $log_file = "$dir/log";
$Test::TunnelLog::FILE = $log_file;

sub functions (@names) {
    return { map { $_ => PVE::Tunnel->can($_) } @names };
}

my $stock = functions(@REPLACED, @KEPT);

subtest 'altered modules' => sub {
    my $text = TestNode::Node::slurp($INC{'PVE/Tunnel.pm'});
    my %altered = (
        'one more parameter' => sub { s/(sub finish_tunnel\b.*?\$cleanup)/$1, \$reason/s },
        'parameters in another order' =>
            sub { s/(sub forward_unix_socket\b.*?)\$local, \$remote/$1\$remote, \$local/s },
        'a missing function' => sub { s/sub read_tunnel\b/sub read_line/ },
        'a renamed function' => sub { s/sub fork_websocket_tunnel\b/sub fork_tls_tunnel/ },
    );
    my $code = 'use PVE::Tunnel; use PVE::Tunnel::Overlay;'
        . 'eval { PVE::Tunnel::Overlay::install(); 1 } or print $@';
    for my $what ('no alteration', sort keys %altered) {
        local $_ = $text;
        ok($altered{$what}->(), "$what: the module can be altered so") if $altered{$what};
        my $lib = tempdir(DIR => $dir);
        mkdir "$lib/PVE" or die "mkdir: $!\n";
        open(my $out, '>', "$lib/PVE/Tunnel.pm") or die "cannot create: $!\n";
        print {$out} /\n1;\s*\z/ ? $_ : "$_\n1;\n";
        close($out) or die "cannot write: $!\n";
        my @command = ($^X, map({ "-I$_" } $lib, grep { !ref } @INC), '-e', $code);
        open(my $perl, '-|', @command) or die "cannot run perl: $!\n";
        my $printed = join('', <$perl>);
        close($perl);
        is($printed, '', 'the unaltered module is accepted') if !$altered{$what};
        like($printed, qr/\APVE::Tunnel is not changed: .*function '/, "$what is refused")
            if $altered{$what};
    }
};

subtest 'install' => sub {
    PVE::Tunnel::Overlay::install();
    my $now = functions(@REPLACED, @KEPT);
    isnt($now->{$_}, $stock->{$_}, "$_ is replaced") for @REPLACED;
    is($now->{$_}, $stock->{$_}, "$_ is kept") for @KEPT;
    is(
        PVE::Tunnel::Overlay::status()->{module},
        $INC{'PVE/Tunnel.pm'}, 'status reports the file of the module'
    );
};

my $node = TestNode::Node->start(dir => "$dir/new", listen => '127.0.0.1');
my $old = TestNode::Node->start(dir => "$dir/old", listen => '127.0.0.1', old => 1);
my $vmid = 100;

sub open_tunnel ($target, %params) {
    $vmid++;
    my $url = $target->url($vmid) =~ s/\Awss/https/r;
    return PVE::Tunnel::fork_websocket_tunnel(
        $target->conn, $target->path($vmid),
        { storages => 'local' },
        { url => $url, %params }, \&log_line
    );
}

for my $case (
    ['an old node', $old, 'websocket'],
    ['a new node', $node, 'tls', migration_network => '127.0.0.0/8'],
    [
        'clear text', $node, 'tcp',
        migration_network => '127.0.0.0/8',
        migration_type => 'insecure'
    ],
    )
{
    my ($name, $target, $plane, %params) = @$case;
    subtest $name => sub {
        my $tunnel = open_tunnel($target, %params);
        is_deeply([@$tunnel{qw(version age)}], [2, 0], 'the tunnel is open and has a version');
        is($tunnel->{plan}{plane}, $plane, "the plane is $plane");
        # Two volumes, one after the other, over the same local socket.
        migrate_volume($tunnel, $target, $_) for 1 .. 2;
        my $message = death(sub { PVE::Tunnel::write_tunnel($tunnel, 10, 'no-such') });
        like(
            $message, qr/\Aerror - tunnel command .*no-such/,
            'a refusal is an error of the stock function'
        );
        my ($local) = keys %{ $tunnel->{forwarded} };
        PVE::Tunnel::finish_tunnel($tunnel, 1);
        is(kill(0, $tunnel->{pid}), 0, 'at the end the process is gone');
        ok(!-e $local, 'the socket of the forward is gone');
        is($tunnel->{record}{plane}, $plane, 'the record has the plane');
    };
}

subtest 'a tunnel over ssh' => sub {
    # The program that ssh would run on the target.
    my $script = '$| = 1; print "tunnel online\nver 1\n";'
        . 'while (<STDIN>) { print "OK\n"; last if /^quit$/ }';
    my @ssh = ($^X, '-e', $script, '--');
    my $tunnel = PVE::Tunnel::fork_ssh_tunnel([@ssh], ['mtunnel'], [], \&log_line);
    is($tunnel->{version}, 1, 'it opens as without the overlay');
    is($tunnel->{connector}, undef, 'it has no connector');
    PVE::Tunnel::write_tunnel($tunnel, 10, 'resume 100');
    PVE::Tunnel::finish_tunnel($tunnel);
    is(kill(0, $tunnel->{pid}), 0, 'it ends as without the overlay');
};

subtest 'time limits' => sub {
    my $tunnel = open_tunnel($old);
    like(
        death(sub { PVE::Tunnel::read_tunnel($tunnel, 1) }),
        qr/\Areading from tunnel failed: got timeout/,
        'the time limits of the stock functions still hold'
    );
    is(
        PVE::Tunnel::write_tunnel($tunnel, 10, 'unlock')->{success}, 1,
        'no answer is lost after a timeout'
    );
    PVE::Tunnel::finish_tunnel($tunnel, 1);

    my $silent = IO::Socket::INET->new(LocalAddr => '127.0.0.1', Listen => 1) or die "socket: $!\n";
    my $conn = { %{ $old->conn }, port => $silent->sockport };
    my $message = death(
        sub {
            PVE::Tools::run_with_timeout(
                1,
                sub {
                    PVE::Tunnel::fork_websocket_tunnel(
                        $conn, '/x', {}, { url => 'wss://x/y' },
                        \&log_line
                    );
                }
            );
            return;
        }
    );
    like(
        $message, qr/got timeout/,
        'a time limit of the caller interrupts the opening of a tunnel'
    );
    alarm(300);
};

subtest 'uninstall' => sub {
    my $tunnel = open_tunnel($node, migration_network => '127.0.0.0/8');
    PVE::Tunnel::Overlay::uninstall();
    is_deeply(functions(@REPLACED, @KEPT), $stock, 'uninstall restores the stock functions');
    PVE::Tunnel::finish_tunnel($tunnel, 1);
    is(kill(0, $tunnel->{pid}), 0, 'the stock function ends a tunnel of the overlay');
    like(
        TestNode::Node::slurp("$dir/new/$vmid.log"), qr/^command: quit$/m,
        'the worker has received quit'
    );
};

sub migrate_volume ($tunnel, $target, $number) {
    my $volume = "vm-$vmid-disk-$number.raw";
    my %import = (
        volname => $volume, format => 'raw', storage => 'local', export_formats => 'raw+size',
        migration_snapshot => 0, with_snapshots => 0, allow_rename => 1,
    );
    my $import = PVE::Tunnel::write_tunnel($tunnel, 600, 'disk-import', \%import);
    my $local = "$dir/$vmid.storage";
    PVE::Tunnel::forward_unix_socket($tunnel, $local, $import->{socket})
        if !$tunnel->{forwarded}{$local};
    my $socket = IO::Socket::UNIX->new(Peer => $local) or die "connect to $local: $!\n";
    shutdown($socket, SHUT_RD);
    my $data = join('', map { pack('N', $_ + $number) } 1 .. 1_000_000);
    send_volume(
        $socket, $data,
        sub { PVE::Tunnel::write_tunnel($tunnel, 10, 'query-disk-import') }
    );
    close($socket);
    volume_arrived("$target->{dir}/$volume", $data);
    return;
}

$_->stop for $node, $old;
done_testing;
