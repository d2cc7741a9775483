#!/usr/bin/perl

# Reading an argument may run Perl code: of a tied scalar, or of an overloaded object. That code may
# change, reallocate or free the other arguments of the call. No function uses memory that was freed.

use v5.36;

use B ();
use Test::More;

use PVE::Tunnel::Native;

# glibc fills freed memory with this byte, so that a function that still uses it returns another
# result. Valgrind, if it is installed, reports each such access. Both require a new process.
if (($ENV{MALLOC_PERTURB_} // 0) != 165) {
    my ($valgrind) = grep { -x } map { "$_/valgrind" } split(/:/, $ENV{PATH});
    # Perl reads uninitialised bytes of its own.
    my @under =
        $valgrind ? ($valgrind, qw(--quiet --error-exitcode=99 --undef-value-errors=no)) : ();
    local $ENV{MALLOC_PERTURB_} = 165;
    exec(@under, $^X, (map { "-I$_" } @INC), $0) or die "cannot run $^X: $!\n";
}

package Magic {

    sub TIESCALAR ($class, $action, $value) {
        return bless({ action => $action, value => $value }, $class);
    }
    sub FETCH ($self) { $self->{action}->(); return $self->{value} }
    sub STORE ($self, $value) { $self->{value} = $value; return }
}

package Overloaded {
    use overload '""' => sub ($self, @) { $self->{action}->(); return $self->{value} };
}

package main;

my $LONG = 200_000;
my $TEXT = pack('CCn', 0x82, 126, 1000) . ('z' x 1000); # a binary frame
open(my $null, '+<', '/dev/null') or die "/dev/null: $!\n";
my $fd = fileno($null);

# Each function, its arguments, and those that are strings. The others are objects or numbers.
my @functions = (
    ['fingerprint_parse', ['ab' x 32], [0]],
    ['port_bind', ['a' x 100], [0]],
    ['_version_reply_parse', ['{"success":1,"api":2,"age":0}'], [0]],
    ['_plan', ['{"caps":["' . 'x' x 60 . '"],"planes":[]}'], [0]],
    ['_configuration_select', ["wrong$LONG\n", '{"side":"source","host":"h"}'], [0, 1]],
    ['_seam_decide', ["wrong$LONG\n", '{}'], [0, 1]],
    ['_seam_answer', ['hello', '{"success":0,"msg":"' . 'm' x 300 . '"}'], [0, 1]],
    ['_network_address', ['203.0.113.0/24', 'n' x 300], [0, 1]],
    ['_endpoint_check', ['{"x' . 'y' x 300 . '":1}'], [0]],
    ['_guard_check', ['{"x' . 'y' x 300 . '":1}'], [0]],
    ['_connector_run', [$fd, $fd, $fd, '{"x' . 'y' x 300 . '":1}'], [3]],
    ['_listener_run', [$fd, $fd, '{"x' . 'y' x 300 . '":1}'], [2]],
    ['mask', ['m' x $LONG, 'key!', 1], [1]],
    ['Codec::_new', ['PVE::Tunnel::Native::Codec', '{"x' . 'y' x 300 . '":1}'], [1]],
    ['Codec::feed', [undef, $TEXT x 200], [1]],
    ['Codec::next', [undef], []],
    ['Codec::encode', [undef, 'binary', 'z' x $LONG], [1, 2]],
);

# Tested below, or without arguments.
my %other = map { $_ => 1 }
    qw(abi_version version last_error last_status bootstrap _any_tainted _taint_all);

sub function ($name) {
    my ($class, $sub) = "PVE::Tunnel::Native::$name" =~ m/\A(.+)::(.+)\z/;
    return $class->can($sub) // die "no function $name\n";
}

# The names of a class's functions that are written in C.
sub functions_in_c ($class, $names) {
    my @found;
    for my $name (grep { $class->can($_) } keys(%$names)) {
        my $sub = B::svref_2object($class->can($name));
        push(@found, $name)
            if $sub->XSUB && !($sub->CvFLAGS & B::CVf_CONST) && $sub->GV->STASH->NAME eq $class;
    }
    return @found;
}

my @expected = sort(keys(%other), map { $_->[0] } @functions);
my @found = sort(functions_in_c('PVE::Tunnel::Native', \%PVE::Tunnel::Native::),
    map { "Codec::$_" }
        functions_in_c('PVE::Tunnel::Native::Codec', \%PVE::Tunnel::Native::Codec::));
is("@found", "@expected", 'every function is tested');

# Calls a function with the elements of an array. The elements are on Perl's stack, which does not
# count them: code that empties the array frees them. Returns what the function does, as text.
sub outcome ($name, $arguments) {
    my $function = function($name);
    my $codec = $name =~ m/::(?:feed|encode|next)\z/ ? codec_in($arguments) : undef;
    my $data = $name eq 'mask' ? \$arguments->[0] : undef;
    my @result;
    my $done = eval { @result = &$function(@$arguments); 1 };
    my $text = $done ? join(' ', map { shown($_) } @result) : "died: $@";
    $text .= ' ' . $$data if $data && $done;
    if ($codec && $done && $name =~ m/feed/) {
        my $frame = eval { $codec->next() };
        $text .= $frame ? " $frame->{payload}" : " nothing $@";
    }
    return $text;
}

sub shown ($value) {
    return ref($value) eq 'HASH' ? $value->{payload} : ref($value) || ($value // 'undef');
}

sub codec_in ($arguments) {
    my $self = tied($arguments->[0]) ? tied($arguments->[0])->{value} : $arguments->[0];
    return $self;
}

sub arguments ($case) {
    my ($name, $given) = @$case;
    my @arguments = @$given;
    if ($name =~ m/::(?:feed|encode|next)\z/) {
        $arguments[0] = PVE::Tunnel::Native::Codec->new(role => 'client', mask => 'zero');
        $arguments[0]->feed($TEXT) if $name =~ m/next/;
    }
    # Strings of their own, which share no buffer with the table.
    return [map { ref($_) ? $_ : defined($_) ? "$_" . '' : undef } @arguments];
}

# What the code of one argument does to the others. Memory that it frees is used again.
my @junk;
my %actions = (
    'gives the others new buffers' => sub ($arguments, $at) {
        for my $i (grep { $_ != $at } keys(@$arguments)) {
            my $copy = $arguments->[$i];
            undef($arguments->[$i]);
            $arguments->[$i] = $copy;
        }
    },
    'frees all arguments' => sub ($arguments, $at) { @$arguments = () },
    'makes the others undefined' => sub ($arguments, $at) {
        undef($arguments->[$_]) for grep { $_ != $at } keys(@$arguments);
    },
    'ties the others' => sub ($arguments, $at) {
        for my $i (grep { $_ != $at && !tied($arguments->[$_]) } keys(@$arguments)) {
            tie($arguments->[$i], 'Magic', sub { @$arguments = () }, 'tied');
        }
    },
    'makes the others overloaded' => sub ($arguments, $at) {
        for my $i (grep { $_ != $at } keys(@$arguments)) {
            my $code = sub { @$arguments = () };
            $arguments->[$i] = bless({ action => $code, value => 'overloaded' }, 'Overloaded');
        }
    },
);
my %same = map { $_ => 1 } 'gives the others new buffers', 'frees all arguments';

for my $case (@functions) {
    my ($name, $given, $strings) = @$case;
    my $normal = outcome($name, arguments($case));
    for my $at (keys(@$given)) {
        my @kinds = ('tied', (grep { $_ == $at } @$strings) ? 'overloaded' : ());
        for my $action (sort keys(%actions)) {
            for my $kind (@kinds) {
                my $arguments = arguments($case);
                my $once = 0;
                my $code = sub {
                    $actions{$action}->($arguments, $at) if !$once++;
                    @junk = map { 'J' x $LONG } 1 .. 4;
                };
                my $value = $arguments->[$at];
                if ($kind eq 'tied') {
                    tie($arguments->[$at], 'Magic', $code, $value);
                } else {
                    $arguments->[$at] =
                        bless({ action => $code, value => $value }, 'Overloaded');
                }
                my $got = outcome($name, $arguments);
                my $what = "$name: argument $at is $kind and $action";
                if ($same{$action}) {
                    ok($got eq $normal, $what) or diag(substr($got, 0, 200));
                } else {
                    # A new value is used or refused; anything else would be freed memory.
                    ok($got !~ m/JJJJ|\xa5\xa5|\x5a\x5a/, $what) or diag(substr($got, 0, 200));
                }
            }
        }
    }
}

# Structures whose tied containers remove themselves.
package Removed {
    sub TIEHASH ($class, $parent) { return bless({ parent => $parent }, $class) }

    sub FIRSTKEY ($self) {
        %{ $self->{parent} } = ();
        @junk = map { 'J' x 200 } 1 .. 100;
        return 'a';
    }
    sub NEXTKEY ($self, $last) { return $last eq 'a' ? 'b' : undef }
    sub FETCH ($self, $key) { return $key }
    sub TIEARRAY ($class, $parent) { return bless({ parent => $parent }, $class) }

    sub FETCHSIZE ($self) {
        %{ $self->{parent} } = ();
        @junk = map { 'J' x 200 } 1 .. 100;
        return 2;
    }
    sub UNTIE { return }
}

package main;

for my $function (qw(_any_tainted _taint_all)) {
    for my $kind (qw(hash array)) {
        my %structure = (a => 1, b => { c => 1 });
        my (%inner, @inner);
        tie(%inner, 'Removed', \%structure);
        tie(@inner, 'Removed', \%structure);
        $structure{inner} = $kind eq 'hash' ? \%inner : \@inner;
        ok(!function($function)->(\%structure), "$function: a tied $kind empties the structure");
    }
}

done_testing();
