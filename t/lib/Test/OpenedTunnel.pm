package Test::OpenedTunnel;

use v5.36;

use Time::HiRes qw(clock_gettime CLOCK_MONOTONIC);

use Demo::Volume;
use PVE::Tunnel::Client;
use TestNode::Node;

=head1 NAME

Test::OpenedTunnel - an attempt to open a tunnel to a test node, and its result

=head1 SYNOPSIS

    my $opened = Test::OpenedTunnel->attempt($node, 300, migration_type => 'secure');
    is($opened->plane, 'tls') or diag($opened->error);
    ok($opened->moves($file)) or diag($opened->error);
    $opened->finish;

=head1 METHODS

=head2 attempt($node, $vmid, %request)

Class method. Opens a tunnel to a L<TestNode::Node>. C<%request> is added to the parameters of
C<fork_websocket_tunnel>.

=head2 plane, direct

The plane of the plan, and the connector's description of the listener; undef if the tunnel could
not be opened.

=head2 seconds

The time that it took.

=head2 error, log

The last error, or the empty string. The log so far.

=head2 moves($file)

Sends the volume in this file. Returns whether the target has the same bytes.

=head2 finish

Ends the tunnel, with clean-up at the target. The end of the object does the same.

=cut

sub attempt ($class, $node, $vmid, %request) {
    my $self = bless
        { node => $node, vmid => $vmid, owner => $$, error => '', volumes => 0 },
        $class;
    my $started = clock_gettime(CLOCK_MONOTONIC);
    # The log reader of the tunnel is another process.
    my $file = $self->{log_file} = "$node->{dir}/$vmid.tunnel";
    $self->{tunnel} = eval {
        PVE::Tunnel::Client::fork_websocket_tunnel(
            $node->conn,
            $node->path($vmid),
            {},
            { url => $node->url($vmid), %request },
            sub ($level, $text) {
                open(my $out, '>>', $file) or die "$file: $!\n";
                print {$out} "$level: $text\n";
                close($out) or die "$file: $!\n";
            }
        );
    };
    $self->{error} = $@ if !$self->{tunnel};
    $self->{seconds} = clock_gettime(CLOCK_MONOTONIC) - $started;
    return $self;
}

sub plane ($self) { return $self->{tunnel} && $self->{tunnel}{plan}{plane} }

sub direct ($self) { return $self->{tunnel} && $self->{tunnel}{direct} }

sub seconds ($self) { return $self->{seconds} }

sub error ($self) { return $self->{error} }

sub log ($self) { ## no critic (ProhibitBuiltinHomonyms)
    return TestNode::Node::slurp($self->{log_file});
}

sub moves ($self, $file) {
    my ($node, $vmid) = @$self{qw(node vmid)};
    my $name = "vm-$vmid-disk-" . $self->{volumes}++ . '.raw';
    my $sent = eval {
        Demo::Volume->new(
            tunnel => $self->{tunnel},
            file => $file,
            name => $name,
            local => "$node->{dir}/$vmid.local",
            progress => $self,
            log => $self->{tunnel}{log},
        )->send_to('local');
    };
    $self->{error} = $@ if !$sent;
    return $sent && TestNode::Node::slurp("$node->{dir}/$name") eq TestNode::Node::slurp($file);
}

# As the progress display of the demo's code.
sub show ($, @) { return }

sub finish ($self) {
    my $tunnel = delete $self->{tunnel} // return;
    eval { PVE::Tunnel::Client::finish_tunnel($tunnel, 1); 1 } or $self->{error} = $@;
    return;
}

sub DESTROY ($self) {
    return if $self->{owner} != $$;
    local ($@, $!, $?);
    $self->finish;
    return;
}

1;
