#!/usr/bin/perl

# Two migrations at once, and the end of a listener: it ends with its worker in every case.
use v5.36;

use File::Temp qw(tempdir);
use FindBin;
use POSIX ();
use Test::More;

use lib map { "$FindBin::Bin/../$_" } qw(t/lib demo/lib testnode/lib perl/blib/lib perl/blib/arch);
use Demo::Image;
use Test::FaultInjection qw(nothing_left);
use Test::MigrationProcess;
use Test::PrivateNetwork;
use Test::Processes qw(children listening wait_until);
use TestNode::Node;

# A test that hangs must fail.
local $SIG{ALRM} = sub { die "the test timed out\n" };
alarm(600);
local $SIG{PIPE} = 'IGNORE';

plan skip_all => 'only root can create a network namespace for the ports of this test' if $>;

my $DIR = tempdir(CLEANUP => 1);
my ($FIRST, $SECOND) = (60_000, 60_001);
Demo::Image::write_volume("$DIR/volume", 4);
my $number = 0;

sub node (%option) {
    return TestNode::Node->start(
        dir => "$DIR/target" . ++$number,
        listen => '127.0.0.1',
        wrap => ['setsid'],
        %option
    );
}

# A migration that has sent half of its volume.
sub migration ($node, $plane) {
    my $migration = Test::MigrationProcess->start(
        node => $node,
        plane => $plane,
        dir => "$DIR/" . ++$number,
        target_vmid => 200 + $number,
        volume => "$DIR/volume",
        stop_at => 'volume',
    );
    $migration->wait_at;
    return $migration;
}

sub succeeds ($migration, $name) {
    $migration->go;
    my $end = $migration->end;
    ok($end->{done}, "$name succeeds") or diag($end->{error}, $migration->log);
    is($end->{record}{failed}, 0, "$name: no connection failed");
    return;
}

subtest 'two migrations at once' => sub {
    my ($one, $two) = map { node() } 1 .. 2;
    for my $plane (qw(tls tcp)) {
        my $first = migration($one, $plane);
        my $second = migration($two, $plane);
        is_deeply(
            [map { $_->port } $first, $second],
            [$FIRST, $SECOND],
            "$plane: each migration has its own port"
        );
        is_deeply([listening()], [$FIRST, $SECOND], "$plane: listeners use these ports");

        succeeds($first, "$plane: the first migration");
        is_deeply([listening()], [$SECOND], "$plane: the other listener is still there");
        my $third = migration($one, $plane);
        is($third->port, $FIRST, "$plane: the next migration takes the first free port");

        kill(KILL => $third->pid('listener'));
        $third->go;
        ok($third->end->{error}, "$plane: the migration of a killed listener fails");
        succeeds($second, "$plane: the migration of the other listener");
        is_deeply([listening()], [], "$plane: no listening port is left");
    }
};

# A worker that dies on SIGUSR1. While the FIFO exists, it also starts a program, as it would start
# QEMU, which lives until the FIFO has no writer.
my $FIFO = "$DIR/alive";
my $WORKER = "$DIR/worker.pl";
open(my $out, '>', $WORKER) or die;
print {$out} <<"END";
use v5.36;
use lib map { "$FindBin::Bin/../\$_" } qw(testnode/lib testnode/pve perl/blib/lib perl/blib/arch);
use POSIX ();
use TestNode::Worker;
no warnings 'redefine';
my \$start = \\&TestNode::Import::start;
*TestNode::Import::start = sub (\@arguments) {
    my \$import = \$start->(\@arguments);
    if (-e '$FIFO' && !fork) {
        \$SIG{\$_} = 'DEFAULT' for qw(TERM INT HUP);
        exec('cat', '$FIFO') or POSIX::_exit(127);
    }
    return \$import;
};
\$SIG{USR1} = sub { die "the worker is broken\\n" };
exit(TestNode::Worker->new(*STDIN, *STDOUT)->run);
END
close($out) or die;

my %ENDS = (
    'quit' => sub ($migration) { $migration->go },
    'a connection lost without quit' =>
        sub ($migration) { kill(KILL => $migration->pid('connector')) },
    'a worker that dies' => sub ($migration) { kill(USR1 => $migration->pid('worker')) },
    'SIGTERM' => sub ($migration) { kill(TERM => $migration->pid('worker')) },
    'SIGKILL' => sub ($migration) { kill(KILL => $migration->pid('worker')) },
);

# Ends a worker in this way and tests that its listener ends. $other: 1 if the worker has another
# child, else 0.
sub listener_ends ($node, $plane, $name, $other) {
    my $held;
    if ($other) {
        POSIX::mkfifo($FIFO, oct(600)) or die "mkfifo: $!\n";
        # Opened for reading, too: opening it only for writing waits for a reader.
        open($held, '+<', $FIFO) or die "$FIFO: $!\n";
    }
    my $migration = migration($node, $plane);
    my @children = children($migration->pid('worker'));
    is(scalar(@children), 2 + $other, "$name: the number of children of the worker");
    my ($listener) = grep { $_ == $migration->pid('listener') } @children;
    is_deeply([listening()], [$FIRST], "$name: the listener has its port");

    $ENDS{$name}->($migration);
    ok($listener && wait_until(sub { !kill(0 => $listener) }), "$name: the listener ends");
    is_deeply([listening()], [], "$name: no listening port is left");
    $migration->go;
    my $end = $migration->end;
    is(
        $end->{done} ? 1 : 0,
        $name eq 'quit' ? 1 : 0,
        "$name: the migration succeeds only with quit"
    ) or diag($end->{error});
    if ($other) {
        is(
            scalar(
                wait_until(
                    sub {
                        1 == grep { kill(0 => $_) } @children;
                    }
                )
            ),
            1,
            "$name: the other child lives"
        );
        unlink $FIFO;
        close($held) or die;
    }
    # The socket of the import, if the worker could not remove it.
    unlink "$node->{dir}/" . (200 + $number) . '.storage';
    nothing_left($node, $migration->{dir}, $name);
    return;
}

for my $other (0, 1) {
    my $node = node(worker => $WORKER);
    for my $plane (qw(tls tcp)) {
        my $name = "$plane: a listener ends with its worker"
            . ($other ? ' that has started another program' : '');
        subtest $name => sub {
            listener_ends($node, $plane, $_, $other) for sort keys %ENDS;
        };
    }
}

done_testing;
