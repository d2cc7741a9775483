package PVE::StorageTunnel;

=head1 NAME

PVE::StorageTunnel - a fake of the Proxmox VE module with this name

=head1 SYNOPSIS

    my $properties = $PVE::StorageTunnel::cmd_schema->{'query-disk-import'};
    my $answer = PVE::StorageTunnel::handle_query_disk_import($state, $parameters);

=head1 DESCRIPTION

Contains the parts that the test node's worker and L<PVE::Tunnel::Seam> use: a hash of schemas, to
which the worker's table of commands has references, and a handler that the worker calls by its full
name. The module has a directory of its own. Only the worker and the tests of the seam search this
directory, so that no other program loads the fake instead of the real module.

=cut

use v5.36;

our $VERSION = '0.1.0';

our $cmd_schema = { 'query-disk-import' => {} };

=head1 FUNCTIONS

=head2 handle_query_disk_import

C<handle_query_disk_import($state, \%parameters)>: returns the status of the import in
C<< $state->{disk_import} >>, a L<TestNode::Import>. If it is final, the import is removed from
C<$state>, and its socket from C<< $state->{sockets} >>.

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
