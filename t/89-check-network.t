#!/usr/bin/perl

# pve-tunnel check on networks that do not work: an address that drops packets, ports that a firewall
# filters, and a path with a small MTU. Each has its advice.

use v5.36;

use File::Temp qw(tempdir);
use FindBin;
use Test::More;

use lib map { "$FindBin::RealBin/../$_" }
    qw(t/lib demo/lib testnode/lib perl/blib/lib perl/blib/arch);
use Demo::Hosts;
use Test::CheckCommand qw(check defaults problems remote reports start_check write_file $PROGRAM);
use TestNode::Node;

# Rules and MTU belong to the two namespaces.
BEGIN { Demo::Hosts::enter() }

# A test that hangs must fail.
local $SIG{ALRM} = sub { die "the test timed out\n" };
alarm(240);

my $HOSTS = Demo::Hosts->new;
plan skip_all => 'only root has two networks on one machine' if !$HOSTS->namespaces;

my $DIR = tempdir(CLEANUP => 1);
my @AT_TARGET = $HOSTS->at_target;
my @NETWORK = ('--network', $HOSTS->network);
# An address of the network that no host has.
my $UNUSED = $HOSTS->target =~ s/\d+\z/77/r;
my $node = TestNode::Node->start(
    dir => "$DIR/node",
    listen => $HOSTS->target,
    wrap => \@AT_TARGET,
    options => ['--create-guests'],
);
my %REMOTE = (%$node{qw(address port fingerprint)}, token => $node->token);

sub run (@command) {
    system(@command) == 0 or die "@command: exit code $?\n";
    return;
}

# Runs the code while the target's replies from these ports are lost, as behind a firewall.
sub filtered ($ports, $code) {
    my @rule = ('ipproto', 'tcp', 'sport', $ports, 'blackhole');
    run(@AT_TARGET, qw(ip rule add), @rule);
    my $result = $code->();
    run(@AT_TARGET, qw(ip rule del), @rule);
    return $result;
}

sub quick (@arguments) { return check(remote(\%REMOTE), '--seconds', 0, @arguments) }

sub nothing_left () {
    is_deeply([glob "$DIR/node/*.conf"], [], 'the target has no guest');
    return;
}

subtest 'a network without faults' => sub {
    my $result = check(remote(\%REMOTE), '--seconds', 0.1, @NETWORK);
    reports($result, 0);
    is($result->{report}{plane}, 'tls', 'the plane');
    nothing_left();
};

subtest 'the port of the API is filtered' => sub {
    my $result = filtered($REMOTE{port}, sub () { return quick() });
    reports(
        $result, 2,
        [
            failed => qr/\Q$REMOTE{address}\E:\d+ does not answer/,
            qr/open the port in every firewall between the nodes/
        ]
    );
};

subtest 'the migration ports are filtered' => sub {
    my $result = filtered('60000-60049', sub () { return quick(@NETWORK) });
    reports(
        $result, 1,
        [
            worse => qr/listener at \Q$REMOTE{address}\E, port 60000, is unreachable: /,
            qr/open the TCP ports 60000 to 60049 of the target/
        ],
        [worse => qr/migration network '\Q$NETWORK[1]\E' is not used/, qr/./],
    );
    is($result->{report}{plane}, 'websocket', 'a migration uses the websocket');
    nothing_left();

    $result = filtered('60000-60049', sub () { return quick(@NETWORK, '--type', 'insecure') });
    my ($failed) = grep { $_->[0] eq 'failed' } problems($result);
    is($result->{code}, 2, 'clear text: exit code 2');
    like($failed->[1], qr/clear text is not possible: .* port 60000/, '... the text');
    like($failed->[2], qr/open the TCP ports 60000 to 60049/, '... its advice');
    nothing_left();
};

# A network of its own for the data, on which nodes can have wrong addresses.
my ($HERE, $LISTENER, @OTHER_NETWORK) = qw(10.98.0.1 10.98.0.2 --network 10.98.0.0/24);

subtest 'another network' => sub {
    run(qw(ip address add), "$HERE/24", qw(dev to-target));
    run(@AT_TARGET, qw(ip address add), "$LISTENER/24", qw(dev to-source));
    my $result = quick(@OTHER_NETWORK);
    reports($result, 0);
    is($result->{report}{plane}, 'tls', 'the listener answers');
};

subtest 'this node has the address of the listener, too' => sub {
    run(qw(ip address add), "$LISTENER/32", qw(dev lo));
    my $result = quick(@OTHER_NETWORK);
    run(qw(ip address del), "$LISTENER/32", qw(dev lo));
    is($result->{code}, 1, 'exit code 1');
    my ($found) = problems($result);
    like($found->[1], qr/\Q$LISTENER\E, which is an address of this node itself/, 'the text');
    like($found->[2], qr/\Agive one of the nodes another address/, '... its advice');
    nothing_left();
};

# Another machine has the address of the listener, and this node reaches that machine.
subtest 'another program answers at the address of the listener' => sub {
    my $pid = $HOSTS->start_process('unshare', '--net', 'sh', '-c', 'echo ready && exec cat');
    my @at_other = ('nsenter', "--net=/proc/$pid/ns/net", '--');
    run(qw(ip link add to-other type veth peer name to-source netns), $pid);
    run(qw(ip link set to-other up));
    run(@at_other, qw(ip address add), "$LISTENER/24", qw(dev to-source));
    run(@at_other, qw(ip link set to-source up));
    run(qw(ip route add), "$LISTENER/32", qw(dev to-other src), $HERE);

    my $advice = qr/\Aanother program answers at this address and port: check NAT/;
    my $unreachable = qr/listener at \Q$LISTENER\E, port 60000, is unreachable: /;
    my $web = TestNode::Node->start(
        dir => "$DIR/other",
        listen => $LISTENER,
        wrap => \@at_other,
        options => ['--port', 60_000],
    );
    my $result = quick(@OTHER_NETWORK);
    $web->stop;
    is($result->{code}, 1, 'a web server: exit code 1');
    my ($found) = problems($result);
    like($found->[1], qr/$unreachable.*certificate has the fingerprint/, '... the text');
    like($found->[2], $advice, '... its advice');
    is($result->{report}{plane}, 'websocket', '... and a migration uses the websocket');

    my $ssh = <<~'END';
        my %address = (LocalAddr => shift, LocalPort => 60_000, ReuseAddr => 1);
        my $server = IO::Socket::INET->new(%address, Listen => 5) // die;
        syswrite STDOUT, "ready\n";
        while (my $client = $server->accept) { syswrite $client, "SSH-2.0-OpenSSH_9.2\r\n" }
        END
    my @ssh = ('perl', '-MIO::Socket::INET', '-e', $ssh, $LISTENER);
    my $server = $HOSTS->start_process(@at_other, @ssh) // die "no server\n";
    for my $case ([secure => 1, 'worse'], [insecure => 2, 'failed']) {
        my ($type, $code, $outcome) = @$case;
        $result = quick(@OTHER_NETWORK, '--type', $type);
        is($result->{code}, $code, "SSH, type $type: exit code $code");
        ($found) = grep { $_->[0] eq $outcome } problems($result);
        like($found->[1], $unreachable, '... the text');
        like($found->[2], $advice, '... its advice') or diag(explain($found));
    }
    kill KILL => $server;
    run(qw(ip link del to-other));
    nothing_left();
};

subtest 'an address that no host has' => sub {
    reports(
        check(remote({ %REMOTE, address => $UNUSED }), '--seconds', 0), 2,
        [failed => qr/\Q$UNUSED\E:\d+ cannot be reached/, qr/check the routes of this node/]
    );
};

subtest 'one of two addresses of a name is dead' => sub {
    plan skip_all => 'no mount namespaces here' if system('unshare --mount true 2>/dev/null');
    write_file("$DIR/hosts", "$UNUSED twoaddresses\n$REMOTE{address} twoaddresses\n");
    my @check = ('check', '--to', remote({ %REMOTE, address => 'twoaddresses' }));
    my $started = start_check(
        program => 'unshare',
        arguments => [
            qw(--mount sh -c), 'mount --bind "$1" /etc/hosts && shift && exec "$@"', 'sh',
            "$DIR/hosts", $PROGRAM, @check, '--json', '--seconds', 0, @NETWORK, defaults(),
        ],
    );
    my $result = $started->wait;
    reports(
        $result, 1,
        [worse => qr/\Q$UNUSED\E:\d+ cannot be reached/, qr/or remove the address from the name/]
    );
    is($result->{report}{plane}, 'tls', 'the other address is used');
    nothing_left();
};

subtest 'a path that loses large packets' => sub {
    # Large enough for the handshake of TLS.
    my ($mtu, $largest) = (9000, 4000);
    my @limits = (mtu => $mtu, gso_max_size => $mtu);
    run(qw(ip link set to-target), @limits);
    run(@AT_TARGET, qw(ip link set to-source), @limits);
    run(@AT_TARGET, qw(ip link set to-source mtu), $largest);
    run(
        @AT_TARGET, qw(ip route replace), $HOSTS->network, qw(dev to-source src), $HOSTS->target,
        advmss => $mtu - 40
    );
    my $result = quick(@NETWORK);
    is($result->{code}, 1, 'exit code 1');
    my ($found) = problems($result);
    like($found->[1], qr/large packets to the target are lost.*ping -M do -s 8972/, 'the text');
    like($found->[2], qr/\Aset the MTU of both nodes/, '... its advice');
    nothing_left();
};

$node->stop;
done_testing;
