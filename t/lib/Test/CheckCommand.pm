package Test::CheckCommand;

use v5.36;

use Carp qw(croak);
use Cwd ();
use Exporter qw(import);
use File::Basename ();
use File::Path ();
use File::Temp ();
use JSON ();
use POSIX ();
use Test::More;

use Test::Processes qw(wait_until);

our @EXPORT_OK =
    qw(check defaults start_check remote node_tree problems reports write_file $PROGRAM);

=head1 NAME

Test::CheckCommand - runs C<pve-tunnel check> and compares what it reports

=head1 SYNOPSIS

    my $result = check(remote($node), '--seconds', 0);
    reports($result, 2, ['failed', qr/the target refuses the token/, qr/check user, realm/]);

=head1 FUNCTIONS

=head2 check($remote, @arguments)

Runs the command with C<--json>, on a node where pve-tunnel is on. Returns the result as a hash:
C<code> (128 plus the number of the signal that ended it, if one did), C<core> (true if the kernel
wrote a core), C<out>, C<err>, C<report> (the parsed JSON, or undef), C<left> (the temporary files
that it has left) and C<time> (seconds).

=head2 defaults(@arguments)

The options that C<check> adds to these arguments: a node where pve-tunnel is on, and no
configuration.

=head2 start_check(%options)

Starts the command without waiting. Options: C<arguments> (list, complete), C<input> (text of
standard input), C<program> (in place of the command), C<prepare> (code that runs in the new
process). Returns an object with C<pid>, and with the methods C<wait> (returns a result),
C<out> (the output so far) and C<wait_out($pattern)>.

=head2 remote($node, %changes)

The value of C<--to> for a L<Test::TunnelNode>, with changed properties. A property that is undef is
omitted.

=head2 node_tree($state)

A folder with the diversions of a node where pve-tunnel is C<on>, C<off>, C<helper> or C<broken>, or
C<none>: of a machine without Proxmox VE. It is removed at the end of the test.

=head2 problems($result)

The findings that are not good: a list of arrays with outcome, text and advice.

=head2 reports($result, $code, @expected)

Tests the exit code, and that the findings that are not good are exactly the expected ones, in this
order. Each is an array with outcome, and patterns for text and advice.

=head2 write_file($path, $content)

Writes a file.

=cut

my $ROOT = Cwd::realpath(File::Basename::dirname(__FILE__) . '/../../..');

our $PROGRAM = "$ROOT/target/" . ($ENV{CARGO_PROFILE} // 'release') . '/pve-tunnel';

# A check that takes longer has a time limit that does not hold.
use constant LIMIT => 120;

my %trees;

sub check ($remote, @arguments) {
    my @command = ('check', '--to', $remote, '--json', defaults(@arguments), @arguments);
    return start_check(arguments => \@command)->wait;
}

# In place of this machine's own files, unless the arguments have these options.
sub defaults (@arguments) {
    my %given = map { $_ => 1 } @arguments;
    return (
        $given{'--root'} ? () : ('--root' => node_tree('on')),
        $given{'--configuration'} ? () : ('--configuration' => '/nonexistent'),
    );
}

sub start_check (%options) {
    my $files = File::Temp->newdir('check-XXXXXX', TMPDIR => 1);
    mkdir "$files/tmp" or die "$files/tmp: $!\n";
    write_file("$files/in", $options{input} // '');
    my $pid = fork() // die "fork: $!\n";
    if (!$pid) {
        open STDIN, '<', "$files/in" or POSIX::_exit(127);
        open STDOUT, '>', "$files/out" or POSIX::_exit(127);
        open STDERR, '>', "$files/err" or POSIX::_exit(127);
        local $ENV{TMPDIR} = "$files/tmp";
        $options{prepare}->() if $options{prepare};
        exec($options{program} // $PROGRAM, $options{arguments}->@*)
            or POSIX::_exit(127);
    }
    my %started = (pid => $pid, owner => $$, files => $files, started => time);
    return bless \%started, __PACKAGE__;
}

sub out ($self) { return slurp("$self->{files}/out") }

sub wait_out ($self, $pattern, $seconds = 30) {
    return wait_until(sub { $self->out =~ $pattern }, $seconds);
}

sub wait ($self) { ## no critic (ProhibitBuiltinHomonyms)
    my $ended = wait_until(sub { waitpid($self->{pid}, POSIX::WNOHANG()) == $self->{pid} }, LIMIT);
    my $status = $?;
    croak 'the check did not end within ' . LIMIT . " s:\n" . $self->out if !$ended;
    delete $self->{pid};
    my $result = {
        code => $status & 127 ? 128 + ($status & 127) : $status >> 8,
        core => $status & 128,
        out => $self->out,
        err => slurp("$self->{files}/err"),
        time => time - $self->{started},
        left => [glob "$self->{files}/tmp/*"],
    };
    $result->{report} = eval { JSON::decode_json($result->{out}) };
    return $result;
}

sub DESTROY ($self) {
    return if !$self->{pid} || $self->{owner} != $$;
    local ($@, $!, $?);
    kill KILL => $self->{pid};
    waitpid $self->{pid}, 0;
    return;
}

sub remote ($node, %changes) {
    my %property = (
        host => $node->{address},
        port => $node->{port},
        apitoken => $node->{token},
        fingerprint => $node->{fingerprint},
        %changes
    );
    my @given = grep { defined $property{$_} } qw(host port apitoken fingerprint);
    return join ',', map { "$_=$property{$_}" } @given;
}

my %STOCK = (
    '/usr/share/perl5/PVE/Tunnel.pm' => 'PVE::Tunnel',
    '/usr/share/perl5/PVE/StorageTunnel.pm' => 'PVE::StorageTunnel',
    '/usr/bin/proxmox-websocket-tunnel' => undef,
);

sub node_tree ($state) {
    return "$trees{$state}" if $trees{$state};
    my $tree = $trees{$state} = File::Temp->newdir('check-node-XXXXXX', TMPDIR => 1);
    File::Path::make_path(map { "$tree/var/lib/dpkg/$_" } qw(info updates triggers));
    write_file("$tree/var/lib/dpkg/$_", '') for qw(status available diversions);
    write_file("$tree/var/lib/dpkg/info/format", "1\n");
    my %diverted = (on => qr{/perl5/}, off => qr/(?!)/, helper => qr{/bin/}, broken => qr/Storage/);
    return "$tree" if $state eq 'none';
    for my $path (sort keys %STOCK) {
        my $module = $STOCK{$path};
        my $stock = $module ? "package $module;\n1;\n" : "stock\n";
        if ($path !~ $diverted{$state}) {
            write_file("$tree$path", $stock);
            next;
        }
        write_file("$tree$path.distrib", $stock);
        my $ours = $path =~ s{\A/usr/share/}{/usr/share/pve-tunnel/}r;
        $ours = '/usr/bin/pve-tunnel' if !$module;
        write_file("$tree$ours", $module ? replacement($module) : "ours\n");
        my $link = $module ? '../..' . $ours =~ s{\A/usr/share}{}r : 'pve-tunnel';
        symlink $link, "$tree$path" or die "symlink: $!\n";
        my @divert = (
            'dpkg-divert', '--root' => "$tree", '--package' => 'pve-tunnel', '--no-rename',
            '--quiet',
            '--divert' => "$path.distrib", '--add' => $path
        );
        system(@divert) == 0 or die "@divert failed\n";
    }
    return "$tree";
}

# A module that reports itself as in effect.
sub replacement ($module) {
    my $name = $module eq 'PVE::Tunnel' ? 'Overlay' : 'Seam';
    return <<~"END";
        package $module;
        \$INC{'PVE/Tunnel/$name.pm'} = __FILE__;
        sub PVE::Tunnel::${name}::install { return }
        sub PVE::Tunnel::${name}::status { return { installed => 1 } }
        1;
        END
}

sub problems ($result) {
    my $findings = $result->{report} ? $result->{report}{findings} : [];
    return map { [$_->@{qw(outcome text advice)}] } grep { $_->{outcome} ne 'ok' } @$findings;
}

sub reports ($result, $code, @expected) {
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    is($result->{code}, $code, "exit code $code")
        or diag($result->{out}, $result->{err});
    is_deeply($result->{left}, [], 'no temporary file is left');
    my @found = problems($result);
    for my $expected (@expected) {
        my ($outcome, $text, $advice) = @$expected;
        my $found = shift(@found) // [('') x 3];
        is($found->[0], $outcome, "the outcome of a finding is '$outcome'");
        like($found->[1], $text, '... its text');
        like($found->[2] // '', $advice, '... its advice');
    }
    is_deeply(\@found, [], 'and nothing else is reported') or diag(explain(\@found));
    return;
}

sub slurp ($path) {
    open my $in, '<', $path or return '';
    local $/ = undef;
    return readline($in) // '';
}

sub write_file ($path, $content) {
    File::Path::make_path(File::Basename::dirname($path));
    open my $out, '>', $path or die "$path: $!\n";
    print {$out} $content;
    close $out or die "$path: $!\n";
    return;
}

1;
