package TestNode::Proxy;

use v5.36;

use parent 'PVE::APIServer::AnyEvent';

use AnyEvent ();
use Digest::SHA ();
use HTTP::Status qw(:constants);

use PVE::APIServer::Formatter::Standard;

=head1 NAME

TestNode::Proxy - handles the requests of a tunnel with PVE::APIServer::AnyEvent

=head1 METHODS

=head2 new(%arguments)

Class method. Takes the arguments of PVE::APIServer::AnyEvent, C<workers> (a L<TestNode::Workers>)
and C<api_token> (the whole C<PVEAPIToken=...>).

=head2 serve

Serves until SIGTERM, SIGINT or the end of stdin.

=cut

sub new ($class, %arguments) {
    return $class->SUPER::new(%arguments);
}

sub serve ($self) {
    # The base class would fork a successor for open connections. A test node does not need one.
    delete $self->{$_} for qw(term_watch quit_watch);
    my $end = sub { $self->{end_cond}->send(1) };
    my @watches = map { AnyEvent->signal(signal => $_, cb => $end) } qw(TERM INT);
    push @watches,
        AnyEvent->io(
        fh => \*STDIN,
        poll => 'r',
        cb => sub { $end->() if !sysread STDIN, my $ignored, 4096 },
        );
    $self->run;
    return;
}

sub auth_handler ($self, $method, $path, $ticket, $csrf_token, $api_token, $host) {
    my ($expected) = $self->{api_token} =~ m/\APVEAPIToken=(.*)\z/;
    die "No ticket\n" if !defined $api_token;
    # The duration of this comparison of digests reveals nothing about the token.
    die "invalid API token\n"
        if Digest::SHA::sha256($api_token) ne Digest::SHA::sha256($expected);
    my $user = $self->{workers}->user;
    return { userid => $user, api_token => $api_token, isUpload => 0 };
}

sub rest_handler ($self, $client, $method, $path, $auth, $params, $format) {
    my $not_implemented = refusal(HTTP_NOT_IMPLEMENTED, "Method '$method $path' not implemented");
    if ("$method $path" =~ m{\ADELETE /nodes/([^/]+)/tasks/UPID:[^:]+:([0-9A-F]{8}):}) {
        $self->{workers}->stop_task(hex $2) if $1 eq $self->{workers}->node;
        return { status => HTTP_OK, data => undef };
    }
    my ($node, $kind, $vmid, $action) =
        $path =~ m{\A/nodes/([^/]+)/(qemu|lxc)/([^/]+)/(mtunnel|mtunnelwebsocket)\z}
        or return $not_implemented;
    return refusal(HTTP_INTERNAL_SERVER_ERROR, 'no such cluster node')
        if $node ne $self->{workers}->node;
    return refusal(HTTP_BAD_REQUEST, 'Parameter verification failed.')
        if $vmid !~ m/\A[1-9][0-9]{2,8}\z/;
    return $self->open_tunnel($kind, $vmid, $params) if "$method $action" eq 'POST mtunnel';
    return $self->websocket($params) if "$method $action" eq 'GET mtunnelwebsocket';
    return $not_implemented;
}

sub open_tunnel ($self, $kind, $vmid, $params) {
    my $started = eval { $self->{workers}->start($kind, $vmid, $params) };
    if (my $error = $@) {
        chomp $error;
        return refusal(HTTP_INTERNAL_SERVER_ERROR, $error);
    }
    my ($output, $log) = $started->@{qw(output log)};
    $self->{logs}{$vmid} = AnyEvent->io(
        fh => $output,
        poll => 'r',
        cb => sub {
            if (sysread $output, my $bytes, 65536) {
                print {$log} $bytes;
            } else {
                delete $self->{logs}{$vmid};
            }
        },
    );
    my $upid = sprintf 'UPID:%s:%08X:%08X:%08X:qmtunnel:%d:%s!demo:',
        $self->{workers}->node, $started->{pid}, 0, time, $vmid, $self->{workers}->user;
    return {
        status => HTTP_OK,
        data => { upid => $upid, ticket => $started->{ticket}, socket => $started->{socket} },
    };
}

# The base class connects to the returned socket and relays.
sub websocket ($self, $params) {
    my ($ticket, $socket) = map { $_ // '' } $params->@{qw(ticket socket)};
    return refusal(HTTP_UNAUTHORIZED, 'permission denied - invalid PVETUNNEL ticket')
        if !$self->{workers}->authorizes($ticket, $socket);
    return { status => HTTP_OK, data => { socket => $socket } };
}

sub refusal ($status, $message) {
    return { status => $status, message => $message };
}

# Overrides the access log. Writes to stderr, without the query, which contains the ticket.
sub write_log ($self, $line) {
    my ($request, $status) = $line =~ m/"(\S+ [^? "]*)[^"]*" ([0-9]+)/ or return;
    print STDERR "$request $status\n";
    return;
}

1;
