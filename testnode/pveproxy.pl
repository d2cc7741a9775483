#!/usr/bin/perl

# The API server of the test node, based on PVE::APIServer::AnyEvent, which is also the base of
# pveproxy. Command line, ready line and tickets are those of `testnode`, so that the same tests run
# with both.

use v5.36;

use FindBin ();
use lib "$FindBin::RealBin/lib";

use Fcntl qw(O_CREAT O_EXCL O_WRONLY);
use File::Temp ();
use Getopt::Long qw(GetOptions);
use IO::Socket::IP ();
use JSON ();
use Pod::Usage qw(pod2usage);

use TestNode::Workers;

=head1 NAME

pveproxy.pl - the target node of a migration, for tests, with the real PVE::APIServer::AnyEvent

=head1 SYNOPSIS

    perl testnode/pveproxy.pl --dir DIR --worker WORKER [--listen ADDR] [--port 0] [--node NAME]
        [--token-file F] [--old] [--no-direct] [--no-privilege] [--configuration FILE]
        [--tls 1.2|1.3] [--plain]

=head1 DESCRIPTION

Options and ready line are those of C<testnode --help>, without C<--misbehave>: this program behaves
as pveproxy does. C<target/release/testnode --make-certificate> creates the certificate. Its key is
in a directory with mode 0700, which is removed as soon as the key has been read.

Ends on SIGTERM, SIGINT or end of file on stdin, and stops its workers first.

=cut

my %options = (listen => '127.0.0.1', port => 0, node => 'target');
my @known = qw(listen=s port=i dir=s worker=s node=s token-file=s tls=s plain);
push @known, qw(old no-direct no-privilege configuration=s help);
pod2usage(2) if !GetOptions(\%options, @known) || @ARGV;
pod2usage(-exitval => 0, -verbose => 1) if $options{help};
# Not before --help: it loads modules of Proxmox VE.
require TestNode::Proxy;
length($options{$_} // '') || die "--$_ is required\n" for qw(dir worker);
die "--tls must be 1.2 or 1.3\n" if ($options{tls} // '1.2') !~ m/\A1\.[23]\z/;
die "--plain is for loopback addresses only\n"
    if $options{plain} && $options{listen} !~ m/\A(?:127\.[0-9.]+|::1)\z/;

my ($token_file, $token, $created_token) = token();
my ($ssl, $fingerprint) = $options{plain} ? () : tls();
my $socket = IO::Socket::IP->new(
    LocalAddr => $options{listen},
    LocalPort => $options{port},
    Listen => 128,
    ReuseAddr => 1,
    GetAddrInfoFlags => Socket::AI_NUMERICHOST(),
) || die "listen on $options{listen} port $options{port}: $@\n";
my $lock_file = "$options{dir}/accept.lock";
# Remains open until the program ends.
open my $lock, '>', $lock_file ## no critic (RequireBriefOpen)
    or die "$lock_file: $!\n";
my $workers = TestNode::Workers->new(
    dir => $options{dir},
    worker => $options{worker},
    node => $options{node},
    user => $token =~ s/\APVEAPIToken=([^!]+)!.*/$1/r,
    map { tr/-/_/r => $options{$_} } qw(old no-direct no-privilege configuration),
);
my $proxy = TestNode::Proxy->new(
    socket => $socket,
    lockfile => $lock_file,
    lockfh => $lock,
    workers => $workers,
    api_token => $token,
    ssl => $ssl,
);

STDOUT->autoflush(1);
say JSON->new->utf8->canonical->encode(
    {
        address => $socket->sockhost,
        port => $socket->sockport,
        fingerprint => $fingerprint,
        token_file => $token_file,
    }
);
$proxy->serve;
$workers->stop;
unlink $lock_file;
unlink $token_file if $created_token;

# Reads the token from the given file, or creates one and writes it there. Returns the path, the
# token, and whether it was created.
sub token () {
    my $path = $options{'token-file'} // "$options{dir}/token";
    if (-e $path) {
        chomp(my $value = slurp($path));
        $value =~ m/\APVEAPIToken=[^!=]+![^=]+=.+\z/ or die "no token in $path\n";
        return ($path, $value, 0);
    }
    my $random = TestNode::Workers::random(16);
    # Version and variant of RFC 9562, section 5.4.
    substr $random, 6, 1, chr(ord(substr $random, 6, 1) & 0x0f | 0x40);
    substr $random, 8, 1, chr(ord(substr $random, 8, 1) & 0x3f | 0x80);
    my $uuid = join '-', unpack 'H8 H4 H4 H4 H12', $random;
    my $value = "PVEAPIToken=root\@pam!demo=$uuid";
    sysopen my $made, $path, O_WRONLY | O_CREAT | O_EXCL, 0600 or die "$path: $!\n";
    print {$made} $value;
    close $made or die "$path: $!\n";
    return ($path, $value, 1);
}

# Returns the arguments of AnyEvent::TLS and the fingerprint.
sub tls () {
    my $directory = File::Temp->newdir('pveproxy-XXXXXX', TMPDIR => 1);
    my $profile = $ENV{CARGO_PROFILE} // 'release';
    my @command = (
        "$FindBin::RealBin/../target/$profile/testnode",
        '--make-certificate', "$directory", '--listen', $options{listen},
    );
    open my $made, '-|', @command or die "$command[0]: $!\n";
    my $line = readline $made;
    close $made or die "$command[0] created no certificate\n";
    my $identity = JSON::decode_json($line);
    my %tls = map { $_->[0] => slurp($_->[1]) } ['cert', $identity->{certificate}],
        ['key', $identity->{key}];
    $tls{tlsv1_3} = 0 if ($options{tls} // '') eq '1.2';
    $tls{$_} = 0 for ($options{tls} // '') eq '1.3' ? qw(tlsv1 tlsv1_1 tlsv1_2) : ();
    return (\%tls, $identity->{fingerprint});
}

sub slurp ($path) {
    open my $handle, '<', $path or die "$path: $!\n";
    local $/ = undef;
    my $text = readline $handle;
    close $handle or die "$path: $!\n";
    return $text;
}
