package Test::EmulatedGuest;

use v5.36;

=head1 NAME

Test::EmulatedGuest - lets QEMU emulate the CPU of the guests in a test

=head1 SYNOPSIS

    use Test::EmulatedGuest;

=head1 DESCRIPTION

C<use> sets C<GUEST_ACCEL> to C<tcg> for L<TestNode::Guest>, in this process and in the workers of
its test nodes. If the environment already has a value, the value remains.

The guest's program and its BIOS are 16-bit and 32-bit code. KVM on a virtual machine may have to
interpret such code, one instruction at a time: there a guest needs 3 s of CPU time to start, and
0.2 s with QEMU's emulation.

=cut

sub import ($class) {
    $ENV{GUEST_ACCEL} //= 'tcg'; ## no critic (RequireLocalizedPunctuationVars)
    return;
}

1;
