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
    write_line($tunnel, $limit, $command);
    $tunnel->{unanswered}++;
    my $line;
    # Answers come in the order of commands, so one that came too late for its own would be taken
    # for this one's.
    while ($tunnel->{unanswered}) {
        my $left = $deadline - clock_gettime(CLOCK_MONOTONIC);
        die "no answer to '$command->{cmd}' within $limit s\n" if $left <= 0;
        $line = eval { $tunnel->{read_line}->($tunnel, $left) }
            // die "no answer to '$command->{cmd}': " . PVE::Tunnel::Text::one_line($@) . "\n";
        $tunnel->{unanswered}--;
    }
    my $answer = eval { $JSON->decode($line) };
    die "the answer to '$command->{cmd}' is not a JSON object\n" if ref($answer) ne 'HASH';
    die failure_text($answer) . "\n" if !$answer->{success};
    return $answer;
}

sub write_line ($tunnel, $limit, $value) {
    local $SIG{PIPE} = 'IGNORE';
    my $deadline = deadline($limit);
    my $bytes = $JSON->encode($value) . "\n";
    while (length $bytes) {
        _wait_for($tunnel->{writer}, 'can_write', $deadline) or die "timeout after $limit s\n";
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
        _wait_for($tunnel->{reader}, 'can_read', $deadline) or die "timeout after $limit s\n";
        my $got = sysread($tunnel->{reader}, $tunnel->{pending}, 65536, length $tunnel->{pending});
        next if !defined($got) && $!{EINTR};
        die "the tunnel failed: $!\n" if !defined $got;
        die "the tunnel has ended\n" if !$got;
    }
    my $line = substr($tunnel->{pending}, 0, $end + 1, '');
    chomp $line;
    return $line;
}

# A signal ends the wait early, so that the caller's own alarm is heard; then the rest is waited
# for.
sub _wait_for ($handle, $readiness, $deadline) {
    die "the tunnel is closed\n" if !defined fileno $handle;
    my $select = IO::Select->new($handle);
    while ((my $left = $deadline - clock_gettime(CLOCK_MONOTONIC)) > 0) {
        return 1 if $select->$readiness($left);
    }
    return 0;
}

sub deadline ($limit) {
    die "a time limit must be a number of seconds above 0\n"
        if !looks_like_number($limit) || $limit <= 0 || $limit > MAX_LIMIT;
    return clock_gettime(CLOCK_MONOTONIC) + $limit;
}

sub failure_text ($reply) {
    my $text = $reply->{msg};
    return 'the other side gave no reason' if !defined($text) || ref($text) || $text !~ /\S/;
    return PVE::Tunnel::Text::one_line($text);
}

sub log_line ($log, $level, $text) {
    # A log that fails must not end the tunnel.
    eval { $log->($level, PVE::Tunnel::Text::one_line($text)) };
    return;
}

1;

__END__

=encoding utf8

=head1 NAME

PVE::Tunnel::Client::Lines - lines to the connector, from it, and to the log

=head1 DESCRIPTION

A part of L<PVE::Tunnel::Client>, which describes the tunnel's hash C<$tunnel>. Limits are seconds,
above 0 and at most a day. All functions die with one line that ends in a newline.

=head1 FUNCTIONS

=head2 ask

C<ask($tunnel, $limit, \%command)>: sends a command and returns its answer, a hash with a true
C<success>. Lines are read by C<< $tunnel->{read_line} >>, called with the tunnel and the seconds
left, which returns a line without its end, or dies. An answer that does not come in time is thrown
away by the next C<ask> (C<< $tunnel->{unanswered} >> counts them). Dies with the answer's C<msg>
if it is a failure.

=head2 write_line

C<write_line($tunnel, $limit, $value)>: writes a value as one line of JSON.

=head2 read_line

C<read_line($tunnel, $limit)>: the next line, without its end. What was read beyond it waits in
C<< $tunnel->{pending} >>.

=head2 deadline

C<deadline($limit)>: when that limit ends, in seconds of the monotonic clock.

=head2 failure_text

C<failure_text(\%answer)>: C<msg> as one line of at most a thousand characters.

=head2 log_line

C<log_line($log, $level, $text)>: logs such a line. A log that dies is none of the tunnel's business.

=cut
