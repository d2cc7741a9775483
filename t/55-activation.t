#!/usr/bin/perl

# Installs, upgrades, enables and removes pve-tunnel on a node with the real dpkg. The packages are
# made of the build in this tree. They first pass debian/tests/activation, which also runs in clean
# systems, and then the cases that it does not cover: installation, upgrade and removal. All of it
# runs in a mount namespace, so that writes to /usr, /etc, /var and /run do not change this machine.

use v5.36;

use Config;
use FindBin ();
use JSON ();
use Path::Tiny qw(path);
use Test::More;

use lib map { "$FindBin::RealBin/../$_" } qw(t/lib debian/tests/lib);
use Test::LayeredSystem qw(enter mount_layers package_of_build);
use Test::PackagedNode qw(
    run run_ok command_prints state_of all_stock modules_on diversions triggered loads
    fake_packages
);

my $dir = enter();
mount_layers($dir, qw(usr etc var run));

# A test that hangs must fail.
local $SIG{ALRM} = sub { die "the test timed out\n" };
alarm(1200);

# All processes of this test load the installed modules.
delete $ENV{PERL5LIB};

my $old = package_of_build($dir, '0.1');
my $new = package_of_build($dir, '0.2');

subtest 'debian/tests/activation' => sub {
    run_ok('installed', 'dpkg', '-i', $old);
    my $run =
        run_ok('debian/tests/activation', $^X, "$FindBin::RealBin/../debian/tests/activation");
    note($run->{output});
};

run_ok('a node', 'dpkg', '-i', fake_packages('1.0'));
my $triggered = triggered();

subtest 'installing' => sub {
    run_ok('the package is installed', 'dpkg', '-i', $old);
    is_deeply(state_of(), all_stock('1.0'), 'it changes no stock file');
    is(triggered(), $triggered, 'it reloads no daemon');
    is(scalar(loads('PVE::Tunnel')), 'stock', 'Perl loads the stock module');
    status_without_problems('off');
};

subtest 'a copy that Perl finds first' => sub {
    my $stock = '/usr/share/perl5/PVE/StorageTunnel.pm';
    my $copy = "$Config{sitelib}/PVE/StorageTunnel.pm";
    path($copy)->parent->mkdir;
    path($stock)->copy($copy);
    command_prints('enable', 1, qr/Perl loads \Q$copy\E instead of $stock: move \Q$copy\E away/);
    is_deeply(state_of(), all_stock('1.0'), 'no stock file is changed');
    path($copy)->remove;
};

subtest 'an upgrade of pve-tunnel' => sub {
    command_prints('enable', 0, qr/^daemons: none to reload, because /m);
    is(triggered(), $triggered + 1, 'enable reloads the daemons by dpkg-trigger');
    run_ok('the package is upgraded', 'dpkg', '-i', $new);
    is_deeply(state_of(), modules_on('1.0'), 'the links stay');
    is(triggered(), $triggered + 2, 'the upgrade reloads the daemons');
    status_without_problems('on');
};

subtest 'removal' => sub {
    my $removed = run_ok('the package is removed', 'dpkg', '-r', 'pve-tunnel');
    like(
        $removed->{output}, qr/^overlay: off; .*^daemons: reload when the running dpkg /ms,
        'removal disables it'
    );
    is_deeply(state_of(), all_stock('1.0'), 'the stock files are in their places');
    is(triggered(), $triggered + 3, 'removal reloads the daemons once');
};

subtest 'removal after the stock package' => sub {
    run_ok('the package is installed again', 'dpkg', '-i', $old);
    command_prints('enable', 0, qr/^overlay: on/m);
    run_ok('the stock package is removed', 'dpkg', '-r', 'libpve-guest-common-perl');
    run_ok('then pve-tunnel is removed', 'dpkg', '-r', 'pve-tunnel');
    is_deeply(
        state_of(), { %{ all_stock(undef) }, helper => 'stock 1.0' },
        'no file of either package is left'
    );
    is(diversions(), 0, 'no diversion is left');
};

done_testing();

sub status_without_problems ($state) {
    my $status = run('pve-tunnel', 'status', '--json');
    my $report = JSON::decode_json($status->{output});
    is_deeply(
        [@$report{qw(state problems)}, $status->{code}],
        [$state, [], 0], "status reports '$state' and no problem"
    ) or diag($status->{output});
    return;
}
