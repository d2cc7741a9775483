package TestNode::Proxy;

use v5.36;

use parent 'PVE::APIServer::AnyEvent';

use AnyEvent ();
use Digest::SHA ();
use HTTP::Tiny ();
use JSON ();

use PVE::APIServer::Formatter::Standard;

=head1 NAME

TestNode::Proxy - serves the API of a test node with PVE::APIServer::AnyEvent

=head1 DESCRIPTION

As pveproxy leaves most requests to pvedaemon, this server leaves them to a C<testnode> without TLS.
It accepts connections, checks the token, and relays websockets itself.

=head1 METHODS

=head2 new(%arguments)

Class method. Takes the arguments of PVE::APIServer::AnyEvent, and C<daemon> (a L<TestNode::Node>).

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
    my ($expected, $user) = $self->{daemon}->token =~ m/\APVEAPIToken=(([^!]+)!.*)\z/;
    die "No ticket\n" if !defined $api_token;
    # The duration of this comparison of digests reveals nothing about the token.
    die "invalid API token\n"
        if Digest::SHA::sha256($api_token) ne Digest::SHA::sha256($expected);
    return { userid => $user, api_token => $api_token, isUpload => 0 };
}

# The base class upgrades the connection if the answer is that of a websocket: it connects to the
# socket in it, and relays.
sub rest_handler ($self, $client, $method, $path, $auth, $params, $format) {
    my $url = $self->{daemon}->api_url . $path =~ s{([^\w.~!\@:/-])}{sprintf '%%%02X', ord $1}ger;
    # The variables of the environment for a proxy do not apply.
    my $http = HTTP::Tiny->new(proxy => undef, http_proxy => undef);
    my %request = (headers => { Authorization => $self->{daemon}->token });
    my $form = $http->www_form_urlencode($params // {});
    if ($method eq 'GET') {
        $url .= "?$form" if length $form;
    } elsif (length $form) {
        $request{content} = $form;
        $request{headers}{'Content-Type'} = 'application/x-www-form-urlencoded';
    }
    my $answer = $http->request($method, $url, \%request);
    my $body = eval { JSON::decode_json($answer->{content}) } // {};
    return {
        status => $answer->{status},
        message => $answer->{reason},
        data => $body->{data},
        errors => $body->{errors},
    };
}

# Overrides the access log. Writes to stderr, without the query, which contains the ticket.
sub write_log ($self, $line) {
    my ($request, $status) = $line =~ m/"(\S+ [^? "]*)[^"]*" ([0-9]+)/ or return;
    print STDERR "$request $status\n";
    return;
}

1;
