#!/usr/bin/perl

# The connector on the direct planes with a target that shares no code with it: worker, seam and
# listener are written from docs/protocol.md. Older and newer targets among them, and some that
# break the protocol.

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

local $SIG{ALRM} = sub { die "the test stands still\n" };
alarm 300;
local $SIG{PIPE} = 'IGNORE';

my $MIB = 1024 * 1024;
my %KIND = (tls => 'secure', tcp => 'insecure');

# A connector that has asked for a plane, and what it was answered.
sub ask ($type, $conduct = {}, %wish) {
    my $node = Test::TunnelNode->start(worker => "$FindBin::RealBin/lib/fake-direct-worker.pl");
    my $form = 'conduct=' . uri_escape(JSON::encode_json($conduct));
    my $connector = Test::Connector->start($node, form => $form);
    my $data = {
        migration_type => $type,
        network => '127.0.0.0/8',
        planes => ['tls', 'tcp'],
        %wish,
    };
    $connector->send_line({ control => JSON::true, cmd => 'direct', data => $data });
    my $answer = JSON::decode_json($connector->read_line // die "no answer\n");
    # It has to live as long as the connector.
    $connector->{node} = $node;
    return ($connector, $answer);
}

sub asked ($connector) {
    return map { $_->{op} } $connector->command('requests')->{requests}->@*;
}

sub finish ($connector) {
    $connector->send_line({ control => JSON::true, cmd => 'finish' });
    my $record = JSON::decode_json($connector->read_line)->{record};
    is($connector->finish->{code}, 0, 'the connector ends well');
    return $record;
}

# Both ways, and an end each way.
sub crosses ($connector, $bytes) {
    my ($remote, $local) = $connector->open;
    my $stream = Test::Stream->new($connector->dial($local), send => $bytes);
    pump($stream);
    is($stream->{error}, undef, 'no error');
    ok($stream->{eof}, 'a clean end');
    is($stream->{received}, $bytes, "$bytes bytes there and back");
    is($stream->sha256, $stream->sent_sha256, 'unchanged');
    return $local;
}

for my $plane (qw(tls tcp)) {
    subtest "$plane: from end to end" => sub {
        my ($connector, $answer) = ask($KIND{$plane});
        is($answer->{plan}{plane}, $plane, 'the plan') or diag(JSON::encode_json($answer));
        is($answer->{direct}{plane}, $plane, 'the listener is reached');
        is($answer->{direct}{protocol}, 1, 'with protocol 1');
        is($answer->{direct}{address}, '127.0.0.1', 'at its address');
        my $local = crosses($connector, 3 * $MIB + 7);
        my @many =
            map { Test::Stream->new($connector->dial($local), send => $MIB, first => $_) } 1 .. 5;
        pump(@many);
        is(scalar(grep { $_->{error} || $_->sha256 ne $_->sent_sha256 } @many), 0, 'five at once');
        my ($remote) = grep { $_->{op} eq 'open' } $connector->command('requests')->{requests}->@*;
        is($remote->{protocol}, 1, 'protocol 1 was asked for');
        my $record = finish($connector);
        is($record->{plane}, $plane, 'the record has the plane');
        is($record->{sent}, 8 * $MIB + 7, 'bytes sent');
        is($record->{received}, 8 * $MIB + 7, 'received');
        is($record->{connections}, 6, 'connections');
        is($record->{refused}{key}, 0, 'and what the listener counted');
        is($record->{fingerprint}, $answer->{direct}{fingerprint}, 'and its fingerprint');
    };
}

subtest 'a newer target that still speaks our protocol' => sub {
    my $hello = {
        protocol => 9,
        oldest => 1,
        caps => [qw(direct-tls direct-tcp direct-quic)],
        compression => { zstd => [1, 2] },
    };
    my $open = { ticket => 'of another kind', addresses6 => ['::1'] };
    for my $plane (qw(tls tcp)) {
        my ($connector, $answer) = ask($KIND{$plane}, { hello => $hello, open => $open });
        is($answer->{plan}{plane}, $plane, "$plane, all the same")
            or diag(JSON::encode_json($answer));
        is($answer->{direct}{protocol}, 1, 'with the common protocol');
        crosses($connector, $MIB);
        finish($connector);
    }
};

subtest 'targets without a common protocol, or without a seam' => sub {
    my %targets = (
        'a newer target that has left our protocol' => { hello => { protocol => 9, oldest => 2 } },
        'one that does not say how far back it goes' =>
            { hello => { protocol => 9, oldest => undef } },
        'an older target without a seam' => { stock => 1 },
        'one that offers nothing' => { hello => { caps => [] } },
    );
    for my $name (sort keys %targets) {
        my ($connector, $answer) = ask('secure', $targets{$name});
        is($answer->{plan}{plane}, 'websocket', "$name: secure takes the websocket")
            or diag(JSON::encode_json($answer));
        is($answer->{direct}, undef, 'no listener');
        crosses($connector, $MIB);
        is(join(' ', grep { $_ ne 'hello' } asked($connector)), '', 'nor was one asked for');
        finish($connector);

        ($connector, $answer) = ask('insecure', $targets{$name});
        ok(!$answer->{success}, "$name: insecure is refused");
        like($answer->{msg}, qr/migration_type=insecure/, 'with the way out');
        is(join(' ', grep { $_ ne 'hello' } asked($connector)), '', 'nothing was asked for');
        is($connector->finish->{code}, 0, 'the tunnel lives');
    }
};

subtest 'an older target that says only what it must' => sub {
    my $hello = { map { $_ => undef } qw(oldest version) };
    my ($connector, $answer) = ask('secure', { hello => $hello });
    is($answer->{plan}{plane}, 'tls', 'tls') or diag(JSON::encode_json($answer));
    finish($connector);
};

subtest 'listeners that break the protocol' => sub {
    my $nonce = 'n' x 32;
    my %listeners = (
        'another magic' => [{ step_1 => "SSH-2.0-$nonce" }, qr/no pve-tunnel listener/],
        'another protocol' => [{ step_1 => "pvetun\0\2$nonce" }, qr/protocol 2/],
        'a first step that breaks off' => [{ step_1 => 'pvetun' }, qr/hello/],
    );
    for my $name (sort keys %listeners) {
        my ($options, $reason) = $listeners{$name}->@*;
        my ($connector, $answer) = ask('secure', { listener => $options });
        is($answer->{plan}{plane}, 'websocket', "$name: secure takes the websocket");
        my ($warning) = grep { /unreachable/ } $answer->{plan}{warnings}->@*;
        like($warning, $reason, 'and says why');
        is((asked($connector))[-1], 'close', 'the listener has been closed again');
        crosses($connector, $MIB);
        finish($connector);

        ($connector, $answer) = ask('insecure', { listener => $options });
        ok(!$answer->{success}, "$name: insecure is refused");
        like($answer->{msg}, $reason, 'and says why');
        is((asked($connector))[-1], 'close', 'the listener has been closed again');
        is($connector->finish->{code}, 0, 'the tunnel lives');
    }
    my ($connector, $answer) = ask('secure', { listener => { announce => '00' x 32 } });
    is($answer->{plan}{plane}, 'websocket', 'another certificate than told: the websocket');
    like("$answer->{plan}{warnings}->@*", qr/fingerprint/, 'and says why');
    finish($connector);
};

for my $plane (qw(tls tcp)) {
    subtest "$plane: what breaks later" => sub {
        my ($connector) = ask($KIND{$plane}, { listener => { cut_after => $MIB } });
        my ($remote, $local) = $connector->open;
        pump(my $stream = Test::Stream->new($connector->dial($local), send => 64 * $MIB));
        is($stream->{error}, 'ECONNRESET', 'the listener dies in mid-stream: an error');
        ok(!$stream->{eof}, 'and no end');
        ok($connector->wait_log(qr/FAILED/), 'logged');
        ok($connector->command('version')->{success}, 'the tunnel lives');
        is(finish($connector)->{failed}, 1, 'and recorded');

        ($connector) = ask($KIND{$plane}, { listener => { status => 1 } });
        (undef, $local) = $connector->open;
        pump($stream = Test::Stream->new($connector->dial($local), send => 1));
        is($stream->{error}, 'ECONNRESET', 'status 1: an error');
        is(finish($connector)->{refused}{socket}, 1, 'which the listener has counted');

        ($connector) = ask($KIND{$plane}, { listener => { mute => 1 } }, dead_peer_timeout => 2);
        (undef, $local) = $connector->open;
        my $start = Time::HiRes::time();
        $stream = Test::Stream->new($connector->dial($local), send => 1, half_close => 'never');
        pump($stream);
        is($stream->{error}, 'ECONNRESET', 'a watch that is not answered: every stream fails');
        cmp_ok(Time::HiRes::time() - $start, '<', 10, 'soon after the limit');
        ok($connector->wait_log(qr/dead/), 'logged');
        $connector->finish;
    };
}

no_secrets();

done_testing();
