#!/usr/bin/perl -T

# Under taint: what was made of something tainted is tainted, until a pattern has checked it.

use v5.36;

use Scalar::Util qw(tainted);
use Test::More;

use PVE::Tunnel::Native;

my $TAINT = substr($ENV{PATH}, 0, 0); # empty, and tainted
ok(tainted($TAINT), 'this Perl taints') or BAIL_OUT('run with -T');

sub leaves ($value) {
    return map { leaves($_) } @$value if ref($value) eq 'ARRAY';
    return map { leaves($_) } values(%$value) if ref($value) eq 'HASH';
    return $value;
}

# Those of JSON are constants that all share.
sub without_booleans ($hash) {
    return { map { $_ => $hash->{$_} } grep { !ref($hash->{$_}) } keys(%$hash) };
}

sub is_tainted ($value, $what) {
    my @leaves = leaves($value);
    is(scalar(grep { !defined($_) || tainted($_) } @leaves), scalar(@leaves), "$what: tainted");
    return;
}

sub is_clean ($value, $what) {
    is(scalar(grep { tainted($_) } leaves($value)), 0, "$what: clean");
    return;
}

subtest 'strings' => sub {
    my $print = 'ab' x 32;
    is_clean(PVE::Tunnel::Native::fingerprint_parse($print), 'a fingerprint');
    is_tainted(PVE::Tunnel::Native::fingerprint_parse($print . $TAINT), 'one from outside');
    is_clean(PVE::Tunnel::Native::version(), 'the version');

    my $checked = PVE::Tunnel::Native::fingerprint_parse($print . $TAINT);
    my ($pattern) = $checked =~ m/\A((?:[0-9A-F]{2}:){31}[0-9A-F]{2})\z/ or die "no fingerprint\n";
    is_clean($pattern, 'what a pattern has taken out of it');
};

subtest 'mask' => sub {
    my $key = 'abcd';
    my $data = 'data';
    PVE::Tunnel::Native::mask($data, $key);
    is_clean($data, 'bytes');
    PVE::Tunnel::Native::mask($data, $key . $TAINT);
    is_tainted($data, 'bytes masked with a key from outside');
    my $outside = "data$TAINT";
    PVE::Tunnel::Native::mask($outside, $key);
    is_tainted($outside, 'bytes from outside');
};

subtest 'codec' => sub {
    my $wire = pack('H*', '810548656c6c6f');
    my $codec = PVE::Tunnel::Native::Codec->new();
    $codec->feed($wire);
    is_clean($codec->next(), 'a frame of our own');
    $codec->feed($wire . $TAINT);
    my $frame = $codec->next();
    is_tainted($frame->{payload}, 'a payload from the wire');
    is_clean([@$frame{qw(opcode end)}], 'what the codec says of it');
    $codec->feed($wire);
    is_tainted($codec->next()->{payload}, 'and all that come after on that connection');

    is_clean($codec->encode('text', 'x'), 'bytes to send');
    is_tainted($codec->encode('text', "x$TAINT"), 'bytes to send, made of something from outside');
};

subtest 'structures' => sub {
    my $reply = '{"api":2,"age":0,"caps":["direct-tls","x"]}';
    is_clean(PVE::Tunnel::Native::version_reply_parse($reply), 'a version reply');
    is_tainted(PVE::Tunnel::Native::version_reply_parse($reply . $TAINT), 'one from the wire');
    my $decoded = { api => 2, age => 0, caps => ["direct-tls$TAINT"] };
    is_tainted(PVE::Tunnel::Native::version_reply_parse($decoded), 'one that was decoded already');

    my %input = (migration_type => 'secure', planes => ['tls']);
    is_clean(PVE::Tunnel::Native::plan({ %input, caps => ['direct-tls'] }), 'a plan');
    is_tainted(
        PVE::Tunnel::Native::plan({ %input, caps => ["direct-tls$TAINT"] }),
        'one for capabilities from the wire',
    );

    my %call = (side => 'source', remote => '10.0.0.7', migration_network => '10.0.0.0/24');
    my $select = \&PVE::Tunnel::Native::configuration_select;
    is_clean($select->('# ours', {%call}), 'a selection');
    is_tainted(
        without_booleans($select->('# ours', { %call, remote => "10.0.0.7$TAINT" })),
        'one for a remote from outside',
    );
    %call = (side => 'source', remote => '10.0.0.7', migration_network => 'dc2');
    my $file = "network: dc2\n\tsource 10.0.0.0/24\n\ttarget dc1\n";
    is_tainted(without_booleans($select->($file . $TAINT, {%call})), 'one from a file');

    my %migrate = (proto => 'tcp', addr => '10.0.0.7', port => 60000);
    is_clean(PVE::Tunnel::Native::endpoint_check({ migrate => {%migrate} }), 'an endpoint');
    $migrate{port} = "60000$TAINT";
    my $endpoint = PVE::Tunnel::Native::endpoint_check({ migrate => {%migrate} });
    is_tainted($endpoint, 'one whose port came from the wire');
    is($endpoint->{port}, 60000, 'with its value');

    my %near = (address => '127.0.0.1', network => '127.0.0.0/8');
    is_clean(PVE::Tunnel::Native::guard_check({%near}), 'a verdict on clear text');
    $near{address} .= $TAINT;
    is_tainted(PVE::Tunnel::Native::guard_check({%near}), 'one on an address from the wire');
};

subtest 'addresses and ports' => sub {
    is_clean(PVE::Tunnel::Native::network_address('127.0.0.0/8', 'n'), 'an address');
    my $address = PVE::Tunnel::Native::network_address("127.0.0.0/8$TAINT", 'n');
    is_tainted($address, 'one for a network from outside');

    ok(!eval { PVE::Tunnel::Native::port_bind($address->{address}); 1 }, 'which cannot be bound');
    like($@, qr/\AInsecure dependency in port_bind/, 'as with Perl\'s own bind');

    my ($clean) = $address->{address} =~ m/\A([0-9.]+)\z/ or die "no address\n";
    my ($fd, $port) = PVE::Tunnel::Native::port_bind($clean);
    is_clean([$fd, $port], 'descriptor and port of a checked one');
    open(my $fh, '+<&=', $fd) or die "cannot open descriptor $fd: $!\n";
    ok(close($fh), 'which can be opened');
};

subtest 'errors' => sub {
    for my $length (1 .. 3) {
        ok(
            !eval { PVE::Tunnel::Native::fingerprint_parse(('x' x $length) . $TAINT); 1 },
            'refused'
        );
        like($@, qr/\Apve_tunnel_fingerprint_parse: .+\n\z/, 'with the message as ever');
    }
};

done_testing();
