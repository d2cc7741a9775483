package Test::TunnelClient;

# A client of the test node that shares no code with pve-tunnel: it uses IO::Socket::SSL for TLS,
# and Protocol::WebSocket for upgrade and frames. It is slow, and meant for a few MiB.

use v5.36;

use Errno qw(EINTR);
use IO::Socket::IP ();
use IO::Socket::SSL ();
use JSON ();
use Net::SSLeay ();
use Protocol::WebSocket::Frame ();
use Protocol::WebSocket::Handshake::Client ();
use URI::Escape qw(uri_escape);

=head1 NAME

Test::TunnelClient - an independent client of a Test::TunnelNode

=head1 FUNCTIONS AND METHODS

=head2 Test::TunnelClient->request($node, $method, $path, %options)

Makes one HTTP request. Options: C<headers>, a list of lines, and C<body>. Returns
C<{status, reason, head, body}>. C<head> is the status line and the headers.

=head2 Test::TunnelClient->get($node, $path)

The same for a GET request of F</api2/json$path> with the token. C<body> is decoded.

=head2 Test::TunnelClient->open($node, $kind, $vmid, $form = '')

Sends POST mtunnel and opens the websocket of its command socket. Dies with the status line on
refusal.

=head2 Test::TunnelClient->upgrade($node, $kind, $vmid, $ticket, $socket)

Opens one websocket. Dies with the status line on refusal.

=head2 Test::TunnelClient->ask_upgrade($node, $kind, $vmid, $ticket, $socket)

Sends the upgrade request and does not wait for an answer.

=head2 $client->command($name, %params)

Sends a command on a command connection and returns the answer, a hash.

=head2 $client->data($kind, $vmid, $socket)

Requests a ticket for C<$socket> over this command connection and opens a websocket to the socket.

=head2 $client->send($type, $bytes, %options)

Sends a frame: C<binary>, C<ping>, C<pong>, C<close>, ... Options go to Protocol::WebSocket::Frame.

=head2 $client->next

Returns the next message or control frame, C<{type, bytes}>. At the end of the connection it returns
C<{type =E<gt> 'end', notified, reset}>: C<notified> is true if close_notify came before the end
(without TLS: always), C<reset> if the connection was reset.

=head2 $client->drain

Reads to the end of the connection. Returns C<{bytes, types, notified}>: C<bytes> of data messages,
C<types> of all frames in order, with adjacent equal types as one.

=head2 $client->disconnect

Closes the connection without a close frame and without close_notify.

=cut

sub request ($class, $node, $method, $path, %options) {
    my $socket = dial($node);
    my $body = $options{body} // '';
    my @lines = ("$method $path HTTP/1.1", "Host: localhost:$node->{port}");
    push @lines, ($options{headers} // [])->@*;
    if ($method eq 'POST') {
        push @lines, 'Content-Type: application/x-www-form-urlencoded',
            'Content-Length: ' . length $body;
    }
    push @lines, 'Connection: close';
    print {$socket} join("\r\n", @lines, '', $body);
    my $answer = '';
    while (1) {
        my $count = sysread $socket, $answer, 65536, length $answer;
        last if !$count;
    }
    my ($head, $content) = split m/\r\n\r\n/, $answer, 2;
    my ($status, $reason) = ($head // '') =~ m{\AHTTP/1\.1 ([0-9]{3}) ?([^\r\n]*)}
        or die "no HTTP answer\n";
    if ($head =~ m/^transfer-encoding: chunked/im) {
        my $plain = '';
        while ($content =~ s/\A([0-9a-fA-F]+)\r\n//) {
            last if !hex $1;
            $plain .= substr $content, 0, hex $1, '';
            $content =~ s/\A\r\n//;
        }
        $content = $plain;
    }
    return { status => $status, reason => $reason, head => $head, body => $content };
}

sub get ($class, $node, $path) {
    my $answer = $class->request(
        $node, 'GET', "/api2/json$path",
        headers => ["Authorization: $node->{token}"]
    );
    $answer->{body} = JSON::decode_json($answer->{body});
    return $answer;
}

sub open ($class, $node, $kind, $vmid, $form = '') { ## no critic (ProhibitBuiltinHomonyms)
    my $answer = $class->request(
        $node, 'POST', path_of($node, $kind, $vmid, 'mtunnel'),
        headers => ["Authorization: $node->{token}"],
        body => $form,
    );
    die "$answer->{status} $answer->{reason}\n" if $answer->{status} != 200;
    my $data = JSON::decode_json($answer->{body})->{data};
    my $self = $class->upgrade($node, $kind, $vmid, $data->{ticket}, $data->{socket});
    $self->@{qw(socket_path upid)} = $data->@{qw(socket upid)};
    return $self;
}

sub upgrade ($class, $node, $kind, $vmid, $ticket, $socket) {
    my $self = $class->ask_upgrade($node, $kind, $vmid, $ticket, $socket);
    my $handshake = delete $self->{handshake};
    my $input = '';
    while (!$handshake->is_done) {
        my $count = sysread $self->{handle}, $input, 65536, length $input;
        die "ended before the upgrade\n" if !$count;
        my ($line) = $input =~ m{\AHTTP/1\.1 ([^\r\n]*)\r\n};
        die "$line\n" if defined $line && $line !~ m/\A101 /;
        next if $input !~ m/\r\n\r\n/;
        # The rest of the input is frames.
        $handshake->parse($input) or die $handshake->error . "\n";
    }
    $self->{frames}->append($input);
    return $self;
}

sub ask_upgrade ($class, $node, $kind, $vmid, $ticket, $socket) {
    my $query = 'ticket=' . uri_escape($ticket) . '&socket=' . uri_escape($socket);
    my $path = path_of($node, $kind, $vmid, 'mtunnelwebsocket');
    # The request has only path and query of this URL, and its host as Host.
    my $url = "wss://localhost:$node->{port}$path?$query";
    my $handshake = Protocol::WebSocket::Handshake::Client->new(url => $url);
    $handshake->req->{headers} = [Authorization => $node->{token}];
    my $frames = Protocol::WebSocket::Frame->new(max_payload_size => 0, max_fragments_amount => 0);
    my $handle = dial($node);
    print {$handle} $handshake->to_string;
    return bless { node => $node, handle => $handle, frames => $frames, handshake => $handshake, },
        $class;
}

sub command ($self, $name, %params) {
    $self->send('binary', JSON::encode_json({ %params, cmd => $name }) . "\n");
    $self->{answer} //= '';
    while ($self->{answer} !~ m/\n/) {
        my $frame = $self->next;
        $self->send('pong', $frame->{bytes}) if $frame->{type} eq 'ping';
        die "ended before the answer to $name\n" if $frame->{type} eq 'end';
        $self->{answer} .= $frame->{bytes} if $frame->{type} eq 'binary';
    }
    $self->{answer} =~ s/\A([^\n]*)\n//;
    return JSON::decode_json($1);
}

sub data ($self, $kind, $vmid, $socket) {
    my $answer = $self->command('ticket', path => $socket);
    die "$answer->{msg}\n" if !$answer->{success};
    return ref($self)->upgrade($self->{node}, $kind, $vmid, $answer->{ticket}, $socket);
}

sub send ($self, $type, $bytes = '', %options) { ## no critic (ProhibitBuiltinHomonyms)
    my $frame = Protocol::WebSocket::Frame->new(
        buffer => $bytes,
        type => $type,
        masked => 1,
        max_payload_size => 0, %options
    );
    return $self->send_raw($frame->to_bytes);
}

sub send_raw ($self, $bytes) {
    while (length $bytes) {
        my $count = syswrite $self->{handle}, $bytes, length $bytes;
        return 0 if !$count;
        substr $bytes, 0, $count, '';
    }
    return 1;
}

sub next ($self) { ## no critic (ProhibitBuiltinHomonyms, RequireFinalReturn)
    while (1) {
        my $bytes = $self->{frames}->next_bytes;
        if (defined $bytes) {
            my %names = (1 => 'text', 2 => 'binary', 8 => 'close', 9 => 'ping', 10 => 'pong');
            return { type => $names{ $self->{frames}->opcode }, bytes => $bytes };
        }
        my $count = sysread $self->{handle}, my $input, 1024 * 1024;
        if (!$count) {
            my $reset = $!{ECONNRESET} ? 1 : 0;
            return { type => 'end', bytes => '', notified => $self->notified, reset => $reset };
        }
        $self->{frames}->append($input);
    }
}

sub drain ($self) { ## no critic (RequireFinalReturn)
    my %seen = (bytes => '', types => []);
    while (1) {
        my $frame = $self->next;
        if ($frame->{type} eq 'end') {
            return { %seen, notified => $frame->{notified} };
        }
        push $seen{types}->@*, $frame->{type} if ($seen{types}[-1] // '') ne $frame->{type};
        $seen{bytes} .= $frame->{bytes} if $frame->{type} =~ m/\A(?:binary|text)\z/;
        $self->send('pong', $frame->{bytes}) if $frame->{type} eq 'ping';
    }
}

# RFC 8446, section 6.1: only close_notify distinguishes an end from a truncation.
sub notified ($self) {
    return 1 if !$self->{handle}->can('_get_ssl_object');
    my $ssl = $self->{handle}->_get_ssl_object or return 0;
    return Net::SSLeay::get_shutdown($ssl) & 2 ? 1 : 0;
}

sub disconnect ($self) {
    my $handle = delete $self->{handle};
    return close $handle if !$handle->can('stop_SSL');
    return $handle->close(SSL_no_shutdown => 1);
}

sub path_of ($node, $kind, $vmid, $action) {
    return $node->url($kind, $vmid, $action) =~ s{\A\w+://[^/]+}{}r;
}

sub dial ($node) {
    my %peer = (PeerAddr => $node->{address}, PeerPort => $node->{port});
    if ($node->{scheme} eq 'http') {
        return IO::Socket::IP->new(%peer) || die "connect: $@\n";
    }
    return IO::Socket::SSL->new(
        %peer,
        SSL_fingerprint => 'sha256$' . $node->{fingerprint} =~ tr/://dr,
        SSL_verify_mode => IO::Socket::SSL::SSL_VERIFY_PEER(),
        SSL_verifycn_scheme => 'none',
    ) || die "connect: $! $IO::Socket::SSL::SSL_ERROR\n";
}

1;
