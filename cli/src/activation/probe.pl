#!/usr/bin/perl

# What Perl makes of PVE::Tunnel and PVE::StorageTunnel on this node, as one line of JSON. Nothing
# but this process is changed by asking.

use v5.36;

use JSON::PP ();

# What modules say while they are loaded is no part of the answer.
open(my $answer, '>&', \*STDOUT) or die "cannot keep standard output: $!\n";
open(STDOUT, '>&', \*STDERR) or die "cannot redirect standard output: $!\n";
local $SIG{__WARN__} = sub { };

sub one_line ($error) {
    my ($line) = "$error" =~ /\A([^\n]{1,400})/;
    return $line // 'no reason given';
}

sub look ($stock, $ours) {
    my ($stock_file, $our_file) = map { s{::}{/}gr . '.pm' } $stock, $ours;
    my $loaded = eval { require $stock_file; 1 };
    return { file => undef, error => one_line($@), in_effect => JSON::PP::false } if !$loaded;

    my %found = (file => $INC{$stock_file}, error => undef);
    my $status = $ours->can('status');
    my $in_effect = $status && eval { $status->()->{installed} };
    $found{in_effect} = $in_effect ? JSON::PP::true : JSON::PP::false;
    # It has refused already, or was not asked; then it is asked here.
    my $taken = $in_effect || eval { require $our_file; $ours->can('install')->(); 1 };
    $found{refusal} = $taken ? undef : one_line($@);
    return \%found;
}

my %found = (
    tunnel => look('PVE::Tunnel', 'PVE::Tunnel::Overlay'),
    storage_tunnel => look('PVE::StorageTunnel', 'PVE::Tunnel::Seam'),
);
for my $module (map { "PVE::Tunnel::$_" } qw(Native Overlay Seam)) {
    my $version = eval { $module->VERSION };
    $found{modules}{$module} = "$version" if defined $version;
}
my $library = PVE::Tunnel::Native->can('version');
$found{library} = $library ? eval { $library->() } : undef;

print {$answer} JSON::PP->new->utf8->canonical->encode(\%found), "\n";
close($answer) or die "cannot answer: $!\n";
