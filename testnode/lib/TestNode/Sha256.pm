package TestNode::Sha256;

use v5.36;

use Net::SSLeay ();

=head1 NAME

TestNode::Sha256 - SHA-256 of large data, by OpenSSL

=head1 SYNOPSIS

    my $sha = TestNode::Sha256->new;
    $sha->add($bytes);
    my $hex = $sha->hexdigest;

=head1 DESCRIPTION

OpenSSL uses the SHA instructions of the CPU. L<Digest::SHA> does not, and needs about ten times the
CPU time.

=head1 METHODS

=head2 new

Class method.

=head2 add($bytes)

Adds bytes.

=head2 hexdigest

The digest of all added bytes, as lower-case hexadecimal digits. Called once, after the last C<add>.

=cut

sub new ($class) {
    my $context = Net::SSLeay::EVP_MD_CTX_create() // die "EVP_MD_CTX_create failed\n";
    my $sha256 = Net::SSLeay::EVP_get_digestbyname('sha256') // die "OpenSSL has no SHA-256\n";
    Net::SSLeay::EVP_DigestInit($context, $sha256) or die "EVP_DigestInit failed\n";
    return bless { context => $context }, $class;
}

sub add ($self, $bytes) {
    Net::SSLeay::EVP_DigestUpdate($self->{context}, $bytes) or die "EVP_DigestUpdate failed\n";
    return;
}

sub hexdigest ($self) {
    return unpack 'H*', Net::SSLeay::EVP_DigestFinal($self->{context});
}

sub DESTROY ($self) {
    Net::SSLeay::EVP_MD_CTX_destroy($self->{context}) if $self->{context};
    return;
}

1;
