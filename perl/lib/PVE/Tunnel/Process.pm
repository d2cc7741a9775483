package PVE::Tunnel::Process;

use v5.36;

use Config;
use Errno qw(EINTR);
use IO::Select;
use POSIX ();
use Time::HiRes qw(clock_gettime CLOCK_MONOTONIC);

our $VERSION = '0.1.0';

# The signals by which a shell or Proxmox VE ends a process group.
my @ENDING = qw(HUP INT QUIT TERM);

sub start ($handles, $code) {
    # Only the child and its children keep the other end open, so it closes when they have ended.
    pipe(my $alive, my $alive_end) or die "pipe: $!\n";

    # A signal that arrives before the child has reset its dispositions would run a handler of the
    # caller in the child, which could remove what belongs to the caller.
    my $blocked = POSIX::SigSet->new();
    POSIX::sigprocmask(POSIX::SIG_SETMASK(), _every_signal(), $blocked);
    my $pid = fork();
    if (defined($pid) && !$pid) {
        # No code of the caller may run here: no END block, no destructor, no handler.
        my $status = eval {
            POSIX::setpgid(0, 0);
            _default_signals();
            POSIX::sigprocmask(POSIX::SIG_SETMASK(), POSIX::SigSet->new());
            _close_all_but(0, 1, 2, map { fileno $_ } @$handles, $alive_end);
            $code->();
        };
        POSIX::_exit($status // 1);
    }
    my $error = $!;
    # Also here, so that the child has left the group when this function returns. Fails if it has.
    POSIX::setpgid($pid, $pid) if $pid;
    POSIX::sigprocmask(POSIX::SIG_SETMASK(), $blocked);
    die "fork: $error\n" if !defined $pid;
    close($alive_end);
    return { pid => $pid, alive => $alive };
}

sub ended ($process, $limit) {
    my $deadline = clock_gettime(CLOCK_MONOTONIC) + $limit;
    my $select = IO::Select->new($process->{alive});
    my $left = $limit;
    do {
        return 1 if $select->can_read($left);
        $left = $deadline - clock_gettime(CLOCK_MONOTONIC);
    } while ($left > 0);
    return 0;
}

sub reap ($process) {
    close(delete $process->{alive});
    my $reaped;
    1 while ($reaped = waitpid($process->{pid}, 0)) < 0 && $!{EINTR};
    return $reaped == $process->{pid} ? signal_of($?) : undef;
}

sub signal_of ($status) {
    my $number = $status & 127;
    return if $status < 0 || !$number;
    return 'SIG' . ((split(/ /, $Config{sig_name}))[$number] // $number);
}

sub _every_signal() {
    my $set = POSIX::SigSet->new();
    $set->fillset();
    return $set;
}

sub _default_signals() {
    alarm(0);
    # What the caller ignores stays ignored, as nohup requires. SIGTERM ends the child in any case:
    # the caller sends it, and the kernel, if the child's parent dies.
    my %ignored = map { $_ => 1 } grep { ($SIG{$_} // '') eq 'IGNORE' } qw(HUP INT QUIT);
    # A signal to the caller's group may have arrived before this process left the group. Ignoring a
    # signal discards a pending one.
    $SIG{$_} = 'IGNORE' for @ENDING;
    $SIG{$_} = 'DEFAULT' for grep { defined $SIG{$_} && !$ignored{$_} } keys %SIG;
    # Writing to a closed connection returns an error instead of ending the process. Writing the log
    # to a terminal does not stop a process that is not in its foreground group.
    $SIG{$_} = 'IGNORE' for qw(PIPE TTOU);
    return;
}

# The caller usually holds the guest's configuration lock. The kernel keeps a lock as long as any
# process has its descriptor.
sub _close_all_but (@keep) {
    my %keep = map { $_ => 1 } @keep;
    opendir(my $dir, '/proc/self/fd') or die "cannot list descriptors: $!\n";
    my @open = grep { !$keep{$_} } map { /\A(\d+)\z/ } readdir($dir);
    closedir($dir);
    POSIX::close($_) for @open;
    return;
}

1;

__END__

=encoding utf8

=head1 NAME

PVE::Tunnel::Process - a process for native code that blocks

=head1 SYNOPSIS

    my $process = PVE::Tunnel::Process::start(
        [$child_end],
        sub { serve(fileno $child_end); return 0 },
    );
    ...
    kill(KILL => $process->{pid})
        if !PVE::Tunnel::Process::ended($process, 10);
    PVE::Tunnel::Process::reap($process);

=head1 DESCRIPTION

L<PVE::Tunnel::Client> and L<PVE::Tunnel::Seam> both fork processes for native code that blocks.
Their callers are processes of Proxmox VE, which hold a guest's configuration lock, have their own
signal handlers, and have many open descriptors.

=head1 FUNCTIONS

=head2 start

    my $process = start(\@handles, $code);

Forks. The child leads a process group of its own: Proxmox VE ends a task by a signal to the process
group, and the caller may clean up through the child afterwards. The child has default signal
dispositions (C<SIGPIPE> and C<SIGTTOU> are ignored, and those of C<SIGHUP>, C<SIGINT> and
C<SIGQUIT> that the caller ignores), no blocked signals, no alarm, and no descriptors except 0, 1, 2, those of C<@handles>, and one end of a pipe that shows its end. It calls
C<$code> and exits with its return value, or with 1 if it dies. No C<END> block and no destructor
runs in it. The descriptors of the caller's other handles are closed without Perl's knowledge:
C<$code> must not use or close these handles.

Returns a hash with C<pid> and C<alive> for the functions below. Dies if the system has no process
or descriptor left.

=head2 ended

C<ended($process, $limit)>: true as soon as the child and all its children have ended, false after
C<$limit> seconds. With a limit of 0 it does not wait.

=head2 reap

C<reap($process)>: waits for the child, without a limit; call C<ended> first. Another part of the
program may have waited for the child already. Returns the name of the signal that ended it, such as
C<SIGKILL>, or undef.

=head2 signal_of

C<signal_of($status)>: the name of the signal in a wait status such as C<$?>, or undef.

=cut
