#!/usr/bin/perl

# Whole migrations, and then a search for token, tickets and ticket key in all that was printed,
# logged or shown by ps.
use v5.36;

use Fcntl qw(S_IMODE);
use File::Temp qw(tempdir);
use FindBin;
use Test::More;

use lib map { "$FindBin::Bin/../$_" } qw(demo/lib testnode/lib perl/blib/lib perl/blib/arch);
use Demo::Image;
use Demo::Migration;
use Demo::Plane;
use Demo::Progress;
use PVE::Tunnel::Client;
use TestNode::Guest;
use TestNode::Node;

# Clear text and an explicit network need it.
plan skip_all => 'only root has Sys.Modify outside of Proxmox VE' if $> != 0;

# A test that stands still is a failed test.
local $SIG{ALRM} = sub { die "the test stands still\n" };
alarm(600);

plan skip_all => 'no qemu-system-x86_64'
    if !grep { -x "$_/qemu-system-x86_64" } split(/:/, $ENV{PATH});

my $MEMORY = 64;
my $dir = tempdir(CLEANUP => 1);
my $printed = "$dir/printed";

# --- learning the secrets -----------------------------------------------------------------------------------------------

# The first ticket comes with the API's answer.
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

# The keys and the forwards' tickets are known to the worker: this one, which otherwise is as it is,
# tells us.
my $worker = "$dir/worker.pl";
my $told = "$dir/told";
open(my $out, '>', $worker) or die;
print {$out} <<"END";
use v5.36;
BEGIN { \$0 = '$FindBin::Bin/../testnode/worker.pl' }
use FindBin;
use lib "\$FindBin::Bin/lib", "\$FindBin::Bin/pve", "\$FindBin::Bin/../perl/blib/lib", "\$FindBin::Bin/../perl/blib/arch";
use TestNode::Worker;
no warnings 'redefine';
my sub tell_test (\$text) { open(my \$out, '>>', '$told') or die; print {\$out} "\$text\\n" }
my \$read = \\&TestNode::Worker::read_request;
*TestNode::Worker::read_request = sub { my \$r = \$read->(\@_); tell_test("key \$r->{ticket_key}"); return \$r };
my \$handle = \\&TestNode::Commands::handle;
*TestNode::Commands::handle = sub (\$self, \$name, \@rest) {
    my \$answer = \$handle->(\$self, \$name, \@rest);
    tell_test("ticket \$answer->{ticket}") if \$name eq 'ticket';
    my \$direct = \$answer->{direct} // {};
    tell_test("session \$direct->{key}") if \$direct->{key};
    return \$answer;
};
do \$0 or die \$@;
END
close($out) or die;

# --- migrating --------------------------------------------------------------------------------------------------------------

my $shown = '';
my $looks = 0;

# Command lines and environments of everything that this test started, as ps would show them.
sub look () {
    $looks++;
    for my $pid (map { m{/(\d+)/} } glob '/proc/[0-9]*/cmdline') {
        next if !is_ours($pid);
        $shown .= TestNode::Node::slurp("/proc/$pid/cmdline") . "\0"
            . TestNode::Node::slurp("/proc/$pid/environ") . "\n";
    }
    return;
}

sub is_ours ($pid) {
    while ($pid > 1) {
        return 1 if $pid == $$;
        ($pid) = TestNode::Node::slurp("/proc/$pid/stat") =~ /\A\d+ \(.*\) \S (\d+)/s or return 0;
    }
    return 0;
}

my $node = TestNode::Node->start(dir => "$dir/target", listen => '127.0.0.1', worker => $worker);
my @load = Demo::Image::write_ram($dir, TestNode::Guest->ram_ranges($MEMORY));
Demo::Image::write_disk("$dir/source.raw", 8);

# Everything from here on goes to a file, whatever process of ours prints it.
open(my $stdout, '>&', \*STDOUT) or die;
open(my $stderr, '>&', \*STDERR) or die;
open(STDOUT, '>', $printed) or die;
open(STDERR, '>>', $printed) or die;

my $progress = Demo::Progress->new(*STDOUT);
my $error = '';
my %result;
my $vmid = 200;
for my $plane (Demo::Plane::names()) {
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
            log => sub ($level, $text) { look(); $progress->line("$level: $text") },
        );
        $result{$plane} = $migration->run;
        look();
        $migration->end_target;
        1;
    } or $error .= $@;
}
# Errors are printed too: a token that is refused, and a tunnel to nowhere.
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

# --- searching -----------------------------------------------------------------------------------------------------------------

is($error, '', 'the migrations went through');
is($result{$_}{ram_sha256}{source}, $result{$_}{ram_sha256}{target}, "... $_: RAM arrived")
    for Demo::Plane::names();

my @told = split(/\n/, TestNode::Node::slurp($told));
my @keys = map { /\Akey (.*)/ } @told;
push @tickets, map { /\Aticket (.*)/ } @told;
my @sessions = map { /\Asession (.*)/ } @told;
is(scalar(@keys), 5, 'the test knows the key of each worker');
cmp_ok(scalar(@tickets), '>=', 7, '... and the tickets: five of tunnels, two of forwards');
is(scalar(@sessions), 3, '... and the key of each listener');
cmp_ok($looks, '>', 20, '... and looked at the processes often enough');
like($shown, qr/qemu-system-x86_64/, '... QEMU among them');
like($shown, qr/connector/, '... and the connector');

my %secret = (
    token => $token =~ s/.*=//r,
    (map { ("key $_" => $keys[$_]) } 0 .. $#keys),
    (map { ("session key $_" => $sessions[$_]) } 0 .. $#sessions),
);
for my $i (0 .. $#tickets) {
    # The part behind the name and the time is what nobody may know; it looks the same however it is
    # encoded.
    ($secret{"ticket $i"}) = $tickets[$i] =~ /::([^:]{40,})\z/
        or die 'a ticket looks unlike a ticket';
}

my %text = ('the processes' => $shown, 'what was printed' => TestNode::Node::slurp($printed));
for my $file (glob("$dir/*.log $dir/target/*.log $dir/target.log $dir/target/*.conf")) {
    $text{ $file =~ s{\A\Q$dir\E/}{}r } = TestNode::Node::slurp($file);
}
like(
    $text{'what was printed'},
    qr/^info: tunnel: control connection/m,
    'what was printed has the connector\'s lines'
);
like($text{'what was printed'}, qr/^error: .*401/m, '... and the refusals');
like($text{'target/200.log'}, qr/^command: ticket$/m, 'the worker\'s log has its lines');
for my $where (sort keys %text) {
    my @found = grep { index(lc $text{$where}, lc $secret{$_}) >= 0 } sort keys %secret;
    is_deeply(\@found, [], "no secret in $where");
    unlike(
        $text{$where},
        qr/PVEAPIToken=|PVETUNNEL(?::|%3A)[0-9A-F]/i,
        '... and nothing that looks like one'
    );
}
is($token_file_mode, oct(600), 'the token lies in a file for its owner only');

done_testing;
