#!/usr/bin/perl

# An import that asks how it went: what the listener's death cut off is not complete, whatever the
# program that read it took it for.

use v5.36;

use FindBin;
use lib "$FindBin::RealBin/lib";

use POSIX ();
use Test::More;

use Test::SeamWorker qw(direct fake_listener answer_control open_request);

# A test that stands still is a failed test.
local $SIG{ALRM} = sub { die "the test stands still\n" };
alarm(300);

package Import { ## no critic (ProhibitMultiplePackages)
                 # An import in the worker's state; C<$before> runs while its status is asked for.

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

my $LOST = qr/\Awhat was on its way over the direct connections is lost: the listener has ended;/;

# A worker with an open listener, whose process's number is in $pid.
sub worker () {
    my $state = { sockets => { '/run/a' => 1 } };
    direct($state, %{ open_request() });
    $pid = direct($state, op => 'forward', path => '/run/a')->{number};
    return $state;
}

# What the worker answers about an import of that status, or its error.
sub asked ($state, @import) {
    $state->{disk_import} = Import->new(@import);
    my $answer = eval { PVE::StorageTunnel::handle_query_disk_import($state, {}) };
    return $answer ? $answer->{status} : $@;
}

# Returns when it is dead, as a program that reads from it ends after it.
sub kill_listener () {
    kill(KILL => $pid);
    1 while !is_zombie($pid);
    return;
}

subtest 'as ever' => sub {
    is(asked({}, $_), $_, "$_, without a listener") for qw(pending complete error);
    my $state = worker();
    is(asked($state, $_), $_, "$_, with a listener") for qw(pending complete error);
    direct($state, op => 'close');
    is(asked($state, $_), $_, "$_, with one that was closed") for qw(pending complete error);
};

subtest 'after the listener has been killed' => sub {
    for my $status (qw(complete pending error)) {
        my $state = worker();
        kill_listener();
        like(asked($state, $status), $LOST, "not $status");
        is($state->{disk_import}, undef, '... but the original knows what to clean up')
            if $status ne 'pending';
        like(asked($state, $status), $LOST, '... nor when it is asked again');
    }
};

subtest 'while the question is answered' => sub {
    my $state = worker();
    like(asked($state, 'complete', \&kill_listener), $LOST, 'nor then');
};

sub is_zombie ($process) {
    open(my $in, '<', "/proc/$process/stat") or return 1;
    return readline($in) =~ /\) Z /;
}

done_testing;
