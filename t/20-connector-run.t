#!/usr/bin/perl

# connector_run as Perl calls it: in a child, with a pipe each way. What it does on the wire is
# tested with the connector.

use v5.36;

use IO::Select;
use JSON;
use POSIX ();
use Test::More;

use PVE::Tunnel::Native;

my $LIMIT = 30; # seconds that anything here may take on a busy machine

# A connector in a child: its two pipes and its log, to write to and read from.
sub connector ($options = undef, %how) {
    my %pipe;
    for my $name (qw(input output log)) {
        pipe(my $reader, my $writer) or die "cannot make a pipe: $!\n";
        $pipe{$name} = { reader => $reader, writer => $writer };
    }
    my $pid = fork() // die "cannot fork: $!\n";
    if ($pid == 0) {
        close($pipe{input}{writer});
        my $ok = eval {
            PVE::Tunnel::Native::connector_run(
                fileno($pipe{input}{reader}),
                fileno($pipe{output}{writer}),
                $how{silent} ? undef : fileno($pipe{log}{writer}),
                $options,
            );
            1;
        };
        # The descriptors are still ours: this arrives.
        syswrite($pipe{log}{writer}, $ok ? "returned\n" : "died: $@");
        POSIX::_exit($ok ? 0 : 1);
    }
    close($pipe{input}{reader});
    close($pipe{$_}{writer}) for qw(output log);
    return {
        pid => $pid,
        input => $pipe{input}{writer},
        output => $pipe{output}{reader},
        log => $pipe{log}{reader},
    };
}

# The next line, or undef at the end; dies if neither comes.
sub line ($handle) {
    my $line = '';
    while ($line !~ m/\n\z/) {
        die "nothing came within $LIMIT s, after '$line'\n"
            if !IO::Select->new($handle)->can_read($LIMIT);
        my $count = sysread($handle, $line, 1, length($line)) // die "cannot read: $!\n";
        return length($line) ? $line : undef if $count == 0;
    }
    return $line;
}

sub rest ($handle) {
    my $text = '';
    while (defined(my $line = line($handle))) {
        $text .= $line;
    }
    return $text;
}

sub ended ($connector) {
    waitpid($connector->{pid}, 0);
    return $?;
}

subtest 'the end of its input is its end' => sub {
    my $connector = connector();
    close($connector->{input});
    is(rest($connector->{output}), '', 'it says nothing');
    is(rest($connector->{log}), "returned\n", 'and returns');
    is(ended($connector), 0, 'well');
};

subtest 'one answer to each line' => sub {
    my $connector = connector({ connect_timeout => '5', mask => 'random' });
    for my $line ('{"cmd":', '[1]', '{"control":true,"cmd":"fly","data":{}}', '{"cmd":"version"}') {
        syswrite($connector->{input}, "$line\n");
        my $answer = decode_json(line($connector->{output}));
        ok(!$answer->{success}, "'$line' is answered in JSON");
        ok(length($answer->{msg}), 'with a reason');
    }
    close($connector->{input});
    is(rest($connector->{output}), '', 'and no more than one');
    my @log = split(/\n/, rest($connector->{log}));
    is(pop(@log), 'returned', 'it returns at the end');
    cmp_ok(scalar(@log), '>=', 3, 'and has logged what it refused');
    is(ended($connector), 0, 'well');
};

subtest 'without a log' => sub {
    my $connector = connector(undef, silent => 1);
    syswrite($connector->{input}, "{\n");
    ok(!decode_json(line($connector->{output}))->{success}, 'it answers');
    close($connector->{input});
    is(rest($connector->{log}), "returned\n", 'and writes to nothing else');
    is(ended($connector), 0, 'it ends well');
};

subtest 'ended by a signal' => sub {
    my $connector = connector();
    syswrite($connector->{input}, "{\n");
    ok(line($connector->{output}), 'it runs');
    kill('TERM', $connector->{pid});
    my $log = rest($connector->{log});
    my $status = ended($connector);
    ok($status, 'it does not end well') or diag($log);
    is(rest($connector->{output}), '', 'and says nothing more');
    close($connector->{input});
};

subtest 'bad arguments' => sub {
    my %bad = (
        'no descriptor' => [undef, 1],
        'a handle' => [\*STDIN, 1],
        'a name' => ['STDIN', 1],
        'a negative one' => [-1, 1],
        'one that is not open' => [987, 1],
        'a log that is not open' => [0, 1, 987],
        'options that are no hash' => [0, 1, undef, [], 'hash reference'],
        'an unknown option' => [0, 1, undef, { speed => 9 }, 'speed'],
        'an unknown mask' => [0, 1, undef, { mask => 'none' }, 'none'],
        'a time limit in words' => [0, 1, undef, { connect_timeout => 'soon' }, 'soon'],
        'a time limit of 0' => [0, 1, undef, { connect_timeout => 0 }, 'time limit'],
    );
    for my $what (sort keys %bad) {
        my ($input, $output, $log, $options, $pattern) = $bad{$what}->@*;
        my $ok = eval { PVE::Tunnel::Native::connector_run($input, $output, $log, $options); 1 };
        ok(!$ok, "$what is refused");
        $pattern //= 'descriptor';
        like($@, qr/\Apve_tunnel_connector_run: .*$pattern.*\n\z/i, 'and told');
    }
};

done_testing();
