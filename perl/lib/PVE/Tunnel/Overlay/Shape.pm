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
    # Loaded here, because they are large.
    require B;
    require B::Deparse;
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
# statement that assigns @_ to a list.
sub _parameters ($code) {
    my $cv = B::svref_2object($code);
    # A function in C has no such code.
    return if $cv->ROOT->isa('B::NULL');
    my @names = ($cv->PADLIST->ARRAY)[0]->ARRAY;
    my @signed = map { $names[$_]->PV } _signature($cv->ROOT);
    return \@signed if @signed;

    my $text = eval { B::Deparse->new()->coderef2text($code) } // return;
    # B::Deparse repeats the declarations of a file in each function.
    my $declaration = qr/(?:package|use|no)\s[^;]*;|BEGIN\s*\{[^\n]*\}/;
    return if $text !~ /\A\s*\{\s*(?:$declaration\s*)*my\s*\(([^()]*)\)\s*=\s*\@_;/;
    return [$1 =~ /([\$\@%]\w*)/g];
}

# The positions of a signature's parameters among the function's variables, in order.
sub _signature ($op) {
    return $op->targ if $op->name eq 'argelem';
    my @found;
    if ($op->flags & B::OPf_KIDS()) {
        for (my $kid = $op->first; $$kid; $kid = $kid->sibling) {
            push @found, _signature($kid);
        }
    }
    return @found;
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
