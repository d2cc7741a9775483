package Test::NativeListener;

# The listener of pve-tunnel in its own process, as the worker on the target starts it: all
# descriptors except 0, 1, 2, the control socket and the log are closed.

use v5.36;

use POSIX ();

use parent 'Test::ListenerControl';

=head1 NAME

Test::NativeListener - runs PVE::Tunnel::Native::listener_run and exchanges control lines with it

=head1 FUNCTIONS

The functions of L<Test::ListenerControl>, and:

=head2 start(%options)

Class method. Takes the options of C<listener_run>. The default of C<network> is 127.0.0.1/32. Dies
with the C<error> of the listener.

=head2 log_lines

The lines that the listener has logged since the last call.

=cut

sub start ($class, %options) {
    require PVE::Tunnel::Native;
    pipe(my $reader, my $writer) or die "pipe: $!\n";
    my $self = $class->fork_with(
        sub ($socket) {
            my ($control, $log) = (fileno $socket, fileno $writer);
            POSIX::close($_) for grep { $_ != $control && $_ != $log } open_descriptors();
            PVE::Tunnel::Native::listener_run(
                $control, $log,
                { network => '127.0.0.1/32', node => 'localhost', %options }
            );
        }
    );
    $self->{log} = $reader;
    return $self;
}

sub open_descriptors () {
    opendir(my $dir, '/proc/self/fd') or die "cannot list descriptors: $!\n";
    my @descriptors = grep { /\A\d+\z/ && $_ > 2 } readdir $dir;
    closedir $dir;
    return @descriptors;
}

sub log_lines ($self) {
    $self->{log}->blocking(0);
    return readline $self->{log};
}

1;
