package PVE::Tunnel;

use strict;
use warnings;

use JSON ();

=head1 NAME

PVE::Tunnel - a fake with the calls and the data of the real module

=head1 DESCRIPTION

For tests on systems without the real module. It has only what callers rely on: the names and
parameters of the functions, and how lines are read and written. It opens no tunnels over ssh or the
stock helper: it records the calls in C<@CALLS>, each as an array of name and arguments.

Two properties of the real module matter to tests. It reads lines with C<readline>, which reads
ahead into the buffer of the handle, and its time limits are an C<alarm> whose handler dies.

=cut

our @CALLS;

sub within {
    my ($timeout, $code) = @_;
    my $outer = alarm 0;
    my $done = eval {
        local $SIG{ALRM} = sub { die "got timeout\n" };
        alarm $timeout;
        $code->();
        alarm 0;
        1;
    };
    my $error = $@;
    alarm $outer;
    die $error if !$done;
    return;
}

sub read_tunnel {
    my ($tunnel, $timeout) = @_;
    push @CALLS, ['read_tunnel', $tunnel, $timeout];
    my $line;
    eval {
        within($timeout // 60, sub { $line = readline $tunnel->{reader} });
        1;
    } or die "reading failed: $@";
    chomp $line if defined $line;
    return $line;
}

sub write_tunnel {
    my ($tunnel, $timeout, $command, $params) = @_;
    push @CALLS, ['write_tunnel', $tunnel, $timeout, $command, $params];
    my $line = JSON::encode_json({ %{ $params // {} }, cmd => $command }) . "\n";
    within(
        $timeout // 60,
        sub {
            print { $tunnel->{writer} } $line;
            $tunnel->{writer}->flush;
        }
    );
    my $reply = JSON::decode_json(read_tunnel($tunnel, $timeout));
    die "command '$command' failed: $reply->{msg}\n" if !$reply->{success};
    return $reply;
}

sub fork_ssh_tunnel {
    my ($rem_ssh, $cmd, $ssh_forward_info, $log) = @_;
    push @CALLS, ['fork_ssh_tunnel', $rem_ssh, $cmd, $ssh_forward_info, $log];
    return { rem_ssh => $rem_ssh, log => $log, version => 1 };
}

sub fork_websocket_tunnel {
    my ($conn, $url, $req_params, $tunnel_params, $log) = @_;
    push @CALLS, ['fork_websocket_tunnel', $conn, $url, $req_params, $tunnel_params, $log];
    return { log => $log, params => $tunnel_params, version => 2, age => 0 };
}

sub forward_unix_socket {
    my ($tunnel, $local, $remote) = @_;
    push @CALLS, ['forward_unix_socket', $tunnel, $local, $remote];
    return;
}

sub finish_tunnel {
    my ($tunnel, $cleanup) = @_;
    push @CALLS, ['finish_tunnel', $tunnel, $cleanup];
    return;
}

1;
