package PVE::Tunnel::Client::Lines;

use v5.36;

use Errno qw(EAGAIN EINTR EPIPE);
use IO::Select;
use JSON ();
use Scalar::Util qw(looks_like_number);
use Time::HiRes qw(clock_gettime CLOCK_MONOTONIC);

use PVE::Tunnel::Native;
use PVE::Tunnel::Text;

our $VERSION = '0.1.0';

use constant {
    # Bytes.
    MAX_LINE => PVE::Tunnel::Native::LINE_MAX(),
    # Longest time limit, in seconds: a day. A longer one is a mistake in units.
    MAX_LIMIT => 86400,
};

my $JSON = JSON->new->utf8->canonical;

sub ask ($tunnel, $limit, $command) {
    my $deadline = deadline($limit);
    my $request = request($tunnel, $limit, $command);
    my $left = $deadline - clock_gettime(CLOCK_MONOTONIC);
    return answer($tunnel, $left > 0 ? $left : 0.001, $request);
}

sub request ($tunnel, $limit, $command) {
    my $id = $command->{control} ? ++$tunnel->{last_id} : undef;
    write_line($tunnel, $limit, { %$command, defined($id) ? (id => "$id") : () });
    my $request = { cmd => $command->{cmd}, id => $id };
    push @{ $tunnel->{requests} }, $request;
    return $request;
}

sub answer ($tunnel, $limit, $request) { ## no critic (RequireFinalReturn)
    my $name = $request->{cmd};
    my $deadline = deadline($limit);
    while (1) {
        my $left = $deadline - clock_gettime(CLOCK_MONOTONIC);
        die "no answer to '$name' in time\n" if $left <= 0;
        my $line = eval { $tunnel->{read_line}->($tunnel, $left) }
            // die "no answer to '$name': " . PVE::Tunnel::Text::one_line($@) . "\n";
        my $answer = eval { $JSON->decode($line) };
        my $answered = _take_answered($tunnel->{requests}, $answer);
        next if !$answered || $answered != $request;
        die "the answer to '$name' is not a JSON object\n" if ref($answer) ne 'HASH';
        die failure_text($answer) . "\n" if !$answer->{success};
        return $answer;
    }
}

# The request that a line answers, which is removed from the list. Undef for the answer to a command
# that is not in the list: the caller sent it, and a signal handler interrupted the wait for its
# answer.
sub _take_answered ($requests, $answer) {
    my $id = ref($answer) eq 'HASH' ? $answer->{id} : undef;
    # Answers have the order of the commands, so all requests before this one were answered.
    for my $index (defined($id) ? 0 .. $#$requests : ()) {
        return (splice(@$requests, 0, $index + 1))[-1] if ($requests->[$index]{id} // '') eq $id;
    }
    return if defined $requests->[0]{id};
    return shift @$requests;
}

sub write_line ($tunnel, $limit, $value) {
    local $SIG{PIPE} = 'IGNORE';
    my $deadline = deadline($limit);
    my $bytes = $JSON->encode($value) . "\n";
    while (length $bytes) {
        _wait_for($tunnel->{writer}, 'can_write', $deadline) or _time_out($limit);
        my $wrote = syswrite($tunnel->{writer}, $bytes);
        if (!defined $wrote) {
            next if $!{EINTR} || $!{EAGAIN};
            die $!{EPIPE} ? "the tunnel has ended\n" : "the tunnel failed: $!\n";
        }
        substr($bytes, 0, $wrote, '');
    }
    return;
}

sub read_line ($tunnel, $limit) {
    my $deadline = deadline($limit);
    my $end;
    while (($end = index($tunnel->{pending}, "\n")) < 0) {
        die "the tunnel sent a line longer than " . MAX_LINE . " bytes\n"
            if length($tunnel->{pending}) > MAX_LINE;
        _wait_for($tunnel->{reader}, 'can_read', $deadline) or _time_out($limit);
        my $got = sysread($tunnel->{reader}, $tunnel->{pending}, 65536, length $tunnel->{pending});
        next if !defined($got) && $!{EINTR};
        die "the tunnel failed: $!\n" if !defined $got;
        die "the tunnel has ended\n" if !$got;
    }
    my $line = substr($tunnel->{pending}, 0, $end + 1, '');
    chomp $line;
    return $line;
}

# A signal interrupts the wait, so that handlers of the caller run. Then the wait continues.
sub _wait_for ($handle, $readiness, $deadline) {
    die "the tunnel is closed\n" if !defined fileno $handle;
    my $select = IO::Select->new($handle);
    while ((my $left = $deadline - clock_gettime(CLOCK_MONOTONIC)) > 0) {
        return 1 if $select->$readiness($left);
    }
    return 0;
}

# What is left of a limit is a fraction just below it, and the message has the limit.
sub _time_out ($limit) {
    die 'timeout after ' . sprintf('%.1f', $limit) =~ s/\.0\z//r . " s\n";
}

sub deadline ($limit) {
    die "a time limit must be a number of seconds above 0\n"
        if !looks_like_number($limit) || $limit <= 0 || $limit > MAX_LIMIT;
    return clock_gettime(CLOCK_MONOTONIC) + $limit;
}

sub failure_text ($reply) {
    my $text = $reply->{msg};
    return 'no reason given' if !defined($text) || ref($text) || $text !~ /\S/;
    return PVE::Tunnel::Text::one_line($text);
}

sub log_line ($log, $level, $text) {
    # A failing log must not end the tunnel.
    eval { $log->($level, PVE::Tunnel::Text::one_line($text)) };
    return;
}

1;

__END__

=encoding utf8

=head1 NAME

PVE::Tunnel::Client::Lines - lines to and from the connector, and to the log

=head1 DESCRIPTION

A part of L<PVE::Tunnel::Client>, which describes the tunnel's hash C<$tunnel>. Limits are seconds,
above 0 and at most a day. All functions die with one line that ends in a newline.

=head1 FUNCTIONS

=head2 ask

C<ask($tunnel, $limit, \%command)>: C<request> and C<answer> within one limit.

=head2 request

C<request($tunnel, $limit, \%command)>: sends a command, and returns a value for C<answer>. A control
command gets an C<id>, which its answer repeats.

=head2 answer

C<answer($tunnel, $limit, $request)>: the answer to that command, a hash with a true C<success>. Dies
with the answer's C<msg> if C<success> is false. C<< $tunnel->{read_line} >> reads the lines: it is
called with the tunnel and the remaining seconds, and returns a line without its end, or dies.

Answers that did not arrive in time for earlier commands are discarded, also those of commands that
the caller wrote without this module, if a control command follows them. C<< $tunnel->{requests} >>
lists the commands without an answer.

=head2 write_line

C<write_line($tunnel, $limit, $value)>: writes a value as one line of JSON.

=head2 read_line

C<read_line($tunnel, $limit)>: the next line, without its end. C<< $tunnel->{pending} >> keeps bytes
of later lines.

=head2 deadline

C<deadline($limit)>: the end of that limit, in seconds of the monotonic clock.

=head2 failure_text

C<failure_text(\%answer)>: C<msg> as one line of at most 1000 characters.

=head2 log_line

C<log_line($log, $level, $text)>: logs such a line. Ignores a log that dies.

=cut
