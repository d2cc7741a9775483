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

subtest 'an address that no host has' => sub {
    reports(
        check(remote({ %REMOTE, address => $UNUSED }), '--seconds', 0), 2,
        [failed => qr/\Q$UNUSED\E:\d+ cannot be reached/, qr/check the routes of this node/]
    );
};

subtest 'one of two addresses of a name is dead' => sub {
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
