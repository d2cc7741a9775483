package PVE::StorageTunnel;

use v5.36;

# The stock file, renamed by dpkg-divert. Its errors reach the caller.
require '/usr/share/perl5/PVE/StorageTunnel.pm.distrib'; ## no critic (RequireBarewordIncludes)

# From here on PVE::StorageTunnel is loaded. An error only causes a warning, and the caller's
# variables keep their values.
{
    local ($@, $!, $?, $_);
    local $SIG{__DIE__};
    if (!eval { require PVE::Tunnel::Seam; PVE::Tunnel::Seam::install(); 1 }) {
        my ($reason) = "$@" =~ /\A([^\n]{1,400})/;
        $reason //= 'no reason given';
        my $effect = 'migrations to this node use the stock tunnel';
        eval { warn "pve-tunnel: $effect: $reason; run 'pve-tunnel status' for details\n" };
    }
}

1;

__END__

=encoding utf8

=head1 NAME

PVE::StorageTunnel - the stock module, extended by the seam for direct connections

=head1 DESCRIPTION

C<pve-tunnel enable> diverts the file of libpve-guest-common-perl to
F</usr/share/perl5/PVE/StorageTunnel.pm.distrib>, and replaces it with a symbolic link to this file.
This file loads the stock module and then calls C<PVE::Tunnel::Seam::install>. If that fails, it
warns, and the stock module stays unchanged.

=head1 SEE ALSO

L<PVE::Tunnel::Seam>, L<pve-tunnel(1)>

=cut
