package PVE::Tunnel::Native;

use v5.36;

our $VERSION = '0.1.0';

require XSLoader;
XSLoader::load(__PACKAGE__, $VERSION);

sub plan ($input) {
    return _decode(_plan(_encode('pve_tunnel_plan', $input)));
}

sub version_reply_parse ($reply) {
    # A reply that the caller has decoded already is as good as the line it came in.
    $reply = _encode('pve_tunnel_version_reply_parse', $reply) if ref($reply) eq 'HASH';
    return _decode(_version_reply_parse($reply));
}

sub network_address ($network, $node) {
    return _decode(_network_address($network, $node));
}

sub endpoint_check ($input) {
    return _decode(_endpoint_check(_encode('pve_tunnel_endpoint_check', $input)));
}

sub connector_run ($input, $output, $log = undef, $options = undef) {
    _connector_run($input, $output, $log, _options('pve_tunnel_connector_run', $options));
    return;
}

# Loaded by the first call that needs it: a program that only masks should not pay for it.
sub _json() {
    require JSON;
    return JSON->new->utf8->canonical;
}

sub _encode ($function, $input) {
    die "$function: input is not a hash reference\n" if ref($input) ne 'HASH';

    # No eval to reword its error: it would also catch a handler of the caller's that dies in here.
    my $text = _json()->encode($input);

    # JSON encoders lose taint.
    _taint_all($text) if ${^TAINT} && _any_tainted($input);
    return $text;
}

# Options are plain numbers and names. Perl does not tell "10" from 10, but JSON does, and so a number
# that was read from a file or a line would go over as a string.
sub _options ($function, $options) {
    my $json;
    if (defined($options)) {
        die "$function: options are not a hash reference\n" if ref($options) ne 'HASH';

        my %typed;
        for my $name (keys(%$options)) {
            my $value = $options->{$name};
            my $is_number = defined($value) && $value =~ m/\A[0-9]+(?:\.[0-9]+)?\z/;
            $typed{$name} = $is_number ? 0 + $value : $value;
        }
        $json = _encode($function, \%typed);
    }
    return $json;
}

sub _decode ($text) {
    my $answer = _json()->decode($text);
    _taint_all($answer) if ${^TAINT} && _any_tainted($text);
    return $answer;
}

package PVE::Tunnel::Native::Codec;

sub new ($class, %options) {
    my $options = %options ? \%options : undef;
    return _new($class, PVE::Tunnel::Native::_options('pve_tunnel_codec_new', $options));
}

1;
