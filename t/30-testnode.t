#!/usr/bin/perl

# The test node without faults: it follows the websocket rules of a correct server.

use v5.36;

use FindBin ();
use lib "$FindBin::RealBin/lib";

use Test::More;

use Test::NodeChecks qw(check_node);
use Test::TunnelClient;
use Test::TunnelNode;

local $SIG{ALRM} = sub { die "the test timed out\n" };
alarm 300;
local $SIG{PIPE} = 'IGNORE';

check_node();

my $node = Test::TunnelNode->start;
my $client = Test::TunnelClient->open($node, 'qemu', 100);

subtest 'the end of a connection' => sub {
    my $source = $client->command('open', kind => 'source', bytes => 10)->{socket};
    my $end = $client->data('qemu', 100, $source)->drain;
    is(length $end->{bytes}, 10, 'all bytes of a source arrive');
    is_deeply($end->{types}, ['binary'], '... without a close frame, as with pveproxy');
    ok($end->{notified}, '... but with close_notify');

    my $sink = $client->command('open', kind => 'sink')->{socket};
    my $left = $client->data('qemu', 100, $sink);
    $left->send('binary', 'abc');
    $left->disconnect;
    my $result = $client->command('result', socket => $sink);
    is($result->{bytes}, 3, 'bytes before a disconnect are passed on');

    my $echo = $client->command('open', kind => 'echo')->{socket};
    my $data = $client->data('qemu', 100, $echo);
    $data->send('binary', 'x' x 100_000);
    $data->send('close');
    $end = $data->drain;
    is(
        length $end->{bytes}, 100_000,
        'bytes that the UNIX side sends after the client\'s close frame arrive'
    );
    is_deeply($end->{types}, ['binary', 'close'], '... and then a close frame');
    ok($end->{notified}, '... and close_notify');
};

subtest 'the log counts frames, and frames with a mask other than zero' => sub {
    for my $row (['00000000', 0], ['01020304', 2]) {
        my ($mask, $masked) = @$row;
        my $sink = $client->command('open', kind => 'sink')->{socket};
        my ($name) = $sink =~ m{([^/]+)\z};
        my $data = $client->data('qemu', 100, $sink);
        # With the zero mask "ab" is sent as "ab", with 01020304 as "``".
        $data->send_raw(pack 'H*', "8282${mask}" . ($masked ? '6060' : '6162'));
        $data->send_raw(pack 'H*', "8880${mask}");
        $data->drain;
        is(
            $client->command('result', socket => $sink)->{sha256},
            'fb8e20fc2e4c3f248c60c39bd652f3c1347298bb977b8b4d5903b85055620603',
            "mask $mask: the sink received ab"
        );
        ok(
            $node->wait_log(
                qr/\Q$name\E: close frame .*; 2 bytes in 1 data frames .*, $masked of its 2 frames masked/
            ),
            "$masked frames are counted as masked"
        );
    }
};

subtest 'frames that pveproxy does not accept are refused with a reason' => sub {
    my $sink = $client->command('open', kind => 'sink')->{socket};
    my @table = (
        ['not masked', 'binary', 'x', masked => 0],
        ['fragmented', 'binary', 'x', fin => 0],
        ['reserved bits', 'binary', 'x', rsv => [1, 0, 0]],
        ['131073 bytes', 'binary', 'x' x 131073],
    );
    for my $row (@table) {
        my ($reason, @frame) = @$row;
        my $data = $client->data('qemu', 100, $sink);
        $data->send(@frame);
        my $end = $data->drain;
        is_deeply($end->{types}, ['close'], "$reason: the node sends a close frame");
        ok($node->wait_log(qr/refused: .*\Q$reason\E/), "$reason: the node logs the reason");
    }
};

subtest 'a missing socket is an error with a reason' => sub {
    my $echo = $client->command('open', kind => 'echo')->{socket};
    unlink $echo;
    eval { $client->data('qemu', 100, $echo) };
    like($@, qr/\A500 connect to .* failed/, 'the status line has the reason');
};

subtest 'the command line' => sub {
    my $dir = File::Temp->newdir('testnode-XXXXXX', TMPDIR => 1);
    my $profile = $ENV{CARGO_PROFILE} // 'release';
    my $testnode = "$FindBin::RealBin/../target/$profile/testnode";
    my $reply = JSON::decode_json(scalar `$testnode --make-certificate $dir`);
    is_deeply(
        [sort keys %$reply], [qw(certificate fingerprint key)],
        '--make-certificate makes a certificate'
    );
    is(sprintf('%o', (stat $reply->{key})[2] & oct 777), '600', 'the key file has mode 600');
    like(
        `$testnode --make-certificate $dir 2>&1`, qr/cannot write .*exists/,
        'an existing file is not overwritten'
    );
    my @table = (
        ["--dir $dir", qr/--worker/],
        ["--dir $dir --worker w --misbehave nonsense", qr/no misbehaviour is called `nonsense`/],
        ["--dir $dir --worker w --plain --listen 192.0.2.1", qr/loopback/],
        ["--dir $dir --worker w --listen 192.0.2.1", qr/cannot listen on 192\.0\.2\.1/],
        ["--dir $dir/a/b --worker w", qr/cannot use the directory/],
    );
    for my $row (@table) {
        my ($arguments, $reason) = @$row;
        my $output = `$testnode $arguments 2>&1 </dev/null`;
        isnt($?, 0, "refused: $arguments");
        like($output, $reason, '... with a reason');
    }
};

done_testing;
