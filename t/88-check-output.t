#!/usr/bin/perl

# The output of pve-tunnel check: its JSON, its text, no secrets, and the times of a guest.

use v5.36;

use FindBin ();
use lib map { "$FindBin::RealBin/$_" } qw(lib ../testnode/lib ../perl/blib/lib ../perl/blib/arch);

use File::Temp qw(tempdir);
use POSIX ();
use Test::More;

use Test::CheckCommand qw(check defaults problems remote reports start_check write_file $PROGRAM);
use Test::Processes qw(command_line);
use Test::TunnelNode;

local $SIG{ALRM} = sub { die "the test timed out\n" };
alarm 300;

my $DIR = tempdir(CLEANUP => 1);
my $node = Test::TunnelNode->start(
    worker => "$FindBin::RealBin/../testnode/worker.pl",
    create_guests => 1
);
my @NETWORK = ('--network', '127.0.0.0/8');
my ($SECRET) = $node->{token} =~ m/=([^=]+)\z/;

# The command with text as output.
sub text ($remote, @arguments) {
    return start_check(arguments => ['check', '--to', $remote, defaults(@arguments), @arguments]);
}

subtest 'JSON' => sub {
    my $report = check(remote($node), '--seconds', 0.1, @NETWORK)->{report};
    is_deeply(
        [sort keys %$report],
        [qw(findings interrupted measurements outcome plane remote version)],
        'the members of the report'
    );
    my @findings = $report->{findings}->@*;
    is_deeply([sort keys %$_], [qw(advice outcome step text)], 'a finding') for @findings;
    my %steps = map { $_->{step} => 1 } @findings;
    is_deeply(
        [sort keys %steps],
        [qw(address api cleanup node privileges speed tls tunnel)],
        'the steps'
    );
    my @measured = map { "$_->{plane} $_->{direction}" } $report->{measurements}->@*;
    is_deeply(
        \@measured,
        ['websocket sent', 'websocket received', 'tls sent', 'tls received'],
        'the measurements'
    );
    for my $each ($report->{measurements}->@*) {
        is_deeply(
            [sort keys %$each],
            [qw(bytes direction lanes plane rate seconds source_cpu target_cpu)],
            'the members of a measurement'
        );
        cmp_ok($each->{$_}, '>', 0, $_) for qw(bytes rate seconds);
    }
};

subtest 'text' => sub {
    for my $arguments (['--seconds', 0.1, @NETWORK], ['--seconds', 0, '--type', 'insecure']) {
        my $out = text(remote($node), @$arguments)->wait->{out};
        utf8::decode($out);
        my @long = grep { length > 80 && $_ !~ m/\A\s*(?:[0-9A-F]{2}:){31}[0-9A-F]{2}\z/ }
            split m/\n/, $out;
        is_deeply(\@long, [], 'no line is longer than 80 columns');
        unlike($out, qr/\e/, 'no colours in a file');
        unlike($out, qr/\Q$SECRET\E|PVETUNNEL:/, 'no token and no ticket');
    }
    SKIP: {
        skip 'script(1) is not installed', 1 if system('script --version >/dev/null 2>&1');
        my $command = join ' ', map { quotemeta } $PROGRAM, 'check', '--to', remote($node),
            '--read-only', defaults();
        my $out = start_check(
            program => 'script',
            arguments => ['-q', '-e', '-c', $command, '/dev/null']
        )->wait->{out};
        like($out, qr/\e\[32m\xe2\x9c\x93\e\[0m /, 'colours on a terminal');
    }
};

subtest 'an output that cannot be written' => sub {
    # A check whose result is good otherwise.
    my @check = ($PROGRAM, 'check', '--to', remote($node), '--seconds', 0.1, @NETWORK, defaults());
    for my $option ('--json', '') {
        my $command = join ' ', map { quotemeta } @check, $option || ();
        my $error = qx($command 2>&1 >/dev/full);
        is($? >> 8, 2, "check $option: exit code 2");
        like($error, qr/^pve-tunnel: cannot write to standard output: No space left/, '... why');
    }
};

subtest 'the token is not an argument' => sub {
    write_file("$DIR/remote", remote($node) . "\n");
    for my $case (["\@$DIR/remote", ''], ['-', remote($node)]) {
        my ($remote, $input) = @$case;
        my @arguments = ('check', '--to', $remote, defaults(), @NETWORK, '--seconds', 1);
        my $check = start_check(arguments => \@arguments, input => $input);
        ok($check->wait_out(qr/is measured/), "--to $remote");
        my @lines = map { command_line($_) // '' } $check->{pid},
            Test::Processes::children($check->{pid});
        is(scalar @lines, 2, 'the check and its connector');
        unlike("@lines", qr/\Q$SECRET\E/, '... have no token among their arguments');
        my $result = $check->wait;
        is($result->{code}, 0, 'exit code 0');
        unlike("$result->{out}$result->{err}", qr/\Q$SECRET\E/, '... and print none');
    }
};

subtest 'a remote from a pipe, a terminal, or a file with a byte order mark' => sub {
    my @more = ('--read-only', defaults());
    my $run = sub ($script, @input) {
        my @arguments = ('-c', $script, $PROGRAM, @more);
        return start_check(program => 'bash', arguments => \@arguments, @input)->wait;
    };
    my $substituted = $run->('"$0" check --to @<(sleep 0.1; cat) "$@"', input => remote($node));
    is($substituted->{code}, 0, 'a process substitution') or diag($substituted->{err});
    write_file("$DIR/marked", "\xef\xbb\xbf" . remote($node) . "\r\n");
    is($run->("\"\$0\" check --to \@$DIR/marked \"\$@\"")->{code}, 0, 'a byte order mark');
    POSIX::mkfifo("$DIR/pipe", 0600) or die "mkfifo: $!\n";
    my $named = $run->("\"\$0\" check --to \@$DIR/pipe \"\$@\"");
    is($named->{code}, 2, 'a named pipe');
    like(
        $named->{err}, qr/cannot read '\Q$DIR\E\/pipe': it is a named pipe, and not a file/,
        '... why'
    );
    SKIP: {
        skip 'script(1) is not installed', 2 if system('script --version >/dev/null 2>&1');
        my $command = join ' ', map { quotemeta } $PROGRAM, 'check', '--to', '-', @more;
        my $terminal = start_check(
            program => 'script',
            arguments => ['-q', '-e', '-c', $command, '/dev/null'],
            input => remote($node) . "\n"
        )->wait;
        is($terminal->{code}, 0, 'a terminal') or diag($terminal->{out});
        like(
            $terminal->{out}, qr/^pve-tunnel: waiting for the remote on standard input/m,
            'it waits'
        );
    }
};

subtest 'the times of a guest' => sub {
    write_file(
        "$DIR/guests/qemu-server/700.conf",
        "memory: 1024\nscsi0: local:700/a.raw,size=2G\nide2: none,media=cdrom\n"
    );
    write_file(
        "$DIR/guests/qemu-server/703.conf",
        "memory: 1024\nscsi0: local:703/a.raw,size=2G\nscsi1: local:703/b.raw\n"
    );
    write_file("$DIR/guests/lxc/701.conf", "rootfs: local:701/a.raw,size=8G\nmemory: 512\n");
    my @guests = ('--guests', "$DIR/guests", '--seconds', 0.1, @NETWORK);
    my %expected = (
        700 => ['RAM: 1.0 GiB', 'scsi0: 2.0 GiB', 'together: 3.0 GiB'],
        701 => ['rootfs: 8.0 GiB', 'together: 8.0 GiB'],
        # The size of a disk is not known.
        703 => ['RAM: 1.0 GiB', 'scsi0: 2.0 GiB', 'together: at least 3.0 GiB'],
    );
    for my $vmid (sort keys %expected) {
        my $result = check(remote($node), '--vmid', $vmid, @guests);
        reports($result, 0);
        my @of_guest = grep { $_->{step} eq 'guest' } $result->{report}{findings}->@*;
        my @times = grep { $_->{text} =~ m/ GiB / } @of_guest;
        my @sizes =
            map { $_->{text} =~ s/ in (?:about|at least|at most) \d+ (?:s|min \d\d s)\z//r } @times;
        is_deeply(\@sizes, $expected{$vmid}, "guest $vmid");
    }
    like($node->log, qr{^POST \S+/lxc/701/mtunnel 200$}m, 'the tunnel is one of a container');
    my $missing = check(remote($node), '--vmid', 702, @guests);
    is($missing->{code}, 2, 'a guest that this node does not have');
    like($missing->{err}, qr/--vmid: this node has no guest 702/, '... the reason');
};

subtest 'wrong arguments' => sub {
    for my $arguments (['--seconds', 21], ['--type', 'fast'], ['--target-vmid', 99]) {
        my $result = text(remote($node), @$arguments)->wait;
        is($result->{code}, 2, "exit code 2: @$arguments");
        unlike($result->{err}, qr/\Q$SECRET\E/, '... without the token');
    }
};

done_testing;
