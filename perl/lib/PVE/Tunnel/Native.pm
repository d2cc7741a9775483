package PVE::Tunnel::Native;

use v5.36;

our $VERSION = '0.1.0';

require XSLoader;
XSLoader::load(__PACKAGE__, $VERSION);

# Perl does not tell "1" from 1 from true; JSON does, and so does the library. What is not listed here
# goes over as JSON takes it, for the library to judge.
my $PLAN_INPUT = {
    migration_type => 'string',
    migration_network => 'string',
    caps => ['string'],
    planes => ['string'],
    require_encryption => 'boolean',
    dial => { ok => 'boolean', address => 'string', port => 'number', error => 'string' },
};
my $ENDPOINT_INPUT = {
    migrate => { proto => 'string', addr => 'string', port => 'number' },
    nbd_uri => 'string',
    network => 'string',
    allow_loopback => 'boolean',
};
my $CONNECTOR_OPTIONS = {
    mask => 'string',
    connect_timeout => 'number',
    handshake_timeout => 'number',
    upgrade_timeout => 'number',
    ticket_timeout => 'number',
};
my $CODEC_OPTIONS = { role => 'string', mask => 'string', max_frame => 'number' };

sub plan($input) {
    return _decode(_plan(_encode('pve_tunnel_plan', $input, $PLAN_INPUT)));
}

sub version_reply_parse($reply) {
    # A reply that the caller has decoded already is as good as the line it came in.
    $reply = _encode('pve_tunnel_version_reply_parse', $reply, {}) if ref($reply) eq 'HASH';
    return _decode(_version_reply_parse($reply));
}

sub network_address($network, $node) {
    return _decode(_network_address($network, $node));
}

sub endpoint_check($input) {
    return _decode(_endpoint_check(_encode('pve_tunnel_endpoint_check', $input, $ENDPOINT_INPUT)));
}

sub connector_run($input, $output, $log = undef, $options = undef) {
    my $json = defined($options)
        ? _encode('pve_tunnel_connector_run', $options, $CONNECTOR_OPTIONS)
        : undef;
    _connector_run($input, $output, $log, $json);
    return;
}

# Loaded by the first call that needs it: a program that only masks should not pay for it.
sub _json() {
    require JSON;
    return JSON->new->utf8->canonical;
}

sub _encode($function, $input, $shape) {
    die "$function: input is not a hash reference\n" if ref($input) ne 'HASH';

    my $text = eval { _json()->encode(_as($shape, $input)) };
    die "$function: input cannot be written as JSON: $@" if !defined($text);

    # JSON encoders lose taint.
    _taint_all($text) if ${^TAINT} && _any_tainted($input);
    return $text;
}

sub _decode($text) {
    my $answer = _json()->decode($text);
    _taint_all($answer) if ${^TAINT} && _any_tainted($text);
    return $answer;
}

# A copy of $value whose scalars have the JSON type that $type says.
sub _as($type, $value) {
    return $value if !defined($type) || (!defined($value) && $type ne 'boolean');

    if (ref($type) eq 'HASH') {
        return $value if ref($value) ne 'HASH';
        return { map { $_ => _as($type->{$_}, $value->{$_}) } keys(%$value) };
    }
    if (ref($type) eq 'ARRAY') {
        return $value if ref($value) ne 'ARRAY';
        return [map { _as($type->[0], $_) } @$value];
    }
    if ($type eq 'boolean') {
        $value = $$value if ref($value) eq 'SCALAR'; # \1 and \0 are true and false to JSON encoders
        return $value ? JSON::true() : JSON::false();
    }
    return $value if ref($value);
    return "$value" if $type eq 'string';
    return $value =~ m/\A-?[0-9]+(?:\.[0-9]+)?\z/ ? 0 + $value : $value;
}

package PVE::Tunnel::Native::Codec; ## no critic (Modules::ProhibitMultiplePackages)

sub new($class, %options) {
    my $json =
        %options
        ? PVE::Tunnel::Native::_encode('pve_tunnel_codec_new', \%options, $CODEC_OPTIONS)
        : undef;
    return _new($class, $json);
}

1;
