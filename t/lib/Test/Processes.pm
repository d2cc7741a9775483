package Test::Processes;

# Finds what a migration has left: processes, listening ports and sockets of any origin.

use v5.36;

use Exporter qw(import);
use Time::HiRes qw(clock_gettime sleep CLOCK_MONOTONIC);

our @EXPORT_OK =
    qw(children in_session is_running program command_line listening listening_sockets established
    connections_to sockets_in wait_until);

=head1 NAME

Test::Processes - lists processes, ports and sockets of the system

=head1 FUNCTIONS

=head2 children($pid)

The process IDs of its children. No function of this module counts zombies.

=head2 in_session($pid)

The process IDs of all processes in the session that this process leads, whatever their parent is
now.

=head2 is_running($pid)

Whether this process exists.

=head2 program($pid), command_line($pid)

The name of the executed file, and the command line as C<ps> shows it; undef if the process has
ended.

=head2 listening($pid)

The ports of the migration range with a listening socket in the network namespace of the process.

=head2 listening_sockets($port, $pid)

The number of sockets that listen on that port there: one for each address.

=head2 established($port, $pid)

The number of connections to that port in the same namespace, counted at the end of the listener.

=head2 connections_to($port)

The connections from this network namespace to that port, each a hash: C<port>, the port at this
end; C<state>, C<established>, C<connecting> or C<other>; and C<waiting>, the bytes that the program
has written and the other node has not acknowledged.

=head2 sockets_in($dir)

The names of the UNIX sockets in a directory.

=head2 wait_until($condition, $seconds = 30)

Calls C<$condition> until its value is true. Returns the value, or undef after that time.

=cut

# The port range of Proxmox VE for migrations.
use constant { FIRST_PORT => 60_000, LAST_PORT => 60_049 };

# States in /proc/net/tcp.
use constant { ESTABLISHED => '01', SYN_SENT => '02', TIME_WAIT => '06', LISTEN => '0A' };

sub children ($pid) {
    return map { $_->{pid} } grep { $_->{parent} == $pid } processes();
}

sub in_session ($pid) {
    return map { $_->{pid} } grep { $_->{session} == $pid } processes();
}

sub is_running ($pid) {
    return defined process("/proc/$pid/stat");
}

sub processes () {
    return map { process($_) } glob '/proc/[0-9]*/stat';
}

# The fields of one stat file; nothing if the process has ended.
sub process ($file) {
    open my $in, '<', $file or return;
    my $text = do { local $/ = undef; readline $in };
    my %process;
    @process{qw(pid state parent session)} =
        ($text // '') =~ /\A(\d+) \(.*\) (\S) (\d+) \d+ (\d+) /s
        or return;
    return if $process{state} eq 'Z';
    return \%process;
}

sub program ($pid) {
    my $path = readlink("/proc/$pid/exe") // return;
    return $path =~ s{.*/}{}r;
}

sub command_line ($pid) {
    open my $in, '<', "/proc/$pid/cmdline" or return;
    return (readline($in) // '') =~ tr/\0/ /r;
}

sub listening ($pid = $$) {
    my %port = map { $_->{port} => 1 } grep { $_->{state} eq LISTEN } connections($pid);
    my @ports = sort { $a <=> $b } grep { $_ >= FIRST_PORT && $_ <= LAST_PORT } keys %port;
    return @ports;
}

sub listening_sockets ($port, $pid = $$) {
    return scalar grep { $_->{state} eq LISTEN && $_->{port} == $port } connections($pid);
}

sub established ($port, $pid = $$) {
    return scalar grep { $_->{state} eq ESTABLISHED && $_->{port} == $port } connections($pid);
}

sub connections_to ($port) {
    my %name = (ESTABLISHED, 'established', SYN_SENT, 'connecting');
    return map {
        { port => $_->{port}, state => $name{ $_->{state} } // 'other', waiting => $_->{waiting} }
        }
        grep { $_->{to} == $port && $_->{state} ne TIME_WAIT } connections($$);
}

sub connections ($pid) {
    my @found;
    for my $file ("/proc/$pid/net/tcp", "/proc/$pid/net/tcp6") {
        open my $in, '<', $file or next;
        while (my $line = readline $in) {
            # "sl: address:port address:port state bytes-to-send:bytes-to-read …"
            my (undef, $local, $remote, $state, $queues) = split(' ', $line);
            next if $state !~ /\A[0-9A-F]{2}\z/;
            my ($port, $to) = map { hex(s/.*://r) } $local, $remote;
            my $waiting = hex($queues =~ s/:.*//r);
            push @found, { port => $port, to => $to, state => $state, waiting => $waiting };
        }
    }
    return @found;
}

sub sockets_in ($dir) {
    my @names = sort map { s{.*/}{}r } grep { -S } glob "$dir/*";
    return @names;
}

# No event reports the end of a process that is not a child, a change of a kernel table, or a new
# line in a file: the condition is polled.
sub wait_until ($condition, $seconds = 30) {
    my $deadline = clock_gettime(CLOCK_MONOTONIC) + $seconds;
    my $value;
    until ($value = $condition->()) {
        return if clock_gettime(CLOCK_MONOTONIC) > $deadline;
        sleep(0.02);
    }
    return $value;
}

1;
