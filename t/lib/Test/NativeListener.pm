package Test::NativeListener;

# Our listener in a process of its own, as the worker on the target has it: everything closed but
# 0, 1, 2, the control socket and the log.

use v5.36;

use POSIX ();

use parent 'Test::ListenerControl';

=head1 NAME

Test::NativeListener - PVE::Tunnel::Native::listener_run behind its control lines

=head1 FUNCTIONS

Those of L<Test::ListenerControl>, and:

=head2 start(%options)

Class method. The options of C<listener_run>; on 127.0.0.1 unless C<network> says otherwise. Dies
with the listener's C<error>.

=head2 log_lines

What it has logged since the last call, lines.

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
