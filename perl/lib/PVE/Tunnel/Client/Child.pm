package PVE::Tunnel::Client::Child;

use v5.36;

use Errno qw(EINTR);
use POSIX ();

use PVE::Tunnel::Native;
use PVE::Tunnel::Process;

our $VERSION = '0.1.0';

# Bytes. No diagnostic of the connector is longer; a longer line is logged in parts.
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

# The child reads the diagnostics. The connector blocks in native code and is a child of this child.
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
    # Its input belongs to the caller and would stay open if the parent died, which passes the
    # connector's diagnostics on.
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
        # POSIX::read returns '0 but true' at the end.
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
    # A failing log must not end the tunnel.
    eval { $log->('info', "tunnel: $line") };
    return;
}

1;

__END__

=encoding utf8

=head1 NAME

PVE::Tunnel::Client::Child - the processes behind a tunnel

=head1 DESCRIPTION

A part of L<PVE::Tunnel::Client>. A child converts the connector's diagnostics into log lines. The
connector is a child of this child. Both have closed every inherited descriptor except 0, 1, 2 and
their pipes; see L<PVE::Tunnel::Process>. The connector ends if the child ends. If a signal ends the
connector, the child logs it.

=head1 FUNCTIONS

=head2 start

C<start($log, \%options)>: forks both, with the options of C<connector_run>. Returns a hash with
C<pid>, C<writer>, C<reader> and C<alive>, a pipe that ends when both processes have ended.

=head2 ended

C<ended($child, $limit)>: true as soon as both have ended, false after C<$limit> seconds.

=head2 reap

C<reap($child)>: waits for the child. Returns the name of the signal that ended it, or undef.

=cut
