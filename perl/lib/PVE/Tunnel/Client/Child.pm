package PVE::Tunnel::Client::Child;

use v5.36;

use Errno qw(EINTR);
use IO::Select;
use POSIX ();
use Time::HiRes qw(clock_gettime CLOCK_MONOTONIC);

use PVE::Tunnel::Native;

our $VERSION = '0.1.0';

# Longer than any diagnostic; what is longer is cut, not kept.
use constant MAX_LOG_LINE => 8192;

sub start ($log) {
    pipe(my $command_end, my $writer) or die "pipe: $!\n";
    pipe(my $reader, my $answer_end) or die "pipe: $!\n";
    # Open in the child and nowhere else, so its end is the child's.
    pipe(my $alive, my $alive_end) or die "pipe: $!\n";

    my $pid = fork() // die "fork: $!\n";
    if (!$pid) {
        # Nothing of the caller's may run in here: no END block, no destructor, no handler.
        eval {
            _run($log, map { fileno $_ } $command_end, $answer_end, $alive_end);
        };
        POSIX::_exit(1);
    }
    close($_) for $command_end, $answer_end, $alive_end;
    $writer->autoflush(1);
    return { pid => $pid, writer => $writer, reader => $reader, alive => $alive };
}

sub ended ($child, $limit) {
    my $deadline = clock_gettime(CLOCK_MONOTONIC) + $limit;
    my $select = IO::Select->new($child->{alive});
    while ((my $left = $deadline - clock_gettime(CLOCK_MONOTONIC)) > 0) {
        return 1 if $select->can_read($left);
    }
    return 0;
}

sub reap ($child) {
    close(delete $child->{alive});
    1 while waitpid($child->{pid}, 0) < 0 && $!{EINTR};
    return;
}

# The child reads diagnostics; the connector, which blocks in native code, is a process of its own
# under it.
sub _run ($log, $input, $output, $alive) { ## no critic (RequireFinalReturn)
    local @SIG{qw(INT HUP QUIT ALRM CHLD USR1 USR2 __DIE__ __WARN__)} = ('DEFAULT') x 9;
    local $SIG{PIPE} = 'IGNORE';
    local $SIG{TERM} = 'DEFAULT';
    alarm(0);
    _close_all_but(0, 1, 2, $input, $output, $alive);

    my ($log_in, $log_out) = POSIX::pipe() or die "pipe: $!\n";
    my $connector = fork() // die "fork: $!\n";
    if (!$connector) {
        POSIX::close($log_in);
        POSIX::_exit(_connect_and_serve($input, $output, $log_out));
    }
    local $SIG{TERM} = sub { kill(TERM => $connector) };
    POSIX::close($_) for $input, $output, $log_out;
    _pass_on($log, $log_in);
    1 while waitpid($connector, 0) < 0 && $!{EINTR};
    POSIX::_exit($? ? 1 : 0);
}

sub _connect_and_serve ($input, $output, $log_out) {
    local $0 = 'pve-tunnel connector';
    return 0 if eval { PVE::Tunnel::Native::connector_run($input, $output, $log_out, {}); 1 };
    POSIX::write($log_out, $@, length $@);
    return 1;
}

sub _pass_on ($log, $log_in) {
    my $pending = '';
    while (1) {
        my $got = POSIX::read($log_in, my $bytes, 4096);
        next if !defined($got) && $!{EINTR};
        # The end is '0 but true'.
        last if !defined($got) || $got == 0;
        $pending .= $bytes;
        while ($pending =~ s/\A([^\n]*)\n// || $pending =~ s/\A([^\n]{${\MAX_LOG_LINE}})//) {
            _log_line($log, $1);
        }
    }
    _log_line($log, $pending) if $pending ne '';
    return;
}

sub _log_line ($log, $line) {
    # A log that fails must not end the tunnel.
    eval { $log->('info', "tunnel: $line") };
    return;
}

sub _close_all_but (@keep) {
    my %keep = map { $_ => 1 } @keep;
    opendir(my $dir, '/proc/self/fd') or die "cannot list descriptors: $!\n";
    my @open = grep { /\A\d+\z/ && !$keep{$_} } readdir($dir);
    closedir($dir);
    POSIX::close($_) for @open;
    return;
}

1;

__END__

=encoding utf8

=head1 NAME

PVE::Tunnel::Client::Child - the processes behind a tunnel

=head1 DESCRIPTION

A part of L<PVE::Tunnel::Client>, which describes what they do. A child, which turns the connector's
diagnostics into log lines, and under it the connector. Both have closed every inherited descriptor
but 0, 1, 2 and their pipes.

=head1 FUNCTIONS

=head2 start

C<start($log)>: forks both. Returns a hash with C<pid>, C<writer>, C<reader> and C<alive>, whose end
is the processes' end.

=head2 ended

C<ended($child, $limit)>: true as soon as both have ended, false after C<$limit> seconds.

=head2 reap

C<reap($child)>: waits for the child.

=cut
