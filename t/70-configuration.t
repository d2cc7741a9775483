#!/usr/bin/perl

# The configuration of the administrators, from end to end: which plane a migration takes or why it
# is refused. Each call is that of `qm remote-migrate` without new options, with the options of the
# case added.
use v5.36;

use File::Temp qw(tempdir);
use FindBin;
use Test::More;

use lib map { "$FindBin::Bin/../$_" } qw(t/lib demo/lib testnode/lib perl/blib/lib perl/blib/arch);
use Demo::Hosts;
use PVE::Tunnel::Client;
use PVE::Tunnel::Client::Negotiation;
use TestNode::Node;

# The target has an address of its own: a source refuses loopback addresses unless its migration
# network lies in the loopback range.
BEGIN { Demo::Hosts::enter() }

# A test that hangs must fail.
local $SIG{ALRM} = sub { die "the test timed out\n" };
alarm(120);

my $HOSTS = Demo::Hosts->new;
plan skip_all => 'only root has two networks on one machine' if !$HOSTS->namespaces;

my $DIR = tempdir(CLEANUP => 1);
my $vmid = 200;

sub configure ($file, $text) {
    open(my $out, '>', $file) or die "$file: $!\n";
    print {$out} $text;
    close($out) or die "$file: $!\n";
    return $file;
}

sub policy () { return "policy: cluster\n\trequire-encryption 1\n" }

# A network entry. Without a `remote` property, a call can only request it by its ID.
sub network ($id, %property) {
    return "network: $id\n" . join('', map { "\t$_ $property{$_}\n" } sort keys %property) . "\n";
}

# Opens and ends a tunnel. Returns plane and error, of which one is undef.
sub run_tunnel ($node, $source, %call) {
    local $PVE::Tunnel::Client::Negotiation::CONFIGURATION = configure("$DIR/source.cfg", $source);
    $vmid++;
    my $tunnel = eval {
        PVE::Tunnel::Client::fork_websocket_tunnel(
            $node->conn, $node->path($vmid), {},
            { url => $node->url($vmid), %call }, sub { }
        );
    } or return (undef, $@);
    my $plane = $tunnel->{plan}{plane};
    PVE::Tunnel::Client::finish_tunnel($tunnel, 1);
    return ($plane, undef);
}

sub takes ($expected, $name, @arguments) {
    my ($plane, $error) = run_tunnel(@arguments);
    is($plane, $expected, "$name: $expected") or diag($error);
    return;
}

sub is_refused ($pattern, $name, @arguments) {
    my ($plane, $error) = run_tunnel(@arguments);
    is($plane, undef, "$name: refused");
    like($error, qr/\A[^\n]+\n\z/, "$name: the error is one line");
    like($error, $pattern, "$name: the error has the reason");
    unlike(
        $arguments[0]->worker_log($vmid),
        qr/^command: (?:config|disk|start)/m,
        "$name: the target has created nothing"
    );
    return;
}

my $NETWORK = $HOSTS->network;
my $here = "$DIR/target.cfg";
configure($here, '');

sub target ($name, @options) {
    return TestNode::Node->start(
        dir => "$DIR/$name",
        listen => $HOSTS->target,
        wrap => [$HOSTS->at_target],
        options => ['--configuration', $here, @options],
    );
}

my %CLEAR = (allow => 'secure,insecure', default => 'insecure');

subtest 'the configuration of the source' => sub {
    my $node = target('plain');
    my %side = (source => $NETWORK, target => $NETWORK);
    my @call = (migration_network => $NETWORK);
    takes('tls', 'an empty configuration', $node, '', @call);
    takes(
        'tls', 'a network for this remote', $node,
        network('site', remote => $HOSTS->target, %side)
    );
    takes(
        'tcp', 'a network with clear text as its default', $node,
        network('site', remote => $HOSTS->target, %side, %CLEAR)
    );
    takes(
        'tls', 'a network with clear text as its default, and a secure call', $node,
        network('site', remote => $HOSTS->target, %side, %CLEAR), migration_type => 'secure'
    );
    takes(
        'tls', 'a network for another remote', $node,
        network('site', remote => '192.0.2.7', %side, %CLEAR), @call
    );
    is_refused(
        qr/insecure/, 'clear text that the network does not allow', $node,
        network('site', remote => $HOSTS->target, %side), migration_type => 'insecure'
    );
    is_refused(
        qr/require-encryption|requires encryption/,
        'configured clear text against the policy', $node,
        network('site', remote => $HOSTS->target, %side, %CLEAR) . policy()
    );
    is_refused(
        qr/require-encryption|requires encryption/,
        'an insecure call against the policy', $node, policy(),
        migration_type => 'insecure', @call
    );
    takes('tls', 'a secure call with the policy', $node, policy(), @call);
    is_refused(
        qr/line 2: /, 'a mistake in the file', $node, "network: site\n\tallow insecrue\n",
        @call
    );
    $node->stop;
};

subtest 'the configuration of the target' => sub {
    my $node = target('policy');
    my $source = network(
        'site',
        remote => $HOSTS->target,
        source => $NETWORK,
        target => $NETWORK, %CLEAR
    );
    takes(
        'tcp', 'an empty configuration of the target, and clear text by that of the source',
        $node, $source
    );
    configure($here, policy());
    is_refused(qr/requires encryption/, 'clear text against the policy', $node, $source);
    takes('tls', 'a secure call with the policy', $node, $source, migration_type => 'secure');
    configure($here, '');
    $node->stop;
};

subtest 'privileges at the target' => sub {
    my $node = target('no-privilege', '--no-privilege');
    my $source_for = sub ($target) {
        return network(
            'site',
            remote => $HOSTS->target,
            source => $NETWORK,
            target => $target, %CLEAR
        );
    };
    my $lacks = qr/Sys\.Modify/;
    is_refused($lacks, 'clear text on a network by its CIDR', $node, $source_for->($NETWORK));
    configure($here, network('inside', source => $NETWORK, allow => 'secure,insecure'));
    is_refused(
        $lacks, 'clear text by the CIDR of a network that the target has configured',
        $node, $source_for->($NETWORK)
    );
    takes(
        'tcp', 'clear text by the ID of a network that the target has configured',
        $node, $source_for->('inside')
    );
    takes(
        'tls', 'encryption by this ID', $node, $source_for->('inside'),
        migration_type => 'secure'
    );
    configure($here, network('inside', source => $NETWORK));
    is_refused(
        qr/insecure/, 'clear text by the ID of a network that does not allow it',
        $node, $source_for->('inside')
    );
    configure($here, '');
    $node->stop;
};

# The source checks the privileges of its user. Without Proxmox VE, only root has them, so this test
# has a fake PVE::RPCEnvironment.
subtest 'privileges at the source' => sub {
    my $node = target('source');
    my $entry = network(
        'site',
        source => $NETWORK,
        target => $NETWORK, %CLEAR
    );
    no warnings 'once'; ## no critic (ProhibitNoWarnings)
    local *PVE::RPCEnvironment::get = sub (@) { return bless {}, 'PVE::RPCEnvironment' };
    local *PVE::RPCEnvironment::get_user = sub (@) { return 'operator@pve' };
    local *PVE::RPCEnvironment::check = sub (@) { return 0 };
    is_refused(
        qr/'operator\@pve' does not have it/,
        'a CIDR without Sys.Modify', $node, $entry,
        migration_network => $NETWORK
    );
    is_refused(
        qr/'operator\@pve' does not have it/,
        'clear text without Sys.Modify', $node, '', migration_type => 'insecure'
    );
    takes(
        'tls', 'an ID without Sys.Modify', $node, $entry,
        migration_network => 'site', migration_type => 'secure'
    );
    takes(
        'tcp', 'clear text by an ID without Sys.Modify', $node, $entry,
        migration_network => 'site'
    );
    $node->stop;
};

done_testing;
