package PVE::Tunnel::Seam::Message;

use v5.36;

use Socket qw(AF_INET AF_INET6 inet_pton);

use PVE::Tunnel::Native;

our $VERSION = '0.1.0';

use constant {
    # Characters of somebody else's words that fit into a line of ours.
    MAX_SHOWN => 64,
    MAX_TEXT => 1000,
    # sun_path has 108 bytes, the last of them zero (man 7 unix).
    MAX_PATH => 107,
    # The migration range, as inside a cluster.
    FIRST_PORT => 60_000,
    LAST_PORT => 60_049,
    # Seconds.
    MAX_DEAD_PEER_TIMEOUT => 3600,
    # More than a node has on its migration network.
    MAX_ADDRESSES => 64,
    # Forward numbers are 32 bits wide; 0 is the watch.
    MAX_FORWARD => 0xffff_ffff,
};

my $COUNT = _number(0, 2**53);
my $FORWARD = _number(1, MAX_FORWARD);
my $PROTOCOL = _number(1, 65_535);
my $PLANE = _one_of(qw(tls tcp));
my $PATH = \&_path;
my @REFUSALS = qw(tls silent malformed key number crowded socket);

# What an operation takes. Names that are not listed are ignored: a newer source may say more.
my %REQUEST = (
    hello => { protocol => $PROTOCOL, version => _optional(\&_version) },
    open => {
        protocol => $PROTOCOL,
        plane => $PLANE,
        network => _optional(\&_network),
        fingerprint => _optional(\&_fingerprint),
        dead_peer_timeout => _optional(\&_seconds),
    },
    forward => { path => $PATH },
    stat => {},
    close => {},
);

my %STAT = (
    plane => $PLANE,
    connections => $COUNT,
    half_open => $COUNT,
    forwards => _list_of(
        _object(
            number => $FORWARD,
            path => $PATH,
            failed => _optional($COUNT),
            map { $_ => $COUNT } qw(connections open received sent),
        ),
    ),
    refused => _object(map { $_ => $COUNT } @REFUSALS),
);

# What the listener answers. What is not listed goes no further.
my %ANSWER = (
    open => {
        protocol => $PROTOCOL,
        plane => $PLANE,
        addresses => _list_of(\&_address, 1, MAX_ADDRESSES),
        port => _number(FIRST_PORT, LAST_PORT),
        fingerprint => _optional(\&_fingerprint),
        key => \&_key,
    },
    forward => { number => $FORWARD },
    stat => \%STAT,
    close => \%STAT,
);

sub request ($direct) {
    die "'direct' is not an object\n" if ref($direct) ne 'HASH';
    my $op = $direct->{op};
    die "'direct' has no 'op'\n" if !defined($op) || ref $op;
    my $fields = $REQUEST{$op} // die "unknown operation '"
        . shown($op)
        . "' (there are: hello, open, forward, stat, close)\n";
    my $request = _fields($fields, $direct, "$op: ");
    die "open: 'fingerprint' is missing: plane 'tls' pins the source's certificate\n"
        if $op eq 'open' && $request->{plane} eq 'tls' && !defined $request->{fingerprint};
    return { %$request, op => $op };
}

sub answer ($op, $value) {
    my $answer = _fields($ANSWER{$op}, $value, '');
    die "'fingerprint' is missing\n"
        if $op eq 'open' && $answer->{plane} eq 'tls' && !defined $answer->{fingerprint};
    return $answer;
}

# Words from elsewhere, as a part of one line.
sub one_line ($text, $limit = MAX_TEXT) {
    $text =~ s/[^\x20-\x7e]+/ /g;
    $text =~ s/\A\s+|\s+\z//g;
    my ($clean) = $text =~ /\A(.*)\z/;
    return length($clean) > $limit ? substr($clean, 0, $limit) . '...' : $clean;
}

sub shown ($text) {
    return one_line($text, MAX_SHOWN);
}

# Each type takes a value and returns it clean, or returns nothing.
sub _fields ($fields, $value, $at) {
    die "${at}it is not an object\n" if ref($value) ne 'HASH';
    my %clean;
    for my $name (sort keys %$fields) {
        my ($type, $optional) =
            ref($fields->{$name}) eq 'HASH' ? ($fields->{$name}{type}, 1) : $fields->{$name};
        my $given = $value->{$name};
        if (!defined $given) {
            die "$at'$name' is missing\n" if !$optional;
            next;
        }
        # The value stays out of the message: it may be the key.
        $clean{$name} = eval { $type->($given) } // die "$at'$name' is malformed\n";
    }
    return \%clean;
}

sub _optional ($type) {
    return { type => $type };
}

sub _object (%fields) {
    return sub ($value) { return _fields(\%fields, $value, '') };
}

sub _list_of ($type, $least = 0, $most = undef) {
    return sub ($value) {
        return if ref($value) ne 'ARRAY' || @$value < $least || defined($most) && @$value > $most;
        return [map { (defined($_) ? $type->($_) : undef) // return } @$value];
    };
}

sub _number ($least, $most) {
    return sub ($value) {
        return if ref $value; # a boolean of JSON reads like a number
        my ($digits) = $value =~ /\A(0|[1-9][0-9]{0,15})\z/a or return;
        return $digits >= $least && $digits <= $most ? 0 + $digits : undef;
    };
}

sub _one_of (@words) {
    return sub ($value) {
        return (grep { $_ eq $value } @words)[0];
    };
}

sub _path ($value) {
    my ($path) = $value =~ m{\A(/[^\0]*)\z} or return;
    return length($path) <= MAX_PATH ? $path : undef;
}

sub _version ($value) {
    return ref($value) ? undef : shown($value);
}

# A CIDR, an interface name or an ID; which, the configuration says.
sub _network ($value) {
    return if ref $value;
    my ($network) = $value =~ /\A([\x21-\x7e]{1,128})\z/ or return;
    return $network;
}

sub _fingerprint ($value) {
    my ($fingerprint) = $value =~ /\A([0-9A-Fa-f:]{64,95})\z/ or return;
    return PVE::Tunnel::Native::fingerprint_parse($fingerprint);
}

sub _seconds ($value) {
    return if ref $value;
    my ($seconds) = $value =~ /\A([0-9]{1,4}(?:\.[0-9]{1,3})?)\z/a or return;
    return $seconds > 0 && $seconds <= MAX_DEAD_PEER_TIMEOUT ? 0 + $seconds : undef;
}

sub _address ($value) {
    my ($address) = $value =~ /\A([0-9A-Fa-f:.]{2,45})\z/ or return;
    return inet_pton($address =~ /:/ ? AF_INET6 : AF_INET, $address) ? $address : undef;
}

sub _key ($value) {
    my ($key) = $value =~ /\A([0-9a-f]{64})\z/ or return;
    return $key;
}

1;

__END__

=encoding utf8

=head1 NAME

PVE::Tunnel::Seam::Message - what goes through the seam, checked

=head1 DESCRIPTION

A part of L<PVE::Tunnel::Seam>, which describes the operations. The shapes of requests, which come
from the source, and of the listener's answers, which go to it: nothing passes that does not have
them, and what passes is a copy, clean under taint, with numbers that are numbers in JSON.

Names that are not known are left out, so that either side may say more than the other knows.
C<null> is the same as absent.

=head1 FUNCTIONS

All die with one line that names the field, and not its value.

=head2 request

C<request($direct)>: the request, a hash with C<op> and what this operation takes:

    hello      protocol, version?
    open       protocol, plane, network?, fingerprint (tls),
               dead_peer_timeout?
    forward    path
    stat
    close

C<dead_peer_timeout> is in seconds, above 0 and at most 3600. C<path> is absolute and has at most
107 bytes. C<network> has 1 to 128 printable ASCII characters.

=head2 answer

C<answer($op, $value)>: the listener's answer to C<open>, C<forward>, C<stat> or C<close>.

=head2 one_line

C<one_line($text, $limit)>: words from elsewhere as a part of one line of printable ASCII, at most
C<$limit> (1000) characters and three dots.

=head2 shown

C<shown($text)>: the same with at most 64 characters.

=cut
