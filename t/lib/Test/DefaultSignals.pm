package Test::DefaultSignals;

use v5.36;

=head1 NAME

Test::DefaultSignals - resets the signals that a test ignores because of its caller

=head1 SYNOPSIS

    use Test::DefaultSignals;

=head1 DESCRIPTION

Under C<nohup>, or in the background of a script, a test ignores some signals, and every process that
it starts inherits that. C<use> gives each ignored signal its default action.

=cut

sub import ($class) {
    for my $name (grep { ($SIG{$_} // '') eq 'IGNORE' } keys %SIG) {
        $SIG{$name} = 'DEFAULT'; ## no critic (RequireLocalizedPunctuationVars)
    }
    return;
}

1;
