#!/usr/bin/perl

# Two migrations at once, and how a listener ends: with its worker, in every case.
use v5.36;

use File::Temp qw(tempdir);
use FindBin;
use POSIX ();
use Test::More;

use lib map { "$FindBin::Bin/../$_" } qw(t/lib demo/lib testnode/lib perl/blib/lib perl/blib/arch);
use Demo::Hosts;
use Demo::Image;
use Test::FaultInjection qw(nothing_left);
use Test::MigrationProcess;
use Test::Processes qw(children listening wait_until);
use TestNode::Node;

# In a network of its own, where nobody else's ports are.
BEGIN { Demo::Hosts::enter() }

# A test that stands still is a failed test.
local $SIG{ALRM} = sub { die "the test stands still\n" };
alarm(300);
local $SIG{PIPE} = 'IGNORE';

plan skip_all => 'only root has a network of its own, where nobody else takes ports' if $>;
system(qw(ip link set lo up)) == 0 or die "no loopback\n";

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

# One that has come half its way.
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

sub ends_well ($migration, $what) {
    $migration->go;
    my $end = $migration->end;
    ok($end->{done}, $what) or diag($end->{error}, $migration->log);
    is($end->{record}{failed}, 0, '... nothing failed');
    return;
}

subtest 'two at once' => sub {
    my ($one, $two) = map { node() } 1 .. 2;
    for my $plane (qw(tls tcp)) {
        my $first = migration($one, $plane);
        my $second = migration($two, $plane);
        is_deeply([map { $_->port } $first, $second], [$FIRST, $SECOND], "$plane: a port each");
        is_deeply([listening()], [$FIRST, $SECOND], '... that is listened on');

        ends_well($first, 'the first one ends');
        is_deeply([listening()], [$SECOND], '... and the other is still there');
        my $third = migration($one, $plane);
        is($third->port, $FIRST, 'the next one takes the first free port');

        kill(KILL => $third->pid('listener'));
        $third->go;
        ok($third->end->{error}, 'its listener dies');
        ends_well($second, '... which is nothing to the other');
        is_deeply([listening()], [], 'no port is left');
    }
};

# A worker that dies where a test says so; and, while there is a FIFO, starts a program, as it would
# start QEMU, that lives until the FIFO ends.
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
    'a connection that is lost without quit' =>
        sub ($migration) { kill(KILL => $migration->pid('connector')) },
    'a worker that dies' => sub ($migration) { kill(USR1 => $migration->pid('worker')) },
    'SIGTERM' => sub ($migration) { kill(TERM => $migration->pid('worker')) },
    'SIGKILL' => sub ($migration) { kill(KILL => $migration->pid('worker')) },
);

# With another child of the worker, or without.
sub ends ($node, $plane, $name, $other) {
    my $held;
    if ($other) {
        POSIX::mkfifo($FIFO, oct(600)) or die "mkfifo: $!\n";
        # For reading, too: that does not wait for a reader.
        open($held, '+<', $FIFO) or die "$FIFO: $!\n";
    }
    my $migration = migration($node, $plane);
    my @children = children($migration->pid('worker'));
    is(scalar(@children), 2 + $other, "$name: the worker's children, the listener among them");
    my ($listener) = grep { $_ == $migration->pid('listener') } @children;
    is_deeply([listening()], [$FIRST], '... which listens');

    $ENDS{$name}->($migration);
    ok($listener && wait_until(sub { !kill(0 => $listener) }), '... and ends');
    is_deeply([listening()], [], '... listening');
    $migration->go;
    my $end = $migration->end;
    is($end->{done} ? 1 : 0, $name eq 'quit' ? 1 : 0, '... that is success, or not')
        or diag($end->{error});
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
            '... while the other child lives'
        );
        unlink $FIFO;
        close($held) or die;
    }
    # The import's, where the worker could not remove it.
    unlink "$node->{dir}/" . (200 + $number) . '.storage';
    nothing_left($node, $migration->{dir}, 'then');
    return;
}

for my $other (0, 1) {
    my $node = node(worker => $WORKER);
    for my $plane (qw(tls tcp)) {
        my $name = "$plane: a listener ends with its worker"
            . ($other ? ', whatever else that has started' : '');
        subtest $name => sub {
            ends($node, $plane, $_, $other) for sort keys %ENDS;
        };
    }
}

done_testing;
