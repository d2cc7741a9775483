package PVE::StorageTunnel;

use v5.36;

# The stock file, moved aside by dpkg-divert. What it dies of is the caller's to hear.
require '/usr/share/perl5/PVE/StorageTunnel.pm.distrib'; ## no critic (RequireBarewordIncludes)

# Whatever goes wrong from here on, PVE::StorageTunnel is loaded: one warning, and nothing of the
# caller's is touched.
{
    local ($@, $!, $?, $_);
    local $SIG{__DIE__};
    if (!eval { require PVE::Tunnel::Seam; PVE::Tunnel::Seam::install(); 1 }) {
        my ($reason) = "$@" =~ /\A([^\n]{1,400})/;
        $reason //= 'no reason given';
        my $way = 'migrations come the stock way';
        eval { warn "pve-tunnel: $way: $reason; pve-tunnel status says more\n" };
    }
}

1;

__END__

=encoding utf8

=head1 NAME

PVE::StorageTunnel - the stock module, with the seam for direct connections

=head1 DESCRIPTION

C<pve-tunnel enable> puts a symbolic link to this file where libpve-guest-common-perl has its own,
which is then found at F</usr/share/perl5/PVE/StorageTunnel.pm.distrib>. It loads that one and then
calls C<PVE::Tunnel::Seam::install>. If that is not possible, it warns, and everything stays stock.

=head1 SEE ALSO

L<PVE::Tunnel::Seam>, L<pve-tunnel(1)>

=cut
