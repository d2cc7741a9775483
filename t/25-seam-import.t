#!/usr/bin/perl

# The status of an import after the listener was killed: an import over a direct connection is not
# reported as complete, even if the importing program treats the cut as the end of the stream.

use v5.36;

use FindBin;
use lib "$FindBin::RealBin/lib";

use POSIX ();
use Test::More;

use Test::SeamWorker qw(direct fake_listener answer_control open_request);

# Limits the run time of the test.
local $SIG{ALRM} = sub { die "the test timed out\n" };
alarm(300);

package Import { ## no critic (ProhibitMultiplePackages)
                 # An import in the worker's state. C<$before> runs during the status query.

    sub new ($class, $status, $before = sub { }) {
        return bless { socket => '/run/a', status => $status, before => $before }, $class;
    }

    sub status ($self) {
        $self->{before}->();
        return { status => $self->{status} };
    }
}

$PVE::Tunnel::Seam::CONFIGURATION = '/nonexistent';
PVE::Tunnel::Seam::install(check => sub (@) { return 1 }, node => 'pve7');
my $pid;
fake_listener(
    sub ($control, @) {
        return answer_control(
            $control,
            forward => sub (@) { return qq({"number":$$}) },
        );
    }
);

my $LOST = qr/\Athe data on its way over the direct connections is lost: the listener has ended;/;

# The state of a worker with an open listener. $pid becomes the PID of the listener.
sub worker () {
    my $state = { sockets => { '/run/a' => 1 } };
    direct($state, %{ open_request() });
    $pid = direct($state, op => 'forward', path => '/run/a')->{number};
    return $state;
}

# The worker's answer to a status query, or its error, for an import with that status.
sub reported ($state, @import) {
    $state->{disk_import} = Import->new(@import);
    my $answer = eval { PVE::StorageTunnel::handle_query_disk_import($state, {}) };
    return $answer ? $answer->{status} : $@;
}

# Returns when it is dead. A program that reads from it also ends after it.
sub kill_listener () {
    kill(KILL => $pid);
    1 while !is_zombie($pid);
    return;
}

subtest 'without a lost listener' => sub {
    is(reported({}, $_), $_, "$_, without a listener") for qw(pending complete error);
    my $state = worker();
    is(reported($state, $_), $_, "$_, with a listener") for qw(pending complete error);
    direct($state, op => 'close');
    is(reported($state, $_), $_, "$_, after the listener was closed")
        for qw(pending complete error);
};

subtest 'after the listener has been killed' => sub {
    for my $status (qw(complete error)) {
        my $state = worker();
        kill_listener();
        is(reported($state, 'pending'), 'pending', 'a pending import is pending');
        like(reported($state, $status), $LOST, "$status is replaced by an error");
        is($state->{disk_import}, undef, '... and the original handler has removed the import');
        like(reported($state, $status), $LOST, '... and the next query has the same error');
    }
};

subtest 'the listener is killed during the query' => sub {
    my $state = worker();
    like(reported($state, 'complete', \&kill_listener), $LOST, 'complete is replaced by an error');
};

sub is_zombie ($process) {
    open(my $in, '<', "/proc/$process/stat") or return 1;
    return readline($in) =~ /\) Z /;
}

done_testing;
