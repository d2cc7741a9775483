#!/usr/bin/perl

# The worker over its UNIX socket: commands, refusals, and the end of the worker.

use v5.36;

use JSON;
use FindBin;
use lib "$FindBin::RealBin/lib";

use Test::More;

use Test::TunnelWorker qw(worker refused start_parameters $KEY);

# Limits the run time of the test.
local $SIG{ALRM} = sub { die "the test timed out\n" };
alarm(600);

{
    my $worker = worker();
    is(
        (stat "$worker->{dir}/100.mtunnel")[2] // 'gone',
        'gone', 'the socket is removed after the first client connects'
    ) if $worker->command('version')->{success};
    is_deeply(
        $worker->command('version'),
        { success => JSON::true, api => 2, age => 0, caps => ['insecure-remote', 'multifd'] },
        'version of a new node',
    );
    refused(
        $worker->line("{ memory: secret-word\n"),
        qr/not a JSON object/,
        'a line that is not JSON'
    );
    unlike($worker->line("{ memory: secret-word\n")->{msg}, qr/secret-word/, '... is not quoted');
    refused($worker->line("[1]\n"), qr/not a JSON object/, 'a line that is not an object');
    refused($worker->line("{}\n"), qr/no 'cmd'/, 'no command');
    refused($worker->line("{\"cmd\":{}}\n"), qr/no 'cmd'/, 'a command that is not a string');
    refused(
        $worker->command('format-disk'),
        qr/unknown command 'format-disk'/,
        'an unknown command'
    );
    refused(
        $worker->command('version', x => 1),
        qr/x: this command has no such parameter/,
        'an unknown parameter'
    );
    refused($worker->command('ticket'), qr/path: this parameter is missing/, 'a missing parameter');
    refused(
        $worker->command('ticket', path => [1]),
        qr/path: not a string/,
        'a parameter of the wrong type'
    );
    refused(
        $worker->command('quit', cleanup => 'maybe'),
        qr/cleanup: not a boolean/,
        'a value that is not a boolean'
    );
    refused(
        $worker->command('query-disk-import'),
        qr/no import is running/,
        'a status query without an import'
    );
    refused($worker->command($_), qr/the guest does not run/, "$_ without a guest")
        for qw(resume stop nbdstop);
    refused(
        $worker->command('ticket', path => '/etc/passwd'),
        qr/not known here/,
        'a ticket for a foreign socket'
    );
    refused(
        $worker->command('ticket', path => "$worker->{dir}/100.mtunnel"),
        qr/not known here/,
        'a ticket for the own socket'
    );
    refused(
        $worker->command('config', conf => "cores: 1\n"),
        qr/no 'memory'/,
        'a configuration without memory'
    );
    is($worker->command('bwlimit', storages => ['local'], bwlimit => 77)->{bwlimit}, 77, 'bwlimit');
    ok($worker->command('fstrim')->{success}, 'fstrim');
    ok($worker->command('unlock')->{success}, 'unlock');
    ok($worker->command('quit')->{success}, 'quit');
    refused($worker->command('version'), qr/the tunnel is closing/, 'a command after quit');
    is($worker->end(0), 0, 'the worker ends by itself after quit and disconnect');
    my @commands = $worker->{log} =~ /^command: (.*)$/mg;
    is_deeply(
        [@commands[0 .. 2], $commands[-1]],
        [qw(version version format-disk version)],
        'the log names the commands'
    );
    unlike($worker->{log}, qr/secret-word|$KEY/, '... and contains no secret');
}

{
    my $worker = worker();
    is($worker->end(0), 1, 'a connection that ends without quit is an error');
    like($worker->{log}, qr/ended without 'quit'/, '... and is logged');
}

{
    my $worker = worker();
    my $reply = $worker->line('x' x ((1 << 20) + 1000));
    refused($reply, qr/longer than 1048576/, 'an over-long line');
    is($worker->reply, undef, '... ends the connection');
    is($worker->end(0), 1, '... and the worker');
}

{
    my $worker = worker(no_client => 1);
    $worker->wait_log(qr/ready/);
    is($worker->end, 1, 'the end of the node ends a waiting worker');
    ok(!-e "$worker->{dir}/100.mtunnel", '... and removes its socket');
}

{
    my $worker = worker(no_client => 1, request => { dir => 'relative' });
    is($worker->end(0), 1, 'a malformed request ends the worker');
    like($worker->{log}, qr/\Aerror: bad dir/, '... with one line in the log');
}

for my $kind (qw(old no_direct)) {
    my $worker = worker(request => { $kind => JSON::true });
    refused(
        $worker->command('query-disk-import', direct => { op => 'hello', protocol => 1 }),
        qr/direct: .*no such parameter/,
        "a worker without the seam ($kind) refuses the probe of a newer source"
    );
    refused($worker->command('query-disk-import'), qr/no import is running/, '... and continues');
    $worker->command('quit');
    is($worker->end(0), 0, '... until quit');
}

{
    my $worker = worker(request => { old => JSON::true });
    is_deeply(
        $worker->command('version'),
        { success => JSON::true, api => 2, age => 0 },
        'an old node has no caps'
    );
    refused(
        $worker->command('start', start_parameters('tcp', 'websocket')),
        qr/statefile: value 'tcp'/,
        '... and refuses TCP'
    );
    refused(
        $worker->command('start', start_parameters('unix', 'insecure')),
        qr/type: value 'insecure'/,
        '... and clear text'
    );
    $worker->command('quit');
    $worker->end;
}

{
    my $worker = worker(request => { kind => 'lxc' });
    refused(
        $worker->command('start', start_parameters('unix', 'websocket')),
        qr/unknown command/,
        'a container has no start command'
    );
    ok($worker->command('version')->{success}, '... but answers version');
    $worker->command('quit');
    $worker->end;
}

done_testing;
