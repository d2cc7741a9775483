package PVE::Tunnel::Client::API;

use v5.36;

use HTTP::Tiny;
use JSON ();

use PVE::Tunnel::Native;
use PVE::Tunnel::Text;

our $VERSION = '0.1.0';

use constant {
    # Seconds for each step: connect, handshake, and each silence of the target.
    STEP_LIMIT => 30,
    # Bytes. The answer has three short strings.
    MAX_ANSWER => 1 << 20,
    DEFAULT_PORT => 8006,
};

my $JSON = JSON->new->utf8;

sub post ($conn, $path, $params) {
    my $base = _base_url($conn);
    my $mismatch;
    my $http = HTTP::Tiny->new(
        agent => "pve-tunnel/$VERSION",
        timeout => STEP_LIMIT,
        max_size => MAX_ANSWER,
        max_redirect => 0,
        # A proxy from the environment would see the token.
        proxy => undef, http_proxy => undef, https_proxy => undef,
        verify_SSL => 1,
        SSL_options => _tls_options($conn, \$mismatch),
    );
    my $answer = $http->post_form(
        "$base/api2/json$path",
        $params // {},
        { headers => { Authorization => $conn->{apitoken} } }
    );
    if (!$answer->{success}) {
        die "$conn->{host}: $mismatch\n" if defined $mismatch;
        # 599 is HTTP::Tiny's own: the connection failed, and the reason is the content.
        my $reason =
            $answer->{status} == 599 ? $answer->{content} : "$answer->{status} $answer->{reason}";
        die _redacted("the request for a tunnel to $conn->{host} failed: $reason", $conn) . "\n";
    }
    my $data = eval { $JSON->decode($answer->{content})->{data} };
    for my $name (qw(ticket socket upid)) {
        die "the answer of $conn->{host} has no '$name'\n"
            if ref($data) ne 'HASH' || !defined($data->{$name}) || ref $data->{$name};
    }
    return $data;
}

sub fingerprint ($conn) {
    my $cached = $conn->{cached_fingerprints} // {};
    my ($first) = grep { $cached->{$_} } sort keys %$cached;
    return if !defined $first;
    return PVE::Tunnel::Native::fingerprint_parse($first);
}

sub _base_url ($conn) {
    my $protocol = $conn->{protocol} // 'https';
    my $host = _bare_host($conn);
    my $loopback = $host =~ /\A(?:127\.[0-9.]+|::1|localhost)\z/;
    die
        "protocol '$protocol' to '$host' is not possible: the API token would travel in clear text\n"
        if $protocol ne 'https' && ($protocol ne 'http' || !$loopback);
    my $port = $conn->{port} // DEFAULT_PORT;
    return "$protocol://" . ($host =~ /:/ ? "[$host]" : $host) . ":$port";
}

sub _bare_host ($conn) {
    my $host = $conn->{host} // die "no host for the remote node given\n";
    return $host =~ s/\A\[(.*)\]\z/$1/r;
}

sub _tls_options ($conn, $mismatch) {
    return {} if ($conn->{protocol} // 'https') eq 'http';
    my $host = _bare_host($conn);
    my %options = (SSL_verifycn_name => $host);
    # An address is no server name, in brackets least of all (RFC 6066, section 3).
    $options{SSL_hostname} = '' if $host =~ /:/ || $host =~ /\A[0-9.]+\z/;
    my $expected = fingerprint($conn) // return \%options;
    return { %options, _pinned($expected, $mismatch) };
}

# A pinned certificate is compared in the handshake, before a byte of the request is sent.
sub _pinned ($expected, $mismatch) {
    require IO::Socket::SSL;
    require Net::SSLeay;
    my $compare = sub ($ok, $store, $name, $error, $cert, $depth) {
        # Issuers do not matter, only the leaf; the library asks about it last.
        return 1 if $depth > 0;
        my $actual = PVE::Tunnel::Native::fingerprint_parse(
            Net::SSLeay::X509_get_fingerprint($cert, 'sha256'));
        return 1 if $actual eq $expected;
        $$mismatch = "the certificate's fingerprint is $actual, expected was $expected";
        return 0;
    };
    return (
        SSL_verify_mode => IO::Socket::SSL::SSL_VERIFY_PEER(),
        SSL_verify_callback => $compare,
        SSL_verifycn_scheme => 'none',
    );
}

# A status line is the target's to write, and it must not bring back what was sent.
# A message without the token.
sub _redacted ($text, $conn) {
    $text =~ s/\Q$conn->{apitoken}\E/(token)/g;
    my ($secret) = $conn->{apitoken} =~ /=([^=]+)\z/;
    $text =~ s/\Q$secret\E/(token)/g if defined $secret;
    return PVE::Tunnel::Text::one_line($text);
}

1;

__END__

=encoding utf8

=head1 NAME

PVE::Tunnel::Client::API - asks the target's API for a tunnel

=head1 DESCRIPTION

A part of L<PVE::Tunnel::Client>, which describes the connection's hash C<$conn>.

=head1 FUNCTIONS

=head2 post

C<post($conn, $path, \%params)>: sends a form to C<$path> below C</api2/json>. Returns a hash with
C<upid>, C<ticket> and C<socket>. No redirect is followed and no proxy is used. Dies with the
target's status and reason, or with both fingerprints if they differ; never with the token.

=head2 fingerprint

C<fingerprint($conn)>: the pinned fingerprint as C<AA:BB:...>, or nothing.

=cut
