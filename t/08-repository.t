#!/usr/bin/perl

# debian/repository creates an apt repository of packages for two releases, signed or unsigned. apt updates from it with
# the lines that it prints, prefers the package of the later release, and rejects changed files. Apt runs as this user,
# with folders of its own.

use v5.36;

use FindBin;
use Path::Tiny ();
use Test::More;

my $TOP = Path::Tiny::path("$FindBin::Bin/..")->absolute;
for my $program (qw(apt-ftparchive apt-get dpkg-deb xz)) {
    plan(skip_all => "$program is not installed") if !installed($program);
}

my $dir = Path::Tiny->tempdir;
my $repository = $dir->child('repo');

subtest 'version of a build' => sub {
    my $tree = $dir->child('tree/debian')->mkdir;
    $TOP->child("debian/$_")->copy($tree->child($_)) for qw(changelog release-version);
    my ($version) = $tree->child('changelog')->slurp =~ m/\((.*?)\)/;
    is(system('sh', $tree->child('release-version')), 0, 'release-version succeeds') for 1 .. 2;

    my $system = Path::Tiny::path('/etc/os-release')->slurp;
    my ($number) = $system =~ m/^ID=debian$/m ? $system =~ m/^VERSION_ID="?([0-9]+)"?$/m : ();
    my $expected = $version . (defined $number ? "~deb$number" : '');
    like($tree->child('changelog')->slurp, qr/\Apve-tunnel \(\Q$expected\E\) /, $expected);

    my @order = ("$version~", "$version~deb12", "$version~deb13", $version);
    for my $index (1 .. $#order) {
        my ($lower, $higher) = @order[$index - 1, $index];
        is(system('dpkg', '--compare-versions', $lower, 'lt', $higher), 0, "$lower < $higher");
    }
};

subtest 'errors' => sub {
    my $empty = $dir->child('empty')->mkdir;
    fails([$empty, $empty], qr/no package in: \S+empty \S+empty\. make deb creates/);
    # A mistyped name must not lead to a repository of one release only.
    my $good = folder('good', ['1.0~deb12']);
    fails([$good, $dir->child('absent')], qr/there is no folder \S+absent: make deb creates/);

    my $damaged = folder('damaged', ['1.0~deb12']);
    my ($deb) = $damaged->children(qr/\.deb\z/);
    my $content = $deb->slurp_raw;
    for my $length (0, 100, length($content) - 100) {
        $deb->spew_raw(substr $content, 0, $length);
        fails([$damaged], qr/^debian\/repository: \Q$deb\E is damaged, or not a package/m);
    }

    my $plain = folder('plain', ['1.0']);
    fails(
        [$plain],
        qr/version of \S+plain\S+, 1\.0, does not end with a supported release, such as ~deb12/
    );

    my @builds = (folder('first', ['1.0~deb12']), folder('second', ['1.0~deb12', 'another']));
    fails(\@builds, qr/first\S+ and \S+second\S+ are different builds of the same version/);
    ok(!$repository->exists, 'no repository is left');
    ok(!-e "$repository.new", 'no unfinished repository is left');

    $repository->child('other')->mkdir;
    fails([$builds[0]], qr/repo is not a repository, so it is not replaced/);
    $repository->remove_tree;

    fails(['--key', 'pve-tunnel', @builds], qr/'pve-tunnel' is not the fingerprint of a key/)
        if installed('gpg');
};

my $bookworm = folder('bookworm', ['1.0~deb12']);
my $trixie = folder('trixie', ['1.0~deb13'], ['1.1~deb13']);

subtest 'unsigned' => sub {
    my $printed = create($bookworm, $bookworm, $trixie);
    like($printed, qr/^The packages are not signed/m, 'reports that nothing is signed');
    unlike($printed, qr/wget/, '... and fetches no key');
    for my $suite (qw(bookworm trixie)) {
        my $folder = $repository->child("dists/$suite/main/binary-amd64");
        ok($folder->child($_)->exists, "$suite: $_") for qw(Packages Packages.gz Packages.xz);
    }
    my $release = $repository->child('dists/bookworm/Release')->slurp;
    my @lines =
        ('Origin: pve-tunnel', 'Label: pve-tunnel', 'Suite: bookworm', 'Codename: bookworm');
    like($release, qr/^\Q$_\E$/m, $_)
        for @lines, 'Components: main', 'Architectures: amd64', 'SHA256:';
    like($release, qr/^Date: ./m, 'Date');

    my ($first, $second, @others) = stanzas($printed);
    is(scalar(@others), 0, 'prints the sources of two releases');
    is(candidate($first), '1.0~deb12', 'Debian 12 gets its package');
    is(candidate($second), '1.1~deb13', 'Debian 13 gets its latest package');
    like(
        output('apt-get -s dist-upgrade', $second, '1.0~deb12'),
        qr/^Inst pve-example \[1\.0~deb12\] \(1\.1~deb13 /m,
        'an upgrade of Debian upgrades the package',
    );
};

subtest 'a path that is not plain' => sub {
    my $plain = $repository;
    $repository = $dir->child('100% of it\'s repo');
    my ($stanza) = stanzas(create($bookworm));
    is(candidate($stanza), '1.0~deb12', 'apt finds the folder');
    $repository->remove_tree;
    $repository = $plain;
};

subtest 'again' => sub {
    create($trixie);
    is_deeply(
        [map { $_->basename } $repository->child('dists')->children], ['trixie'],
        'replaces the folder'
    );
    fails([$dir->child('empty')], qr/no package/);
    ok($repository->child('dists/trixie/Release')->exists, 'a failure leaves the previous folder');
    ok(!-e "$repository.old", 'the old folder is removed');
};

subtest 'signed' => sub {
    plan(skip_all => 'gpg is not installed') if !installed('gpg');
    my $gnupg = Path::Tiny->tempdir;
    local $ENV{GNUPGHOME} = $gnupg->stringify;
    my $made =
        `gpg --batch --status-fd 1 --passphrase '' --quick-generate-key tests ed25519 sign 2>&1`;
    my ($key) = $made =~ m/KEY_CREATED . ([0-9A-F]+)/ or die "gpg made no key: $made\n";

    fails(['--key', '0' x 40, $bookworm], qr/gpg has no secret key 0{40}$/m);
    my $printed = create('--key', $key, $bookworm);
    my ($stanza) = stanzas($printed);
    like($printed, qr/^The packages are signed by the key $key\./m, 'prints the fingerprint');
    my @long = grep { length > 80 && !m{\Q$repository\E} } split m/\n/, $printed;
    is_deeply(\@long, [], 'the text fits 80 columns');
    # A node that uses a web server has no copy of the folder.
    my ($uri) = $printed =~ m/^  URIs: (https:\S+)$/m;
    my ($fetch) = $printed =~ m/^(  wget .*\\\n.*)$/m;
    my ($to, $from) = ($fetch // '') =~ m{-O (\S+) \\\n +\Q$uri\E/(\S+)\z};
    is($to, '/etc/apt/keyrings/pve-tunnel.asc', 'the command for a web server installs the key');
    ok($from && -s $repository->child($from), '... from a file of the repository');
    like($stanza, qr{^Signed-By: /etc/apt/keyrings/pve-tunnel\.asc$}m, 'the sources name the key');
    unlike($stanza, qr/Trusted/, 'the sources require a signature');
    my $plain = $repository;
    $repository = $dir->child('it\'s signed');
    my ($install) = create('--key', $key, $bookworm) =~ m/^  (install .*)$/m;
    $install =~ s{ \K/etc/}{'$dir'/etc/};
    is(system('sh', '-c', $install), 0, 'the command for the key is quoted');
    ok(-s "$dir/etc/apt/keyrings/pve-tunnel.asc", '... and installs it');
    $repository->remove_tree;
    $repository = $plain;
    # Instead of the path to which the operator copies the key.
    $stanza =~ s{^Signed-By: \K.*}{$repository/pve-tunnel.asc}m;
    is(candidate($stanza), '1.0~deb12', 'apt accepts the signature');

    my $dists = $repository->child('dists/bookworm');
    my $index = $dists->child('main/binary-amd64');
    $index->child($_)->remove for qw(Packages.gz Packages.xz);
    $index->child('Packages')->edit_raw(sub { s/^Description: .*/Description: changed/m });
    rejects($stanza, qr/unexpected size|Hash Sum mismatch/, 'a changed Packages');

    create('--key', $key, $bookworm);
    $dists->child($_)->edit_raw(sub { s/^Label: .*/Label: changed/m }) for qw(InRelease Release);
    rejects($stanza, qr/signature/, 'a changed Release');

    create($bookworm);
    rejects($stanza, qr/is not signed/, 'a repository without signatures');
    system('gpgconf', '--kill', 'all');
};

done_testing();

sub installed ($program) {
    return grep { -x "$_/$program" } qw(/usr/bin /bin);
}

# A folder with a package for each [version, content].
sub folder ($name, @packages) {
    my $folder = $dir->child($name)->mkdir;
    for my $package (@packages) {
        my ($version, $content) = @$package;
        my $tree = $dir->child("$name-$version");
        $tree->child('DEBIAN')->mkdir->child('control')->spew(<<"END");
Package: pve-example
Version: $version
Architecture: amd64
Maintainer: tests <tests\@example.org>
Description: package of a test
END
        $tree->child('content')->spew($content // 'a build');
        my $output = `dpkg-deb --root-owner-group --build $tree $folder 2>&1`;
        is($?, 0, "$name: $version") or diag($output);
    }
    return $folder;
}

# The wait status and the output. The folders with packages follow an optional --key.
sub repository (@arguments) {
    my @key = $arguments[0] eq '--key' ? splice(@arguments, 0, 2) : ();
    my $command = join ' ', map { quotemeta } "$TOP/debian/repository", @key, $repository,
        @arguments;
    my $output = `$command 2>&1`;
    return ($?, $output);
}

sub create (@arguments) {
    my ($status, $output) = repository(@arguments);
    is($status, 0, 'creates a repository') or diag($output);
    return $output;
}

sub fails ($arguments, $expected) {
    my ($status, $output) = repository(@$arguments);
    isnt($status, 0, 'fails');
    like($output, $expected, '... with the reason');
    return;
}

# The printed sources, in the order of releases.
sub stanzas ($printed) {
    return map { s/^  //gmr } $printed =~ m/^(  Types: deb\n(?:  .*\n)+)/gm;
}

# The version that apt would install.
sub candidate ($stanza) {
    my $updated = output('apt-get update', $stanza);
    is($?, 0, 'apt-get update') or diag($updated);
    my ($version) = output('apt-cache policy pve-example', $stanza) =~ m/Candidate: (.*)/;
    return $version;
}

# Without an index of an earlier update, which apt would keep.
sub rejects ($stanza, $expected, $what) {
    $dir->child('apt')->remove_tree;
    my $output = output('apt-get update', $stanza);
    isnt($?, 0, "apt rejects $what");
    like($output, $expected, '... with the reason');
    return;
}

# The output of a command of apt with these sources, and with the package installed in a version.
sub output ($command, $stanza, $version = undef) {
    my $root = $dir->child('apt');
    $root->child($_)->mkdir for qw(parts lists/partial cache/archives/partial);
    $root->child('parts/pve-tunnel.sources')->spew($stanza);
    $root->child('status')->spew(defined $version ? <<"END" : '');
Package: pve-example
Status: install ok installed
Version: $version
Architecture: amd64
Maintainer: tests
Description: package of a test
END
    $root->child('apt.conf')->spew(<<"END");
APT::Architecture "amd64";
APT::Architectures { "amd64"; };
APT::Sandbox::User "root";
Dir::Etc::sourcelist "/dev/null";
Dir::Etc::sourceparts "$root/parts";
Dir::Etc::trusted "/dev/null";
Dir::Etc::trustedparts "/dev/null";
Dir::State::lists "$root/lists";
Dir::State::status "$root/status";
Dir::Cache "$root/cache";
END
    local $ENV{APT_CONFIG} = $root->child('apt.conf')->stringify;
    return scalar `LC_ALL=C $command 2>&1`;
}
