package PVE::Tunnel;

use v5.36;

# The stock file, renamed by dpkg-divert. Its errors reach the caller.
require '/usr/share/perl5/PVE/Tunnel.pm.distrib'; ## no critic (RequireBarewordIncludes)

# From here on PVE::Tunnel is loaded. An error only causes a warning, and the caller's variables
# keep their values.
{
    local ($@, $!, $?, $_);
    local $SIG{__DIE__};
    if (!eval { require PVE::Tunnel::Overlay; PVE::Tunnel::Overlay::install(); 1 }) {
        my ($reason) = "$@" =~ /\A([^\n]{1,400})/;
        $reason //= 'no reason given';
        my $effect = 'migrations from this node use the stock tunnel';
        eval { warn "pve-tunnel: $effect: $reason; run 'pve-tunnel status' for details\n" };
    }
}

1;

__END__

=encoding utf8

=head1 NAME

PVE::Tunnel - the stock module, extended by the native tunnel

=head1 DESCRIPTION

C<pve-tunnel enable> diverts the file of libpve-guest-common-perl to
F</usr/share/perl5/PVE/Tunnel.pm.distrib>, and replaces it with a symbolic link to this file. This
file loads the stock module and then calls C<PVE::Tunnel::Overlay::install>. If that fails, it
warns, and the stock module stays unchanged.

=head1 SEE ALSO

L<PVE::Tunnel::Overlay>, L<pve-tunnel(1)>

=cut
