#!/usr/bin/perl

# The offline disk of the demo: several volumes over one forward, and their errors.
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

# A test that hangs must fail.
local $SIG{ALRM} = sub { die "the test timed out\n" };
alarm(300);

my $dir = tempdir(CLEANUP => 1);
open(my $nowhere, '>', '/dev/null') or die;

# The worker of a target whose disk is full after 1 MiB. It replaces the function that receives the
# stream.
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
    my \$received = 0;
    \$received += sysread(\$stream, my \$bytes, 65536) // die while \$received < 1 << 20;
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
    # The large one is larger than all buffers, and its size is not a multiple of a block.
    my %size = (large => (24 << 20) + 4711, small => 1, empty => 0);
    my $number = 0;
    for my $name (qw(large small empty)) {
        my $file = file($name, $size{$name});
        my $sent = volume($tunnel, $file)->send_to('local');
        is($sent->{volid}, "local:200/vm-200-disk-$number.raw", "$name: the next free name");
        is($sent->{bytes}, $size{$name}, "$name: all bytes are counted");
        cmp_ok($sent->{seconds}, '>', 0, "$name: the time is positive");
        is(
            sha256("$dir/target/vm-200-disk-$number.raw"), sha256($file),
            "$name: the volume is unchanged"
        );
        $number++;
    }
    is_deeply(
        $tunnel->{forwarded},
        { "$dir/100.storage" => "$dir/target/200.storage" },
        'all volumes take one forward'
    );

    ok(!eval { volume($tunnel, "$dir/missing")->send_to('local') }, 'a missing file is an error');
    like($@, qr/\Acannot read '\Q$dir\E\/missing': No such file/, 'the error names the file');
    PVE::Tunnel::Client::finish_tunnel($tunnel, 1);
    is_deeply([glob "$dir/target/*.raw"], [], 'the target removes all volumes');
}

{
    my $node =
        TestNode::Node->start(dir => "$dir/full", listen => '127.0.0.1', worker => $full_disk);
    my $tunnel = tunnel_to($node);
    # With the large size, the sender gets an error; with the small one, only the import does.
    for my $size (64 << 20, (1 << 20) - 8) {
        my $volume = volume($tunnel, file('volume', $size));
        ok(!eval { $volume->send_to('local') }, "$size bytes: a full disk is an error");
        like(
            $@, qr/\Athe import failed at the target: No space left on device\n\z/,
            "$size bytes: the error is that of the target"
        );
    }
    PVE::Tunnel::Client::finish_tunnel($tunnel, 1);
}

done_testing;
