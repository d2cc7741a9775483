#!/usr/bin/perl

# The replacement modules of PVE::Tunnel and PVE::StorageTunnel. A Perl process of its own loads
# each of them as the programs of Proxmox VE do. Only the absolute path of the stock file differs
# from an installation; 55-activation.t loads the modules from their installed paths.

use v5.36;

use FindBin ();
use lib "$FindBin::RealBin/lib";

use File::Path qw(make_path);
use File::Temp qw(tempdir);
use Path::Tiny qw(path);
use Test::More;

my $ROOT = "$FindBin::RealBin/..";
my $STOCK_TUNNEL = "$ROOT/t/lib/fake/PVE/Tunnel.pm";

# Has what the seam checks, and loads PVE::Tunnel as the real module does.
my $STOCK_STORAGE_TUNNEL = <<'END';
package PVE::StorageTunnel;
use strict;
use warnings;
use PVE::Tunnel;
our $cmd_schema = { 'query-disk-import' => {} };
our $LOADED = ($PVE::StorageTunnel::LOADED // 0) + 1;
sub handle_query_disk_import { my ($state, $params) = @_; return { status => 'stock' } }
1;
END

my $WARNING =
    qr/\Apve-tunnel: migrations (?:from|to) this node use the stock tunnel: [^\n]+; run 'pve-tunnel status' for details\n\z/;

# Makes a directory with the replacement modules and the stock modules. %stock has other contents
# for stock modules; `undef` leaves one out.
sub tree (%stock) {
    my $dir = tempdir(CLEANUP => 1);
    make_path("$dir/PVE");
    my %content =
        (Tunnel => path($STOCK_TUNNEL)->slurp, StorageTunnel => $STOCK_STORAGE_TUNNEL, %stock);
    for my $name (sort keys %content) {
        my $text = path("$ROOT/perl/diverted/PVE/$name.pm")->slurp;
        my $path = "/usr/share/perl5/PVE/$name.pm.distrib";
        my $count = $text =~ s/^require '\Q$path\E';/require '$dir\/PVE\/$name.pm.distrib';/gm;
        die "$name.pm does not load its stock file in one place\n" if $count != 1;
        path("$dir/PVE/$name.pm")->spew($text);
        path("$dir/PVE/$name.pm.distrib")->spew($content{$name}) if defined $content{$name};
    }
    return $dir;
}

# Hides the modules of pve-tunnel, wherever they are installed.
my $HIDE = <<'END';
    unshift @INC, sub {
        return if $_[1] !~ m{^PVE/Tunnel/};
        die "Can't locate $_[1], which is hidden\n";
    };
END

# Runs a program with the modules of a directory, and returns its output, errors included.
# `without`: hide the modules of pve-tunnel. `real`: the stock modules are the real ones.
sub run ($dir, $code, %how) {
    my @lib = map { "-I$_" } $dir, map { "$ROOT/perl/blib/$_" } qw(lib arch);
    $code = "BEGIN { $HIDE } $code" if $how{without};
    local %ENV = %ENV;
    delete $ENV{PERL5LIB} if !$how{real};
    # With -w, the real modules warn of each other, with and without pve-tunnel.
    my @switches = ($how{taint} ? '-T' : (), $how{real} ? () : '-w');
    my @more = $how{real} ? map { "-I$_" } split(/:/, $ENV{PERL5LIB} // '') : ();
    open(
        my $out, '-|', 'sh', '-c', 'exec "$@" 2>&1', 'sh', $^X, @switches, @lib, @more, '-e',
        $code
    ) or die "cannot run perl: $!\n";
    local $/ = undef;
    my $printed = readline($out);
    close($out);
    return $printed;
}

# Prints which parts of pve-tunnel are in effect, as a caller finds them at run time.
my $REPORT = <<'END';
sub report {
    my $overlay = PVE::Tunnel::Overlay->can('status') && PVE::Tunnel::Overlay::status()->{installed};
    my $seam = PVE::Tunnel::Seam->can('status') && PVE::Tunnel::Seam::status()->{installed};
    print 'overlay ', $overlay ? 'on' : 'off', ', seam ', $seam ? 'on' : 'off', "\n";
}
END

my $tree = tree();

for my $taint (0, 1) {
    my $name = $taint ? 'with taint checks' : 'without taint checks';
    my @how = (taint => $taint);
    my $printed = run($tree, "$REPORT require PVE::Tunnel; report()", @how);
    is($printed, "overlay on, seam off\n", "$name: PVE::Tunnel");
    $printed = run($tree, "$REPORT require PVE::StorageTunnel; report()", @how);
    is($printed, "overlay on, seam on\n", "$name: PVE::StorageTunnel, which loads PVE::Tunnel");
    $printed =
        run($tree, "$REPORT require PVE::Tunnel; require PVE::StorageTunnel; report()", @how);
    is($printed, "overlay on, seam on\n", "$name: PVE::Tunnel, then PVE::StorageTunnel");
    $printed = run($tree, "$REPORT use PVE::StorageTunnel; use PVE::Tunnel; report()", @how);
    is($printed, "overlay on, seam on\n", "$name: PVE::StorageTunnel, then PVE::Tunnel, by use");
}

is(
    run(
        $tree,
        "no warnings 'once'; $REPORT require PVE::StorageTunnel; delete \@INC{qw(PVE/Tunnel.pm PVE/StorageTunnel.pm)};"
            . 'require PVE::StorageTunnel; print "$PVE::StorageTunnel::LOADED\n"; report()'
    ),
    "1\noverlay on, seam on\n",
    'a module that is loaded twice takes effect once'
);

subtest 'missing or unknown modules' => sub {
    my $loads =
          "$REPORT our \@w; local \$SIG{__WARN__} = sub { push \@w, \@_ };"
        . 'our $ok = require PVE::Tunnel; our $too = require PVE::StorageTunnel;'
        . 'print scalar(@w), " warnings, $ok $too\n", @w; report();'
        . 'print PVE::Tunnel->can("fork_websocket_tunnel") ? "stock\n" : "nothing\n"';
    my %case = (
        'no native modules' => [$tree, 2, 'off', 'off', qr/Can't locate PVE/, without => 1],
        'a changed PVE::Tunnel' => [
            tree(
                Tunnel => path($STOCK_TUNNEL)->slurp =~
                    s/my \(\$tunnel, \$local, \$remote\)/my (\$tunnel, \$remote, \$local)/r
            ),
            1, 'off', 'on', qr/not changed: its function 'forward_unix_socket'/,
        ],
        'a changed PVE::StorageTunnel' => [
            tree(StorageTunnel => $STOCK_STORAGE_TUNNEL =~ s/query-disk-import/import-query/r),
            1, 'on', 'off', qr/no \$cmd_schema with 'query-disk-import'/,
        ],
    );
    for my $name (sort keys %case) {
        my ($dir, $count, $overlay, $seam, $reason, @how) = $case{$name}->@*;
        my $printed = run($dir, $loads, taint => 1, @how);
        my ($first, @lines) = split(/^/, $printed);
        is($first, "$count warnings, 1 1\n", "$name: a warning each, and both modules load");
        like($_, $WARNING, "$name: the warning has the documented form")
            for @lines[0 .. $count - 1];
        like($lines[0], $reason, "$name: the first warning has the reason");
        is($lines[$count], "overlay $overlay, seam $seam\n", "$name: the parts in effect");
        is($lines[-1], "stock\n", "$name: the stock functions are there");
        is(scalar(@lines), $count + 2, "$name: nothing else is printed") or diag($printed);
    }
};

subtest 'a stock module that does not load' => sub {
    my $loads = 'print eval { require PVE::Tunnel; 1 } ? "loaded\n" : $@;'
        . 'print eval { require PVE::Tunnel; 1 } ? "loaded\n" : $@;';
    my $dir = tree(Tunnel => undef);
    my $printed = run($dir, $loads, taint => 1);
    like(
        $printed, qr{\ACan't locate \Q$dir\E/PVE/Tunnel\.pm\.distrib at },
        'the error names a missing module'
    );
    like(
        $printed, qr/^Attempt to reload PVE\/Tunnel\.pm aborted/m,
        'Perl does not load it a second time'
    );
    $dir = tree(Tunnel => "package PVE::Tunnel;\nmy \$x = ;\n1;\n");
    like(
        run($dir, $loads),
        qr{\Asyntax error at \Q$dir\E/PVE/Tunnel\.pm\.distrib line 2},
        'the error of a broken module is that of Perl'
    );
    $dir = tree(Tunnel => "die qq(no configuration\\n);\n");
    like(run($dir, $loads), qr/\Ano configuration\n/, 'the error of a module that dies is its own');
    like(
        run(
            $dir,
            'BEGIN { $| = 1; $SIG{__DIE__} = sub { print "handler: $_[0]" } } use PVE::Tunnel;'
        ),
        qr/\Ahandler: no configuration\n/,
        'the handler of the caller gets this error'
    );
    $dir = tree(Tunnel => "0;\n");
    like(
        run($dir, $loads), qr/did not return a true value/,
        'a module that returns false is an error'
    );
};

subtest 'the state of the caller' => sub {
    my $touched = <<'END';
    my @died;
    local $SIG{__DIE__} = sub { push @died, @_ };
    my ($die, $warn) = ($SIG{__DIE__}, $SIG{__WARN__} = sub { print "warned\n" });
    $? = 77;
    $! = 5;
    for ('underscore') {
        my $alias = \$_;
        require PVE::Tunnel;
        print "another underscore\n" if \$_ != $alias || $_ ne 'underscore';
    }
    print "status $?, errno ", $! + 0, "\n";
    print "handlers\n" if $SIG{__DIE__} == $die && $SIG{__WARN__} == $warn;
    print "died: ", join('|', grep { !/\Q$INC{'PVE\/Tunnel.pm'}\E\.distrib|JSON\/XS/ } @died), "\n";
    eval { die "before\n" };
    require PVE::StorageTunnel;
    print "error: $@\n";
END
    # The code of a module may set errno, and perl sets it while it looks for files, before any code
    # of pve-tunnel runs. So the test compares with what the stock module leaves.
    my $stock = tempdir(CLEANUP => 1);
    make_path("$stock/PVE");
    path($STOCK_TUNNEL)->copy("$stock/PVE/Tunnel.pm");
    path("$stock/PVE/StorageTunnel.pm")->spew($STOCK_STORAGE_TUNNEL);
    my $expected = run($stock, $touched, without => 1) =~ s/^died: .*/died: /mr;
    like($expected, qr/^status 77, errno \d+\nhandlers\n/, 'the stock module leaves it unchanged');
    is(run($tree, $touched), $expected, 'the replacement modules leave it as the stock ones do');
    is(
        run($tree, $touched, without => 1),
        ("warned\n" . $expected) =~ s/^(died: \n)/$1warned\n/mr,
        'if pve-tunnel cannot be loaded, the only difference is a warning from each module'
    );
    like(
        run(
            $tree, 'local $SIG{__WARN__} = sub { die @_ }; require PVE::Tunnel; print "here\n"',
            without => 1
        ),
        qr/\Ahere\n\z/,
        'a handler that dies of warnings does not stop loading'
    );
    is(
        run($tree, 'print "$_ " for 1 .. 2; $_ = 3; require PVE::Tunnel; print', taint => 1),
        '1 2 3', '$_ keeps its value'
    );
};

# Each of the real modules needs more modules of Proxmox VE.
for my $name (qw(Tunnel StorageTunnel)) {
    SKIP: {
        my ($real) = grep { -f "$_/PVE/$name.pm" } @INC;
        skip "the real PVE::$name is not here", 2 if !$real;
        my $printed = run($real, "print qq(loads\n) if eval { require PVE::$name }", real => 1);
        skip "the real PVE::$name does not load here", 2 if $printed !~ /^loads$/m;
        my $dir = tree(map { $_ => path("$real/PVE/$_.pm")->slurp } qw(Tunnel StorageTunnel));
        my $on = $name eq 'Tunnel' ? 'seam off' : 'seam on';
        for my $taint (0, 1) {
            $printed =
                run($dir, "$REPORT require PVE::$name; report()", real => 1, taint => $taint);
            is(
                $printed,
                "overlay on, $on\n", "the real PVE::$name" . ($taint ? ', with taint checks' : '')
            );
        }
    }
}

done_testing();
