#!/usr/bin/perl

# pve-tunnel check against the real PVE::APIServer::AnyEvent, the base of pveproxy: a node that is
# ready, and what a check finds by the answers of the API. It must be installed or in PERL5LIB.

use v5.36;

use FindBin ();
use lib map { "$FindBin::RealBin/$_" } qw(lib ../testnode/lib ../perl/blib/lib ../perl/blib/arch);

use Test::More;

use Test::CheckCommand qw(check problems remote reports write_file);
use Test::TunnelNode;

local $SIG{ALRM} = sub { die "the test timed out\n" };
alarm 300;

my @NETWORK = ('--network', '127.0.0.0/8');
my @TARGETS = qw(--target-storage local --target-bridge vmbr0);

sub node (%options) {
    return Test::TunnelNode->start(
        front => 'pveproxy',
        worker => "$FindBin::RealBin/../testnode/worker.pl",
        create_guests => 1,
        %options
    );
}

my $node = node();
plan skip_all => $Test::TunnelNode::reason if !$node;
diag 'this test runs against the real PVE::APIServer::AnyEvent';

sub nothing_left ($node) {
    is_deeply([glob "$node->{dir}/*.conf"], [], 'the target has no guest');
    return;
}

subtest 'a node that is ready' => sub {
    my $result = check(remote($node), '--seconds', 0.2, @NETWORK, @TARGETS);
    reports($result, 0);
    is($result->{report}{plane}, 'tls', 'the plane');
    is_deeply(
        [map { "$_->{plane} $_->{direction}" } $result->{report}{measurements}->@*],
        ['websocket sent', 'websocket received', 'tls sent', 'tls received'],
        'each plane is measured in both directions'
    );
    my @texts = map { $_->{text} } $result->{report}{findings}->@*;
    my @expected = (
        qr/the target runs Proxmox VE 9\.1\.4/,
        qr/the clocks agree/,
        qr/has all \d+ privileges/,
        qr/was removed, and nothing is left/,
    );
    for my $expected (@expected) {
        ok((grep { m/$expected/ } @texts), "the report has $expected");
    }
    my @refused = $node->log =~ m/^(.* [45]\d\d)$/mg;
    is_deeply(\@refused, [], 'pveproxy has refused nothing');
    nothing_left($node);
};

subtest 'TLS 1.2' => sub {
    my $old = node(tls => '1.2');
    my $result = check(remote($old), '--seconds', 0.1, @NETWORK);
    like($result->{out}, qr/agreed on TLSv1_2/, 'TLS 1.2 is shown');
    is($result->{report}{plane}, 'tls', 'the plane');
    nothing_left($old);
};

subtest 'read-only' => sub {
    my $fresh = node();
    my $read = check(remote($fresh), '--read-only', @TARGETS);
    reports($read, 0);
    like($read->{out}, qr/storage 'local' is active, with \S+ GiB free/, 'the storage is examined');
    like($read->{out}, qr/bridge 'vmbr0' exists/, 'the bridge is examined');
    unlike($fresh->log, qr/^(?:POST|DELETE|PUT)/m, 'no request changes anything');
};

subtest 'a token that is refused' => sub {
    my $wrong = 'PVEAPIToken=root@pam!demo=99999999-8888-7777-6666-555555555555';
    reports(
        check(remote($node, apitoken => $wrong), '--read-only'),
        2, [failed => qr/refuses the token: 401/, qr/pveum user token list USER/]
    );
};

subtest 'what is missing at the target' => sub {
    my $lacking = node(
        permissions => {
            '/' => { 'Sys.Audit' => 1 },
            '/vms' => { map { $_ => 1 } 'VM.Allocate', map { "VM.Config.$_" } config_privileges() },
        }
    );
    reports(
        check(remote($lacking)), 2,
        [failed => qr/lacks Sys\.Incoming on \/: /, qr/--privs Sys\.Incoming/]
    );
    reports(
        check(remote($node), '--target-storage', 'fast'),
        2, [failed => qr/storage 'fast' does not exist/, qr/\Aname a storage that the target has/]
    );
    write_file("$node->{dir}/400.conf", "memory: 16\n");
    reports(
        check(remote($node), '--read-only', '--target-vmid', 400),
        2, [failed => qr/VMID 400 is not free/, qr/another one with --target-vmid/]
    );
    unlink "$node->{dir}/400.conf";
    my $old = node(no_direct => 1);
    my $result = check(remote($old), '--seconds', 0.1);
    my ($missing) = problems($result);
    like($missing->[1], qr/\Athe target has no direct planes/, 'a target without pve-tunnel');
    is($result->{report}{plane}, 'websocket', 'a migration uses the websocket');
    nothing_left($_) for $node, $old, $lacking;
};

sub config_privileges () { return qw(CPU Memory Disk HWType Network Options) }

done_testing;
