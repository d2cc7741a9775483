#!/usr/bin/perl

# The files that take the place of PVE::Tunnel and PVE::StorageTunnel, each loaded in a Perl of its
# own as PVE's programs load them. Only the absolute path of the stock file is another one here;
# 55-activation.t has them in their place.

use v5.36;

use FindBin ();
use lib "$FindBin::RealBin/lib";

use File::Path qw(make_path);
use File::Temp qw(tempdir);
use Path::Tiny qw(path);
use Test::More;

my $ROOT = "$FindBin::RealBin/..";
my $STOCK_TUNNEL = "$ROOT/t/lib/fake/PVE/Tunnel.pm";

# With what the seam looks at; and, as the real one, on PVE::Tunnel.
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
    qr/\Apve-tunnel: migrations (?:go|come) the stock way: [^\n]+; pve-tunnel status says more\n\z/;

# A tree in which the stand-ins are on; 'undef' for a stock file that is not there.
sub tree (%stock) {
    my $dir = tempdir(CLEANUP => 1);
    make_path("$dir/PVE");
    my %content =
        (Tunnel => path($STOCK_TUNNEL)->slurp, StorageTunnel => $STOCK_STORAGE_TUNNEL, %stock);
    for my $name (sort keys %content) {
        my $text = path("$ROOT/perl/stand-in/PVE/$name.pm")->slurp;
        my $path = "/usr/share/perl5/PVE/$name.pm.distrib";
        my $count = $text =~ s/^require '\Q$path\E';/require '$dir\/PVE\/$name.pm.distrib';/gm;
        die "$name.pm does not load its stock file in one place\n" if $count != 1;
        path("$dir/PVE/$name.pm")->spew($text);
        path("$dir/PVE/$name.pm.distrib")->spew($content{$name}) if defined $content{$name};
    }
    return $dir;
}

# As if nothing of ours were there, wherever it is installed.
my $HIDE = <<'END';
    unshift @INC, sub {
        return if $_[1] !~ m{^PVE/Tunnel/};
        die "Can't locate $_[1], which is hidden\n";
    };
END

# Runs a program on a tree, with ours or without, and returns what it printed, errors included.
sub run ($dir, $code, %how) {
    my @lib = map { "-I$_" } $dir, map { "$ROOT/perl/blib/$_" } qw(lib arch);
    # Ours may be installed, too.
    $code = "BEGIN { $HIDE } $code" if $how{without};
    local %ENV = %ENV;
    delete $ENV{PERL5LIB} if !$how{real};
    # With -w, the real ones warn of each other, with ours and without.
    my @switches = ($how{taint} ? '-T' : (), $how{real} ? () : '-w');
    my @more = $how{real} ? map { "-I$_" } split(/:/, $ENV{PERL5LIB} // '') : ();
    open(
        my $out, '-|', 'sh', '-c', 'exec "$@" 2>&1', 'sh', $^X, @switches, @lib, @more, '-e',
        $code
    ) or die "cannot run perl: $!\n";
    local $/ = undef;
    my $said = readline($out);
    close($out);
    return $said;
}

# Which of the two are ours, as they are looked up at a call.
my $REPORT = <<'END';
sub report {
    my $overlay = PVE::Tunnel::Overlay->can('status') && PVE::Tunnel::Overlay::status()->{installed};
    my $seam = PVE::Tunnel::Seam->can('status') && PVE::Tunnel::Seam::status()->{installed};
    print 'overlay ', $overlay ? 'on' : 'off', ', seam ', $seam ? 'on' : 'off', "\n";
}
END

my $tree = tree();

for my $taint (0, 1) {
    my $name = $taint ? 'under taint' : 'plainly';
    my @how = (taint => $taint);
    my $said = run($tree, "$REPORT require PVE::Tunnel; report()", @how);
    is($said, "overlay on, seam off\n", "$name: PVE::Tunnel");
    $said = run($tree, "$REPORT require PVE::StorageTunnel; report()", @how);
    is($said, "overlay on, seam on\n", "$name: PVE::StorageTunnel, which loads PVE::Tunnel");
    $said = run($tree, "$REPORT require PVE::Tunnel; require PVE::StorageTunnel; report()", @how);
    is($said, "overlay on, seam on\n", "$name: one after the other");
    $said = run($tree, "$REPORT use PVE::StorageTunnel; use PVE::Tunnel; report()", @how);
    is($said, "overlay on, seam on\n", "$name: the other way around, by use");
}

is(
    run(
        $tree,
        "no warnings 'once'; $REPORT require PVE::StorageTunnel; delete \@INC{qw(PVE/Tunnel.pm PVE/StorageTunnel.pm)};"
            . 'require PVE::StorageTunnel; print "$PVE::StorageTunnel::LOADED\n"; report()'
    ),
    "1\noverlay on, seam on\n",
    'loaded twice: once is enough'
);

subtest 'what is not there, or not known' => sub {
    my $loads =
          "$REPORT our \@w; local \$SIG{__WARN__} = sub { push \@w, \@_ };"
        . 'our $ok = require PVE::Tunnel; our $too = require PVE::StorageTunnel;'
        . 'print scalar(@w), " warnings, $ok $too\n", @w; report();'
        . 'print PVE::Tunnel->can("fork_websocket_tunnel") ? "stock\n" : "nothing\n"';
    my %case = (
        'no native modules' => [$tree, 2, 'off', 'off', qr/Can't locate PVE/, without => 1],
        'another shape of PVE::Tunnel' => [
            tree(
                Tunnel => path($STOCK_TUNNEL)->slurp =~
                    s/my \(\$tunnel, \$local, \$remote\)/my (\$tunnel, \$remote, \$local)/r
            ),
            1, 'off', 'on', qr/left as it is: its function 'forward_unix_socket'/,
        ],
        'another shape of PVE::StorageTunnel' => [
            tree(StorageTunnel => $STOCK_STORAGE_TUNNEL =~ s/query-disk-import/import-query/r),
            1, 'on', 'off', qr/no \$cmd_schema with 'query-disk-import'/,
        ],
    );
    for my $name (sort keys %case) {
        my ($dir, $count, $overlay, $seam, $reason, @how) = $case{$name}->@*;
        my $said = run($dir, $loads, taint => 1, @how);
        my ($first, @lines) = split(/^/, $said);
        is($first, "$count warnings, 1 1\n", "$name: a warning each, and both modules load");
        like($_, $WARNING, '... of the form that is documented') for @lines[0 .. $count - 1];
        like($lines[0], $reason, '... with the reason');
        is($lines[$count], "overlay $overlay, seam $seam\n", '... and that one is stock');
        is($lines[-1], "stock\n", '... and there');
        is(scalar(@lines), $count + 2, '... without a word more') or diag($said);
    }
};

subtest 'a stock module that does not load' => sub {
    my $loads = 'print eval { require PVE::Tunnel; 1 } ? "loaded\n" : $@;'
        . 'print eval { require PVE::Tunnel; 1 } ? "loaded\n" : $@;';
    my $dir = tree(Tunnel => undef);
    my $said = run($dir, $loads, taint => 1);
    like($said, qr{\ACan't locate \Q$dir\E/PVE/Tunnel\.pm\.distrib at }, 'missing: named');
    like($said, qr/^Attempt to reload PVE\/Tunnel\.pm aborted/m, '... and not tried again');
    $dir = tree(Tunnel => "package PVE::Tunnel;\nmy \$x = ;\n1;\n");
    like(
        run($dir, $loads),
        qr{\Asyntax error at \Q$dir\E/PVE/Tunnel\.pm\.distrib line 2}, 'broken: Perl\'s own message'
    );
    $dir = tree(Tunnel => "die qq(no configuration\\n);\n");
    like(run($dir, $loads), qr/\Ano configuration\n/, 'dying: what it dies of');
    like(
        run(
            $dir,
            'BEGIN { $| = 1; $SIG{__DIE__} = sub { print "handler: $_[0]" } } use PVE::Tunnel;'
        ),
        qr/\Ahandler: no configuration\n/,
        '... by the caller\'s handler'
    );
    $dir = tree(Tunnel => "0;\n");
    like(run($dir, $loads), qr/did not return a true value/, 'untrue: so is this');
};

subtest 'what is the caller\'s' => sub {
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
    # A module's own code may set errno, and perl does by looking for files, before ours does
    # anything; so it is what the stock module leaves that counts.
    my $stock = tempdir(CLEANUP => 1);
    make_path("$stock/PVE");
    path($STOCK_TUNNEL)->copy("$stock/PVE/Tunnel.pm");
    path("$stock/PVE/StorageTunnel.pm")->spew($STOCK_STORAGE_TUNNEL);
    my $expected = run($stock, $touched, without => 1) =~ s/^died: .*/died: /mr;
    like($expected, qr/^status 77, errno \d+\nhandlers\n/, 'left by the stock module');
    is(run($tree, $touched), $expected, 'is what it was');
    is(
        run($tree, $touched, without => 1),
        ("warned\n" . $expected) =~ s/^(died: \n)/$1warned\n/mr,
        '... also when ours cannot be loaded, but for a warning each'
    );
    like(
        run(
            $tree, 'local $SIG{__WARN__} = sub { die @_ }; require PVE::Tunnel; print "here\n"',
            without => 1
        ),
        qr/\Ahere\n\z/,
        'a handler that dies of warnings stops no migration'
    );
    is(
        run($tree, 'print "$_ " for 1 .. 2; $_ = 3; require PVE::Tunnel; print', taint => 1),
        '1 2 3', '$_'
    );
};

# Each needs more of PVE than itself.
for my $name (qw(Tunnel StorageTunnel)) {
    SKIP: {
        my ($real) = grep { -f "$_/PVE/$name.pm" } @INC;
        skip "the real PVE::$name is not here", 2 if !$real;
        my $said = run($real, "print qq(loads\n) if eval { require PVE::$name }", real => 1);
        skip "the real PVE::$name does not load here", 2 if $said !~ /^loads$/m;
        my $dir = tree(map { $_ => path("$real/PVE/$_.pm")->slurp } qw(Tunnel StorageTunnel));
        my $on = $name eq 'Tunnel' ? 'seam off' : 'seam on';
        for my $taint (0, 1) {
            $said = run($dir, "$REPORT require PVE::$name; report()", real => 1, taint => $taint);
            is($said, "overlay on, $on\n", "the real PVE::$name" . ($taint ? ', under taint' : ''));
        }
    }
}

done_testing();
