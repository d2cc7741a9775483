#!/usr/bin/perl

# Nodes with one IPv4 and one IPv6 address: the listener uses both, and the source the one that
# answers.
use v5.36;

use File::Temp qw(tempdir);
use FindBin;
use Test::More;

use lib map { "$FindBin::Bin/../$_" } qw(t/lib demo/lib testnode/lib perl/blib/lib perl/blib/arch);
use Demo::Hosts;
use Demo::Image;
use PVE::Tunnel::Client;
use PVE::Tunnel::Client::Negotiation;
use Test::OpenedTunnel;
use Test::Processes qw(listening_sockets);
use TestNode::Node;

# Both nodes need an address of their own for each family.
BEGIN { Demo::Hosts::enter() }

# A test that hangs must fail.
local $SIG{ALRM} = sub { die "the test timed out\n" };
alarm(300);
local $SIG{PIPE} = 'IGNORE';

my $HOSTS = Demo::Hosts->new;
plan skip_all => 'only root has two networks on one machine' if !$HOSTS->namespaces;
plan skip_all => 'no mount namespaces here' if system('unshare --mount true 2>/dev/null');

my $DIR = tempdir(CLEANUP => 1);
my @AT_TARGET = $HOSTS->at_target;
my %SOURCE = (4 => $HOSTS->source, 6 => 'fd99::1');
my %TARGET = (4 => $HOSTS->target, 6 => 'fd99::2');
my $vmid = 300;
Demo::Image::write_volume("$DIR/volume", 4);

sub run (@command) {
    system(@command) == 0 or die "@command: exit code $?\n";
    return;
}

sub write_file ($name, $text) {
    open(my $out, '>', "$DIR/$name") or die "$name: $!\n";
    print {$out} $text;
    close($out) or die "$name: $!\n";
    return "$DIR/$name";
}

run(qw(ip address add), "$SOURCE{6}/64", qw(dev to-target nodad));
run(@AT_TARGET, qw(ip address add), "$TARGET{6}/64", qw(dev to-source nodad));

# The target resolves its own name to both addresses.
my $hosts = write_file('hosts', join('', map { "$TARGET{$_} target\n" } 4, 6));
my @OWN_NAME = (
    qw(unshare --mount sh -c),
    "mount --bind '$hosts' /etc/hosts && exec \"\$@\"", 'sh'
);
my %NODE = map {
    $_ => TestNode::Node->start(
        dir => "$DIR/node$_",
        listen => $TARGET{$_},
        wrap => [@AT_TARGET, @OWN_NAME]
    )
} 4, 6;

# The migration network is an interface, which has both addresses.
$PVE::Tunnel::Client::Negotiation::CONFIGURATION = write_file('remote-migration.cfg', <<'END');
network: both
	source to-target
	target to-source
	allow secure,insecure
END

my %TYPE = (tls => 'secure', tcp => 'insecure');

sub tunnel ($family, $plane, @network) {
    return Test::OpenedTunnel->attempt(
        $NODE{$family}, ++$vmid,
        migration_type => $TYPE{$plane},
        @network
    );
}

sub works ($opened, $plane, @families) {
    is($opened->plane, $plane, "the plane is $plane") or diag($opened->error, $opened->log);
    my $direct = $opened->direct // return;
    is(
        listening_sockets($direct->{port}, $opened->{node}{pid}),
        2, 'the listener uses both addresses'
    );
    my $address = $direct->{address};
    ok((grep { $TARGET{$_} eq $address } @families), "the source uses $address");
    ok($opened->moves("$DIR/volume"), 'a volume arrives') or diag($opened->error, $opened->log);
    $opened->finish;
    is($opened->error, '', 'the tunnel ends well');
    return;
}

my @BOTH = (migration_network => 'both');
my %usual;

for my $plane (qw(tls tcp)) {
    subtest "$plane: both families work" => sub {
        my $opened = tunnel(4, $plane, @BOTH);
        $usual{$plane} = $opened->seconds;
        works($opened, $plane, 4, 6);
    };
}

for my $family (4, 6) {
    subtest "the target's own name, API over IPv$family" => sub {
        # Without a migration network, the source connects only to the address of the API.
        works(tunnel($family, 'tls'), 'tls', $family);
    };
}

for my $dead (4, 6) {
    my ($alive) = grep { $_ != $dead } 4, 6;
    # The target receives packets of this family and does not answer, as behind a filter.
    my @filter = ('blackhole', $SOURCE{$dead} . ($dead == 4 ? '/32' : '/128'));
    run(@AT_TARGET, 'ip', "-$dead", qw(route add), @filter);
    for my $plane (qw(tls tcp)) {
        subtest "$plane: IPv$dead is filtered" => sub {
            my $opened = tunnel($alive, $plane, @BOTH);
            works($opened, $plane, $alive);
            # The next address is tried after 250 ms. The limit for all addresses is 5 s.
            my $longer = $opened->seconds - $usual{$plane};
            cmp_ok($longer, '<', 2.5, sprintf 'opening takes %.1f s longer than usual', $longer);
        };
    }
    run(@AT_TARGET, 'ip', "-$dead", qw(route delete), @filter);
}

$_->stop for values %NODE;
done_testing;
