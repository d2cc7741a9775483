package Test::TunnelLog;

=head1 NAME

Test::TunnelLog - what a tunnel logs, and how a call dies

=head1 SYNOPSIS

    use Test::TunnelLog qw(log_line death);

    $Test::TunnelLog::FILE = "$dir/log";
    my $tunnel = PVE::Tunnel::Client::fork_websocket_tunnel(..., \&log_line);
    like(death(sub { ... }), qr/reason/);

=head1 FUNCTIONS

=head2 log_line

C<log_line($level, $text)>: adds C<level: text> to C<$FILE>. A tunnel logs in two processes, so the
file is opened for each line.

=head2 death

C<death($code)>: what it dies with; the empty string if it lives.

=cut

use v5.36;

use Exporter qw(import);

our @EXPORT_OK = qw(log_line death);

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

1;
