#!/usr/bin/perl

# Loads PVE::Tunnel and PVE::StorageTunnel of this node and writes the result as one line of JSON.
# Changes nothing outside this process.

use v5.36;

use JSON::PP ();

# Modules that write to standard output while they are loaded must not damage the result.
open(my $result, '>&', \*STDOUT) or die "cannot duplicate standard output: $!\n";
open(STDOUT, '>&', \*STDERR) or die "cannot redirect standard output: $!\n";
local $SIG{__WARN__} = sub { };

sub one_line ($error) {
    my ($line) = "$error" =~ /\A([^\n]{1,400})/;
    return $line // 'no reason given';
}

# PVE::StorageTunnel of libpve-guest-common-perl up to 5.1.1 requires qemu-server without loading
# it: PVE::QemuServer::Drive registers an option that it uses. The daemons load qemu-server first.
sub load ($file) {
    return 1 if eval { require $file; 1 };
    my $error = $@;
    if (eval { require PVE::QemuServer::Drive; 1 }) {
        # Perl does not load a file again that has failed.
        delete @INC{ grep { !defined $INC{$_} } keys %INC };
        return 1 if eval { require $file; 1 };
        $error = $@;
    }
    $@ = $error; ## no critic (RequireLocalizedPunctuationVars)
    return 0;
}

sub probe ($stock, $ours) {
    my ($stock_file, $our_file) = map { s{::}{/}gr . '.pm' } $stock, $ours;
    return { file => undef, error => one_line($@), in_effect => JSON::PP::false }
        if !load($stock_file);

    my %found = (file => $INC{$stock_file}, error => undef);
    my $status = $ours->can('status');
    my $in_effect = $status && eval { $status->()->{installed} };
    $found{in_effect} = $in_effect ? JSON::PP::true : JSON::PP::false;
    # It is not in effect if it is off, or if it did not support the stock module. Installing it in
    # this process shows which, and gives the reason.
    my $supported = $in_effect || eval { require $our_file; $ours->can('install')->(); 1 };
    $found{refusal} = $supported ? undef : one_line($@);
    return \%found;
}

my %found = (
    tunnel => probe('PVE::Tunnel', 'PVE::Tunnel::Overlay'),
    storage_tunnel => probe('PVE::StorageTunnel', 'PVE::Tunnel::Seam'),
);
for my $module (map { "PVE::Tunnel::$_" } qw(Native Overlay Seam)) {
    my $version = eval { $module->VERSION };
    $found{modules}{$module} = "$version" if defined $version;
}
my $library = PVE::Tunnel::Native->can('version');
$found{library} = $library ? eval { $library->() } : undef;

print {$result} JSON::PP->new->utf8->canonical->encode(\%found), "\n";
close($result) or die "cannot write the result: $!\n";
