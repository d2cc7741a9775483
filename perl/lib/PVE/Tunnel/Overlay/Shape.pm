package PVE::Tunnel::Overlay::Shape;

use v5.36;

our $VERSION = '0.1.0';

# The functions that are replaced and those that are relied on, with their parameters. Names count:
# a parameter in another place is another function.
my %PARAMETERS = (
    fork_websocket_tunnel => [qw($conn $url $req_params $tunnel_params $log)],
    forward_unix_socket => [qw($tunnel $local $remote)],
    finish_tunnel => [qw($tunnel $cleanup)],
    read_tunnel => [qw($tunnel $timeout)],
    write_tunnel => [qw($tunnel $timeout $command $params)],
);

sub fault ($package) {
    # Only who wants to know pays for them.
    require B;
    require B::Deparse;
    for my $name (sort keys %PARAMETERS) {
        my $code = $package->can($name) // return "it has no function '$name'";
        my $found = _parameters($code)
            // return "the parameters of its function '$name' cannot be made out";
        my ($has, $known) = map { join(', ', @$_) } $found, $PARAMETERS{$name};
        return "its function '$name' takes ($has), and ($known) is what is known here"
            if $has ne $known;
        my $cv = B::svref_2object($code);
        my $home = $cv->STASH->isa('B::HV') ? $cv->STASH->NAME : 'nowhere';
        return "its function '$name' comes from $home" if $home ne $package;
    }
    return;
}

# Perl keeps no list of parameters: they are read off the code, from a signature or from the
# statement that takes them all.
sub _parameters ($code) {
    my $cv = B::svref_2object($code);
    # Of a function in C there is none.
    return if $cv->ROOT->isa('B::NULL');
    my @names = ($cv->PADLIST->ARRAY)[0]->ARRAY;
    my @signed = map { $names[$_]->PV } _signature($cv->ROOT);
    return \@signed if @signed;

    my $text = eval { B::Deparse->new()->coderef2text($code) } // return;
    # What a file declares for all its code is repeated in each function.
    my $declaration = qr/(?:package|use|no)\s[^;]*;|BEGIN\s*\{[^\n]*\}/;
    return if $text !~ /\A\s*\{\s*(?:$declaration\s*)*my\s*\(([^()]*)\)\s*=\s*\@_;/;
    return [$1 =~ /([\$\@%]\w*)/g];
}

# Where the parameters of a signature are among the function's variables, in their order.
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

PVE::Tunnel::Overlay::Shape - whether a PVE::Tunnel is the one that is known

=head1 DESCRIPTION

A part of L<PVE::Tunnel::Overlay>. What a function does cannot be seen from outside; what it is called
with can, and a change there is a change that callers have followed. So these must be there, defined
by the package itself, and take these parameters, as a signature or by C<my (...) = @_> at their
beginning:

    fork_websocket_tunnel  $conn, $url, $req_params, $tunnel_params, $log
    forward_unix_socket    $tunnel, $local, $remote
    finish_tunnel          $tunnel, $cleanup
    read_tunnel            $tunnel, $timeout
    write_tunnel           $tunnel, $timeout, $command, $params

Other functions do not matter.

=head1 FUNCTIONS

=head2 fault

C<fault($package)>: what is not as it is known, in words that follow a name of the package; nothing
if all is.

=cut
