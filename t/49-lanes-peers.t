#!/usr/bin/perl

# The connector with streams over several lanes, and a target that shares no code with it: worker, seam
# and listener are written from docs/protocol.md.

use v5.36;

use FindBin ();
use lib "$FindBin::RealBin/lib";

use JSON ();
use Test::More;
use URI::Escape qw(uri_escape);

use Test::Connector;
use Test::ConnectorChecks qw(no_secrets);
use Test::LaneFrame qw(
    frame $KIND_DATA $KIND_ZEROS $KIND_END $KIND_ACKNOWLEDGEMENT $KIND_COMPRESSED
);
use Test::MinimalStream;
use Test::Pattern qw(pattern_block);
use Test::Stream qw(pump);
use Test::TunnelNode;

local $SIG{ALRM} = sub { die "the test timed out\n" };
alarm 300;
local $SIG{PIPE} = 'IGNORE';

# Blocks of 64 KiB. The connector opens its first lanes after 4 MiB.
use constant BLOCKS => 80;

my $MIB = 1024 * 1024;
my $BYTES = join '', pattern_block(1), "\0" x (3 * $MIB), map { pattern_block($_) } 2 .. 9;
my %KIND = (tls => 'secure', tcp => 'insecure');
my $NEWER = { protocol => 2, oldest => 1 };

# Starts a node and a connector, and requests a plane with at least three lanes. The node's listener has
# these options. Returns the connector.
sub request_lanes ($plane, $listener = {}, %conduct) {
    my $node = Test::TunnelNode->start(worker => "$FindBin::RealBin/lib/fake-direct-worker.pl");
    my $conduct = { hello => $NEWER, listener => $listener, %conduct };
    my $connector = Test::Connector->start(
        $node,
        form => 'conduct=' . uri_escape(JSON::encode_json($conduct)),
    );
    my $data = {
        migration_type => $KIND{$plane},
        network => '127.0.0.0/8',
        planes => ['tls', 'tcp'],
        lanes => 4,
        first_lanes => 3,
        dead_peer_timeout => 10,
    };
    $connector->send_line({ control => JSON::true, cmd => 'direct', data => $data });
    $connector->{answer} = JSON::decode_json($connector->read_line // die "no answer\n");
    # The node has to live as long as the connector.
    $connector->{node} = $node;
    return $connector;
}

# What the target's listener has observed, when the condition is true. The target does not report
# changes, so the test polls it.
sub observed ($connector, $condition = sub { 1 }) {
    my $deadline = time + 20;
    while (1) {
        my $answer = $connector->command('query-disk-import', direct => { op => 'stat' });
        my $lanes = $answer->{direct}{lanes};
        return $lanes if $condition->($lanes);
        die 'the counters stay ' . JSON::encode_json($lanes) . "\n" if time > $deadline;
    }
    return;
}

sub finish ($connector) {
    $connector->send_line({ control => JSON::true, cmd => 'finish' });
    my $record = JSON::decode_json($connector->read_line)->{record};
    is($connector->finish->{code}, 0, 'the connector ends with success');
    return $record;
}

# Sends bytes to an echo at the target and back. Before that, for each number in the list, it sends
# blocks, and waits until so many lanes have joined the stream.
sub transfer_both_ways ($connector, $bytes, @joined) {
    my ($remote, $local) = $connector->open;
    my $stream = Test::MinimalStream->clear($connector->dial($local));
    my $block = substr pattern_block(7), 0, 65_536;
    for my $joined (@joined) {
        my $unchanged = 0;
        for (1 .. BLOCKS) {
            $stream->write_all($block);
            $unchanged += $stream->read_exactly(length $block) eq $block;
        }
        is($unchanged, BLOCKS, BLOCKS . ' blocks come back unchanged');
        observed($connector, sub ($seen) { $seen->{joined} >= $joined });
    }
    ok($stream->exchange($bytes) eq $bytes, 'all bytes come back unchanged, and then a clean end');
    $stream->hang_up;
    return;
}

for my $plane (qw(tls tcp)) {
    subtest "$plane: from end to end" => sub {
        my $connector = request_lanes($plane);
        is($connector->{answer}{direct}{plane}, $plane, 'the plane of the direct connection')
            or diag(JSON::encode_json($connector->{answer}), $connector->log);
        is($connector->{answer}{direct}{protocol}, 2, 'its protocol');
        transfer_both_ways($connector, $BYTES, 2);
        my $seen = observed($connector);
        cmp_ok($seen->{most}, '<=', 4, "the stream has $seen->{most} lanes, four at most");
        cmp_ok($seen->{frames}{$KIND_ZEROS} // 0, '>', 0, 'the connector sends zeros as zeros');
        is($seen->{frames}{$KIND_END}, 1, 'one end');
        is_deeply($seen->{violations}, [], 'the target has found no violation');
        my $record = finish($connector);
        is($record->{protocol}, 2, 'the record has the protocol');
        is($record->{sent}, BLOCKS * 65_536 + length $BYTES, 'the record has the bytes sent');
        is($record->{received}, $record->{sent}, 'the record has the bytes received');
        is($record->{connections}, 1, 'the record has the stream');
        is($record->{lanes}{most}, $seen->{most}, 'the record has the lanes');
        cmp_ok($record->{lanes}{zeros}, '>', 2 * $MIB, 'the record has the zeros not sent');
    };

    subtest "$plane: lanes that end" => sub {
 # The options of the listener, and how many lanes join before and after that. The first lane begins
 # the stream, and two more join it.
        my %faults = (
            'one lane is reset' => [{ cut => 1, after => 6 * $MIB }, 2, 3],
            'one lane ends in order' => [{ leave => 1, after => 6 * $MIB }, 2, 3],
            'all lanes are reset' => [{ cut => 16, after => 6 * $MIB }, 2, 5],
            'all lanes end in order' => [{ leave => 16, after => 6 * $MIB }, 2, 5],
            'the first lane is reset at the first byte' => [{ cut => 1, after => 1 }, 3],
            'all lanes are reset when the stream is complete at the target' => [{ vanish => 1 }, 2],
        );
        for my $name (sort keys %faults) {
            subtest $name => sub {
                my ($listener, @joined) = $faults{$name}->@*;
                my $connector = request_lanes($plane, $listener);
                transfer_both_ways($connector, $BYTES, @joined);
                my $late = $listener->{vanish} ? 1 : 0;
                my $seen = observed($connector, sub ($seen) { $seen->{late} >= $late });
                # Every lane is opened again until one of them has received it.
                cmp_ok($seen->{late}, $late ? '>=' : '==', $late, 'lanes that received status 4');
                is_deeply($seen->{violations}, [], 'the target has found no violation');
                my $record = finish($connector);
                is($record->{failed}, 0, 'no stream has failed');
                my $reopened = $record->{lanes}{reopened};
                is($reopened, $joined[-1] - 2, "$reopened lanes were opened again");
            };
        }
    };

    subtest "$plane: streams that fail" => sub {
        my $largest = ~0;
        my %faults = (
            'the target forgets the stream' => { lose => 1 },
            'the target gives up the stream' => { give_up => 1 },
            'data beyond the window' => { send => frame($KIND_DATA, 1, 1 << 40, 'x') },
            'zeros beyond the window' => { send => frame($KIND_ZEROS, 4_294_967_295, 0) },
            'two different ends' =>
                { send => frame($KIND_END, 0, 1 << 40) . frame($KIND_END, 0, 1 << 41) },
            'data beyond the end' => { send => frame($KIND_END, 0, 0) },
            'an acknowledgement of what was not sent' =>
                { send => frame($KIND_ACKNOWLEDGEMENT, 0, 1 << 40) },
            'kind 0' => { send => frame(0, 0, 0) },
            'kind 8' => { send => frame(8, 0, 0) },
            'compressed data, which the source does not accept' =>
                { send => frame($KIND_COMPRESSED, 4, 0, 'zstd') },
            'data without bytes' => { send => frame($KIND_DATA, 0, 0) },
            'zeros without bytes' => { send => frame($KIND_ZEROS, 0, 0) },
            'data with 131073 bytes' => { send => frame($KIND_DATA, 131_073, 0, 'x' x 131_073) },
            'data beyond the largest offset' => { send => frame($KIND_DATA, 2, $largest, 'xx') },
            'an acknowledgement of the largest offset' =>
                { send => frame($KIND_ACKNOWLEDGEMENT, 2, $largest) },
            'a reserved byte' => { send => "\4\0\0\1" . "\0" x 12 },
        );
        my $failed = 0;
        for my $name (sort keys %faults) {
            my %listener = (after => 2 * $MIB, $faults{$name}->%*);
            $listener{send} = unpack 'H*', $listener{send} if $listener{send};
            my $connector = request_lanes($plane, \%listener);
            my ($remote, $local) = $connector->open;
            pump(my $stream = Test::Stream->new($connector->dial($local), send => 8 * $MIB));
            is($stream->{error}, 'ECONNRESET', "$name: the local program gets an error");
            ok(!$stream->{eof}, 'and no end');
            is(finish($connector)->{failed}, 1, 'the record has the failure');
        }
    };

    subtest "$plane: a target with protocol 1" => sub {
        my $connector = request_lanes($plane, {}, hello => { protocol => 1 });
        is($connector->{answer}{direct}{protocol}, 1, 'the direct connection uses protocol 1');
        transfer_both_ways($connector, $BYTES);
        is(finish($connector)->{lanes}, undef, 'the record has no lanes');
    };
}

subtest 'a target that supports later protocols, too' => sub {
    my $connector = request_lanes('tls', {}, hello => { protocol => 9, oldest => 2 });
    is($connector->{answer}{direct}{protocol}, 2, 'the direct connection uses protocol 2');
    transfer_both_ways($connector, $BYTES, 2);
    finish($connector);
};

no_secrets();

done_testing();
