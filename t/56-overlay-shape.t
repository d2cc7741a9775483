#!/usr/bin/perl

# PVE::Tunnel::Overlay::Shape reads the parameters of functions from their operations.

use v5.36;

use Test::More;

use PVE::Tunnel::Overlay::Shape;

my ($outside, @other) = ('', 1 .. 3);
our ($package_variable, $another_variable);
sub declared;
sub with_default ($tunnel, $cleanup = lc($outside)) { return }

# What the function has, its parameters as text, and the function. The text is empty if the
# parameters cannot be determined.
my @cases = (
    ['an assignment', '$tunnel, $cleanup', sub { my ($tunnel, $cleanup) = @_; return }],
    ['one parameter', '$tunnel', sub { my ($tunnel) = @_; return }],
    ['an array', '$tunnel, @rest', sub { my ($tunnel, @rest) = @_; return }],
    ['a hash', '$tunnel, %option', sub { my ($tunnel, %option) = @_; return }],
    ['nothing but the assignment', '$tunnel, $local', sub { my ($tunnel, $local) = @_ }],
    ['a closure', '$tunnel, $local', sub { my ($tunnel, $local) = @_; return $outside }],
    [
        'variables of blocks',
        '$tunnel',
        sub {
            my ($tunnel) = @_;
            { my ($inner) = @_ }
            return;
        }
    ],
    ['a signature', '$tunnel, $cleanup', sub ($tunnel, $cleanup) { return }],
    ['a default', '$tunnel, $cleanup', \&with_default],
    ['a signature with an array', '$tunnel, @rest', sub ($tunnel, @rest) { return }],
    ['a signature with a hash', '$tunnel, %option', sub ($tunnel, %option) { return }],
    [
        'a signature and an assignment',
        '$tunnel, $cleanup', sub ($tunnel, $cleanup) { my ($x, $y) = @other; return }
    ],
    ['no code', '', sub { }],
    ['no parameters', '', sub { return 1 }],
    ['an empty signature', '', sub () { return time }],
    ['an empty list', '', sub { my () = @_; return }],
    ['shift', '', sub { my $tunnel = shift; return }],
    ['single elements', '', sub { my $tunnel = $_[0]; my ($local) = @_; return }],
    ['a slice', '', sub { my ($tunnel, $local) = @_[0, 1]; return }],
    ['another array', '', sub { my ($tunnel, $local) = @other; return }],
    ['more than @_', '', sub { my ($tunnel, $local) = (@_, 1); return }],
    [
        'a copy of @_',
        '',
        sub {
            my ($tunnel, $local) = map { $_ } @_;
            return;
        }
    ],
    ['a placeholder', '', sub { my ($tunnel, undef, $local) = @_; return }],
    ['variables of the package', '', sub { ($package_variable, $another_variable) = @_; return }],
    ['variables from outside', '', sub { ($outside) = @_; return }],
    ['another first statement', '', sub { $outside = 1; my ($tunnel, $local) = @_; return }],
    [
        'a function inside',
        '',
        sub {
            return sub ($tunnel) { return }
        }
    ],
    ['a function that is only declared', '', \&declared],
    ['a function in C', '', \&PVE::Tunnel::Native::version],
    ['a constant', '', \&PVE::Tunnel::Native::LINE_MAX],
);

for my $case (@cases) {
    my ($what, $expected, $code) = @$case;
    is(join(', ', PVE::Tunnel::Overlay::Shape::_parameters($code)), $expected, $what);
}

# As text, because perlcritic does not parse them.
my @texts = (
    ['a name that is not ASCII', "\$w\x{142}", "sub { my (\$w\x{142}) = \@_ }"],
    ['code that is nested deeply', '', 'sub { ' . '$_[0] . (' x 20_000 . '1' . ')' x 20_000 . ' }'],
);
for my $case (@texts) {
    my ($what, $expected, $text) = @$case;
    my $code = eval $text ## no critic (ProhibitStringyEval)
        or die $@;
    is(join(', ', PVE::Tunnel::Overlay::Shape::_parameters($code)), $expected, $what);
}

is(PVE::Tunnel::Overlay::Shape::_package(\&declared), 'main', 'the package of a function');

sub itself ($depth) {
    return itself($depth - 1) if $depth;
    return PVE::Tunnel::Overlay::Shape::_parameters(\&itself);
}
is(itself(3), '$depth', 'a function that is running, and has called itself');

for my $value (undef, 'main::declared', [], bless([], 'Object')) {
    ok(!eval { PVE::Tunnel::Overlay::Shape::_parameters($value); 1 }, 'other values are refused');
    like(
        $@, qr/\APVE::Tunnel::Overlay::Shape: this is not a code reference\n\z/,
        '... with a line'
    );
}

done_testing;
