package PVE::Tunnel::Configuration;

use v5.36;

use PVE::Tunnel::Native;

our $VERSION = '0.1.0';

# Where administrators configure networks for migrations to other clusters.
our $FILE = '/etc/pve/remote-migration.cfg';

sub read_file ($file) {
    my $limit = PVE::Tunnel::Native::CONFIGURATION_MAX();
    my $opened = open(my $in, '<:raw', $file);
    return if !$opened && $!{ENOENT};
    my $got = $opened && read($in, my $text, $limit + 1);
    # An unknown policy must not count as a permission.
    die "cannot read '$file': $!\n" if !$opened || !defined $got;
    die "'$file' is longer than $limit bytes\n" if $got > $limit;
    die "'$file' contains a NUL byte\n" if $text =~ /\0/;
    return $text;
}

1;

__END__

=encoding utf8

=head1 NAME

PVE::Tunnel::Configuration - the configuration of migrations to other clusters

=head1 DESCRIPTION

L<remote-migration.cfg(5)> describes the file. C<$PVE::Tunnel::Configuration::FILE> is its path; tests
set it to another one.

=head1 FUNCTIONS

=head2 read_file

C<read_file($file)>: the content, or undef without such a file. Dies with one line if the file cannot
be read, is longer than C<PVE::Tunnel::Native::CONFIGURATION_MAX> bytes, or contains a NUL byte.

=cut
