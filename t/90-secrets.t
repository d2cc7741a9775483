#!/usr/bin/perl

# Runs migrations on every plane, and then searches everything that was printed, logged or shown by
# ps for token, tickets, ticket keys and session keys.
use v5.36;

use Fcntl qw(S_IMODE);
use File::Temp qw(tempdir);
use FindBin;
use Test::More;

use lib map { "$FindBin::Bin/../$_" } qw(t/lib demo/lib testnode/lib perl/blib/lib perl/blib/arch);
use Demo::Image;
use Demo::Migration;
use Demo::Plane;
use Demo::Progress;
use PVE::Tunnel::Client;
use Test::EmulatedGuest;
use TestNode::Guest;
use TestNode::Node;

# Clear text and an explicit migration network require the privilege Sys.Modify.
plan skip_all => 'only root has Sys.Modify outside of Proxmox VE' if $> != 0;

# A test that hangs must fail.
local $SIG{ALRM} = sub { die "the test timed out\n" };
alarm(600);

plan skip_all => 'no qemu-system-x86_64'
    if !grep { -x "$_/qemu-system-x86_64" } split(/:/, $ENV{PATH});

my $MEMORY = 64;
my $dir = tempdir(CLEANUP => 1);
my $printed = "$dir/printed";

# --- collecting the secrets ---

# The first ticket of each tunnel is in the answer of the API.
my @tickets;
{
    no warnings 'redefine'; ## no critic (ProhibitNoWarnings)
    my $post = \&PVE::Tunnel::Client::API::post;
    *PVE::Tunnel::Client::API::post = sub (@arguments) {
        my $answer = $post->(@arguments);
        push @tickets, $answer->{ticket};
        return $answer;
    };
}

# The worker has the keys and the tickets of the forwards. This one is the usual worker, which also
# writes them to a file of the test.
my $worker = "$dir/worker.pl";
my $collected = "$dir/collected";
open(my $out, '>', $worker) or die;
print {$out} <<"END";
use v5.36;
BEGIN { \$0 = '$FindBin::Bin/../testnode/worker.pl' }
use FindBin;
use lib "\$FindBin::Bin/lib", "\$FindBin::Bin/pve", "\$FindBin::Bin/../perl/blib/lib", "\$FindBin::Bin/../perl/blib/arch";
use TestNode::Worker;
no warnings 'redefine';
my sub collect (\$text) { open(my \$out, '>>', '$collected') or die; print {\$out} "\$text\\n" }
my \$read = \\&TestNode::Worker::read_request;
*TestNode::Worker::read_request = sub { my \$r = \$read->(\@_); collect("key \$r->{ticket_key}"); return \$r };
my \$handle = \\&TestNode::Commands::handle;
*TestNode::Commands::handle = sub (\$self, \$name, \@rest) {
    my \$answer = \$handle->(\$self, \$name, \@rest);
    collect("ticket \$answer->{ticket}") if \$name eq 'ticket';
    my \$direct = \$answer->{direct} // {};
    collect("session \$direct->{key}") if \$direct->{key};
    return \$answer;
};
do \$0 or die \$@;
END
close($out) or die;

# --- migrating ---

my $shown = '';
my $samples = 0;

# Adds the command lines and environments of all processes of this test, as ps shows them.
sub sample_processes () {
    $samples++;
    for my $pid (map { m{/(\d+)/} } glob '/proc/[0-9]*/cmdline') {
        next if !is_descendant($pid);
        $shown .= TestNode::Node::slurp("/proc/$pid/cmdline") . "\0"
            . TestNode::Node::slurp("/proc/$pid/environ") . "\n";
    }
    return;
}

sub is_descendant ($pid) {
    while ($pid > 1) {
        return 1 if $pid == $$;
        ($pid) = TestNode::Node::slurp("/proc/$pid/stat") =~ /\A\d+ \(.*\) \S (\d+)/s or return 0;
    }
    return 0;
}

my $node = TestNode::Node->start(dir => "$dir/target", listen => '127.0.0.1', worker => $worker);
my @load = Demo::Image::write_ram($dir, TestNode::Guest->ram_ranges($MEMORY));
Demo::Image::write_disk("$dir/source.raw", 8);

# From here on, the output of all processes of this test goes to a file.
open(my $stdout, '>&', \*STDOUT) or die;
open(my $stderr, '>&', \*STDERR) or die;
open(STDOUT, '>', $printed) or die;
open(STDERR, '>>', $printed) or die;

my $progress = Demo::Progress->new(*STDOUT);
my $error = '';
my %result;
my $vmid = 200;
for my $plane (Demo::Plane::defaults(0)) {
    eval {
        my $guest = TestNode::Guest->start(
            vmid => 100,
            dir => $dir,
            memory => $MEMORY,
            disks => { scsi0 => "$dir/source.raw" },
            load => \@load,
        );
        Demo::Image::wait_running($guest->qmp);
        my $migration = Demo::Migration->new(
            plane => $plane,
            guest => $guest,
            node => $node,
            target_vmid => $vmid++,
            dir => $dir,
            network => '127.0.0.0/8',
            loopback => 1,
            progress => $progress,
            log => sub ($level, $text) { sample_processes(); $progress->line("$level: $text") },
        );
        $result{$plane} = $migration->run;
        sample_processes();
        $migration->stop_target;
        1;
    } or $error .= $@;
}
# Errors are printed, too: a refused token, and a tunnel to a path that does not exist.
for my $change (
    [{ apitoken => $node->token =~ s/.\z/x/r }, {}],
    [{}, { url => $node->url($vmid) =~ s/socket\z//r }]
    )
{
    my ($conn, $params) = @$change;
    eval {
        PVE::Tunnel::Client::fork_websocket_tunnel(
            { %{ $node->conn }, %$conn },
            $node->path($vmid), {},
            { url => $node->url($vmid), %$params },
            sub ($level, $text) { $progress->line("$level: $text") },
        );
    };
    print STDOUT "error: $@";
}

open(STDOUT, '>&', $stdout) or die;
open(STDERR, '>&', $stderr) or die;

my $token = $node->token;
my $token_file_mode = S_IMODE((stat $node->{token_file})[2]);
$node->stop;

# --- searching ---

is($error, '', 'the migrations succeed');
is($result{$_}{ram_sha256}{source}, $result{$_}{ram_sha256}{target}, "$_: the RAM is unchanged")
    for Demo::Plane::defaults(0);

my @lines = split(/\n/, TestNode::Node::slurp($collected));
my @keys = map { /\Akey (.*)/ } @lines;
push @tickets, map { /\Aticket (.*)/ } @lines;
my @sessions = map { /\Asession (.*)/ } @lines;
is(scalar(@keys), 5, 'the test has the ticket key of each worker');
cmp_ok(scalar(@tickets), '>=', 7, 'it has the tickets: five of tunnels, two of forwards');
is(scalar(@sessions), 3, 'it has the session key of each listener');
cmp_ok($samples, '>', 20, 'it has sampled the processes often enough');
like($shown, qr/qemu-system-x86_64/, 'the samples have QEMU');
like($shown, qr/connector/, 'the samples have the connector');

my %secret = (
    token => $token =~ s/.*=//r,
    (map { ("key $_" => $keys[$_]) } 0 .. $#keys),
    (map { ("session key $_" => $sessions[$_]) } 0 .. $#sessions),
);
for my $i (0 .. $#tickets) {
    # The secret part follows the name and the time. No encoding of a ticket changes it.
    ($secret{"ticket $i"}) = $tickets[$i] =~ /::([^:]{40,})\z/
        or die "a ticket has an unknown form\n";
}

my %text = ('the processes' => $shown, 'the output' => TestNode::Node::slurp($printed));
for my $file (glob("$dir/*.log $dir/target/*.log $dir/target.log $dir/target/*.conf")) {
    $text{ $file =~ s{\A\Q$dir\E/}{}r } = TestNode::Node::slurp($file);
}
like(
    $text{'the output'},
    qr/^info: tunnel: control connection/m,
    'the output has the lines of the connector'
);
like($text{'the output'}, qr/^error: .*401/m, 'the output has the refusals');
like($text{'target/200.log'}, qr/^command: ticket$/m, 'the log of the worker has its commands');
for my $where (sort keys %text) {
    my @found = grep { index(lc $text{$where}, lc $secret{$_}) >= 0 } sort keys %secret;
    is_deeply(\@found, [], "no secret in $where");
    unlike(
        $text{$where},
        qr/PVEAPIToken=|PVETUNNEL(?::|%3A)[0-9A-F]/i,
        "nothing that looks like a secret in $where"
    );
}
is($token_file_mode, oct(600), 'only its owner has access to the file with the token');

done_testing;
