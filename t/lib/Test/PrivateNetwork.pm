package Test::PrivateNetwork;

use v5.36;

use File::Basename qw(dirname);
use lib dirname(__FILE__) . '/../../../demo/lib';

use Demo::Hosts;

=head1 NAME

Test::PrivateNetwork - runs a test in a network namespace of its own

=head1 SYNOPSIS

    use Test::PrivateNetwork;

=head1 DESCRIPTION

For tests that expect certain ports, or that no other program uses the ports for migrations. As
root, C<use> starts the test again in a new network namespace, which has only a loopback interface.
It does nothing for other users, and where namespaces cannot be created: no test that uses these
ports may run at the same time there.

=cut

sub import ($class) {
    Demo::Hosts::enter();
    system(qw(ip link set lo up)) if !$>;
    return;
}

1;
