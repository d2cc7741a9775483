package Test::LayeredSystem;

use v5.36;

use Exporter qw(import);
use File::Basename qw(dirname);
use File::Temp qw(tempdir);
use FindBin ();
use Path::Tiny qw(path);
use Test::More;

use lib dirname(__FILE__) . '/../../../debian/tests/lib';
use Test::PackagedNode qw(run installed_fakes);

our @EXPORT_OK = qw(enter mount_layers package_of_build);

my $ROOT = path(__FILE__)->parent(4)->absolute;

=head1 NAME

Test::LayeredSystem - a mount namespace in which a test installs packages on this system

=head1 SYNOPSIS

    my $dir = enter();
    mount_layers($dir, qw(usr etc var run));
    system('dpkg', '-i', package_of_build($dir, '0.1'));

=head1 FUNCTIONS

=head2 enter

Runs the test again in a mount namespace, and returns the path of an empty directory there, which is
removed when the test has ended. Skips the test where this is not possible.

=head2 mount_layers($dir, @names)

Mounts layers over these directories of the root directory. Writes go to memory, which is freed with
the namespace.

=head2 package_of_build($dir, $version)

Makes one package of the build in this tree, with our maintainer scripts. Returns its file.

=cut

sub enter () {
    return $ARGV[0] if @ARGV;
    plan skip_all => 'not root' if $> != 0;
    plan skip_all => 'no dpkg here' if !-x '/usr/bin/dpkg-deb';
    plan skip_all => "this is a node: $_ is installed" for installed_fakes();
    plan skip_all => 'pve-tunnel is not built' if !-x "$ROOT/target/release/pve-tunnel";
    plan skip_all => 'no mount namespaces here' if run('unshare', '--mount', 'true')->{code};
    # Created and removed outside of the namespace, where nothing is mounted in it.
    my $outside = tempdir(CLEANUP => 1);
    exit(system('unshare', '--mount', $^X, $0, $outside) == 0 ? 0 : 1);
}

sub mount_layers ($dir, @names) {
    my $memory = path($dir, 'memory')->mkdir;
    system('mount', '-t', 'tmpfs', 'none', $memory) == 0 or plan skip_all => 'no tmpfs here';
    for my $name (@names) {
        path("$memory/$_")->mkdir for $name, "$name.work";
        my $layers = "lowerdir=/$name,upperdir=$memory/$name,workdir=$memory/$name.work";
        system("mount -t overlay overlay -o $layers /$name 2>/dev/null") == 0
            or plan skip_all => 'no overlay file systems here';
    }
    return;
}

sub package_of_build ($dir, $version) {
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

1;
