#!/usr/bin/perl

# A user with as many listeners as one user may have: the next migration takes the websocket or is
# refused, and the running one goes on.
use v5.36;

use FindBin;
use Test::More;

use lib map { "$FindBin::Bin/../$_" } qw(t/lib demo/lib testnode/lib perl/blib/lib perl/blib/arch);
use Test::FaultInjection qw(nothing_left);
use Test::FaultSetup qw(volume_migration);
use Test::MigrationProcess;
use Test::OpenedTunnel;
use Test::PrivateNetwork;
use Test::Processes qw(listening);

# That of docs/protocol.md.
use constant BOUND => 8;

my %VOLUME = volume_migration(300);
my $NODE = $VOLUME{node};
my $vmid = 300;

sub tunnel (%request) {
    return Test::OpenedTunnel->attempt(
        $NODE, ++$vmid,
        migration_network => '127.0.0.0/8',
        migration_type => 'secure', %request
    );
}

my $REFUSAL = qr/user 'root\@pam' already has 8 listeners on the target: wait until one of these/;

my $first = Test::MigrationProcess->start(
    %VOLUME,
    plane => 'tls',
    dir => "$VOLUME{dir}/first",
    target_vmid => 200,
    stop_at => 'volume'
);
$first->wait_at;
my @others = map { tunnel() } 2 .. BOUND;
is_deeply([map { $_->plane } @others], [('tls') x (BOUND - 1)], 'migrations up to the bound')
    or diag(map { $_->error } @others);
is(scalar(listening()), BOUND, 'each has a listener');

subtest 'secure beyond the bound' => sub {
    my $opened = tunnel();
    is($opened->plane, 'websocket', 'it takes the websocket') or diag($opened->error);
    like($opened->log, qr/^warn: [^\n]*$REFUSAL/m, 'a warning has the cause');
    ok($opened->moves($VOLUME{volume}), 'its volume arrives') or diag($opened->error);
    $opened->finish;
    is($opened->error, '', 'it ends well');
};

subtest 'insecure beyond the bound' => sub {
    my $opened = tunnel(migration_type => 'insecure');
    is($opened->plane, undef, 'it is refused');
    like($opened->error, $REFUSAL, 'the error has the cause');
    like($opened->error, qr/\A[^\n]+\n\z/, 'the error is one line');
    unlike(
        $NODE->worker_log($vmid),
        qr/^command: (?:config|disk|disk-import|start)$/m,
        'the target has created nothing'
    );
};

subtest 'the first migration' => sub {
    is(scalar(listening()), BOUND, 'all listeners are still there');
    $first->go;
    my $end = $first->end;
    ok($end->{done}, 'it succeeds') or diag($end->{error}, $first->log);
    is($end->{record}{plane}, 'tls', 'on its plane');
    is($end->{record}{failed}, 0, 'no connection failed');
};

subtest 'after the end of a migration' => sub {
    my $opened = tunnel();
    is($opened->plane, 'tls', 'the next one has a listener') or diag($opened->log);
    ok($opened->moves($VOLUME{volume}), 'its volume arrives') or diag($opened->error);
};

$_->finish for @others;
nothing_left($NODE, "$VOLUME{dir}/first", 'afterwards');
$NODE->stop;
done_testing;
