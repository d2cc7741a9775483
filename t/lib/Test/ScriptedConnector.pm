package Test::ScriptedConnector;

use v5.36;

use IO::Handle ();
use IO::Select ();
use JSON ();
use POSIX ();

use PVE::Tunnel::Native;

=head1 NAME

Test::ScriptedConnector - the connector with some answers written by the test

=head1 SYNOPSIS

    my $script = Test::ScriptedConnector->install("$dir/received", direct => { success => 1, plan => ... });
    my $tunnel = PVE::Tunnel::Client::fork_websocket_tunnel(...);
    is($script->received('direct')->{migration_type}, 'secure');
    undef $script;

=head1 DESCRIPTION

Relays lines between a tunnel of this process and its real connector. It answers the control
commands that the test names, and passes on all other lines.

=head1 METHODS

=head2 install($file, %answers)

Class method. Replaces the connectors of this process until the object is destroyed. C<%answers> has
names of control commands, each with the hash to answer it with. With undef, the connector ends
instead of answering. The answered commands are written to C<$file>.

=head2 received($name)

The C<data> of the last command of that name that this object has answered; undef if there was none.

=cut

my $json = JSON->new->utf8->canonical;

sub install ($class, $file, %answers) {
    my $connector_run = \&PVE::Tunnel::Native::connector_run;
    _replace(
        sub ($input, $output, $log, $options) {
            _between(
                $file, \%answers, $input, $output,
                sub ($in, $out) { $connector_run->($in, $out, $log, $options) }
            );
        }
    );
    return bless { file => $file, connector_run => $connector_run, owner => $$ }, $class;
}

sub received ($self, $name) {
    open my $in, '<', $self->{file} or return;
    my ($last) = reverse grep { $_->{cmd} eq $name } map { $json->decode($_) } readline $in;
    return $last && $last->{data};
}

sub DESTROY ($self) {
    _replace($self->{connector_run}) if $self->{owner} == $$;
    return;
}

sub _replace ($code) {
    no warnings 'redefine'; ## no critic (ProhibitNoWarnings)
    *PVE::Tunnel::Native::connector_run = $code;
    return;
}

# Runs in the process of the connector, and starts the real connector in a child.
sub _between ($file, $answers, $input, $output, $connect) {
    pipe my $their_input, my $to_them or die "pipe: $!\n";
    pipe my $from_them, my $their_output or die "pipe: $!\n";
    my $pid = fork // die "fork: $!\n";
    if (!$pid) {
        _shut($_) for $to_them, $from_them;
        POSIX::close($_) for $input, $output;
        POSIX::_exit(eval { $connect->(fileno $their_input, fileno $their_output); 1 } ? 0 : 1);
    }
    _shut($_) for $their_input, $their_output;
    open my $from_us, '<&=', $input or die "descriptor $input: $!\n";
    open my $to_us, '>&=', $output or die "descriptor $output: $!\n";
    $_->autoflush(1) for $to_them, $to_us;
    my $lines = '';
    my $select = IO::Select->new($from_us, $from_them);
    while ($select->exists($from_them)) {
        for my $handle ($select->can_read) {
            my $got = sysread $handle, my $bytes, 65536;
            if (!$got) {
                $select->remove($handle);
                _shut($to_them) if $handle == $from_us;
            } elsif ($handle == $from_them) {
                print {$to_us} $bytes;
            } else {
                $lines .= $bytes;
                while ($lines =~ s/\A([^\n]*\n)//) {
                    my $line = $1;
                    my $answer = eval { _answer($file, $answers, $line) };
                    if (my $error = $@) {
                        kill KILL => $pid;
                        die $error;
                    }
                    print { $answer ? $to_us : $to_them } $answer // $line;
                }
            }
        }
    }
    waitpid $pid, 0;
    die "the connector failed\n" if $?;
    return;
}

# Perl closes a descriptor only with its last handle. Handles copied from the parent may still refer
# to descriptors of these numbers, so both are closed.
sub _shut ($handle) {
    my $descriptor = fileno $handle;
    close $handle;
    POSIX::close($descriptor);
    return;
}

sub _answer ($file, $answers, $line) {
    my $command = $json->decode($line);
    return if !$command->{control} || !exists $answers->{ $command->{cmd} };
    open my $out, '>>', $file or die "$file: $!\n";
    print {$out} $line;
    close $out or die "$file: $!\n";
    my $answer = $answers->{ $command->{cmd} } // die "the script ends here\n";
    my $id = $command->{id};
    return $json->encode({ %$answer, defined($id) ? (id => $id) : () }) . "\n";
}

1;
