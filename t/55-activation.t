#!/usr/bin/perl

# Installs, upgrades, enables and removes pve-tunnel on a node with the real dpkg. The packages are
# made of the build in this tree. They first pass debian/tests/activation, which also runs in clean
# systems, and then the cases that it does not cover: installation, upgrade and removal. All of it
# runs in a mount namespace, so that writes to /usr, /etc, /var and /run do not change this machine.

use v5.36;

use Config;
use File::Temp qw(tempdir);
use FindBin ();
use JSON ();
use Path::Tiny qw(path);
use Test::More;

use lib "$FindBin::RealBin/../debian/tests/lib";
use Test::PackagedNode qw(
    run run_ok command_prints state_of all_stock modules_on diversions triggered loads
    installed_fakes fake_packages
);

my $ROOT = "$FindBin::RealBin/..";

if (!@ARGV) {
    plan skip_all => 'not root' if $> != 0;
    plan skip_all => 'no dpkg here' if !-x '/usr/bin/dpkg-deb';
    plan skip_all => "this is a node: $_ is installed" for installed_fakes();
    plan skip_all => 'pve-tunnel is not built' if !-x "$ROOT/target/release/pve-tunnel";
    plan skip_all => 'no mount namespaces here' if run('unshare', '--mount', 'true')->{code};
    # Created and removed outside of the namespace, where nothing is mounted in it.
    my $outside = tempdir(CLEANUP => 1);
    exit(system('unshare', '--mount', $^X, $0, $outside) == 0 ? 0 : 1);
}

my $dir = $ARGV[0];
mount_layers();

# A test that hangs must fail.
local $SIG{ALRM} = sub { die "the test timed out\n" };
alarm(1200);

# All processes of this test load the installed modules.
delete $ENV{PERL5LIB};

my $old = package_of_build('0.1');
my $new = package_of_build('0.2');

subtest 'debian/tests/activation' => sub {
    run_ok('installed', 'dpkg', '-i', $old);
    my $run = run_ok('debian/tests/activation', $^X, "$ROOT/debian/tests/activation");
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

# Mounts layers over system directories. Writes go to memory, which is freed with the namespace.
sub mount_layers () {
    my $memory = path($dir, 'memory')->mkdir;
    system('mount', '-t', 'tmpfs', 'none', $memory) == 0 or plan skip_all => 'no tmpfs here';
    for my $name (qw(usr etc var run)) {
        path("$memory/$_")->mkdir for $name, "$name.work";
        my $layers = "lowerdir=/$name,upperdir=$memory/$name,workdir=$memory/$name.work";
        system("mount -t overlay overlay -o $layers /$name 2>/dev/null") == 0
            or plan skip_all => 'no overlay file systems here';
    }
    return;
}

# Makes one package of the build in this tree, with our maintainer scripts. Returns its file.
sub package_of_build ($version) {
    my $tree = "$dir/pve-tunnel-$version";
    my $make =
        run('make', '-C', $ROOT, 'install-command', 'install-perl', "DESTDIR=$tree", 'PREFIX=/usr');
    die "cannot install: $make->{output}\n" if $make->{code};
    my $control = path("$tree/DEBIAN")->mkdir;
    $control->child('control')->spew(<<~"END");
        Package: pve-tunnel
        Version: $version
        Architecture: all
        Maintainer: pve-tunnel tests <nobody\@localhost>
        Description: test
        END
    path("$ROOT/debian/pve-tunnel.triggers")->copy($control->child('triggers'));
    for my $name (qw(postinst prerm)) {
        my $script = path("$ROOT/debian/pve-tunnel.$name")->slurp =~ s/^#DEBHELPER#$//mr;
        $control->child($name)->spew($script);
        $control->child($name)->chmod('a+x');
    }
    my $built = run('dpkg-deb', '-Znone', '--root-owner-group', '--build', $tree, "$tree.deb");
    die "cannot build a package: $built->{output}\n" if $built->{code};
    return "$tree.deb";
}

sub status_without_problems ($state) {
    my $status = run('pve-tunnel', 'status', '--json');
    my $report = JSON::decode_json($status->{output});
    is_deeply(
        [@$report{qw(state problems)}, $status->{code}],
        [$state, [], 0], "status reports '$state' and no problem"
    ) or diag($status->{output});
    return;
}
