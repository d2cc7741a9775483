#!/usr/bin/perl

# Who may do what through the seam, and requests that make no sense.

use v5.36;

use FindBin;
use lib "$FindBin::RealBin/lib";

use File::Temp qw(tempdir);
use JSON;
use Test::More;

use Test::SeamWorker
    qw(direct refused in_perl fake_listener answer_control open_request $FINGERPRINT);

# A test that stands still is a failed test.
local $SIG{ALRM} = sub { die "the test stands still\n" };
alarm(300);

my $DIR = tempdir(CLEANUP => 1);
$PVE::Tunnel::Seam::CONFIGURATION = "$DIR/remote-migration.cfg";

sub configure ($text) {
    open(my $out, '>', $PVE::Tunnel::Seam::CONFIGURATION) or die "configuration: $!\n";
    print {$out} $text;
    close($out) or die "configuration: $!\n";
    return;
}

# --- who may what -----------------------------------------------------------------------------

# The listener tells what it was started with.
my $told = "$DIR/options";
fake_listener(
    sub ($control, $log, $options) {
        open(my $out, '>', $told) or die "options: $!\n";
        print {$out} JSON->new->canonical->encode($options);
        close($out) or die "options: $!\n";
        my %plane = (
            open => sub (@) {
                return Test::SeamWorker::open_line() =~ s/"tls"/"$options->{plane}"/r;
            }
        );
        return answer_control($control, %plane);
    }
);

sub options () {
    open(my $in, '<', $told) or die "options: $!\n";
    return decode_json(scalar(readline $in));
}

my (@asked, $may);
PVE::Tunnel::Seam::install(
    check => sub (@arguments) { push @asked, \@arguments; return ref($may) ? $may->() : $may },
    node => 'pve7',
);

my $NETWORKS = <<'END';
network: clear
    source 10.9.0.0/24
    allow insecure,secure
    public 1

network: closed
    source 10.8.0.0/24
END

my $TCP = { op => 'open', protocol => 1, plane => 'tcp' };

subtest 'privileges' => sub {
    configure($NETWORKS);
    # Request; whether Sys.Modify is needed; the network that the listener gets, or why not.
    for my $row (
        ['tls', open_request(), 0, undef],
        ['tls on a configured network', open_request(network => 'clear'), 0, '10.9.0.0/24'],
        ['tls on a CIDR', open_request(network => '10.7.0.0/24'), 1, '10.7.0.0/24'],
        [
            'tls on the CIDR of a configured network', open_request(network => '10.9.0.0/24'), 1,
            '10.9.0.0/24'
        ],
        ['tls on an interface', open_request(network => 'eth1'), 1, 'eth1'],
        ['tcp', $TCP, 1, undef],
        ['tcp on a configured network', { %$TCP, network => 'clear' }, 0, '10.9.0.0/24'],
        ['tcp on a CIDR', { %$TCP, network => '10.7.0.0/24' }, 1, '10.7.0.0/24'],
        )
    {
        my ($name, $request, $needed, $network) = @$row;
        for my $allowed (0, 1) {
            ($may, @asked) = ($allowed);
            my $state = {};
            if ($needed && !$allowed) {
                refused(
                    $state, $request, qr/ is refused: .* lacks Sys\.Modify on '\/'/,
                    "$name: not without Sys.Modify"
                );
                refused($state, { op => 'stat' }, qr/no listener is open/, '... no listener');
            } else {
                my $opened = eval { direct($state, %$request) };
                is($opened && $opened->{port}, 60_007, "$name: may, with $allowed") or diag($@);
                is(options()->{network}, $network, '... on the right network');
            }
            is_deeply(\@asked, $needed ? [[undef, '/', 'Sys.Modify']] : [], '... was asked for')
                if !$needed || $allowed;
        }
    }
    $may = sub { die "no database\n" };
    refused({}, $TCP, qr/lacks Sys\.Modify/, 'a checker that dies has said no');
    $may = 0;
    refused(
        {}, { %$TCP, network => 'closed' }, qr/'closed' does not allow/,
        'a configured network allows what it allows'
    );
    refused(
        {}, { %$TCP, network => 'nowhere' }, qr/is refused: /,
        'an ID of nobody is no configured network'
    );
};

subtest 'PVE::RPCEnvironment' => sub {
    configure('');
    my $program = <<'END';
use Test::SeamWorker qw(direct fake_listener answer_control);
$PVE::Tunnel::Seam::CONFIGURATION = '/nonexistent';
fake_listener(sub ($control, @) { answer_control($control) });
PVE::Tunnel::Seam::install();
my $hello = direct({}, op => 'hello', protocol => 1);
print "@{ $hello->{caps} }; " . ($hello->{withheld}{'direct-tcp'} // '') . ';';
print eval { direct({}, op => 'open', protocol => 1, plane => 'tcp')->{port} } // $@;
END
    my $environment = sub ($user, $check) {
        return
              'BEGIN { $INC{"PVE/RPCEnvironment.pm"} = "here" } package PVE::RPCEnvironment;'
            . "sub get { bless {} } sub get_user { $user }"
            . "sub check (\$self, \@arguments) { $check } package main;";
    };
    my $refused = sub ($who) {
        return
            "direct-tls; $who lacks Sys.Modify on '/', and no network in /nonexistent allows clear "
            . "text;clear text is refused: $who lacks Sys.Modify on '/'; the ID of a configured "
            . "network needs none\n";
    };
    my $nobody = 'the user of this tunnel';
    is(in_perl($program), $refused->($nobody), 'is not there: refused');
    my $decides =
        $environment->(q('move@pve!t'), 'print "$arguments[0] $arguments[1]$arguments[2][0] "; 1');
    my $asked = 'move@pve!t /Sys.Modify ';
    is(
        in_perl($decides . $program),
        "${asked}direct-tls direct-tcp; ;${asked}60007",
        'decides, for the user'
    );
    is(
        in_perl($environment->(q('move@pve'), 'return') . $program), $refused->("user 'move\@pve'"),
        '... against'
    );
    is(
        in_perl($environment->('die "user not set"', 'return 1') . $program), $refused->($nobody),
        'knows no user: refused'
    );
    is(
        in_perl($environment->('""', 'return 1') . $program), $refused->($nobody),
        'an empty user: refused'
    );
    is(
        in_perl($environment->(q('move@pve'), 'die "no"') . $program),
        $refused->("user 'move\@pve'"),
        'fails: refused'
    );
};

subtest 'hello' => sub {
    my $who = 'the user of this tunnel';
    my $file = $PVE::Tunnel::Seam::CONFIGURATION;
    my $lacks = "$who lacks Sys.Modify on '/', and no network in $file allows clear text";
    my $policy = "policy: cluster\n    require-encryption 1\n\n";
    my $malformed = qr/\A\Q$file\E, line 1: 'nonsense'/;
    for my $row (
        ['nothing configured', '', 1, []],
        ['nothing configured, no privilege', '', 0, ['direct-tcp'], qr/\A\Q$lacks\E\z/],
        ['a network for clear text, no privilege', $NETWORKS, 0, []],
        [
            'a network for encryption alone, no privilege',
            "network: closed\n    source lo\n",
            0, ['direct-tcp'], qr/\A\Q$lacks\E\z/
        ],
        [
            'encryption is required',
            $policy . $NETWORKS,
            1, ['direct-tcp'], qr/\A\Q$file\E of this node requires encryption\z/
        ],
        ['a malformed configuration', "nonsense\n", 1, [qw(direct-tcp direct-tls)], $malformed],
        )
    {
        my ($name, $text, $allowed, $withheld, $reason) = @$row;
        configure($text);
        $may = $allowed;
        my $hello = direct({}, op => 'hello', protocol => 1, version => '9.9', new => {});
        is_deeply([sort keys %{ $hello->{withheld} }], $withheld, "$name: withheld");
        my %withheld = map { $_ => 1 } @$withheld;
        is_deeply(
            $hello->{caps}, [grep { !$withheld{$_} } qw(direct-tls direct-tcp)],
            '... offered'
        );
        like($_, $reason, '... with the reason') for values %{ $hello->{withheld} };
        is_deeply(
            [@$hello{qw(protocol oldest version)}], [1, 1, $PVE::Tunnel::Seam::VERSION],
            '... protocol and version'
        );
    }
    is(
        direct({}, op => 'hello', protocol => 7)->{protocol}, 1,
        'a newer source hears what we speak'
    );

    configure($policy . $NETWORKS);
    $may = 1;
    refused({}, { %$TCP, @$_ }, qr/requires encryption/, 'clear text against the policy')
        for [], [network => 'clear'], [network => '10.7.0.0/24'];
    ok(direct({}, %{ open_request() })->{key}, '... which is not against tls');
    configure("nonsense\n");
    refused({}, $_, qr/line 1: 'nonsense'/, 'nothing is opened with a malformed configuration')
        for open_request(), $TCP;
    unlink($file);
    mkdir($file);
    refused({}, open_request(), qr/cannot read '\Q$file\E'/, '... or with one that cannot be read');
    is_deeply(direct({}, op => 'hello', protocol => 1)->{caps}, [], '... or offered');
    rmdir($file);
    is_deeply(direct({}, op => 'hello', protocol => 1)->{withheld}, {}, 'none is an empty one');
};

# --- requests that make no sense --------------------------------------------------------------

subtest 'malformed requests' => sub {
    $may = 1;
    my $state = {};
    for my $direct (undef, 'hello', [], 1) {
        my $answered = eval {
            PVE::StorageTunnel::handle_query_disk_import($state, { direct => $direct });
            1;
        };
        is($answered ? 'taken' : $@, "'direct' is not an object\n", 'no object');
    }
    my $evil = "stat\nfake: line\x{1b}[2J" . 'x' x 500;
    for my $row (
        [{}, qr/has no 'op'/],
        [{ op => undef }, qr/has no 'op'/],
        [{ op => ['hello'] }, qr/has no 'op'/],
        [
            { op => 'Hello' },
            qr/unknown operation 'Hello' \(there are: hello, open, forward, stat, close\)/
        ],
        [{ op => $evil }, qr/unknown operation 'stat fake: line \[2Jx{45}\.\.\.'/],
        [{ op => 'hello' }, qr/hello: 'protocol' is missing/],
        )
    {
        my ($request, $pattern) = @$row;
        refused($state, $request, $pattern, "is refused: $pattern");
    }
    for my $number (0, -1, '1x', '01', 1.5, 65_536, [], {}, JSON::true, '', "1\n") {
        refused(
            $state, { op => 'hello', protocol => $number }, qr/hello: 'protocol' is malformed/,
            'a protocol that is no number of one'
        );
    }
    for my $row (
        [plane => undef, qr/'plane' is missing/],
        (map { [plane => $_, qr/'plane' is malformed/] } 'qemu', 'TLS', '', ['tls'], {}),
        [fingerprint => undef, qr/'fingerprint' is missing/],
        (
            map { [fingerprint => $_, qr/'fingerprint' is malformed/] } '', 'AB', 'AB' x 31,
            'AB' x 33, "$FINGERPRINT\n", 'XY' x 32, [$FINGERPRINT], {}
        ),
        (
            map { [network => $_, qr/'network' is malformed/] } '', 'a b', "a\n", 'x' x 129,
            ['lo'], {}, JSON::true, "\x{263a}"
        ),
        (
            map { [dead_peer_timeout => $_, qr/'dead_peer_timeout' is malformed/] } 0, '0.000', -1,
            3601, '1e3', 'soon', [], JSON::true
        ),
        [protocol => 2, qr/protocol 2 is not spoken here, only 1/],
        )
    {
        my ($name, $value, $pattern) = @$row;
        refused($state, open_request($name => $value), $pattern, "open: $name");
    }
    refused($state, { op => $_, path => '/run/a' }, qr/\A$_: no listener is open/, "$_ before open")
        for qw(forward stat close);
    is(PVE::Tunnel::Seam::status()->{listeners}, 0, 'nothing came of it');

    ok(direct($state, %{ open_request() }), 'and then a request that makes sense');
    is(options()->{dead_peer_timeout}, 60, '... with the limits that there are');
    is_deeply(
        [@{ options() }{qw(plane node fingerprint hello_timeout)}],
        ['tls', 'pve7', $FINGERPRINT, 10],
        '... and what the listener needs'
    );
    for my $path (undef, '', 'run/a', "/run/\0a", '/' . 'x' x 107, ['/run/a'], {}) {
        refused($state, { op => 'forward', path => $path }, qr/forward: 'path' is/, 'a bad path');
    }
    is(direct($state, op => 'stat')->{plane}, 'tls', 'the listener does not mind');
    my $lower = 'ab' x 32;
    direct($state, op => 'close');
    direct($state, %{ open_request(fingerprint => $lower, dead_peer_timeout => '2.5') });
    is_deeply([@{ options() }{qw(fingerprint dead_peer_timeout)}], [$FINGERPRINT, 2.5],
        'other forms');
};

done_testing;
