#!/usr/bin/perl

# Privileges for requests to the seam, and malformed requests.

use v5.36;

use FindBin;
use lib "$FindBin::RealBin/lib";

use File::Temp qw(tempdir);
use JSON;
use Test::More;

use Test::SeamWorker
    qw(direct refused in_perl fake_listener answer_control open_request $FINGERPRINT);

# Limits the run time of the test.
local $SIG{ALRM} = sub { die "the test timed out\n" };
alarm(300);

my $DIR = tempdir(CLEANUP => 1);
$PVE::Tunnel::Seam::CONFIGURATION = "$DIR/remote-migration.cfg";

sub configure ($text) {
    open(my $out, '>', $PVE::Tunnel::Seam::CONFIGURATION) or die "configuration: $!\n";
    print {$out} $text;
    close($out) or die "configuration: $!\n";
    return;
}

# --- privileges -------------------------------------------------------------------------------

# The fake listener writes the options that it was started with to this file.
my $options_file = "$DIR/options";
fake_listener(
    sub ($control, $log, $options) {
        open(my $out, '>', $options_file) or die "options: $!\n";
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
    open(my $in, '<', $options_file) or die "options: $!\n";
    return decode_json(scalar(readline $in));
}

my (@checked, $allowed);
PVE::Tunnel::Seam::install(
    check => sub (@arguments) {
        push @checked, \@arguments;
        return ref($allowed) ? $allowed->() : $allowed;
    },
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
    # Name, request, whether Sys.Modify is needed, network that the listener gets.
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
        for my $privileged (0, 1) {
            ($allowed, @checked) = ($privileged);
            my $state = {};
            if ($needed && !$privileged) {
                refused(
                    $state, $request, qr/ is refused: .* lacks Sys\.Modify on '\/'/,
                    "$name: refused without Sys.Modify"
                );
                refused(
                    $state, { op => 'stat' }, qr/no listener is open/,
                    '... and no listener is open'
                );
            } else {
                my $opened = eval { direct($state, %$request) };
                is($opened && $opened->{port}, 60_007, "$name: accepted, Sys.Modify: $privileged")
                    or diag($@);
                is(options()->{network}, $network, '... on the right network');
            }
            is_deeply(
                \@checked,
                $needed ? [[undef, '/', 'Sys.Modify']] : [],
                '... with the right privilege check'
            ) if !$needed || $privileged;
        }
    }
    $allowed = sub { die "no database\n" };
    refused({}, $TCP, qr/lacks Sys\.Modify/, 'a check that dies counts as refusal');
    $allowed = 0;
    refused(
        {}, { %$TCP, network => 'closed' }, qr/'closed' does not allow/,
        'a type that the configured network does not allow is refused'
    );
    refused(
        {}, { %$TCP, network => 'nowhere' }, qr/is refused: /,
        'an unknown ID is refused'
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
    my $refused = sub ($user) {
        return
              "direct-tls; $user lacks Sys.Modify on '/', and no network in /nonexistent allows "
            . "clear text;clear text is refused: $user lacks Sys.Modify on '/'; the ID of a "
            . "configured network needs none\n";
    };
    my $unknown = 'the user of this tunnel';
    is(in_perl($program), $refused->($unknown), 'without it, clear text is refused');
    my $accepts =
        $environment->(q('move@pve!t'), 'print "$arguments[0] $arguments[1]$arguments[2][0] "; 1');
    my $checked = 'move@pve!t /Sys.Modify ';
    is(
        in_perl($accepts . $program),
        "${checked}direct-tls direct-tcp; ;${checked}60007",
        'its check for the user is used'
    );
    is(
        in_perl($environment->(q('move@pve'), 'return') . $program), $refused->("user 'move\@pve'"),
        '... and can refuse'
    );
    is(
        in_perl($environment->('die "user not set"', 'return 1') . $program), $refused->($unknown),
        'an error in get_user refuses clear text'
    );
    is(
        in_perl($environment->('""', 'return 1') . $program), $refused->($unknown),
        'an empty user refuses clear text'
    );
    is(
        in_perl($environment->(q('move@pve'), 'die "no"') . $program),
        $refused->("user 'move\@pve'"),
        'an error in check refuses clear text'
    );
};

subtest 'hello' => sub {
    my $user = 'the user of this tunnel';
    my $file = $PVE::Tunnel::Seam::CONFIGURATION;
    my $lacks = "$user lacks Sys.Modify on '/', and no network in $file allows clear text";
    my $policy = "policy: cluster\n    require-encryption 1\n\n";
    my $malformed = qr/\A\Q$file\E, line 1: 'nonsense'/;
    for my $row (
        ['nothing configured', '', 1, []],
        ['nothing configured, no privilege', '', 0, ['direct-tcp'], qr/\A\Q$lacks\E\z/],
        ['a network for clear text, no privilege', $NETWORKS, 0, []],
        [
            'a network without clear text, no privilege',
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
        my ($name, $text, $privileged, $withheld, $reason) = @$row;
        configure($text);
        $allowed = $privileged;
        my $hello = direct({}, op => 'hello', protocol => 1, version => '9.9', new => {});
        is_deeply([sort keys %{ $hello->{withheld} }], $withheld, "$name: withheld planes");
        my %withheld = map { $_ => 1 } @$withheld;
        is_deeply(
            $hello->{caps}, [grep { !$withheld{$_} } qw(direct-tls direct-tcp)],
            '... offered planes'
        );
        like($_, $reason, '... with the reason') for values %{ $hello->{withheld} };
        is_deeply(
            [@$hello{qw(protocol oldest version)}], [2, 1, $PVE::Tunnel::Seam::VERSION],
            '... protocol and version'
        );
    }
    is(
        direct({}, op => 'hello', protocol => 7)->{protocol}, 2,
        'a newer source receives the supported protocol'
    );

    configure($policy . $NETWORKS);
    $allowed = 1;
    refused({}, { %$TCP, @$_ }, qr/requires encryption/, 'clear text against the policy is refused')
        for [], [network => 'clear'], [network => '10.7.0.0/24'];
    ok(direct({}, %{ open_request() })->{key}, '... and tls is accepted');
    configure("nonsense\n");
    refused({}, $_, qr/line 1: 'nonsense'/, 'a malformed configuration refuses every open')
        for open_request(), $TCP;
    unlink($file);
    mkdir($file);
    refused(
        {}, open_request(), qr/cannot read '\Q$file\E'/,
        'an unreadable configuration refuses open'
    );
    is_deeply(
        direct({}, op => 'hello', protocol => 1)->{caps}, [],
        '... and hello offers no plane'
    );
    rmdir($file);
    is_deeply(
        direct({}, op => 'hello', protocol => 1)->{withheld}, {},
        'a missing file counts as empty'
    );
};

# --- malformed requests -----------------------------------------------------------------------

subtest 'malformed requests' => sub {
    $allowed = 1;
    my $state = {};
    for my $direct (undef, 'hello', [], 1) {
        my $answered = eval {
            PVE::StorageTunnel::handle_query_disk_import($state, { direct => $direct });
            1;
        };
        is(
            $answered ? 'accepted' : $@,
            "'direct' is not an object\n", 'direct that is not an object is refused'
        );
    }
    my $evil = "stat\nfake: line\x{1b}[2J" . 'x' x 500;
    for my $row (
        [{}, qr/has no 'op'/],
        [{ op => undef }, qr/has no 'op'/],
        [{ op => ['hello'] }, qr/has no 'op'/],
        [
            { op => 'Hello' },
            qr/unknown operation 'Hello' \(expected one of: hello, open, forward, stat, meter, close\)/
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
            'a malformed protocol number is refused'
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
            ['lo'], {}, JSON::true, "\x{200b}"
        ),
        (
            map { [dead_peer_timeout => $_, qr/'dead_peer_timeout' is malformed/] } 0, '0.000', -1,
            3601, '1e3', 'soon', [], JSON::true
        ),
        [protocol => 3, qr/protocol 3 is not supported, only 1/],
        )
    {
        my ($name, $value, $pattern) = @$row;
        refused(
            $state, open_request($name => $value), $pattern,
            "open: malformed or missing $name is refused"
        );
    }
    refused(
        $state, { op => $_, path => '/run/a' }, qr/\A$_: no listener is open/,
        "$_ before open is refused"
    ) for qw(forward stat close);
    is(PVE::Tunnel::Seam::status()->{listeners}, 0, 'no listener was started');

    ok(direct($state, %{ open_request() }), 'a valid request is accepted afterwards');
    is(options()->{dead_peer_timeout}, 60, '... with the default time limit');
    is_deeply(
        [@{ options() }{qw(plane node fingerprint hello_timeout)}],
        ['tls', 'pve7', $FINGERPRINT, 10],
        '... and all options of the listener'
    );
    for my $path (undef, '', 'run/a', "/run/\0a", '/' . 'x' x 107, ['/run/a'], {}) {
        refused(
            $state, { op => 'forward', path => $path }, qr/forward: 'path' is/,
            'a malformed path is refused'
        );
    }
    is(direct($state, op => 'stat')->{plane}, 'tls', 'the listener still answers');
    my $lower = 'ab' x 32;
    direct($state, op => 'close');
    direct($state, %{ open_request(fingerprint => $lower, dead_peer_timeout => '2.5') });
    is_deeply(
        [@{ options() }{qw(fingerprint dead_peer_timeout)}], [$FINGERPRINT, 2.5],
        'other forms of fingerprint and time limit are normalized'
    );
};

done_testing;
