package PVE::Tunnel::Client::Child;

use v5.36;

use Errno qw(EINTR);
use POSIX ();

use PVE::Tunnel::Native;
use PVE::Tunnel::Process;

our $VERSION = '0.1.0';

# Longer than any diagnostic; what is longer is cut, not kept.
use constant MAX_LOG_LINE => 8192;

sub start ($log, $options) {
    pipe(my $command_end, my $writer) or die "pipe: $!\n";
    pipe(my $reader, my $answer_end) or die "pipe: $!\n";
    my $child = PVE::Tunnel::Process::start(
        [$command_end, $answer_end],
        sub {
            return _run($log, $options, map { fileno $_ } $command_end, $answer_end);
        },
    );
    close($_) for $command_end, $answer_end;
    $writer->autoflush(1);
    return { %$child, writer => $writer, reader => $reader };
}

sub ended ($child, $limit) {
    return PVE::Tunnel::Process::ended($child, $limit);
}

sub reap ($child) {
    return PVE::Tunnel::Process::reap($child);
}

# The child reads diagnostics; the connector, which blocks in native code, is a process of its own
# under it.
sub _run ($log, $options, $input, $output) {
    my ($log_in, $log_out) = POSIX::pipe() or die "pipe: $!\n";
    my $connector = fork() // die "fork: $!\n";
    if (!$connector) {
        POSIX::close($log_in);
        POSIX::_exit(_connect_and_serve($options, $input, $output, $log_out));
    }
    local $SIG{TERM} = sub { kill(TERM => $connector) };
    POSIX::close($_) for $input, $output, $log_out;
    _pass_on($log, $log_in);
    1 while waitpid($connector, 0) < 0 && $!{EINTR};
    my $signal = PVE::Tunnel::Process::signal_of($?);
    _log_line($log, "the connector was ended by $signal") if defined $signal;
    return $? ? 1 : 0;
}

sub _connect_and_serve ($options, $input, $output, $log_out) {
    local $0 = 'pve-tunnel connector';
    # Its input is the caller's and would not end with the process above it, which alone can tell
    # what the connector has to say.
    my $all = { %$options, end_with_parent => 1 };
    return 0 if eval { PVE::Tunnel::Native::connector_run($input, $output, $log_out, $all); 1 };
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

1;

__END__

=encoding utf8

=head1 NAME

PVE::Tunnel::Client::Child - the processes behind a tunnel

=head1 DESCRIPTION

A part of L<PVE::Tunnel::Client>, which describes what they do. A child, which turns the connector's
diagnostics into log lines, and under it the connector. Both have closed every inherited descriptor
but 0, 1, 2 and their pipes; see L<PVE::Tunnel::Process>. The connector ends with the child, and if a
signal ends the connector, the child says so.

=head1 FUNCTIONS

=head2 start

C<start($log, \%options)>: forks both; the options are C<connector_run>'s. Returns a hash with C<pid>, C<writer>, C<reader> and C<alive>, whose end
is the processes' end.

=head2 ended

C<ended($child, $limit)>: true as soon as both have ended, false after C<$limit> seconds.

=head2 reap

C<reap($child)>: waits for the child. Returns the name of the signal that ended it, undef if none
did.

=cut
