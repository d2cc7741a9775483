package Test::TaintedProgram;

use v5.36;

use Exporter qw(import);
use FindBin ();

our @EXPORT_OK = qw(run_tainted);

=head1 NAME

Test::TaintedProgram - runs a program with taint checks, as pvedaemon runs with -T

=head1 FUNCTIONS

=head2 run_tainted($dir, $program, $input, @lib)

Writes a Perl program to a file in C<$dir> and runs it under C<perl -T> with C<$input> as its
standard input, so that everything it reads is tainted. It loads modules from C<@lib> and from the
build. Returns its output, errors included.

=cut

sub run_tainted ($dir, $program, $input, @lib) {
    my %content = ("$dir/tainted.pl" => $program, "$dir/tainted.input" => $input);
    for my $file (sort keys %content) {
        open(my $out, '>', $file) or die "cannot create '$file': $!\n";
        print {$out} $content{$file};
        close($out) or die "cannot write '$file': $!\n";
    }
    my @switches =
        map { "-I$_" } @lib, map { "$FindBin::RealBin/../perl/blib/$_" } qw(lib arch);
    return qx($^X -T @switches $dir/tainted.pl <$dir/tainted.input 2>&1);
}

1;
