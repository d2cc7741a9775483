#!/usr/bin/perl

# The demo's offline disk on its way: what arrives, one after another, and how it fails.
use v5.36;

use Digest::SHA;
use File::Temp qw(tempdir);
use FindBin;
use Test::More;

use lib map { "$FindBin::Bin/../$_" } qw(demo/lib testnode/lib perl/blib/lib perl/blib/arch);
use Demo::Progress;
use Demo::Volume;
use PVE::Tunnel::Client;
use TestNode::Node;

# A test that stands still is a failed test.
local $SIG{ALRM} = sub { die "the test stands still\n" };
alarm(300);

my $dir = tempdir(CLEANUP => 1);
open(my $nowhere, '>', '/dev/null') or die;

# A target whose disk is full after a MiB: the worker as it is, but for what takes the stream.
my $full_disk = "$dir/worker.pl";
open(my $out, '>', $full_disk) or die;
print {$out} <<"END";
use v5.36;
BEGIN { \$0 = '$FindBin::Bin/../testnode/worker.pl' }
use lib '$FindBin::Bin/../testnode/lib';
use TestNode::Import;
no warnings 'redefine';
*TestNode::Import::receive = sub (\$listener, \@) {
    my \$stream = \$listener->accept or die;
    my \$got = 0;
    \$got += sysread(\$stream, my \$bytes, 65536) // die while \$got < 1 << 20;
    die "No space left on device\\n";
};
do \$0 or die \$@;
END
close($out) or die;

sub tunnel_to ($node) {
    return PVE::Tunnel::Client::fork_websocket_tunnel(
        $node->conn,
        $node->path(200),
        {},
        { url => $node->url(200) },
        sub { }
    );
}

sub file ($name, $bytes) {
    open(my $random, '<:raw', '/dev/urandom') or die;
    open(my $to, '>:raw', "$dir/$name") or die;
    read($random, my $content, $bytes) == $bytes or die;
    print {$to} $content;
    close($to) or die;
    return "$dir/$name";
}

sub sha256 ($file) { return Digest::SHA->new(256)->addfile($file)->hexdigest }

sub volume ($tunnel, $file) {
    return Demo::Volume->new(
        tunnel => $tunnel,
        file => $file,
        name => 'vm-200-disk-0.raw',
        local => "$dir/100.storage",
        progress => Demo::Progress->new($nowhere),
        log => sub { },
    );
}

{
    my $node = TestNode::Node->start(dir => "$dir/target", listen => '127.0.0.1');
    my $tunnel = tunnel_to($node);
    # More than any buffer on the way, and an odd end.
    my %size = (large => (24 << 20) + 4711, small => 1, empty => 0);
    my $number = 0;
    for my $name (qw(large small empty)) {
        my $file = file($name, $size{$name});
        my $sent = volume($tunnel, $file)->send_to('local');
        is($sent->{volid}, "local:200/vm-200-disk-$number.raw", "$name: a name of its own");
        is($sent->{bytes}, $size{$name}, '... all bytes');
        cmp_ok($sent->{seconds}, '>', 0, '... in a time');
        is(sha256("$dir/target/vm-200-disk-$number.raw"), sha256($file), '... and they arrived');
        $number++;
    }
    is_deeply(
        $tunnel->{forwarded},
        { "$dir/100.storage" => "$dir/target/200.storage" },
        'all over one forward'
    );

    ok(!eval { volume($tunnel, "$dir/missing")->send_to('local') }, 'a file that is not there');
    like($@, qr/\Acannot read '\Q$dir\E\/missing': No such file/, '... is named');
    PVE::Tunnel::Client::finish_tunnel($tunnel, 1);
    is_deeply([glob "$dir/target/*.raw"], [], '... and the target can clean up');
}

{
    my $node =
        TestNode::Node->start(dir => "$dir/full", listen => '127.0.0.1', worker => $full_disk);
    my $tunnel = tunnel_to($node);
    # So large that the sender must notice, and so small that only the import can tell.
    for my $size (64 << 20, (1 << 20) - 8) {
        my $volume = volume($tunnel, file('volume', $size));
        ok(!eval { $volume->send_to('local') }, "a full disk at the target, $size bytes");
        like(
            $@, qr/\Athe import failed at the target: No space left on device\n\z/,
            '... is told in its words'
        );
    }
    PVE::Tunnel::Client::finish_tunnel($tunnel, 1);
}

done_testing;
