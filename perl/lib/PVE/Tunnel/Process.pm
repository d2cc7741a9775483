package PVE::Tunnel::Process;

use v5.36;

use Config;
use Errno qw(EINTR);
use IO::Select;
use POSIX ();
use Time::HiRes qw(clock_gettime CLOCK_MONOTONIC);

our $VERSION = '0.1.0';

sub start ($handles, $code) {
    # Open in what is forked and nowhere else, so its end is theirs.
    pipe(my $alive, my $alive_end) or die "pipe: $!\n";

    # A signal that came between fork and the child's own dispositions would run a handler of the
    # caller's in the child, which may remove what is the caller's.
    my $blocked = POSIX::SigSet->new();
    POSIX::sigprocmask(POSIX::SIG_SETMASK(), _every_signal(), $blocked);
    my $pid = fork();
    if (defined($pid) && !$pid) {
        # Nothing of the caller's may run in here: no END block, no destructor, no handler.
        my $status = eval {
            _default_signals();
            POSIX::sigprocmask(POSIX::SIG_SETMASK(), $blocked);
            _close_all_but(0, 1, 2, map { fileno $_ } @$handles, $alive_end);
            $code->();
        };
        POSIX::_exit($status // 1);
    }
    my $error = $!;
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
    $SIG{$_} = 'DEFAULT' for grep { defined $SIG{$_} } keys %SIG;
    # A peer that is gone is an error where it is written to.
    $SIG{PIPE} = 'IGNORE';
    return;
}

# The caller usually holds the guest's configuration lock, which is held for as long as anybody has
# its descriptor.
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

PVE::Tunnel::Process - a process of our own beside the caller's

=head1 SYNOPSIS

    my $process = PVE::Tunnel::Process::start(
        [$theirs],
        sub { serve(fileno $theirs); return 0 },
    );
    ...
    kill(KILL => $process->{pid})
        if !PVE::Tunnel::Process::ended($process, 10);
    PVE::Tunnel::Process::reap($process);

=head1 DESCRIPTION

What L<PVE::Tunnel::Client> and L<PVE::Tunnel::Seam> share: both fork processes for native code that
blocks, out of processes of Proxmox VE that hold a guest's configuration lock, handle signals in
their own way, and have much open.

=head1 FUNCTIONS

=head2 start

    my $process = start(\@handles, $code);

Forks. The child has default signal dispositions (C<SIGPIPE> is ignored), no alarm, and no
descriptors but 0, 1, 2, those of C<@handles>, and one whose end is its own. It calls C<$code> and
ends with the number that this returns, or with 1 if it dies; no C<END> block and no destructor runs
in it. Lexical handles of the caller are closed below Perl: C<$code> must not use or close any but
those given.

Returns a hash with C<pid> and C<alive>, which are those of the functions below. Dies if the system
has no process or descriptor left.

=head2 ended

C<ended($process, $limit)>: true as soon as the child and all that it forked have ended, false after
C<$limit> seconds; with 0, whether they have.

=head2 reap

C<reap($process)>: waits for the child, without a limit, so C<ended> comes first. It does not matter
if somebody else has waited for it already. Returns the name of the signal that ended it, as
C<SIGKILL>, or undef.

=head2 signal_of

C<signal_of($status)>: the name of the signal in a status as in C<$?>, undef if there is none.

=cut
