#!/usr/bin/perl

# The meter of a worker, by which pve-tunnel check measures the planes: what it answers, its limits,
# and that nothing of it is left.

use v5.36;

use FindBin;
use lib map { "$FindBin::Bin/$_" } qw(lib ../testnode/lib ../perl/blib/lib ../perl/blib/arch);

use File::Temp qw(tempdir);
use IO::Select;
use IO::Socket::UNIX;
use JSON;
use POSIX ();
use Socket qw(SHUT_WR SOCK_STREAM);
use Test::More;
use Time::HiRes qw(clock_gettime sleep CLOCK_MONOTONIC);

use PVE::Tunnel::Client;
use PVE::Tunnel::Seam::Meter;
use TestNode::Node;

# Limits the run time of the test.
local $SIG{ALRM} = sub { die "the test timed out\n" };
alarm(120);
local $SIG{PIPE} = 'IGNORE';

my $DIR = tempdir(CLEANUP => 1);
my $PATH = "$DIR/meter";

sub meter (%changes) {
    my %options = (
        path => $PATH,
        seconds => 60,
        measurement_seconds => 10,
        measurement_bytes => 1 << 30,
        %changes
    );
    return PVE::Tunnel::Seam::Meter->start(\%options, undef);
}

sub client ($path = $PATH) {
    return IO::Socket::UNIX->new(Type => SOCK_STREAM, Peer => $path) // die "$path: $!\n";
}

# Sends a line, and returns everything that the meter sends.
sub ask ($line, $data = '', $path = $PATH) {
    my $client = client($path);
    $client->syswrite($line);
    while (length $data) {
        my $wrote = $client->syswrite($data) // last;
        substr($data, 0, $wrote, '');
    }
    $client->shutdown(SHUT_WR);
    my $answer = '';
    1 while $client->sysread($answer, 1 << 20, length $answer);
    return $answer;
}

sub report ($path = $PATH) { return decode_json(ask(qq({"op":"report"}\n), '', $path)) }

subtest 'measurements' => sub {
    my $meter = meter();
    is_deeply(report(), {}, 'the report is empty before the first measurement');
    is(ask(qq({"op":"discard"}\n), 'x' x 3_000_000), '', 'discarded data has no answer');
    my $report = report();
    is($report->{op}, 'discard', 'the report names the operation');
    is($report->{bytes}, 3_000_000, 'it counts the bytes after the line');
    cmp_ok($report->{seconds}, '>', 0, 'it has the time');
    ok(defined($report->{cpu}) && $report->{cpu} >= 0, 'it has the CPU time of the peer');

    is(
        ask(qq({"op":"discard","acknowledge":true}\n), 'x' x 1000),
        "{}\n", 'it acknowledges the request, if the client wants that'
    );
    is(report()->{bytes}, 1000, '... and counts the data');

    my $started = clock_gettime(CLOCK_MONOTONIC);
    my $sent = ask(qq({"op":"send","seconds":0.3}\n));
    cmp_ok(clock_gettime(CLOCK_MONOTONIC) - $started, '>=', 0.3, 'it sends for this time');
    is(report()->{bytes}, length $sent, 'the report of sent data counts the same bytes');
    isnt(substr($sent, 0, 64), "\0" x 64, 'the data does not consist of zeros');
};
ok(!-e $PATH, 'the socket is removed with the meter');

subtest 'samples of what arrives' => sub {
    my $meter = meter();
    my $client = client();
    $client->syswrite(qq({"op":"discard","acknowledge":true}\n));
    $client->sysread(my $line, 3);
    # Long enough for more samples than are kept. Each byte arrives by itself.
    my $end = clock_gettime(CLOCK_MONOTONIC) + 3;
    my $sent = 0;
    while (clock_gettime(CLOCK_MONOTONIC) < $end) {
        $sent += $client->syswrite('x');
        sleep(0.002);
    }
    $client->shutdown(SHUT_WR);
    $client->sysread($line, 1);
    my $report = report();
    my @samples = $report->{samples}->@*;
    is($report->{bytes}, $sent, 'every byte is counted');
    cmp_ok(scalar @samples, '<=', 128, 'the number of samples is limited');
    cmp_ok(scalar @samples, '>=', 32, 'they are not few');
    my @wrong =
        grep { $samples[$_][0] <= $samples[$_ - 1][0] || $samples[$_][1] < $samples[$_ - 1][1] }
        1 .. $#samples;
    is_deeply(\@wrong, [], 'time and bytes increase');
    cmp_ok($samples[0][0], '<', 1, 'the first one is of the beginning');
    cmp_ok($samples[-1][0], '>', 2.5, 'the last one is of the end');
    cmp_ok($samples[-1][1], '<=', $sent, 'no sample has more than has arrived');
    ask(qq({"op":"send","seconds":0}\n));
    ok(!exists report()->{samples}, 'there are none of data that the meter sends');
};

subtest 'bad requests' => sub {
    my $meter = meter();
    ask(qq({"op":"discard"}\n), 'x' x 1000);
    my %request = (
        'not JSON' => "discard\n",
        'not an object' => "[]\n",
        'no operation' => "{}\n",
        'an unknown operation' => qq({"op":"exec"}\n),
        'no time' => qq({"op":"send"}\n),
        'a time that is not a number' => qq({"op":"send","seconds":"-1"}\n),
        'a time that is an object' => qq({"op":"send","seconds":{}}\n),
        'a line that is too long' => '{"op":"' . ('x' x 400) . qq("}\n),
        'no line' => '',
    );
    is(ask($request{$_}), '', "$_: closed without a byte") for sort keys %request;
    is(report()->{bytes}, 1000, 'they are not measurements');
};

subtest 'limits' => sub {
    my $meter = meter(measurement_seconds => 0.2, measurement_bytes => 1 << 20);
    ask(qq({"op":"discard"}\n), 'x' x (4 << 20));
    my $bytes = report()->{bytes};
    cmp_ok($bytes, '>=', 1 << 20, 'a measurement reaches the limit of bytes');
    cmp_ok($bytes, '<=', (1 << 20) + (1 << 17), 'and ends there');
    my $idle = client();
    $idle->syswrite(qq({"op":"discard"}\n));
    ok(IO::Select->new($idle)->can_read(5), 'a measurement ends at the limit of time');
    is($idle->sysread(my $data, 1), 0, 'by the end of the connection');

    my $silent = client();
    my $started = clock_gettime(CLOCK_MONOTONIC);
    ok(IO::Select->new($silent)->can_read(10), 'a connection without a line is closed');
    cmp_ok(clock_gettime(CLOCK_MONOTONIC) - $started, '>=', 4, 'after 5 s');
};

subtest 'the end of the meter' => sub {
    my $meter = meter(seconds => 0.2);
    my $deadline = clock_gettime(CLOCK_MONOTONIC) + 10;
    sleep(0.05) while !$meter->is_over && clock_gettime(CLOCK_MONOTONIC) < $deadline;
    ok($meter->is_over, 'it ends at its limit of time');
    ok(!-e $PATH, 'and removes its socket');

    $meter = meter();
    my $busy = client();
    $busy->syswrite(qq({"op":"discard"}\n));
    my $pid = $meter->pid;
    undef $meter;
    ok(!kill(0, $pid), 'it ends during a measurement when its worker ends it');
    ok(!-e $PATH, 'and removes its socket then, too');

    $meter = meter();
    kill(KILL => $meter->pid);
    $deadline = clock_gettime(CLOCK_MONOTONIC) + 10;
    sleep(0.05) while !$meter->is_over && clock_gettime(CLOCK_MONOTONIC) < $deadline;
    ok(!-e $PATH, 'the worker removes the socket of a meter that was killed');

    my $worker = fork() // die "fork: $!\n";
    if (!$worker) {
        my $owned = meter();
        sleep(60);
        POSIX::_exit(0);
    }
    $deadline = clock_gettime(CLOCK_MONOTONIC) + 10;
    sleep(0.05) while !-S $PATH && clock_gettime(CLOCK_MONOTONIC) < $deadline;
    # The socket exists before the process.
    is_deeply(report(), {}, 'the meter of another worker answers');
    kill(KILL => $worker);
    waitpid($worker, 0);
    $deadline = clock_gettime(CLOCK_MONOTONIC) + 10;
    sleep(0.05) while -e $PATH && clock_gettime(CLOCK_MONOTONIC) < $deadline;
    ok(!-e $PATH, 'the meter of a worker that was killed ends and removes its socket');
};

subtest 'a path that cannot be used' => sub {
    ok(!eval { meter(path => "$DIR/missing/meter"); 1 }, 'is an error');
    like($@, qr/\Acannot start the meter: '.*': No such file/, 'which names the path');
};

subtest 'over the planes of a node' => sub {
    plan skip_all => 'only root has Sys.Modify outside of Proxmox VE' if $> != 0;
    my $node = TestNode::Node->start(dir => "$DIR/node", listen => '127.0.0.1', options => []);
    my $tunnel = PVE::Tunnel::Client::fork_websocket_tunnel(
        $node->conn, $node->path(100), {},
        { url => $node->url(100), migration_network => '127.0.0.0/8' },
        sub ($level, $text) { },
    );
    is($tunnel->{plan}{plane}, 'tls', 'the plane is tls');
    my $direct = sub (%request) {
        my $answer = PVE::Tunnel::Client::write_tunnel(
            $tunnel, 30, 'query-disk-import',
            { direct => \%request }
        );
        return $answer->{direct};
    };
    my $hello = $direct->(op => 'hello', protocol => 1, version => '0.1.0');
    ok($hello->{meter}, 'the offer names the meter');
    my $meter = $direct->(op => 'meter');
    ok(-S $meter->{path}, 'its socket exists');
    is_deeply($direct->(op => 'meter'), $meter, 'a second request returns the running meter');

    my $local = "$DIR/forward";
    PVE::Tunnel::Client::forward_unix_socket($tunnel, $local, $meter->{path});
    is(ask(qq({"op":"discard"}\n), 'x' x 2_000_000, $local), '', 'data crosses the plane');
    is(report($local)->{bytes}, 2_000_000, 'every byte arrives');
    is(
        length(ask(qq({"op":"send","seconds":0.1}\n), '', $local)),
        report($local)->{bytes}, 'every byte comes back'
    );

    PVE::Tunnel::Client::finish_tunnel($tunnel, 1);
    my $deadline = clock_gettime(CLOCK_MONOTONIC) + 10;
    sleep(0.05) while -e $meter->{path} && clock_gettime(CLOCK_MONOTONIC) < $deadline;
    ok(!-e $meter->{path}, 'nothing is left at the target');
};

done_testing();
