package Test::MinimalStream;

# A connection of a direct plane, written from docs/protocol.md alone. It uses nothing of
# PVE::Tunnel::Native, so that tests can compare the two implementations.

use v5.36;

use Errno qw(EAGAIN EINTR);
use IO::Socket::SSL::Utils qw(CERT_create KEY_create_ec);
use Net::SSLeay ();
use Socket qw(SHUT_WR SOL_SOCKET SO_LINGER);
use Time::HiRes qw(clock_gettime CLOCK_MONOTONIC);

=head1 NAME

Test::MinimalStream - one connection of the tls or the tcp plane

=head1 DESCRIPTION

The sockets are non-blocking. Functions that wait die after 30 s. They die with one of these
messages if the connection fails: C<ECONNRESET>, C<truncated> (an end that is not clean on this
plane), C<timeout>, or the error of OpenSSL.

=head1 FUNCTIONS

=head2 one_time_identity(%options)

A self-signed C<certificate>, its C<key> and its C<fingerprint>. C<from> and C<until> are its
validity in seconds since 1970. The default is from yesterday to tomorrow.

=head2 clear($socket)

Class method. A stream over clear TCP. If this process is killed, the peer receives a reset. A UNIX
socket is accepted, too.

=head2 tls($socket, $role, $identity, $fingerprint)

Class method. A stream over TLS 1.3 as C<client> or C<server>. Dies unless the certificate of the
peer has the fingerprint. C<$identity> may be C<undef> for a client without a certificate.

=head2 take($max = 65536)

Returns received bytes, C<''> at the end of the peer's stream, and C<undef> if no byte is available
now.

=head2 give($bytes)

Sends bytes. Returns the number of accepted bytes, and C<undef> if none can be accepted now.

=head2 finish

Ends the sent stream. Reading continues.

=head2 hang_up, abort

Both close the connection: C<hang_up> after the end of both directions, C<abort> before it, which is
a failure for the peer.

=head2 read_exactly($count), write_all($bytes)

Wait for that number of bytes. C<read_exactly> dies with C<truncated> if the stream ends before.

=head2 wait_for($direction)

Waits until the socket is ready to C<read>, to C<write>, or for either (C<both>).

=head2 carry($one, $other, $count)

Function. Copies bytes in both directions until both have ended, and passes on each end. Calls
C<$count> with C<there> or C<back> and a number of bytes before it writes them. There is no time
limit.

=head2 exchange($bytes, %options)

Sends all bytes, ends the sent stream, and returns all bytes until the end of the peer's stream.
With C<first>, it sends only after the end of the peer's stream.

=head2 cipher

The negotiated cipher.

=cut

use constant {
    LIMIT => 30,
    TLS_1_3 => 0x0304,
    # SSL_MODE_ENABLE_PARTIAL_WRITE and SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER.
    WRITE_MODE => 3,
};

sub one_time_identity (%options) {
    my ($certificate, $key) = CERT_create(
        subject => { commonName => 'minimal' },
        key => KEY_create_ec('prime256v1'),
        not_before => $options{from} // time - 86400,
        not_after => $options{until} // time + 86400,
        digest => 'sha256',
    );
    my $fingerprint = Net::SSLeay::X509_get_fingerprint($certificate, 'sha256');
    return { certificate => $certificate, key => $key, fingerprint => $fingerprint };
}

sub clear ($class, $socket) {
    $socket->blocking(0);
    setsockopt($socket, SOL_SOCKET, SO_LINGER, pack('ii', 1, 0)) or die "SO_LINGER: $!\n";
    return bless { socket => $socket, limit => LIMIT }, $class;
}

sub tls ($class, $socket, $role, $identity, $fingerprint) {
    $socket->blocking(0);
    my $context = Net::SSLeay::CTX_new_with_method(Net::SSLeay::TLS_method());
    Net::SSLeay::CTX_set_min_proto_version($context, TLS_1_3);
    Net::SSLeay::CTX_set_mode($context, WRITE_MODE);
    Net::SSLeay::CTX_set_session_cache_mode($context, 0);
    Net::SSLeay::CTX_set_num_tickets($context, 0);
    if ($identity) {
        my $used = Net::SSLeay::CTX_use_certificate($context, $identity->{certificate}) == 1
            && Net::SSLeay::CTX_use_PrivateKey($context, $identity->{key}) == 1;
        die "cannot use the identity\n" if !$used;
    }
    Net::SSLeay::CTX_set_verify(
        $context,
        Net::SSLeay::VERIFY_PEER() | Net::SSLeay::VERIFY_FAIL_IF_NO_PEER_CERT(),
        sub ($preverified, $store) { return is_pinned($store, $fingerprint) },
    );
    my $ssl = Net::SSLeay::new($context);
    Net::SSLeay::set_fd($ssl, fileno $socket);
    my $self = bless { socket => $socket, limit => LIMIT, ssl => $ssl, context => $context },
        $class;
    my $step = $role eq 'client' ? \&Net::SSLeay::connect : \&Net::SSLeay::accept;
    $self->until_done(sub { $step->($ssl) });
    return $self;
}

# OpenSSL calls this for each error in the chain. An unknown issuer is accepted. Another
# certificate, and one that is not valid now, is not.
sub is_pinned ($store, $fingerprint) {
    my $certificate = Net::SSLeay::X509_STORE_CTX_get_current_cert($store);
    my $actual = Net::SSLeay::X509_get_fingerprint($certificate, 'sha256');
    my $error = Net::SSLeay::X509_STORE_CTX_get_error($store);
    return 0
        if $error == Net::SSLeay::X509_V_ERR_CERT_NOT_YET_VALID()
        || $error == Net::SSLeay::X509_V_ERR_CERT_HAS_EXPIRED();
    return uc($fingerprint =~ tr/://dr) eq uc($actual =~ tr/://dr) ? 1 : 0;
}

sub take ($self, $max = 65536) {
    if (my $ssl = $self->{ssl}) {
        my ($bytes, $result) = Net::SSLeay::read($ssl, $max);
        return $bytes if defined($bytes) && length $bytes;
        return $self->end_or_die($result // -1);
    }
    my $count = sysread($self->{socket}, my $bytes, $max);
    return $bytes if defined $count;
    return if $! == EAGAIN || $! == EINTR;
    die errno() . "\n";
}

sub give ($self, $bytes) {
    local $SIG{PIPE} = 'IGNORE';
    if (my $ssl = $self->{ssl}) {
        my $count = Net::SSLeay::write($ssl, $bytes);
        return $count if $count > 0;
        $self->end_or_die($count);
        return;
    }
    my $count = syswrite $self->{socket}, $bytes;
    return $count if defined $count;
    return if $! == EAGAIN || $! == EINTR;
    die errno() . "\n";
}

sub finish ($self) {
    local $SIG{PIPE} = 'IGNORE';
    if (my $ssl = $self->{ssl}) {
        $self->until_done(sub { my $sent = Net::SSLeay::shutdown($ssl); $sent < 0 ? $sent : 1 });
    }
    shutdown $self->{socket}, SHUT_WR;
    return;
}

sub hang_up ($self) {
    setsockopt($self->{socket}, SOL_SOCKET, SO_LINGER, pack('ii', 0, 0));
    return $self->free;
}

sub abort ($self) {
    setsockopt($self->{socket}, SOL_SOCKET, SO_LINGER, pack('ii', 1, 0));
    return $self->free;
}

sub read_exactly ($self, $count) {
    my $bytes = '';
    while (length $bytes < $count) {
        my $more = $self->take($count - length $bytes);
        if (!defined $more) {
            $self->wait_for('read');
        } elsif ($more eq '') {
            die "truncated\n";
        } else {
            $bytes .= $more;
        }
    }
    return $bytes;
}

sub write_all ($self, $bytes) {
    while (length $bytes) {
        my $count = $self->give($bytes);
        if (defined $count) {
            substr($bytes, 0, $count, '');
        } else {
            $self->wait_for('write');
        }
    }
    return;
}

sub wait_for ($self, $direction, $deadline = undef) {
    $deadline //= clock_gettime(CLOCK_MONOTONIC) + $self->{limit};
    my $mask = '';
    vec($mask, fileno $self->{socket}, 1) = 1;
    my ($read, $write) =
          $direction eq 'read' ? ($mask, undef)
        : $direction eq 'write' ? (undef, $mask)
        : ($mask, $mask);
    my $left = $deadline - clock_gettime(CLOCK_MONOTONIC);
    die "timeout\n" if $left <= 0 || select($read, $write, undef, $left) == 0;
    return;
}

sub exchange ($self, $bytes, %options) {
    my ($received, $ended, $finished) = ('', 0, 0);
    while (!$ended || !$finished) {
        my $moved = 0;
        while (!$ended && defined(my $more = $self->take)) {
            $moved = 1;
            $ended = 1 if $more eq '';
            $received .= $more;
        }
        my $may_send = !$finished && ($ended || !$options{first});
        if ($may_send && length $bytes) {
            my $count = $self->give(substr $bytes, 0, 65536) // 0;
            substr($bytes, 0, $count, '');
            $moved ||= $count;
        } elsif ($may_send) {
            $self->finish;
            $finished = $moved = 1;
        }
        $self->wait_for($ended ? 'write' : $may_send ? 'both' : 'read') if !$moved;
    }
    return $received;
}

sub carry ($one, $other, $count) {
    my @directions = (
        { name => 'there', from => $one, to => $other, held => '' },
        { name => 'back', from => $other, to => $one, held => '' },
    );
    while (@directions = grep { !$_->{ended} } @directions) {
        next if grep { move($_, $count) } @directions;
        my ($read, $write) = ('', '');
        for my $direction (@directions) {
            vec($read, fileno $direction->{from}{socket}, 1) = 1 if $direction->{held} eq '';
            vec($write, fileno $direction->{to}{socket}, 1) = 1 if $direction->{held} ne '';
        }
        select($read, $write, undef, undef);
    }
    return;
}

# One read or write in one direction; false if neither is possible now.
sub move ($direction, $count) {
    if ($direction->{held} eq '') {
        my $bytes = $direction->{from}->take // return 0;
        if ($bytes eq '') {
            $direction->{to}->finish;
            return $direction->{ended} = 1;
        }
        $count->($direction->{name}, length $bytes);
        $direction->{held} = $bytes;
    }
    my $written = $direction->{to}->give($direction->{held}) // return 0;
    substr($direction->{held}, 0, $written, '');
    return 1;
}

sub cipher ($self) {
    return $self->{ssl} && Net::SSLeay::get_cipher($self->{ssl});
}

# The meaning of a result <= 0 of OpenSSL: '' for the end, undef for "not now"; dies for a failure.
sub end_or_die ($self, $result) {
    my $errno = $!;
    my $error = Net::SSLeay::get_error($self->{ssl}, $result);
    my @queue;
    while (my $code = Net::SSLeay::ERR_get_error()) {
        push @queue, Net::SSLeay::ERR_error_string($code);
    }
    return '' if $error == Net::SSLeay::ERROR_ZERO_RETURN();
    return
        if $error == Net::SSLeay::ERROR_WANT_READ() || $error == Net::SSLeay::ERROR_WANT_WRITE();
    die "truncated\n" if grep { /unexpected eof/ } @queue;
    die "@queue\n" if @queue;
    die errno($errno) . "\n" if $errno + 0;
    die "truncated\n";
}

sub until_done ($self, $step) {
    my $deadline = clock_gettime(CLOCK_MONOTONIC) + $self->{limit};
    while ((my $result = $step->()) <= 0) {
        my $end = $self->end_or_die($result);
        die "truncated\n" if defined $end;
        my $wants = Net::SSLeay::want($self->{ssl});
        $self->wait_for($wants == Net::SSLeay::WRITING() ? 'write' : 'read', $deadline);
    }
    return;
}

sub errno ($error = $!) {
    local $! = $error;
    my ($name) = grep { $!{$_} } qw(ECONNRESET EPIPE ECONNREFUSED);
    return $name // "$!";
}

sub free ($self) {
    Net::SSLeay::free(delete $self->{ssl}) if $self->{ssl};
    Net::SSLeay::CTX_free(delete $self->{context}) if $self->{context};
    close delete $self->{socket} if $self->{socket};
    return;
}

sub DESTROY ($self) {
    $self->free;
    return;
}

1;
