package Test::TunnelLog;

=head1 NAME

Test::TunnelLog - the log of a tunnel, and the error of a call

=head1 SYNOPSIS

    use Test::TunnelLog qw(log_line death);

    $Test::TunnelLog::FILE = "$dir/log";
    my $tunnel = PVE::Tunnel::Client::fork_websocket_tunnel(..., \&log_line);
    like(death(sub { ... }), qr/reason/);

=head1 FUNCTIONS

=head2 log_line

C<log_line($level, $text)>: appends C<level: text> to C<$FILE>. Two processes of a tunnel log, so
the file is opened for each line.

=head2 death

C<death($code)>: calls the code. Returns the error that it dies with, or the empty string.

=head2 wait_line

C<wait_line($read, $pattern, $seconds)>: calls C<$read>, which returns a log, until a line of the
log matches. Returns the line, or undef after that time.

=cut

use v5.36;

use Exporter qw(import);

use Test::Processes qw(wait_until);

our @EXPORT_OK = qw(log_line death wait_line);

our $FILE;

sub log_line ($level, $text) {
    open(my $out, '>>', $FILE) or return;
    print {$out} "$level: $text\n";
    return;
}

sub death ($code) {
    return '' if eval { $code->(); 1 };
    return $@;
}

sub wait_line ($read, $pattern, $seconds) {
    my $line = sub {
        my ($first) = grep { m/$pattern/ } split m/\n/, $read->();
        return $first;
    };
    return wait_until($line, $seconds);
}

1;
