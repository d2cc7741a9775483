package PVE::Tunnel::Client::API;

use v5.36;

use JSON ();

use PVE::Tunnel::Native;
use PVE::Tunnel::Text;

our $VERSION = '0.1.0';

use constant {
    # Seconds for each step: connection, TLS handshake, and each wait for data.
    STEP_LIMIT => 30,
    # Bytes. The answer consists of three short strings.
    MAX_ANSWER => 1 << 20,
    DEFAULT_PORT => 8006,
    # Characters of a token's secret part. Proxmox VE generates UUIDs of 36 characters. A message in
    # which a shorter text is replaced would not be readable.
    MIN_SECRET => 8,
};

my $JSON = JSON->new->utf8;

sub token ($conn) {
    my $token = $conn->{apitoken} // die "no API token for the remote node given\n";
    my ($secret) = $token =~ /\APVEAPIToken=.+\@[^\@!=]+![^\@!=]+=([^=]*)\z/;
    my $mistake;
    if ($token eq '') {
        $mistake = 'it is empty';
    } elsif ($token =~ /[^\x21-\x7e]/) {
        # The token itself must not be in a message.
        $mistake = sprintf 'its character %d is U+%04X', $+[0], ord substr($token, $-[0], 1);
    } elsif (!defined $secret) {
        $mistake = 'a part is missing';
    } elsif (length($secret) < MIN_SECRET) {
        $mistake =
              'its secret part has '
            . length($secret)
            . ' characters, expected at least '
            . MIN_SECRET;
    }
    return $token if !defined $mistake;
    die "the API token for the remote node is not of the form"
        . " PVEAPIToken=user\@realm!name=uuid: $mistake; check 'apitoken'\n";
}

sub post ($conn, $path, $params, $address = undef) {
    my $answer = _request(
        $conn, $address,
        "the request for a tunnel to $conn->{host}",
        sub ($http, $url, $options) { $http->post_form("$url$path", $params // {}, $options) }
    );
    my $data = eval { $JSON->decode($answer->{content})->{data} };
    for my $name (qw(ticket socket upid)) {
        die "the answer of $conn->{host} has no '$name'\n"
            if ref($data) ne 'HASH' || !defined($data->{$name}) || ref $data->{$name};
    }
    return $data;
}

sub stop_task ($conn, $path, $upid, $address = undef) {
    my ($node) = $path =~ m{\A/nodes/([^/]+)/}
        or die "the path '$path' names no node\n";
    my $task = "/nodes/$node/tasks/" . percent_encode($upid);
    _request(
        $conn, $address,
        "the request to $conn->{host} to stop the tunnel worker",
        sub ($http, $url, $options) { $http->delete("$url$task", $options) }
    );
    return;
}

sub websocket_url ($conn, $url) {
    my ($scheme, $path) = ($url // '') =~ m{\A(\w+)://[^/?#]*(/.*)\z}s
        or die "the URL of the websocket has no path\n";
    return _base_url($conn) =~ s/\A\w+/$scheme/r . $path;
}

sub fingerprint ($conn) {
    my $cached = $conn->{cached_fingerprints} // {};
    my ($first) = grep { $cached->{$_} } sort keys %$cached;
    return if !defined $first;
    return PVE::Tunnel::Native::fingerprint_parse($first);
}

sub percent_encode ($text) {
    return $text =~ s/([^A-Za-z0-9._~-])/sprintf('%%%02X', ord $1)/ger;
}

# The answer to a request, which $send sends. Dies with the reason if it was refused or failed.
sub _request ($conn, $address, $what, $send) {
    # Loaded here, because no module of Proxmox VE loads it, and most processes send no request. The
    # first request is that for a tunnel, so a failure leaves nothing at the target.
    require HTTP::Tiny;
    my $token = token($conn);
    my $mismatch;
    my $http = HTTP::Tiny->new(
        agent => "pve-tunnel/$VERSION",
        timeout => STEP_LIMIT,
        max_size => MAX_ANSWER,
        max_redirect => 0,
        # A proxy from the environment would receive the token.
        proxy => undef, http_proxy => undef, https_proxy => undef,
        verify_SSL => 1,
        SSL_options => _tls_options($conn, \$mismatch),
    );
    my %options = (headers => { Authorization => $token }, peer => $address);
    my $answer = $send->($http, _base_url($conn) . '/api2/json', \%options);
    return $answer if $answer->{success};
    die "$conn->{host}: $mismatch\n" if defined $mismatch;
    # HTTP::Tiny reports a failed connection as 599, with the reason as content.
    my $reason =
        $answer->{status} == 599 ? $answer->{content} : "$answer->{status} $answer->{reason}";
    die _redacted("$what failed: $reason", $token) . "\n";
}

sub _base_url ($conn) {
    my $protocol = $conn->{protocol} // 'https';
    my $host = _bare_host($conn);
    my $loopback = $host =~ /\A(?:127\.[0-9.]+|::1|localhost)\z/;
    die
        "protocol '$protocol' to '$host' is not possible: the API token would be sent in clear text\n"
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
    # Addresses are not allowed as server names (RFC 6066, section 3).
    $options{SSL_hostname} = '' if $host =~ /:/ || $host =~ /\A[0-9.]+\z/;
    my $expected = fingerprint($conn) // return \%options;
    return { %options, _pinned($expected, $mismatch) };
}

# A pinned certificate is compared during the TLS handshake, before the request is sent.
sub _pinned ($expected, $mismatch) {
    require IO::Socket::SSL;
    require Net::SSLeay;
    my $compare = sub ($ok, $store, $name, $error, $cert, $depth) {
        # Only the leaf counts, for which OpenSSL calls this last.
        return 1 if $depth > 0;
        my $actual = PVE::Tunnel::Native::fingerprint_parse(
            Net::SSLeay::X509_get_fingerprint($cert, 'sha256'));
        return 1 if $actual eq $expected;
        $$mismatch = "the certificate's fingerprint is $actual, expected $expected";
        return 0;
    };
    return (
        SSL_verify_mode => IO::Socket::SSL::SSL_VERIFY_PEER(),
        SSL_verify_callback => $compare,
        SSL_verifycn_scheme => 'none',
    );
}

# One line without the token, which the target may have copied into its status line.
sub _redacted ($text, $token) {
    my ($secret) = $token =~ /=([^=]+)\z/;
    $text =~ s/\Q$_\E/(token)/g for $token, $secret;
    return PVE::Tunnel::Text::one_line($text);
}

1;

__END__

=encoding utf8

=head1 NAME

PVE::Tunnel::Client::API - requests a tunnel at the target's API

=head1 DESCRIPTION

A part of L<PVE::Tunnel::Client>, which describes the connection's hash C<$conn>.

=head1 FUNCTIONS

=head2 token

C<token($conn)>: the API token C<< $conn->{apitoken} >>. Dies if it is not of the form
C<PVEAPIToken=user@realm!name=uuid>, with printable ASCII characters and a secret part of at least 8
characters. The message contains neither the token nor its secret part.

=head2 post

C<post($conn, $path, \%params, $address)>: sends a form to C<$path> below C</api2/json>, over a
connection to C<$address>, one of the addresses of the host, or undef. Returns a hash with C<upid>, C<ticket>
and C<socket>. It follows no redirect and uses no proxy. Dies with the target's status and reason,
or with both fingerprints if they differ. The message does not contain the token.
Dies as C<token> before the request is sent.

=head2 stop_task

C<stop_task($conn, $path, $upid, $address)>: stops a task of the node in C<$path>, and returns when
it has ended. The owner of the task needs no privilege for that. Dies as C<post> does.

=head2 websocket_url

C<websocket_url($conn, $url)>: C<$url> with the host and port of C<$conn>. Callers write IPv6 addresses into C<$url> without brackets.

=head2 percent_encode

C<percent_encode($text)>: C<$text> as a part of a URL (RFC 3986, section 2.1).

=head2 fingerprint

C<fingerprint($conn)>: the pinned fingerprint as C<AA:BB:...>, or nothing.

=cut
