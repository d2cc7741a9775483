#!/usr/bin/perl

# If QEMU's tools are from backports, `setup` takes the emulator from there, too. Its source of backports has the mirror
# and the key of the system's own source of Debian, whose form is one line or deb822.

use v5.36;

use FindBin;
use Path::Tiny ();
use Test::More;

my $SETUP = Path::Tiny::path("$FindBin::Bin/../setup")->absolute;
plan(skip_all => 'this system has no apt') if !-x '/usr/bin/apt-get';
my ($CODENAME) = Path::Tiny::path('/etc/os-release')->slurp =~ m/^VERSION_CODENAME=(\w+)$/m;
plan(skip_all => 'this system has no codename') if !defined $CODENAME;

chomp(my $ARCHITECTURE = `dpkg --print-architecture`);

my $MIRROR = 'http://mirror.example.com/debian/';
my $ONE_LINE = "deb [arch=$ARCHITECTURE signed-by=/keys/ours.gpg] $MIRROR $CODENAME main contrib\n";
my $STANZAS = <<"END";
# The first stanza is of another archive.
Types: deb
URIs: http://other.example.com/
Suites: $CODENAME
Components: main
Signed-By: /keys/other.gpg

Types: deb
# the mirror
URIs: $MIRROR
Suites: $CODENAME $CODENAME-updates
Components: main
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 mDMEZ
 -----END PGP PUBLIC KEY BLOCK-----
END
my $KEY = $STANZAS =~ s/\A.*^(?=Signed-By:\n)//smr;

my $expected = "Types: deb\nURIs: $MIRROR\nSuites: $CODENAME-backports\nComponents: main\n";
is(source('debian.list', $ONE_LINE), "${expected}Signed-By: /keys/ours.gpg\n", 'from one line');
is(source('debian.sources', $STANZAS), "$expected$KEY", 'from deb822, with an embedded key');
is(
    source('debian.list', "deb [trusted=yes] $MIRROR $CODENAME main\n"),
    $expected, 'a source without a key',
);
is(
    source('debian.list', "deb $MIRROR $CODENAME main\ndeb $MIRROR $CODENAME-backports main\n"),
    undef, 'a system with backports needs no other source',
);
like(
    output('debian.list', "deb http://other.example.com/ $CODENAME main\n"),
    qr/sources contain no mirror of Debian $CODENAME: add one/,
    'a system without a mirror of Debian',
);

done_testing();

# The source that `setup` prints on a system with one file of apt's sources.
sub source ($name, $content) {
    my $output = output($name, $content);
    like(
        $output, qr/^  apt-get install .* -t $CODENAME-backports qemu-system-x86$/m,
        'from backports'
    );
    return $output =~ m/<<'END'\n(.*?)^END$/sm ? $1 : undef;
}

sub output ($name, $content) {
    my $dir = Path::Tiny->tempdir;
    my $lists = $dir->child('lists');
    $lists->child('partial')->mkdir;
    $dir->child('parts')->mkdir->child($name)->spew($content);
    for my $suite ('', '-updates', '-backports') {
        list($lists, 'mirror.example.com_debian', "$CODENAME$suite", 'Debian');
    }
    list($lists, 'other.example.com', $CODENAME, 'Other');
    $dir->child('apt.conf')->spew(<<"END");
Dir::Etc::sourcelist "/dev/null";
Dir::Etc::sourceparts "$dir/parts";
Dir::State::lists "$lists";
Dir::Cache "$dir/cache";
END
    my $path = programs($dir);
    local %ENV = (PATH => $path, APT_CONFIG => $dir->child('apt.conf')->stringify);
    my $output = `$SETUP 2>&1`;
    isnt($?, 0, 'exit code');
    return $output;
}

sub list ($lists, $prefix, $suite, $origin) {
    $lists->child("${prefix}_dists_${suite}_Release")
        ->spew("Origin: $origin\nSuite: $suite\nCodename: $suite\nComponents: main contrib\n");
    # Apt names a source only if it has downloaded its index.
    $lists->child("${prefix}_dists_${suite}_main_binary-${ARCHITECTURE}_Packages")->spew('');
    return;
}

# A system without the emulator, where a user who is not root installed the tools from backports.
sub programs ($dir) {
    my $bin = $dir->child('bin')->mkdir;
    for my $name (qw(sh sed sort head cut grep perl apt-get dpkg)) {
        my ($program) = grep { -x } map { "$_/$name" } qw(/usr/bin /bin);
        symlink $program, "$bin/$name" or die "$name: $!\n";
    }
    script($bin->child('id'), 'echo 1000');
    script($bin->child('cargo'), 'echo cargo 1.85.0');
    script($bin->child('dpkg-query'), <<'END');
case "$*" in
    *Version*qemu-utils) echo '1:7.2~bpo12+1' ;;
    *) echo installed ;;
esac
END
    return $bin->stringify;
}

sub script ($file, $text) {
    $file->spew("#!/bin/sh\n$text\n");
    $file->chmod(0755);
    return;
}
