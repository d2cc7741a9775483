package Test::MinimalClient;

# The source's end of a direct connection, written from docs/protocol.md alone.

use v5.36;

use Digest::SHA qw(hmac_sha256);
use IO::Socket::IP;

use Test::MinimalStream;

=head1 NAME

Test::MinimalClient - connects to a listener of the direct planes

=head1 SYNOPSIS

    my $identity = Test::MinimalStream::one_time_identity();
    # ... send $identity->{fingerprint} to the listener; %open is its answer to `open` ...
    my $stream = Test::MinimalClient::connect_forward(\%open, 1, identity => $identity);
    my $received = $stream->exchange('bytes');
    $stream->hang_up;

=head1 FUNCTIONS

=head2 connect_forward(\%open, $number, %options)

Returns a L<Test::MinimalStream> after the handshake. Options: C<identity>, that of the source
(C<tls>); C<key>, another session key in hexadecimal; C<step_2>, code that receives the right second
step and returns the one to send; C<stream>, the ID of the stream in protocol 2 (16 bytes, default
zero), and C<join>, 1 for a lane of a stream that exists. Dies with C<refused> if the listener closes the connection without
a status, and with C<status N> if the status is not 0.

=head2 connect_plane(\%open, %options)

The same before the handshake.

=head2 dial(\%open)

The TCP connection alone, an L<IO::Socket::IP>.

=head2 step_2($challenge, $key, $number, %options)

The second step of the handshake, which responds to the listener's first. Options: C<stream> and
C<join>, as above. Dies if the first step is not that of protocol 1 or 2.

=cut

use constant STEP_1 => 40;

sub dial ($open) {
    return IO::Socket::IP->new(
        PeerHost => $open->{addresses}[0],
        PeerPort => $open->{port},
        Timeout => 10,
    ) // die "cannot connect: $@\n";
}

sub connect_plane ($open, %options) {
    my $socket = dial($open);
    return Test::MinimalStream->clear($socket) if $open->{plane} eq 'tcp';
    return Test::MinimalStream->tls(
        $socket, 'client', $options{identity},
        $open->{fingerprint}
    );
}

sub connect_forward ($open, $number, %options) {
    my $stream = connect_plane($open, %options);
    my $challenge = $stream->read_exactly(STEP_1);
    my $answer = step_2($challenge, $options{key} // $open->{key}, $number, %options);
    $answer = $options{step_2}->($answer) if $options{step_2};
    $stream->write_all($answer);
    my $status = eval { $stream->read_exactly(1) };
    # FIN or RST: both are a refusal.
    die $@ =~ /\A(?:truncated|ECONNRESET)$/ ? "refused\n" : $@ if !defined $status;
    die 'status ' . ord($status) . "\n" if $status ne "\0";
    return $stream;
}

sub step_2 ($challenge, $key, $number, %options) {
    my ($magic, $protocol, $nonce) = unpack 'a6 n a32', $challenge;
    die "not a listener of pve-tunnel\n" if $magic ne 'pvetun';
    die "protocol $protocol\n" if $protocol != 1 && $protocol != 2;
    my $message = pack 'N', $number;
    $message .= pack 'a16 C', $options{stream} // '', $options{join} || 0 if $protocol == 2;
    return $message . hmac_sha256($nonce . $message, pack 'H*', $key);
}

1;
