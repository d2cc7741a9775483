package TestNode::Schema;

=head1 NAME

TestNode::Schema - checks the parameters of a command against its schema

=head1 SYNOPSIS

    my $path = { type => 'string' };
    my $cleanup = { type => 'boolean', optional => 1 };
    check({ path => $path, cleanup => $cleanup }, $parameters);

=head1 DESCRIPTION

Every parameter must be in the schema, the required ones must be present, and each must have the
right type. The types are C<string> (with C<enum> or C<pattern>), C<integer> (with C<minimum>,
C<maximum>), C<boolean> (JSON's, or 0 and 1), C<array> (of C<items>), and C<object> (with
C<properties>; without it, any object is accepted).

=cut

use v5.36;

use Exporter qw(import);
use JSON ();

our @EXPORT_OK = qw(check);

my %CHECK = (
    string => \&string_error,
    integer => \&integer_error,
    boolean => \&boolean_error,
    array => \&array_error,
    object => \&object_error,
);

=head1 FUNCTIONS

=head2 check

C<check(\%properties, $value)>: dies with one line that contains the path of the first invalid
parameter.

=cut

sub check ($properties, $value) {
    my $error = object_error({ properties => $properties }, $value, '');
    die "bad parameters: $error\n" if defined $error;
    return;
}

sub string_error ($type, $value, $at) {
    return "$at: not a string" if ref $value;
    if (my $enum = $type->{enum}) {
        return "$at: value '$value' is not one of '" . join(q{', '}, @$enum) . q{'}
            if !grep { $_ eq $value } @$enum;
    }
    if (my $pattern = $type->{pattern}) {
        return "$at: not a valid $type->{name}" if $value !~ /\A(?:$pattern)\z/;
    }
    return;
}

sub integer_error ($type, $value, $at) {
    return "$at: not an integer" if ref($value) || $value !~ /\A-?\d{1,18}\z/;
    return "$at: must be at least $type->{minimum}"
        if defined $type->{minimum} && $value < $type->{minimum};
    return "$at: must be at most $type->{maximum}"
        if defined $type->{maximum} && $value > $type->{maximum};
    return;
}

sub boolean_error ($type, $value, $at) {
    return if JSON::is_bool($value) || !ref($value) && $value =~ /\A[01]\z/;
    return "$at: not a boolean";
}

sub array_error ($type, $value, $at) {
    return "$at: not an array" if ref($value) ne 'ARRAY';
    for my $i (0 .. $#$value) {
        my $error = value_error($type->{items}, $value->[$i], "$at\[$i]");
        return $error if defined $error;
    }
    return;
}

sub object_error ($type, $value, $at) {
    return (($at eq '' ? 'parameters' : $at) . ': not an object') if ref($value) ne 'HASH';
    my $properties = $type->{properties} // return;
    my $prefix = $at eq '' ? '' : "$at.";
    for my $name (sort keys %$value) {
        my $property = $properties->{$name}
            // return "$prefix$name: this command has no such parameter";
        next if !defined($value->{$name}) && $property->{optional};
        my $error = value_error($property, $value->{$name}, "$prefix$name");
        return $error if defined $error;
    }
    for my $name (sort keys %$properties) {
        return "$prefix$name: this parameter is missing"
            if !$properties->{$name}{optional} && !defined $value->{$name};
    }
    return;
}

sub value_error ($type, $value, $at) {
    return "$at: has no value" if !defined $value;
    return $CHECK{ $type->{type} }->($type, $value, $at);
}

1;
