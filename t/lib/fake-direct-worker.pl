#!/usr/bin/perl

# A tunnel worker whose seam and listener are written from docs/protocol.md alone. The form that
# opens it controls its behaviour.

use v5.36;

use FindBin ();
use lib "$FindBin::RealBin", "$FindBin::RealBin/../../testnode/lib";

use IO::Select ();
use IO::Socket::UNIX ();
use JSON ();

use Test::TargetPrograms;
use Test::MinimalLaneListener;
use Test::MinimalListener;
use TestNode::Ticket qw(make_ticket);

=head1 NAME

fake-direct-worker.pl - a fake worker for tests of the direct planes

=head1 DESCRIPTION

Supports the commands C<version>, C<ticket>, C<quit>, C<query-disk-import> with C<direct>, C<open>
(starts an echo and answers with its C<socket>), and C<requests> (answers with all requests that the
seam has received, as C<requests>).

The form's field C<conduct> is JSON with these members:

=over

=item hello, open

Fields that replace those of the answer to this operation; null removes a field.

=item stock

True for a worker without a seam.

=item listener

Options of L<Test::MinimalListener>, or of L<Test::MinimalLaneListener> if the source requests
protocol 2.

=back

=cut

my $request = JSON::decode_json(scalar <STDIN>);
my $json = JSON->new->utf8->canonical;
my $conduct = $json->decode($request->{params}{conduct} // '{}');
my $server = IO::Socket::UNIX->new(Local => $request->{socket}, Listen => 1)
    or die "listen on $request->{socket}: $!\n";
my (%echo, $listener, @requests);
my $quitting = 0;

STDOUT->autoflush(1);
say $json->encode({ ready => 1 });

my %seam = (
    hello => sub ($params) {
        return changed(
            { protocol => 1, oldest => 1, caps => [qw(direct-tls direct-tcp)], version => 'test' },
            $conduct->{hello}
        );
    },
    open => sub ($params) {
        die "there is a listener already\n" if $listener;
        my $class =
            $params->{protocol} == 2 ? 'Test::MinimalLaneListener' : 'Test::MinimalListener';
        $listener = $class->start(
            plane => $params->{plane},
            fingerprint => $params->{fingerprint},
            ($conduct->{listener} // {})->%*,
        );
        return changed($listener->announced, $conduct->{open});
    },
    forward => sub ($params) {
        die "unknown socket\n" if !$echo{ $params->{path} };
        return $listener->ask(op => 'forward', path => $params->{path});
    },
    stat => sub ($params) { return $listener->ask(op => 'stat') },
    close => sub ($params) { return $listener->stop },
);

my %commands = (
    version => sub ($params) { return { api => 2, age => 0 } },
    ticket => sub ($params) {
        die "unknown socket\n" if !$echo{ $params->{path} };
        return {
            ticket => make_ticket(
                pack('H*', $request->{ticket_key}), $request->{user},
                $params->{path}
            )
        };
    },
    quit => sub ($params) {
        $quitting = 1;
        return {};
    },
    open => sub ($params) {
        my $path = "$request->{dir}/$request->{vmid}.echo" . keys %echo;
        $echo{$path} = Test::TargetPrograms::echo($path);
        return { socket => $path };
    },
    requests => sub ($params) { return { requests => \@requests } },
    'query-disk-import' => sub ($params) {
        die
            "property is not defined in schema and the schema does not allow additional properties\n"
            if $conduct->{stock};
        my $direct = $params->{direct};
        push @requests, $direct;
        my $op = $seam{ $direct->{op} } // die "unknown op\n";
        return { direct => $op->($direct) };
    },
);

sub changed ($answer, $changes) {
    my %answer = (%$answer, ($changes // {})->%*);
    delete @answer{ grep { !defined $answer{$_} } keys %answer };
    return \%answer;
}

my $control = accepted() // exit 0;
while (defined(my $line = readline $control)) {
    my $params = $json->decode($line);
    my $command = $commands{ delete $params->{cmd} };
    my $answer = $command ? eval { $command->($params) } : undef;
    my $error = $command ? $@ : 'unknown command';
    chomp $error;
    $answer = $answer ? { %$answer, success => 1 } : { success => 0, msg => $error };
    print {$control} $json->encode($answer) . "\n";
    $control->flush;
}
exit($quitting ? 0 : 1);

# Returns the control connection, or undef if standard input ends before there is one.
sub accepted () {
    my ($ready) = IO::Select->new(\*STDIN, $server)->can_read;
    return $ready == $server ? $server->accept : undef;
}
