#!/usr/bin/perl

# What administrators configured, from end to end: the call is that of a qm remote-migrate without new
# options, but for what a case adds.
use v5.36;

use File::Temp qw(tempdir);
use FindBin;
use Test::More;

use lib map { "$FindBin::Bin/../$_" } qw(t/lib demo/lib testnode/lib perl/blib/lib perl/blib/arch);
use Demo::Hosts;
use PVE::Tunnel::Client;
use PVE::Tunnel::Client::Negotiation;
use TestNode::Node;

# A target with an address of its own: its own loopback is what nobody believes a target.
BEGIN { Demo::Hosts::enter() }

# A test that stands still is a failed test.
local $SIG{ALRM} = sub { die "the test stands still\n" };
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

# An entry for this remote, or for none: then it is there by its ID only.
sub network ($id, %property) {
    return "network: $id\n" . join('', map { "\t$_ $property{$_}\n" } sort keys %property) . "\n";
}

# A crossing from its beginning to its end; returns plane and error, of which one is undef.
sub cross ($node, $source, %call) {
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
    my ($plane, $error) = cross(@arguments);
    is($plane, $expected, $name) or diag($error);
    return;
}

sub is_refused ($pattern, $name, @arguments) {
    my ($plane, $error) = cross(@arguments);
    is($plane, undef, $name);
    like($error, qr/\A[^\n]+\n\z/, '... with an error of one line');
    like($error, $pattern, '... that says why');
    unlike(
        $arguments[0]->worker_log($vmid),
        qr/^command: (?:config|disk|start)/m,
        '... and the target is as it was'
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

subtest 'the source\'s' => sub {
    my $node = target('plain');
    my %side = (source => $NETWORK, target => $NETWORK);
    my @call = (migration_network => $NETWORK);
    takes('tls', 'nothing configured: encrypted', $node, '', @call);
    takes(
        'tls', 'a network for this remote: as well', $node,
        network('site', remote => $HOSTS->target, %side)
    );
    takes(
        'tcp', '... with clear text as its default: an unchanged call is clear text', $node,
        network('site', remote => $HOSTS->target, %side, %CLEAR)
    );
    takes(
        'tls', '... unless the call says secure', $node,
        network('site', remote => $HOSTS->target, %side, %CLEAR), migration_type => 'secure'
    );
    takes(
        'tls', 'one for another remote does not count', $node,
        network('site', remote => '192.0.2.7', %side, %CLEAR), @call
    );
    is_refused(
        qr/insecure/, 'what it does not allow', $node,
        network('site', remote => $HOSTS->target, %side), migration_type => 'insecure'
    );
    is_refused(
        qr/require-encryption|requires encryption/, 'what its policy forbids', $node,
        network('site', remote => $HOSTS->target, %side, %CLEAR) . policy()
    );
    is_refused(
        qr/require-encryption|requires encryption/, '... whoever asks', $node, policy(),
        migration_type => 'insecure', @call
    );
    takes('tls', '... which nothing encrypted is', $node, policy(), @call);
    is_refused(qr/line 2: /, 'a mistake in it', $node, "network: site\n\tallow insecrue\n", @call);
    $node->stop;
};

subtest 'the target\'s' => sub {
    my $node = target('policy');
    my $source = network(
        'site',
        remote => $HOSTS->target,
        source => $NETWORK,
        target => $NETWORK, %CLEAR
    );
    takes(
        'tcp', 'nothing configured there: clear text, which the source configured',
        $node, $source
    );
    configure($here, policy());
    is_refused(qr/requires encryption/, 'its policy forbids clear text', $node, $source);
    takes('tls', '... and nothing else', $node, $source, migration_type => 'secure');
    configure($here, '');
    $node->stop;
};

subtest 'privileges at the target' => sub {
    my $node = target('no-privilege', '--no-privilege');
    my $by = sub ($target) {
        return network(
            'site',
            remote => $HOSTS->target,
            source => $NETWORK,
            target => $target, %CLEAR
        );
    };
    my $lacks = qr/Sys\.Modify/;
    is_refused($lacks, 'clear text on a network of the call\'s', $node, $by->($NETWORK));
    configure($here, network('inside', source => $NETWORK, allow => 'secure,insecure'));
    is_refused(
        $lacks, '... needs Sys.Modify there, whatever is configured by another name',
        $node, $by->($NETWORK)
    );
    takes(
        'tcp', 'on a network that is configured there, by its ID, it does not',
        $node, $by->('inside')
    );
    takes('tls', 'nor does encryption', $node, $by->('inside'), migration_type => 'secure');
    configure($here, network('inside', source => $NETWORK));
    is_refused(qr/insecure/, 'but that has to allow clear text', $node, $by->('inside'));
    configure($here, '');
    $node->stop;
};

# Who may do what at the source is the source's to ask; without Proxmox VE, root may and others not.
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
        qr/'operator\@pve' does not have it/, 'a CIDR needs Sys.Modify', $node, $entry,
        migration_network => $NETWORK
    );
    is_refused(
        qr/'operator\@pve' does not have it/, '... and so does clear text', $node, '',
        migration_type => 'insecure'
    );
    takes(
        'tls', 'an ID needs none', $node, $entry,
        migration_network => 'site', migration_type => 'secure'
    );
    takes('tcp', '... nor does its clear text', $node, $entry, migration_network => 'site');
    $node->stop;
};

done_testing;
