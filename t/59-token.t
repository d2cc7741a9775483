#!/usr/bin/perl

# An API token that cannot be one is refused before the first request, and no message contains the
# token or its secret part.

use v5.36;

use FindBin ();
use lib map { "$FindBin::RealBin/$_" } qw(lib ../testnode/lib);

use IO::Select ();
use IO::Socket::INET ();
use Test::More;

use PVE::Tunnel::Client;
use PVE::Tunnel::Client::API;
use Test::TunnelLog qw(death);

# A test that hangs must fail.
local $SIG{ALRM} = sub { die "the test timed out\n" };
alarm(60);

my $FORM = 'is not of the form PVEAPIToken=user@realm!name=uuid:';
my $UUID = '4d1bd3f8-5e3b-4f0e-9d7a-0123456789ab';

# Name, token, and the mistake in the message. Without a mistake the token is accepted.
my @tokens = (
    ['undefined', undef, qr/\Ano API token for the remote node given\n\z/],
    ['empty', '', qr/\Q$FORM\E it is empty;/],
    ['one letter', 'a', qr/\Q$FORM\E a part is missing;/],
    ['without the prefix', "root\@pam!mig=$UUID", qr/\Q$FORM\E a part is missing;/],
    ['without a name', "PVEAPIToken=root\@pam=$UUID", qr/\Q$FORM\E a part is missing;/],
    ['without a realm', "PVEAPIToken=root!mig=$UUID", qr/\Q$FORM\E a part is missing;/],
    ['without a secret part', 'PVEAPIToken=root@pam!mig', qr/\Q$FORM\E a part is missing;/],
    ['empty secret part', 'PVEAPIToken=root@pam!mig=', qr/\Q$FORM\E .* 0 characters, expected/],
    ['short secret part', 'PVEAPIToken=root@pam!mig=1234567', qr/\Q$FORM\E .* 7 characters,/],
    ['newline', "PVEAPIToken=root\@pam!mig=$UUID\n", qr/\Q$FORM\E its character 62 is U\+000A;/],
    ['space', "PVEAPIToken=root\@pam!mig= $UUID", qr/\Q$FORM\E its character 26 is U\+0020;/],
    ['NUL', "PVEAPIToken=root\@pam!mig=$UUID\0", qr/\Q$FORM\E its character 62 is U\+0000;/],
    ['wide', "PVEAPIToken=r\x{202e}t\@pam!mig=$UUID", qr/\Q$FORM\E its character 14 is U\+202E;/],
    ['a token', "PVEAPIToken=root\@pam!mig=$UUID"],
    ['another realm', "PVEAPIToken=jane.doe\@example.com\@ldap-1!m_1=$UUID"],
);

# Counts requests; no connection is accepted.
my $api = IO::Socket::INET->new(LocalAddr => '127.0.0.1', Listen => 8) or die "listen: $!\n";
my $path = '/nodes/n/qemu/100/mtunnel';

for my $case (@tokens) {
    my ($name, $token, $mistake) = @$case;
    my $conn = {
        protocol => 'http',
        host => '127.0.0.1', port => $api->sockport,
        apitoken => $token,
    };
    if (!defined $mistake) {
        is(PVE::Tunnel::Client::API::token($conn), $token, "$name is accepted");
        next;
    }
    my %death = (
        'a request' => death(sub { PVE::Tunnel::Client::API::post($conn, $path, {}) }),
        'a tunnel' => death(
            sub {
                my $params = { url => "wss://127.0.0.1:1/api2/json${path}websocket" };
                PVE::Tunnel::Client::fork_websocket_tunnel($conn, $path, {}, $params, sub { });
            }
        ),
    );
    for my $what (sort keys %death) {
        like($death{$what}, $mistake, "$name: $what is refused");
        unlike($death{$what}, qr/\Q$UUID\E|1234567/, '... without the secret part');
    }
}
ok(!IO::Select->new($api)->can_read(0), 'no request was sent');

# The target copies what it received into its status line, and adds other text.
my $token = "PVEAPIToken=root\@pam!mig=$UUID";
my $conn = { protocol => 'http', host => '127.0.0.1', port => $api->sockport, apitoken => $token };
my $target = fork() // die "fork: $!\n";
if (!$target) {
    my $client = $api->accept or die "accept: $!\n";
    while (defined(my $line = readline $client)) { last if $line =~ /\A\r?\n\z/ }
    print {$client} "HTTP/1.1 403 $token, $UUID, a\x{e2}\x{80}\x{ae}b\r\nContent-Length: 0\r\n\r\n";
    close $client or die "close: $!\n";
    exit 0;
}
my $refusal = death(sub { PVE::Tunnel::Client::API::post($conn, $path, {}) });
waitpid($target, 0);
is(
    $refusal,
    "the request for a tunnel to 127.0.0.1 failed: 403 (token), (token), a\\u{202e}b\n",
    "the target's reason is shown without the token"
);

done_testing();
