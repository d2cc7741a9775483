#!/usr/bin/perl

# A node's whole life with pve-tunnel, with the real dpkg and packages made here: installed,
# switched on and off, upgraded, removed. All in a mount namespace, where /usr, /etc and /var can be
# written to without anything of this machine being changed.

use v5.36;

use Config;
use FindBin ();

use File::Copy qw(copy);
use File::Find qw(find);
use File::Path qw(make_path);
use File::Temp qw(tempdir);
use JSON ();
use Test::More;

my $ROOT = "$FindBin::RealBin/..";
my $COMMAND = "$ROOT/target/release/pve-tunnel";
my $PERL5 = '/usr/share/perl5';
my %STOCK = (
    overlay => "$PERL5/PVE/Tunnel.pm",
    seam => "$PERL5/PVE/StorageTunnel.pm",
    helper => '/usr/bin/proxmox-websocket-tunnel',
);
my $RELOADS = '/var/reloads';

if (!@ARGV) {
    plan skip_all => 'not root' if $> != 0;
    plan skip_all => 'no dpkg here' if !-x '/usr/bin/dpkg-deb';
    plan skip_all => "this is a node: $_ is installed" for grep { -e } values %STOCK;
    plan skip_all => "$COMMAND is not built" if !-x $COMMAND;
    plan skip_all => 'no mount namespaces here' if system('unshare --mount true 2>/dev/null');
    # Removed out here, where nothing is mounted in it.
    my $outside = tempdir(CLEANUP => 1);
    exit(system('unshare', '--mount', $^X, $0, $outside) == 0 ? 0 : 1);
}

my $dir = $ARGV[0];
mount_layers();

# A test that stands still is a failed test.
local $SIG{ALRM} = sub { die "the test stands still\n" };
alarm(600);

# What is written goes to memory, and with the namespace.
sub mount_layers () {
    my $memory = "$dir/memory";
    mkdir($memory) or die "cannot create $memory: $!\n";
    system('mount', '-t', 'tmpfs', 'none', $memory) == 0 or plan skip_all => 'no tmpfs here';
    for my $name (qw(usr etc var)) {
        make_path("$memory/$name", "$memory/$name.work");
        my $layers = "lowerdir=/$name,upperdir=$memory/$name,workdir=$memory/$name.work";
        system("mount -t overlay overlay -o $layers /$name 2>/dev/null") == 0
            or plan skip_all => 'no overlay file systems here';
    }
    return;
}

sub slurp ($file) {
    open(my $fh, '<', $file) or die "cannot read $file: $!\n";
    local $/ = undef;
    my $text = readline($fh);
    close($fh);
    return $text;
}

sub spew ($file, $text, $mode = oct('644')) {
    make_path($file =~ s{/[^/]+\z}{}r);
    open(my $fh, '>', $file) or die "cannot create $file: $!\n";
    print {$fh} $text;
    close($fh) or die "cannot write $file: $!\n";
    chmod($mode, $file) or die "cannot chmod $file: $!\n";
    return;
}

# Runs a command; returns how it ended and what it printed, errors included.
sub run (@command) {
    open(my $out, '-|', 'sh', '-c', 'exec "$@" 2>&1 </dev/null', 'sh', @command)
        or die "cannot run $command[0]: $!\n";
    local $/ = undef;
    my $said = readline($out) // '';
    close($out);
    return ($? >> 8, $said);
}

sub succeeds ($name, @command) {
    my ($status, $said) = run(@command);
    is($status, 0, $name) or diag($said);
    return $said;
}

# A package: its files by path (code to put one there, or its text), and dpkg's own.
sub build_package ($name, $version, $files, $control = {}) {
    my $tree = "$dir/$name-$version";
    spew(
        "$tree/DEBIAN/control",
        "Package: $name\nVersion: $version\nArchitecture: all\n"
            . "Maintainer: Test <test\@example.org>\nDescription: test\n"
    );
    spew("$tree/DEBIAN/$_", $control->{$_}, $_ eq 'triggers' ? oct('644') : oct('755'))
        for keys %$control;
    for my $path (keys %$files) {
        my $mode = $path =~ m{/bin/} ? oct('755') : oct('644');
        if (ref($files->{$path})) {
            make_path("$tree$path" =~ s{/[^/]+\z}{}r);
            copy($files->{$path}->$*, "$tree$path") or die "cannot copy to $path: $!\n";
            chmod($mode, "$tree$path") or die "cannot chmod: $!\n";
        } else {
            spew("$tree$path", $files->{$path}, $mode);
        }
    }
    my ($status, $said) = run('dpkg-deb', '-Znone', '--root-owner-group', '-b', $tree, "$tree.deb");
    die "cannot build $name: $said\n" if $status;
    return "$tree.deb";
}

sub install ($name, @packages) {
    return succeeds($name, 'dpkg', '--force-unsafe-io', '-i', @packages);
}

my $known = slurp("$ROOT/t/lib/stand-in/PVE/Tunnel.pm");
my $unknown = $known =~ s/my \(\$tunnel, \$cleanup\)/my (\$cleanup, \$tunnel)/r;

sub guest_common ($version, $tunnel = $known) {
    my $storage =
          "package PVE::StorageTunnel;\nuse PVE::Tunnel;\n"
        . "our \$cmd_schema = { 'query-disk-import' => {} };\n"
        . "sub handle_query_disk_import { return }\n1; # $version\n";
    return build_package(
        'libpve-guest-common-perl', $version,
        { $STOCK{overlay} => "$tunnel# $version\n", $STOCK{seam} => $storage },
        { triggers => "activate-noawait pve-api-updates\n" }
    );
}

sub pve_tunnel ($version) {
    my %files = ('/usr/bin/pve-tunnel' => \$COMMAND);
    for my $name (qw(Tunnel StorageTunnel)) {
        my $source = "$ROOT/perl/stand-in/PVE/$name.pm";
        $files{"/usr/share/pve-tunnel/perl5/PVE/$name.pm"} = \$source;
    }
    for my $blib (map { "$ROOT/perl/blib/$_" } qw(lib arch)) {
        my $add = sub {
            return if !/\.(?:pm|so)\z/ || !-f;
            my $source = $_;
            $files{ "$Config{vendorarch}/" . substr($_, length("$blib/")) } = \$source;
        };
        find({ no_chdir => 1, wanted => $add }, $blib);
    }
    my %control = (triggers => slurp("$ROOT/debian/pve-tunnel.triggers"));
    for my $script (qw(postinst prerm)) {
        $control{$script} = slurp("$ROOT/debian/pve-tunnel.$script") =~ s/^#DEBHELPER#$//mr;
    }
    return build_package('pve-tunnel', $version, \%files, \%control);
}

# How often the daemons were told to reload.
sub reloads () {
    return -e $RELOADS ? scalar(() = slurp($RELOADS) =~ /\n/g) : 0;
}

# What is at the paths of the stock files and beside them, and what is diverted.
sub listing () {
    my %found;
    for my $file (glob("$PERL5/PVE/* /usr/bin/proxmox-websocket-tunnel*")) {
        $found{$file} = -l $file ? 'link to ' . readlink($file) : -f $file ? slurp($file) : 'other';
    }
    my ($status, $diversions) = run('dpkg-divert', '--list', '*pve*', '*PVE*');
    $found{diversions} = $diversions;
    return \%found;
}

# What Perl, under taint, makes of the modules.
sub in_effect () {
    my $code =
          'require PVE::StorageTunnel;'
        . 'print join(" ", map { my $s = $_->can("status"); $s && $s->()->{installed} ? 1 : 0 }'
        . ' qw(PVE::Tunnel::Overlay PVE::Tunnel::Seam)), "\n"';
    local $ENV{PERL5LIB} = '';
    my ($status, $said) = run('perl', '-T', '-e', $code);
    return $said;
}

sub status () {
    my ($ended, $said) = run('pve-tunnel', 'status', '--json');
    my $status = JSON::decode_json($said);
    $status->{ended} = $ended;
    return $status;
}

sub in_order ($state, $name) {
    my $status = status();
    is_deeply([@$status{qw(state ended problems)}], [$state, 0, []], "$name: status is in order")
        or diag(explain($status));
    return;
}

my $manager = build_package(
    'pve-manager',
    '1',
    {},
    {
        triggers => "interest-noawait pve-api-updates\n",
        postinst => "#!/bin/sh\n[ \"\$1\" != triggered ] || echo reload >>$RELOADS\n",
    },
);
my $helper = build_package(
    'proxmox-websocket-tunnel', '1',
    { $STOCK{helper} => "#!/bin/sh\necho stock helper\n" }
);
install('a node', $manager, $helper, guest_common(1));
my $before = listing();
my $reloads = reloads();

subtest 'installing' => sub {
    install('the package', pve_tunnel(1));
    is_deeply(listing(), $before, 'changes no file');
    is(reloads(), $reloads, 'and reloads no daemon');
    is(in_effect(), "0 0\n", 'and Perl knows nothing of it');
    in_order('off', 'off');
};

subtest 'a copy that Perl finds first' => sub {
    my $copy = "$Config{sitelib}/PVE/StorageTunnel.pm";
    spew($copy, slurp($STOCK{seam}));
    my ($ended, $said) = run('pve-tunnel', 'enable');
    is($ended, 1, 'refused');
    like($said, qr/Perl loads \Q$copy\E in the place of $STOCK{seam}: move it away/, 'and named');
    is_deeply(listing(), $before, 'and nothing is changed');
    unlink($copy) or die "cannot remove $copy: $!\n";
};

subtest 'enable' => sub {
    my $said = succeeds('switches on', 'pve-tunnel', 'enable');
    like($said, qr/^overlay: on; .*^seam: on; .*^daemons: reloaded /ms, 'and says what it does');
    is(reloads(), $reloads + 1, 'the daemons reload');
    is(in_effect(), "1 1\n", 'it is in effect under taint');
    in_order('on', 'on');
    like((run($STOCK{helper}))[1], qr/stock helper/, 'the helper is stock');
    my $now = listing();
    is(
        succeeds('once more', 'pve-tunnel', 'enable'),
        "nothing to change: pve-tunnel is on\n",
        'says that nothing is to be changed'
    );
    is_deeply(listing(), $now, 'and changes nothing');
    is(reloads(), $reloads + 1, 'and reloads nothing');
};

subtest 'upgrades while it is on' => sub {
    $reloads = reloads();
    my $said = install('a stock package that is not known', guest_common(2, $unknown));
    like($said, qr/^PROBLEM: overlay: .*finish_tunnel/m, 'is told while it is installed');
    like($said, qr/^daemons reload when the dpkg /m, 'and daemons are not judged meanwhile');
    is(reloads(), $reloads + 1, 'and the daemons reload by its own trigger');
    like(
        in_effect(),
        qr/\Apve-tunnel: migrations go the stock way: [^\n]+\n0 1\n\z/,
        'migrations go the stock way'
    );
    my $status = status();
    is_deeply([@$status{qw(state ended)}], ['on', 1], 'status says so');
    is($status->{parts}[0]{package}{version}, '2', 'and which version it is');

    $said = install('one that is known', guest_common(3));
    unlike($said, qr/PROBLEM/, 'is fine');
    is(in_effect(), "1 1\n", 'and in effect by itself');
    in_order('on', 'upgraded');

    $reloads = reloads();
    my $now = listing();
    install('our package', pve_tunnel(2));
    is_deeply(listing(), $now, 'leaves the links');
    is(reloads(), $reloads + 1, 'and has the daemons reload');
    in_order('on', 'upgraded ourselves');
};

subtest 'the stock package is removed and comes back' => sub {
    my $said = succeeds('removed', 'dpkg', '-r', 'libpve-guest-common-perl');
    like($said, qr/^PROBLEM: overlay: .* is not installed/m, 'is told');
    is(status()->{ended}, 1, 'status says so, too');
    install('and installed again', guest_common(1));
    in_order('on', 'back');
};

subtest 'helper-only' => sub {
    succeeds('switches', 'pve-tunnel', 'enable', '--helper-only');
    is(in_effect(), "0 0\n", 'the modules are stock');
    my ($ended, $said) = run($STOCK{helper}, '--help');
    unlike($said, qr/stock helper/, 'the helper is ours');
    in_order('helper-only', 'helper-only');
};

subtest 'disable and removal' => sub {
    succeeds('disable', 'pve-tunnel', 'disable');
    is_deeply(listing(), $before, 'leaves what there was');
    in_order('off', 'off');
    succeeds('on again', 'pve-tunnel', 'enable');
    $reloads = reloads();
    my $said = succeeds('removal of the package', 'dpkg', '-r', 'pve-tunnel');
    like($said, qr/^overlay: off; .*^daemons: reload when the dpkg /ms, 'switches off');
    is_deeply(listing(), $before, 'and leaves what there was');
    is(reloads(), $reloads + 1, 'and the daemons reload');

    install('installed again', pve_tunnel(1));
    succeeds('and on', 'pve-tunnel', 'enable');
    succeeds('the stock package removed', 'dpkg', '-r', 'libpve-guest-common-perl');
    succeeds('and then ours', 'dpkg', '-r', 'pve-tunnel');
    my @left = grep { !/^diversions|proxmox-websocket-tunnel\z/ } keys listing()->%*;
    is_deeply(\@left, [], 'nothing is left');
    is((run('dpkg-divert', '--list', '*PVE*'))[1], '', 'and nothing diverted');
};

done_testing();
