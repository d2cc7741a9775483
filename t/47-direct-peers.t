#!/usr/bin/perl

# The connector on the direct planes with a target that shares no code with it: worker, seam and
# listener are written from docs/protocol.md. The targets include older and newer ones, and some
# that break the protocol.

use v5.36;

use FindBin ();
use lib "$FindBin::RealBin/lib";

use JSON ();
use Test::More;
use Time::HiRes ();
use URI::Escape qw(uri_escape);

use Test::Connector;
use Test::ConnectorChecks qw(no_secrets);
use Test::MinimalStream;
use Test::Stream qw(pump);
use Test::TunnelNode;

local $SIG{ALRM} = sub { die "the test timed out\n" };
alarm 300;
local $SIG{PIPE} = 'IGNORE';

my $MIB = 1024 * 1024;
my %KIND = (tls => 'secure', tcp => 'insecure');

# Starts a node and a connector, and requests a plane. Returns the connector and the answer.
sub request_plane ($type, $conduct = {}, %request) {
    my $node = Test::TunnelNode->start(worker => "$FindBin::RealBin/lib/fake-direct-worker.pl");
    my $form = 'conduct=' . uri_escape(JSON::encode_json($conduct));
    my $connector = Test::Connector->start($node, form => $form);
    my $data = {
        migration_type => $type,
        network => '127.0.0.0/8',
        planes => ['tls', 'tcp'],
        %request,
    };
    $connector->send_line({ control => JSON::true, cmd => 'direct', data => $data });
    my $answer = JSON::decode_json($connector->read_line // die "no answer\n");
    # The node has to live as long as the connector.
    $connector->{node} = $node;
    return ($connector, $answer);
}

# The operations of the seam that the target's worker has received.
sub requested_operations ($connector) {
    return map { $_->{op} } $connector->command('requests')->{requests}->@*;
}

sub finish ($connector) {
    $connector->send_line({ control => JSON::true, cmd => 'finish' });
    my $record = JSON::decode_json($connector->read_line)->{record};
    is($connector->finish->{code}, 0, 'the connector ends with success');
    return $record;
}

# Sends so many bytes to an echo at the target and back. Returns the forward's local socket.
sub transfer_both_ways ($connector, $bytes) {
    my ($remote, $local) = $connector->open;
    my $stream = Test::Stream->new($connector->dial($local), send => $bytes);
    pump($stream);
    is($stream->{error}, undef, 'the transfer has no error');
    ok($stream->{eof}, 'it has a clean end');
    is($stream->{received}, $bytes, "$bytes bytes come back");
    is($stream->sha256, $stream->sent_sha256, 'they are unchanged');
    return $local;
}

for my $plane (qw(tls tcp)) {
    subtest "$plane: from end to end" => sub {
        my ($connector, $answer) = request_plane($KIND{$plane});
        is($answer->{plan}{plane}, $plane, 'the plan') or diag(JSON::encode_json($answer));
        is($answer->{direct}{plane}, $plane, 'the plane of the direct connection');
        is($answer->{direct}{protocol}, 1, 'the protocol of the direct connection');
        is($answer->{direct}{address}, '127.0.0.1', 'the address of the listener');
        my $local = transfer_both_ways($connector, 3 * $MIB + 7);
        my @many =
            map { Test::Stream->new($connector->dial($local), send => $MIB, first => $_) } 1 .. 5;
        pump(@many);
        is(
            scalar(grep { $_->{error} || $_->sha256 ne $_->sent_sha256 } @many), 0,
            'five transfers at once succeed'
        );
        my ($remote) = grep { $_->{op} eq 'open' } $connector->command('requests')->{requests}->@*;
        is($remote->{protocol}, 1, 'the connector requested protocol 1');
        my $record = finish($connector);
        is($record->{plane}, $plane, 'the record has the plane');
        is($record->{sent}, 8 * $MIB + 7, 'the record has the bytes sent');
        is($record->{received}, 8 * $MIB + 7, 'the record has the bytes received');
        is($record->{connections}, 6, 'the record has the connections');
        is($record->{refused}{key}, 0, 'the record has the counters of the listener');
        is(
            $record->{fingerprint},
            $answer->{direct}{fingerprint},
            'the record has the fingerprint of the listener'
        );
    };
}

subtest 'a newer target that still supports our protocol' => sub {
    my $hello = {
        protocol => 9,
        oldest => 1,
        caps => [qw(direct-tls direct-tcp direct-quic)],
        compression => { zstd => [1, 2] },
    };
    my $open = { ticket => 'of another kind', addresses6 => ['::1'] };
    for my $plane (qw(tls tcp)) {
        my ($connector, $answer) = request_plane($KIND{$plane}, { hello => $hello, open => $open });
        is($answer->{plan}{plane}, $plane, "$plane is planned")
            or diag(JSON::encode_json($answer));
        is($answer->{direct}{protocol}, 1, 'the direct connection uses the common protocol');
        transfer_both_ways($connector, $MIB);
        finish($connector);
    }
};

subtest 'targets without a common protocol, or without a seam' => sub {
    my %targets = (
        'a newer target that no longer supports our protocol' =>
            { hello => { protocol => 9, oldest => 3 } },
        'a newer target that does not send its oldest protocol' =>
            { hello => { protocol => 9, oldest => undef } },
        'an older target without a seam' => { stock => 1 },
        'a target that offers no plane' => { hello => { caps => [] } },
    );
    for my $name (sort keys %targets) {
        my ($connector, $answer) = request_plane('secure', $targets{$name});
        is($answer->{plan}{plane}, 'websocket', "$name: secure takes the websocket")
            or diag(JSON::encode_json($answer));
        is($answer->{direct}, undef, 'there is no direct connection');
        transfer_both_ways($connector, $MIB);
        is(
            join(' ', grep { $_ ne 'hello' } requested_operations($connector)),
            '', 'the connector requested no listener'
        );
        finish($connector);

        ($connector, $answer) = request_plane('insecure', $targets{$name});
        ok(!$answer->{success}, "$name: insecure is refused");
        like($answer->{msg}, qr/migration_type=insecure/, 'the answer names the option to omit');
        is(
            join(' ', grep { $_ ne 'hello' } requested_operations($connector)),
            '', 'the connector requested no listener'
        );
        is($connector->finish->{code}, 0, 'the connector ends with success');
    }
};

subtest 'an older target that sends only required fields' => sub {
    my $hello = { map { $_ => undef } qw(oldest version) };
    my ($connector, $answer) = request_plane('secure', { hello => $hello });
    is($answer->{plan}{plane}, 'tls', 'tls is planned') or diag(JSON::encode_json($answer));
    finish($connector);
};

subtest 'listeners that break the protocol' => sub {
    my $nonce = 'n' x 32;
    my %listeners = (
        'another magic' => [{ step_1 => "SSH-2.0-$nonce" }, qr/not a pve-tunnel listener/],
        'another protocol' => [{ step_1 => "pvetun\0\2$nonce" }, qr/protocol 2/],
        'a truncated first step' => [{ step_1 => 'pvetun' }, qr/handshake/],
    );
    for my $name (sort keys %listeners) {
        my ($options, $reason) = $listeners{$name}->@*;
        my ($connector, $answer) = request_plane('secure', { listener => $options });
        is($answer->{plan}{plane}, 'websocket', "$name: secure takes the websocket");
        my ($warning) = grep { /unreachable/ } $answer->{plan}{warnings}->@*;
        like($warning, $reason, 'the warning has the reason');
        is(
            (requested_operations($connector))[-1], 'close',
            'the connector has closed the listener'
        );
        transfer_both_ways($connector, $MIB);
        finish($connector);

        ($connector, $answer) = request_plane('insecure', { listener => $options });
        ok(!$answer->{success}, "$name: insecure is refused");
        like($answer->{msg}, $reason, 'the answer has the reason');
        is(
            (requested_operations($connector))[-1], 'close',
            'the connector has closed the listener'
        );
        is($connector->finish->{code}, 0, 'the connector ends with success');
    }
    my ($connector, $answer) = request_plane('secure', { listener => { announce => '00' x 32 } });
    is(
        $answer->{plan}{plane},
        'websocket', 'another certificate than announced: secure takes the websocket'
    );
    like("$answer->{plan}{warnings}->@*", qr/fingerprint/, 'a warning has the reason');
    finish($connector);
};

for my $plane (qw(tls tcp)) {
    subtest "$plane: failures after the plan" => sub {
        my ($connector) = request_plane($KIND{$plane}, { listener => { cut_after => $MIB } });
        my ($remote, $local) = $connector->open;
        pump(my $stream = Test::Stream->new($connector->dial($local), send => 64 * $MIB));
        is($stream->{error}, 'ECONNRESET', 'a listener killed in mid-stream is an error');
        ok(!$stream->{eof}, 'the stream has no end');
        ok($connector->wait_log(qr/FAILED/), 'the log has the failure');
        ok($connector->command('version')->{success}, 'the tunnel still works');
        is(finish($connector)->{failed}, 1, 'the record has the failure');

        ($connector) = request_plane($KIND{$plane}, { listener => { status => 1 } });
        (undef, $local) = $connector->open;
        pump($stream = Test::Stream->new($connector->dial($local), send => 1));
        is($stream->{error}, 'ECONNRESET', 'status 1 is an error');
        is(finish($connector)->{refused}{socket}, 1, 'the listener has counted status 1');

        ($connector) =
            request_plane($KIND{$plane}, { listener => { mute => 1 } }, dead_peer_timeout => 2);
        (undef, $local) = $connector->open;
        my $start = Time::HiRes::time();
        $stream = Test::Stream->new($connector->dial($local), send => 1, half_close => 'never');
        pump($stream);
        is($stream->{error}, 'ECONNRESET', 'without answers to heartbeats every stream fails');
        cmp_ok(Time::HiRes::time() - $start, '<', 10, 'it fails soon after the limit');
        ok($connector->wait_log(qr/dead/), 'the log has the failure');
        $connector->finish;
    };
}

no_secrets();

done_testing();
