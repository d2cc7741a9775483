package Test::SeamWorker;

# Sends requests to the seam as a worker does, in the process of the test. The schema and the
# handler of query-disk-import are in the fake PVE::StorageTunnel of the test node.

use v5.36;

use Exporter qw(import);
use File::Basename qw(dirname);
use POSIX ();
use Test::More;

use lib dirname(__FILE__) . '/../../../testnode/pve';

use PVE::Tunnel::Native;
use PVE::Tunnel::Seam;

our @EXPORT_OK = qw(direct refused answer_control in_perl fake_listener open_request $FINGERPRINT);

=head1 NAME

Test::SeamWorker - sends requests to the seam as a worker does

=head1 FUNCTIONS

=head2 direct($state, %request)

Returns the member C<direct> of the answer. Dies if the handler dies.

=head2 refused($state, \%request, $pattern, $what)

Tests that the handler dies with one line that matches.

=head2 in_perl($code, @switches)

Runs a program with the C<@INC> of the test. Returns its output, standard error included.

=head2 fake_listener($code)

From now on the process of the listener calls C<$code> in place of C<listener_run>, with its
arguments.

=head2 answer_control($control, %more)

For C<fake_listener>: answers the control lines on descriptor C<$control> as the protocol requires.
C<%more> has code by operation. This code receives the number of the forward and a handle, and
returns another answer than the default, or undef for no answer.

=head2 open_request(%more)

A request that opens a C<tls> listener.

=cut

our $FINGERPRINT = join ':', ('AB') x 32;

sub direct ($state, %request) {
    my $answer = PVE::StorageTunnel::handle_query_disk_import($state, { direct => {%request} });
    return $answer->{direct};
}

sub refused ($state, $request, $pattern, $what) {
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    my $answered = eval { direct($state, %$request) };
    my $error = $answered ? 'the request was accepted' : $@;
    ok($error =~ $pattern && $error =~ /\A[^\n]+\n\z/, $what)
        or diag("$error\ndoes not match $pattern");
    return;
}

sub in_perl ($code, @switches) {
    my @command = ($^X, @switches, (map { "-I$_" } grep { !ref } @INC), '-e', "use v5.36; $code");
    my $pid = open(my $output, '-|') // die "fork: $!\n";
    if (!$pid) {
        open(STDERR, '>&', \*STDOUT) or POSIX::_exit(127);
        exec { $command[0] } @command or POSIX::_exit(127);
    }
    local $/ = undef;
    my $text = readline($output) // '';
    close($output);
    return $text;
}

sub fake_listener ($code) {
    no warnings 'redefine'; ## no critic (ProhibitNoWarnings)
    *PVE::Tunnel::Native::listener_run = $code;
    return;
}

sub open_request (%more) {
    return { op => 'open', protocol => 1, plane => 'tls', fingerprint => $FINGERPRINT, %more };
}

sub answer_control ($control, %more) {
    open(my $line, '+<&=', $control) or die "fdopen: $!\n";
    my %default = (
        open => \&open_line,
        forward => \&forward_line,
        stat => \&stat_line,
        close => \&stat_line,
    );
    my ($count, %number) = (0);
    my $answer = sub ($op, $path) {
        $number{$path} //= ++$count if $op eq 'forward';
        my $text = ($more{$op} // $default{$op})->($number{$path}, $line);
        syswrite($line, "$text\n") if defined $text;
        return;
    };
    $answer->('open', '');
    while (defined(my $request = readline $line)) {
        my ($op) = $request =~ /"op":"(\w+)"/ or die "no operation in '$request'\n";
        my ($path) = $request =~ /"path":"([^"]*)"/;
        $answer->($op, $path // '');
        return if $op eq 'close';
    }
    return;
}

sub open_line (@) {
    return
          '{"protocol":1,"plane":"tls","addresses":["192.0.2.7","fd00::7"],"port":60007,'
        . qq("fingerprint":"$FINGERPRINT","key":")
        . 'c0' x 32 . '"}';
}

sub forward_line ($number, $) { return qq({"number":$number}) }

sub stat_line (@) {
    return
          '{"plane":"tls","connections":3,"half_open":0,"new":{},"forwards":[{"number":1,'
        . '"path":"/run/a","connections":2,"open":1,"failed":0,'
        . '"received":12345678901234,"sent":4}],'
        . '"refused":{"tls":1,"silent":0,"malformed":0,"key":0,"number":0,"crowded":0,"socket":0}}';
}

1;
