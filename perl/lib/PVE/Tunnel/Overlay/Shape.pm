package PVE::Tunnel::Overlay::Shape;

use v5.36;

our $VERSION = '0.1.0';

# The functions that the overlay replaces or calls, with their parameters in order.
my %PARAMETERS = (
    fork_websocket_tunnel => [qw($conn $url $req_params $tunnel_params $log)],
    forward_unix_socket => [qw($tunnel $local $remote)],
    finish_tunnel => [qw($tunnel $cleanup)],
    read_tunnel => [qw($tunnel $timeout)],
    write_tunnel => [qw($tunnel $timeout $command $params)],
);

sub fault ($package) {
    # Loaded here, because only this check needs it. B::Deparse would take 5 MB in each process.
    require B;
    for my $name (sort keys %PARAMETERS) {
        my $code = $package->can($name) // return "it has no function '$name'";
        my $found = _parameters($code)
            // return "the parameters of its function '$name' cannot be determined";
        my ($has, $known) = map { join(', ', @$_) } $found, $PARAMETERS{$name};
        return "its function '$name' takes ($has), and the overlay supports ($known)"
            if $has ne $known;
        my $cv = B::svref_2object($code);
        my $home = $cv->STASH->isa('B::HV') ? $cv->STASH->NAME : 'nowhere';
        return "its function '$name' comes from $home" if $home ne $package;
    }
    return;
}

# Perl keeps no list of parameters. They are derived from the code: from a signature, or from a
# first statement that assigns @_ to new variables.
sub _parameters ($code) {
    my $cv = B::svref_2object($code);
    # A function in C has no such code.
    return if $cv->ROOT->isa('B::NULL');
    my ($names, $values) = map { [$_->ARRAY] } $cv->PADLIST->ARRAY;
    my @positions = _signature($cv->ROOT);
    @positions = _assigned_arguments($cv->ROOT, $values) if !@positions;
    return if !@positions;
    return [map { $names->[$_]->PV } @positions];
}

# The positions of the variables in `my (...) = @_`, if that is the first statement.
sub _assigned_arguments ($root, $values) {
    my ($first) = grep { $_->name !~ /\A(?:nextstate|dbstate|pushmark)\z/ } _kids($root->first);
    return if !$first || $first->name ne 'aassign';
    # Each side is a list. Perl may have merged its operations into the first one, padrange, but
    # keeps them in the tree.
    my ($right, $left) = map {
        [grep { $_->name !~ /\A(?:pushmark|padrange)\z/ } _kids($_)]
    } _kids($first);
    return if @$right != 1 || $right->[0]->name ne 'rv2av' || !_is_arguments($right->[0], $values);
    return if grep { $_->name !~ /\Apad[sah]v\z/ || !($_->private & B::OPpLVAL_INTRO()) } @$left;
    return map { $_->targ } @$left;
}

# Whether the operation returns the array @_. A Perl with threads keeps the glob among the
# function's values.
sub _is_arguments ($rv2av, $values) {
    my $op = $rv2av->first;
    return 0 if $op->name ne 'gv';
    my $glob = $op->isa('B::PADOP') ? $values->[$op->padix] : $op->gv;
    return $glob->isa('B::GV') && $glob->STASH->NAME eq 'main' && $glob->NAME eq '_';
}

sub _kids ($op) {
    my @kids;
    return if !($op->flags & B::OPf_KIDS());
    for (my $kid = $op->first; $$kid; $kid = $kid->sibling) {
        push @kids, $kid;
    }
    return @kids;
}

# The positions of a signature's parameters among the function's variables, in order.
sub _signature ($op) {
    return $op->targ if $op->name eq 'argelem';
    return map { _signature($_) } _kids($op);
}

1;

__END__

=encoding utf8

=head1 NAME

PVE::Tunnel::Overlay::Shape - whether the overlay supports a PVE::Tunnel

=head1 DESCRIPTION

A part of L<PVE::Tunnel::Overlay>. It cannot check what a function does, but it can check its
parameters, which change if the callers have to change. The package itself must define these
functions with these parameters, in a signature or by C<my (...) = @_> at the beginning:

    fork_websocket_tunnel  $conn, $url, $req_params, $tunnel_params, $log
    forward_unix_socket    $tunnel, $local, $remote
    finish_tunnel          $tunnel, $cleanup
    read_tunnel            $tunnel, $timeout
    write_tunnel           $tunnel, $timeout, $command, $params

Other functions are not checked.

=head1 FUNCTIONS

=head2 fault

C<fault($package)>: the first difference, worded to follow the name of the package; nothing if there
is none.

=cut
