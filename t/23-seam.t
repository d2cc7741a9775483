#!/usr/bin/perl

# The seam on a stand-in of PVE::StorageTunnel: putting it in place and taking it away, and what is
# not its own.

use v5.36;

use FindBin;
use lib "$FindBin::RealBin/lib";

use Test::More;

use Test::SeamWorker qw(refused in_perl);

# A test that stands still is a failed test.
local $SIG{ALRM} = sub { die "the test stands still\n" };
alarm(300);

# --- putting it in place ----------------------------------------------------------------------

my $LOOK = <<'END';
{
my $said = sub ($params) {
    return eval { PVE::StorageTunnel::handle_query_disk_import({}, $params) } // $@;
};
print $said->({}) =~ /no import is running/ ? "theirs " : "BROKEN ";
my $hello = $said->({ direct => { op => 'hello', protocol => 1 } });
print ref($hello) && $hello->{direct}{protocol} == 1 ? "ours " : "none ";
print ref($PVE::StorageTunnel::cmd_schema->{'query-disk-import'}{direct}) ? "taken\n" : "refused\n";
}
END
my $ORIGINAL = 'my $original = \&PVE::StorageTunnel::handle_query_disk_import;';
my $LAST =
    'print \&PVE::StorageTunnel::handle_query_disk_import == $original ? "same\n" : "other\n"';
my $IN_PLACE = "theirs ours taken\n";
my $INSTALL = 'PVE::Tunnel::Seam::install();';

subtest 'load order' => sub {
    for my $case (
        [
            'not installed', 'use PVE::StorageTunnel; use PVE::Tunnel::Seam;',
            "theirs none refused\n"
        ],
        ['PVE::StorageTunnel first', "use PVE::StorageTunnel; use PVE::Tunnel::Seam; $INSTALL"],
        ['the seam first', "use PVE::Tunnel::Seam; use PVE::StorageTunnel; $INSTALL"],
        ['installing loads PVE::StorageTunnel', "use PVE::Tunnel::Seam; $INSTALL"],
        [
            'PVE::StorageTunnel is used later',
            "use PVE::Tunnel::Seam; BEGIN { $INSTALL } use PVE::StorageTunnel;"
        ],
        [
            'a table that was made before',
            'use PVE::StorageTunnel; '
                . 'my $table = $PVE::StorageTunnel::cmd_schema->{"query-disk-import"};'
                . "use PVE::Tunnel::Seam; $INSTALL print \$table->{direct} ? '' : 'not shared ';"
        ],
        )
    {
        my ($name, $code, $expected) = @$case;
        is(in_perl($code . $LOOK), $expected // $IN_PLACE, $name);
    }
};

subtest 'once' => sub {
    my $begin = "use PVE::StorageTunnel; use PVE::Tunnel::Seam; $ORIGINAL";
    my $undo = "PVE::Tunnel::Seam::uninstall(); $LAST";
    is(
        in_perl("$begin $INSTALL $INSTALL $INSTALL $LOOK $undo"),
        $IN_PLACE . "same\n",
        'installed three times, uninstalled once'
    );
    is(
        in_perl("$begin $INSTALL PVE::Tunnel::Seam::uninstall(); $LOOK $LAST"),
        "theirs none refused\nsame\n",
        'uninstalled: as before'
    );
    is(
        in_perl("$begin $INSTALL PVE::Tunnel::Seam::uninstall(); $INSTALL $LOOK"),
        $IN_PLACE, '... and installed again'
    );
    is(in_perl("$begin print PVE::Tunnel::Seam::uninstall()"), '0', 'uninstalled without a need');
    is(
        in_perl(
            "$begin $INSTALL { local \$SIG{__WARN__} = sub { }; delete \$INC{'PVE/Tunnel/Seam.pm'};"
                . "require PVE::Tunnel::Seam; } $INSTALL $LOOK $undo"
        ),
        $IN_PLACE . "same\n",
        'the seam is loaded twice'
    );
    is(
        in_perl(
                  "$begin $INSTALL { local \$SIG{__WARN__} = sub { };"
                . "delete \$INC{'PVE/StorageTunnel.pm'};"
                . "require PVE::StorageTunnel; } $LOOK $INSTALL $LOOK $INSTALL $undo"
        ),
        "theirs none refused\n" . $IN_PLACE . "other\n",
        'PVE::StorageTunnel is loaded anew: gone, and installed again'
    );
};

subtest 'wrapped since' => sub {
    my $wrap =
          'my $calls = 0; my $ours = \&PVE::StorageTunnel::handle_query_disk_import;'
        . 'my $theirs = sub { $calls++; goto &$ours }; sub set ($code) { no warnings "redefine";'
        . '*PVE::StorageTunnel::handle_query_disk_import = $code } set($theirs);';
    my $begin = "use PVE::Tunnel::Seam; $INSTALL $wrap";
    is(
        in_perl("$begin print eval { PVE::Tunnel::Seam::uninstall() } // \$@; $LOOK"),
        'cannot uninstall: another has wrapped PVE::StorageTunnel::handle_query_disk_import since'
            . "\n$IN_PLACE",
        'is not uninstalled'
    );
    is(
        in_perl(
                  "$begin $INSTALL $LOOK print \"\$calls calls\\n\"; set(\$ours);"
                . "print PVE::Tunnel::Seam::uninstall(), qq(\\n); $LOOK"
        ),
        $IN_PLACE . "2 calls\n1\ntheirs none refused\n",
        'is not wrapped again, and can be uninstalled when the other has gone'
    );
    is(
        in_perl(
                  "$begin my \$s = PVE::Tunnel::Seam::status(); set(\$ours);"
                . 'my $t = PVE::Tunnel::Seam::status(); PVE::Tunnel::Seam::uninstall();'
                . 'my $u = PVE::Tunnel::Seam::status(); '
                . 'print "@$_{qw(installed topmost listeners)};" for $s, $t, $u'
        ),
        '1 0 0;1 1 0;0 0 0;',
        'status tells'
    );
};

subtest 'a shape that is not known' => sub {
    my $touch = <<'END';
package main;
use JSON;
use PVE::Tunnel::Seam;
no warnings 'once';
my $look = sub {
    return JSON->new->canonical->encode($PVE::StorageTunnel::cmd_schema // []),
        *PVE::StorageTunnel::handle_query_disk_import{CODE} // 'none';
};
my @before = $look->();
print eval { PVE::Tunnel::Seam::install(); "installed\n" } // $@;
my @after = $look->();
print "schema changed\n" if $before[0] ne $after[0];
print "wrapped\n" if $before[1] ne $after[1];
print "status changed\n" if PVE::Tunnel::Seam::status()->{installed};
END
    my $like = 'BEGIN { $INC{"PVE/StorageTunnel.pm"} = "here" } package PVE::StorageTunnel;';
    my $handler = 'sub handle_query_disk_import { die "theirs\n" }';
    my $schema = 'our $cmd_schema = { "query-disk-import" => {} };';
    for my $case (
        ['no schema', $handler, qr/no \$cmd_schema with 'query-disk-import'/],
        ['no such command', "$handler our \$cmd_schema = {};", qr/no \$cmd_schema with/],
        ['a schema that is a list', "$handler our \$cmd_schema = [];", qr/no \$cmd_schema with/],
        [
            'a command that is none',
            "$handler our \$cmd_schema = { 'query-disk-import' => 1 };",
            qr/no \$cmd_schema with/
        ],
        ['no handler', $schema, qr/no handle_query_disk_import/],
        [
            'a whole schema instead of properties',
            "$handler our \$cmd_schema = { 'query-disk-import' => { type => 'object' } };",
            qr/has 'type', which is no property/
        ],
        [
            'the property is taken',
            "$handler our \$cmd_schema = { 'query-disk-import' => { direct => {} } };",
            qr/has a property 'direct' already/
        ],
        [
            'the schema is read-only',
            "$handler $schema use Hash::Util 'lock_hashref';"
                . "lock_hashref(\$cmd_schema->{'query-disk-import'});",
            qr/disallowed|read-only/
        ],
        )
    {
        my ($name, $code, $pattern) = @$case;
        my $said = in_perl("$like $code $touch");
        ok($said =~ /$pattern/ && $said =~ /\A[^\n]+\n\z/, "$name: refused, nothing touched")
            or diag($said);
    }
    like(
        in_perl(
                  'use PVE::Tunnel::Seam;'
                . '@INC = grep { !-e "$_/PVE/StorageTunnel.pm" } @INC;'
                . $INSTALL
        ),
        qr/\Acannot load PVE::StorageTunnel, which the seam is for: Can't locate/,
        'no PVE::StorageTunnel at all'
    );
    is(
        in_perl(
                  'use PVE::Tunnel::Seam; for my $o ([chek => sub { }], [check => 1]) {'
                . 'print eval { PVE::Tunnel::Seam::install(@$o) } // $@; }'
                . 'print PVE::Tunnel::Seam::status()->{installed}'
        ),
        "unknown option 'chek'\noption 'check' is not a code reference\n0",
        'options that are none'
    );
};

# --- what is not its own ----------------------------------------------------------------------

subtest 'a command without direct' => sub {
    my @seen;
    require PVE::StorageTunnel;
    {
        no warnings 'redefine'; ## no critic (ProhibitNoWarnings)
        *PVE::StorageTunnel::handle_query_disk_import = sub { ## no critic (RequireArgUnpacking)
            push @seen, [wantarray, (caller(0))[1, 2], scalar(@_), \@_[0 .. $#_]];
            die "theirs\n" if ref($_[1]) eq 'HASH' && $_[1]{die};
            return wantarray ? (1, 2, 3) : 'one';
        };
    }
    PVE::Tunnel::Seam::install();
    my ($state, $params) = ({}, { status => 1 });
    my @list = PVE::StorageTunnel::handle_query_disk_import($state, $params, 'more');
    my $line = __LINE__ - 1;
    my $scalar = PVE::StorageTunnel::handle_query_disk_import($state, $params);
    PVE::StorageTunnel::handle_query_disk_import($state, undef);
    PVE::StorageTunnel::handle_query_disk_import();
    is_deeply([\@list, $scalar], [[1, 2, 3], 'one'], 'answers as before');
    is_deeply([map { $_->[0] } @seen], [1, '', undef, undef], 'in the same context');
    is_deeply([@{ $seen[0] }[1, 2]], [__FILE__, $line], 'to the same caller');
    is_deeply([map { $_->[3] } @seen], [3, 2, 2, 0], 'with the same number of arguments');
    is_deeply(
        [map { "$_" } @{ $seen[0] }[4, 5]],
        [map { "$_" } \$state, \$params],
        'which are the very same'
    );
    is_deeply($params, { status => 1 }, '... and unchanged');
    is(
        eval { PVE::StorageTunnel::handle_query_disk_import($state, { die => 1 }) } // $@,
        "theirs\n", 'its error is its own'
    );
    is(scalar(@seen), 5, 'each went there');
    refused($state, { op => 'hello' }, qr/protocol/, 'one with direct does not');
    is(scalar(@seen), 5, '... go there');
    PVE::Tunnel::Seam::uninstall();
};

done_testing;
