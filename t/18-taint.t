#!/usr/bin/perl -T

# Under taint: a result made from tainted input is tainted until a pattern has checked it.

use v5.36;

use Scalar::Util qw(tainted);
use Test::More;

use PVE::Tunnel::Native;

my $TAINT = substr($ENV{PATH}, 0, 0); # empty, and tainted
ok(tainted($TAINT), 'taint mode is on') or BAIL_OUT('run with -T');

package Tied {
    sub TIESCALAR ($class, $value) { return bless(\$value, $class) }
    sub FETCH ($self) { return $$self }
}

package Overloaded {
    use overload '""' => sub ($self, @) { return $$self };
}

package main;

sub leaves ($value) {
    return map { leaves($_) } @$value if ref($value) eq 'ARRAY';
    return map { leaves($_) } values(%$value) if ref($value) eq 'HASH';
    return $value;
}

# The booleans of JSON are shared constants and never tainted.
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
    my $fingerprint = 'ab' x 32;
    is_clean(PVE::Tunnel::Native::fingerprint_parse($fingerprint), 'a fingerprint');
    is_tainted(
        PVE::Tunnel::Native::fingerprint_parse($fingerprint . $TAINT),
        'a fingerprint from tainted text'
    );
    is_clean(PVE::Tunnel::Native::version(), 'the version');

    for my $text ($fingerprint, $fingerprint . $TAINT) {
        my $check = tainted($text) ? \&is_tainted : \&is_clean;
        my $what = tainted($text) ? 'tainted' : 'clean';
        tie(my $tied, 'Tied', $text);
        $check->(PVE::Tunnel::Native::fingerprint_parse($tied), "$what text of a tied scalar");
        my $object = bless(\$text, 'Overloaded');
        $check->(PVE::Tunnel::Native::fingerprint_parse($object), "$what text of an object");
    }

    my $checked = PVE::Tunnel::Native::fingerprint_parse($fingerprint . $TAINT);
    my ($captured) = $checked =~ m/\A((?:[0-9A-F]{2}:){31}[0-9A-F]{2})\z/ or die "no fingerprint\n";
    is_clean($captured, 'a fingerprint that a pattern has checked');
};

subtest 'mask' => sub {
    my $key = 'abcd';
    my $data = 'data';
    PVE::Tunnel::Native::mask($data, $key);
    is_clean($data, 'masked bytes');
    PVE::Tunnel::Native::mask($data, $key . $TAINT);
    is_tainted($data, 'bytes masked with a tainted key');
    my $tainted = "data$TAINT";
    PVE::Tunnel::Native::mask($tainted, $key);
    is_tainted($tainted, 'tainted bytes after masking');
};

subtest 'codec' => sub {
    my $wire = pack('H*', '810548656c6c6f');
    my $codec = PVE::Tunnel::Native::Codec->new();
    $codec->feed($wire);
    is_clean($codec->next(), 'a frame from clean input');
    $codec->feed($wire . $TAINT);
    my $frame = $codec->next();
    is_tainted($frame->{payload}, 'a payload from tainted input');
    is_clean([@$frame{qw(opcode end)}], 'opcode and end of this frame');
    $codec->feed($wire);
    is_tainted($codec->next()->{payload}, 'a later payload of the same codec');

    is_clean($codec->encode('text', 'x'), 'an encoded frame');
    is_tainted($codec->encode('text', "x$TAINT"), 'an encoded frame with a tainted payload');
};

subtest 'structures' => sub {
    my $reply = '{"api":2,"age":0,"caps":["direct-tls","x"]}';
    is_clean(PVE::Tunnel::Native::version_reply_parse($reply), 'a version reply');
    is_tainted(
        PVE::Tunnel::Native::version_reply_parse($reply . $TAINT),
        'a version reply from tainted text'
    );
    my $decoded = { api => 2, age => 0, caps => ["direct-tls$TAINT"] };
    is_tainted(
        PVE::Tunnel::Native::version_reply_parse($decoded),
        'a version reply from a decoded hash'
    );

    my %input = (migration_type => 'secure', planes => ['tls']);
    is_clean(PVE::Tunnel::Native::plan({ %input, caps => ['direct-tls'] }), 'a plan');
    is_tainted(
        PVE::Tunnel::Native::plan({ %input, caps => ["direct-tls$TAINT"] }),
        'a plan for tainted capabilities',
    );

    my %call = (side => 'source', remote => '10.0.0.7', migration_network => '10.0.0.0/24');
    my $select = \&PVE::Tunnel::Native::configuration_select;
    is_clean($select->('# ours', {%call}), 'a selection');
    is_tainted(
        without_booleans($select->('# ours', { %call, remote => "10.0.0.7$TAINT" })),
        'a selection for a tainted remote',
    );
    %call = (side => 'source', remote => '10.0.0.7', migration_network => 'dc2');
    my $file = "network: dc2\n\tsource 10.0.0.0/24\n\ttarget dc1\n";
    is_tainted(
        without_booleans($select->($file . $TAINT, {%call})),
        'a selection from a tainted file'
    );

    my %migrate = (proto => 'tcp', addr => '10.0.0.7', port => 60000);
    is_clean(PVE::Tunnel::Native::endpoint_check({ migrate => {%migrate} }), 'an endpoint');
    $migrate{port} = "60000$TAINT";
    my $endpoint = PVE::Tunnel::Native::endpoint_check({ migrate => {%migrate} });
    is_tainted($endpoint, 'an endpoint with a tainted port');
    is($endpoint->{port}, 60000, '... has the right port');

    my %near = (address => '127.0.0.1', network => '127.0.0.0/8');
    is_clean(PVE::Tunnel::Native::guard_check({%near}), 'a verdict of the guard');
    $near{address} .= $TAINT;
    is_tainted(PVE::Tunnel::Native::guard_check({%near}), 'a verdict on a tainted address');
};

subtest 'the seam' => sub {
    my %input = (file => "/f$TAINT", node => "pve7$TAINT", listener => 'running');
    my $decide = sub ($direct, %more) {
        return PVE::Tunnel::Native::seam_decide(
            "# ours$TAINT",
            { %input, direct => $direct, %more }
        );
    };
    my $forward = { op => "forward$TAINT", path => "/run/a$TAINT" };
    is_clean($decide->($forward, sockets => ["/run/a$TAINT"]), 'an action for tainted input');
    my $open =
        { op => 'open', protocol => "1$TAINT", plane => 'tls', fingerprint => 'ab' x 32 . $TAINT };
    my $action = $decide->($open, listener => 'none');
    is_clean(without_booleans($action->{options}), '... and the options of a listener');
    is_clean(
        PVE::Tunnel::Native::seam_answer('forward', qq({"number":1}$TAINT)),
        'a checked answer from a tainted line'
    );
};

subtest 'addresses and ports' => sub {
    is_clean(PVE::Tunnel::Native::network_address('127.0.0.0/8', 'n'), 'an address');
    my $address = PVE::Tunnel::Native::network_address("127.0.0.0/8$TAINT", 'n');
    is_tainted($address, 'an address for a tainted network');

    ok(
        !eval { PVE::Tunnel::Native::port_bind($address->{address}); 1 },
        'port_bind refuses a tainted address'
    );
    like($@, qr/\AInsecure dependency in port_bind/, '... in the same way as the built-in bind');

    my ($clean) = $address->{address} =~ m/\A([0-9.]+)\z/ or die "no address\n";
    my ($fd, $port) = PVE::Tunnel::Native::port_bind($clean);
    is_clean([$fd, $port], 'descriptor and port for a checked address');
    open(my $fh, '+<&=', $fd) or die "cannot open descriptor $fd: $!\n";
    ok(close($fh), '... and the descriptor can be opened');
};

subtest 'errors' => sub {
    for my $length (1 .. 3) {
        ok(
            !eval { PVE::Tunnel::Native::fingerprint_parse(('x' x $length) . $TAINT); 1 },
            'tainted text is refused'
        );
        like($@, qr/\Apve_tunnel_fingerprint_parse: .+\n\z/, '... with the usual message');
    }
};

done_testing();
