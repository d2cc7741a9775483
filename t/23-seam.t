#!/usr/bin/perl

# The seam in a fake PVE::StorageTunnel: install, uninstall, and commands that are not for the seam.

use v5.36;

use FindBin;
use lib "$FindBin::RealBin/lib";

use Test::More;

use Test::SeamWorker qw(refused in_perl);

# Limits the run time of the test.
local $SIG{ALRM} = sub { die "the test timed out\n" };
alarm(300);

# --- install and uninstall --------------------------------------------------------------------

my $REPORT = <<'END';
{
my $reply = sub ($params) {
    return eval { PVE::StorageTunnel::handle_query_disk_import({}, $params) } // $@;
};
print $reply->({}) =~ /no import is running/ ? "original " : "BROKEN ";
my $hello = $reply->({ direct => { op => 'hello', protocol => 1 } });
print ref($hello) && $hello->{direct}{protocol} == 2 ? "seam " : "none ";
my $schema = $PVE::StorageTunnel::cmd_schema->{'query-disk-import'};
print ref($schema->{direct}) ? "accepted\n" : "refused\n";
}
END
my $ORIGINAL = 'my $original = \&PVE::StorageTunnel::handle_query_disk_import;';
my $COMPARE =
    'print \&PVE::StorageTunnel::handle_query_disk_import == $original ? "same\n" : "other\n"';
my $INSTALLED = "original seam accepted\n";
my $INSTALL = 'PVE::Tunnel::Seam::install();';

subtest 'load order' => sub {
    for my $case (
        [
            'not installed', 'use PVE::StorageTunnel; use PVE::Tunnel::Seam;',
            "original none refused\n"
        ],
        ['PVE::StorageTunnel first', "use PVE::StorageTunnel; use PVE::Tunnel::Seam; $INSTALL"],
        ['PVE::Tunnel::Seam first', "use PVE::Tunnel::Seam; use PVE::StorageTunnel; $INSTALL"],
        ['install loads PVE::StorageTunnel', "use PVE::Tunnel::Seam; $INSTALL"],
        [
            'PVE::StorageTunnel is loaded after install',
            "use PVE::Tunnel::Seam; BEGIN { $INSTALL } use PVE::StorageTunnel;"
        ],
        [
            'a command table that was built before install',
            'use PVE::StorageTunnel; '
                . 'my $table = $PVE::StorageTunnel::cmd_schema->{"query-disk-import"};'
                . "use PVE::Tunnel::Seam; $INSTALL print \$table->{direct} ? '' : 'not shared ';"
        ],
        )
    {
        my ($name, $code, $expected) = @$case;
        is(in_perl($code . $REPORT), $expected // $INSTALLED, $name);
    }
};

subtest 'repeated install and uninstall' => sub {
    my $begin = "use PVE::StorageTunnel; use PVE::Tunnel::Seam; $ORIGINAL";
    my $undo = "PVE::Tunnel::Seam::uninstall(); $COMPARE";
    is(
        in_perl("$begin $INSTALL $INSTALL $INSTALL $REPORT $undo"),
        $INSTALLED . "same\n",
        'installed three times, uninstalled once'
    );
    is(
        in_perl("$begin $INSTALL PVE::Tunnel::Seam::uninstall(); $REPORT $COMPARE"),
        "original none refused\nsame\n",
        'uninstall restores the original'
    );
    is(
        in_perl("$begin $INSTALL PVE::Tunnel::Seam::uninstall(); $INSTALL $REPORT"),
        $INSTALLED, '... and the seam can be installed again'
    );
    is(
        in_perl("$begin print PVE::Tunnel::Seam::uninstall()"), '0',
        'uninstall without install does nothing'
    );
    is(
        in_perl(
            "$begin $INSTALL { local \$SIG{__WARN__} = sub { }; delete \$INC{'PVE/Tunnel/Seam.pm'};"
                . "require PVE::Tunnel::Seam; } $INSTALL $REPORT $undo"
        ),
        $INSTALLED . "same\n",
        'PVE::Tunnel::Seam is loaded twice'
    );
    is(
        in_perl(
                  "$begin $INSTALL { local \$SIG{__WARN__} = sub { };"
                . "delete \$INC{'PVE/StorageTunnel.pm'};"
                . "require PVE::StorageTunnel; } $REPORT $INSTALL $REPORT $INSTALL $undo"
        ),
        "original none refused\n" . $INSTALLED . "other\n",
        'loading PVE::StorageTunnel again removes the seam, and install restores it'
    );
};

subtest 'a handler that other code has wrapped' => sub {
    my $wrap =
          'my $calls = 0; my $seam = \&PVE::StorageTunnel::handle_query_disk_import;'
        . 'my $wrapper = sub { $calls++; goto &$seam }; sub set ($code) { no warnings "redefine";'
        . '*PVE::StorageTunnel::handle_query_disk_import = $code } set($wrapper);';
    my $begin = "use PVE::Tunnel::Seam; $INSTALL $wrap";
    is(
        in_perl("$begin print eval { PVE::Tunnel::Seam::uninstall() } // \$@; $REPORT"),
        'cannot uninstall: another module has wrapped PVE::StorageTunnel::handle_query_disk_import since'
            . "\n$INSTALLED",
        'uninstall is refused'
    );
    is(
        in_perl(
                  "$begin $INSTALL $REPORT print \"\$calls calls\\n\"; set(\$seam);"
                . "print PVE::Tunnel::Seam::uninstall(), qq(\\n); $REPORT"
        ),
        $INSTALLED . "2 calls\n1\noriginal none refused\n",
        'install does not wrap it again, and uninstall succeeds without the other wrapper'
    );
    is(
        in_perl(
                  "$begin my \$s = PVE::Tunnel::Seam::status(); set(\$seam);"
                . 'my $t = PVE::Tunnel::Seam::status(); PVE::Tunnel::Seam::uninstall();'
                . 'my $u = PVE::Tunnel::Seam::status(); '
                . 'print "@$_{qw(installed topmost listeners)};" for $s, $t, $u'
        ),
        '1 0 0;1 1 0;0 0 0;',
        'status reports it'
    );
};

subtest 'an unknown form of PVE::StorageTunnel' => sub {
    my $try_install = <<'END';
package main;
use JSON;
use PVE::Tunnel::Seam;
no warnings 'once';
my $state = sub {
    return JSON->new->canonical->encode($PVE::StorageTunnel::cmd_schema // []),
        *PVE::StorageTunnel::handle_query_disk_import{CODE} // 'none';
};
my @before = $state->();
print eval { PVE::Tunnel::Seam::install(); "installed\n" } // $@;
my @after = $state->();
print "schema changed\n" if $before[0] ne $after[0];
print "wrapped\n" if $before[1] ne $after[1];
print "status changed\n" if PVE::Tunnel::Seam::status()->{installed};
END
    my $module = 'BEGIN { $INC{"PVE/StorageTunnel.pm"} = "here" } package PVE::StorageTunnel;';
    my $handler = 'sub handle_query_disk_import { die "original\n" }';
    my $schema = 'our $cmd_schema = { "query-disk-import" => {} };';
    for my $case (
        ['no schema', $handler, qr/no \$cmd_schema with 'query-disk-import'/],
        ['no query-disk-import', "$handler our \$cmd_schema = {};", qr/no \$cmd_schema with/],
        ['a schema that is an array', "$handler our \$cmd_schema = [];", qr/no \$cmd_schema with/],
        [
            'properties that are not a hash',
            "$handler our \$cmd_schema = { 'query-disk-import' => 1 };",
            qr/no \$cmd_schema with/
        ],
        ['no handler', $schema, qr/no handle_query_disk_import/],
        [
            'a whole schema in place of its properties',
            "$handler our \$cmd_schema = { 'query-disk-import' => { type => 'object' } };",
            qr/has 'type', which is not a property/
        ],
        [
            'a property with the same name',
            "$handler our \$cmd_schema = { 'query-disk-import' => { direct => {} } };",
            qr/already has a property 'direct' of another module/
        ],
        [
            'a read-only schema',
            "$handler $schema use Hash::Util 'lock_hashref';"
                . "lock_hashref(\$cmd_schema->{'query-disk-import'});",
            qr/disallowed|read-only/
        ],
        )
    {
        my ($name, $code, $pattern) = @$case;
        my $output = in_perl("$module $code $try_install");
        ok(
            $output =~ /$pattern/ && $output =~ /\A[^\n]+\n\z/,
            "$name: install is refused and changes nothing"
        ) or diag($output);
    }
    like(
        in_perl(
                  'use PVE::Tunnel::Seam;'
                . '@INC = grep { !-e "$_/PVE/StorageTunnel.pm" } @INC;'
                . $INSTALL
        ),
        qr/\Acannot load PVE::StorageTunnel, which the seam extends: Can't locate/,
        'install without PVE::StorageTunnel is refused'
    );
    is(
        in_perl(
                  'use PVE::Tunnel::Seam; for my $o ([chek => sub { }], [check => 1]) {'
                . 'print eval { PVE::Tunnel::Seam::install(@$o) } // $@; }'
                . 'print PVE::Tunnel::Seam::status()->{installed}'
        ),
        "unknown option 'chek'\noption 'check' is not a code reference\n0",
        'unknown and malformed options are refused'
    );
};

# --- commands that are not for the seam -------------------------------------------------------

subtest 'a command without the property direct' => sub {
    my @seen;
    require PVE::StorageTunnel;
    {
        no warnings 'redefine'; ## no critic (ProhibitNoWarnings)
        *PVE::StorageTunnel::handle_query_disk_import = sub { ## no critic (RequireArgUnpacking)
            push @seen, [wantarray, (caller(0))[1, 2], scalar(@_), \@_[0 .. $#_]];
            die "original\n" if ref($_[1]) eq 'HASH' && $_[1]{die};
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
    is_deeply([\@list, $scalar], [[1, 2, 3], 'one'], 'the original handler answers');
    is_deeply([map { $_->[0] } @seen], [1, '', undef, undef], '... in the same context');
    is_deeply([@{ $seen[0] }[1, 2]], [__FILE__, $line], '... with the same caller');
    is_deeply([map { $_->[3] } @seen], [3, 2, 2, 0], '... with the same number of arguments');
    is_deeply(
        [map { "$_" } @{ $seen[0] }[4, 5]],
        [map { "$_" } \$state, \$params],
        '... which are the same variables'
    );
    is_deeply($params, { status => 1 }, '... and unchanged');
    is(
        eval { PVE::StorageTunnel::handle_query_disk_import($state, { die => 1 }) } // $@,
        "original\n", 'its error is not changed'
    );
    is(scalar(@seen), 5, 'every call has reached it');
    refused($state, { op => 'hello' }, qr/protocol/, 'the seam answers a command with direct');
    is(scalar(@seen), 5, '... without the original handler');
    PVE::Tunnel::Seam::uninstall();
};

done_testing;
