package PVE::StorageTunnel;

=head1 NAME

PVE::StorageTunnel - a stand-in for the module of that name in Proxmox VE

=head1 SYNOPSIS

    my $properties = $PVE::StorageTunnel::cmd_schema->{'query-disk-import'};
    my $answer = PVE::StorageTunnel::handle_query_disk_import($state, $parameters);

=head1 DESCRIPTION

As much of it as the test node's worker and L<PVE::Tunnel::Seam> meet: a hash of schemas, shared by
reference with the worker's table of commands, and a handler that is called by its full name. It
lies in a directory of its own, which only the worker and tests of the seam search, so that it is
never taken for the real one.

=cut

use v5.36;

our $VERSION = '0.1.0';

our $cmd_schema = { 'query-disk-import' => {} };

=head1 FUNCTIONS

=head2 handle_query_disk_import

C<handle_query_disk_import($state, \%parameters)>: how the import in C<< $state->{disk_import} >>, a
L<TestNode::Import>, is getting on. One that is over is taken out of C<$state>, and its socket
out of C<< $state->{sockets} >>.

=cut

sub handle_query_disk_import ($state, $) {
    my $import = $state->{disk_import} // die "no import is running\n";
    my $answer = $import->status;
    return $answer if $answer->{status} eq 'pending';
    delete $state->{sockets}{ $import->{socket} };
    delete $state->{disk_import};
    return $answer;
}

1;
