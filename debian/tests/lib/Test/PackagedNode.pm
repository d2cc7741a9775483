package Test::PackagedNode;

# Inspects a system with pve-tunnel installed: its files, its diversions, and the modules that Perl
# loads.

use v5.36;

use Exporter qw(import);
use File::Basename qw(dirname);
use File::Temp ();
use IO::Handle ();
use Test::More;

our @EXPORT_OK =
    qw(run run_ok command_prints state_of all_stock modules_on diversions triggered loads daemon
    installed_fakes fake_packages purge_fakes);

=head1 NAME

Test::PackagedNode - the system that tests install packages on

=head1 FUNCTIONS

=head2 run(@command)

Runs a command. Returns C<{code, output}>: its exit code, and its standard output and standard error
in one string.

=head2 run_ok($name, @command)

Runs a command and tests that its exit code is 0. Returns the same.

=head2 command_prints($arguments, $code, $pattern)

Tests that C<pve-tunnel> with these arguments returns that exit code and prints output that matches.
Returns the output.

=head2 state_of

The state of each component (C<overlay>, C<seam>, C<helper>), a hash reference. A state is C<stock
VERSION>, C<pve-tunnel over VERSION> (the replacement is installed over the diverted stock file),
C<pve-tunnel over nothing>, C<nothing>, or a description of an invalid state.

=head2 all_stock($version)

The expected result of C<state_of> if that stock version is installed (undef: none) and pve-tunnel
is disabled.

=head2 modules_on($version, $over = $version)

The expected result after C<pve-tunnel enable>. C<$over> is C<nothing> if the stock modules were
removed.

=head2 diversions

The number of diversions of pve-tunnel.

=head2 triggered

How often the trigger that reloads the daemons has run.

=head2 loads($module)

Loads a module of Proxmox VE in a new Perl process with C<-T>. Returns C<stock>, C<overlay> or
C<seam> for the code that is in effect, or C<not> if the module cannot be loaded. In list context,
also returns a reference to an array of the warnings.

=head2 daemon

Starts a process with the name C<pvedaemon>, and returns when it has loaded PVE::Tunnel. The method
C<end> of the result ends the process.

=head2 installed_fakes

The names of the installed packages that tests replace by fakes.

=head2 fake_packages($version, $shape = '')

Creates the fake packages with that version and returns their files. The first contains the modules.

=head2 purge_fakes

Purges the fake packages that are installed.

=cut

my %PATH = (
    overlay => '/usr/share/perl5/PVE/Tunnel.pm',
    seam => '/usr/share/perl5/PVE/StorageTunnel.pm',
    helper => '/usr/bin/proxmox-websocket-tunnel',
);
my %REPLACEMENT = (
    overlay => '/usr/share/pve-tunnel/perl5/PVE/Tunnel.pm',
    seam => '/usr/share/pve-tunnel/perl5/PVE/StorageTunnel.pm',
    helper => '/usr/bin/pve-tunnel',
);
my $PID_FILE = '/run/pvedaemon.pid';

sub run (@command) {
    my $pid = open my $output, '-|' // die "cannot fork: $!\n";
    if (!$pid) {
        open STDERR, '>&', \*STDOUT or die "cannot redirect: $!\n";
        open STDIN, '<', '/dev/null' or die "cannot redirect: $!\n";
        exec { $command[0] } @command or die "cannot run $command[0]: $!\n";
    }
    local $/ = undef;
    my $printed = readline($output) // '';
    close $output;
    return { code => $? >> 8, output => $printed };
}

sub run_ok ($name, @command) {
    my $run = run(@command);
    is($run->{code}, 0, $name) or diag($run->{output});
    return $run;
}

sub command_prints ($arguments, $code, $pattern) {
    my $run = run('pve-tunnel', split / /, $arguments);
    my $matches = $run->{code} == $code && $run->{output} =~ $pattern;
    ok($matches, "pve-tunnel $arguments: exit code $code") or diag("$run->{code}: $run->{output}");
    return $run->{output};
}

sub state_of () {
    my $diverted = _diverted();
    return { map { $_ => _state($_, $diverted->{ $PATH{$_} }) } keys %PATH };
}

sub _state ($component, $diverted_to) {
    my $path = $PATH{$component};
    my $link = -l $path && readlink $path;
    if ($link) {
        # Relative, like all links within /usr.
        my $directory = $path =~ s{/[^/]*\z}{}r;
        my $target = run('realpath', '-m', "$directory/$link")->{output} =~ s/\n\z//r;
        return "a link to $target" if $target ne $REPLACEMENT{$component} || !-e $target;
        return 'pve-tunnel without a diversion' if ($diverted_to // '') ne "$path.distrib";
        return 'pve-tunnel over ' . (_version("$path.distrib") // 'nothing');
    }
    return 'a diversion without a link' if defined $diverted_to;
    return "$path.distrib without a diversion" if -e "$path.distrib";
    my $version = _version($path) // return 'nothing';
    return "stock $version";
}

sub _version ($path) {
    open my $file, '<', $path or return;
    local $/ = undef;
    my ($version) = readline($file) =~ /\bfake ([0-9.]+)/;
    close $file;
    return $version // 'unknown';
}

sub all_stock ($version) {
    return { map { $_ => defined $version ? "stock $version" : 'nothing' } keys %PATH };
}

sub modules_on ($version, $over = $version) {
    return { %{ all_stock($version) }, map { $_ => "pve-tunnel over $over" } qw(overlay seam) };
}

sub _diverted () {
    my $listed = run('dpkg-divert', '--list')->{output};
    return { $listed =~ /^diversion of (\S+) to (\S+) by pve-tunnel$/mg };
}

sub diversions () {
    return scalar keys %{ _diverted() };
}

sub triggered () {
    open my $file, '<', '/var/lib/fake/triggered' or return 0;
    my @lines = readline $file;
    close $file;
    return scalar @lines;
}

# The module of pve-tunnel that changes each module of Proxmox VE, and reports whether it does.
my %CHANGED_BY = ('PVE::Tunnel' => 'Overlay', 'PVE::StorageTunnel' => 'Seam');

sub loads ($module) {
    my $ours = $CHANGED_BY{$module};
    my $code = <<~"END";
        if (!eval { require $module; 1 }) {
            print "answer: not\n";
        } elsif (!PVE::Tunnel::$ours->can('status') || !PVE::Tunnel::$ours\::status()->{installed}) {
            print "answer: stock\n";
        } else {
            print "answer: \L$ours\E\n";
        }
        END
    my $run = run($^X, '-T', '-e', $code);
    my ($answer) = $run->{output} =~ s/^answer: (.*)\n//m ? $1 : 'no answer';
    return wantarray ? ($answer, [split /\n/, $run->{output}]) : $answer;
}

sub daemon () {
    pipe my $input, my $writer or die "cannot make a pipe: $!\n";
    pipe my $ready, my $output or die "cannot make a pipe: $!\n";
    my $pid = fork // die "cannot fork: $!\n";
    if (!$pid) {
        close $_ for $writer, $ready;
        open STDIN, '<&', $input or die "cannot redirect: $!\n";
        open STDOUT, '>&', $output or die "cannot redirect: $!\n";
        my $code = '$0 = "pvedaemon"; $| = 1; require PVE::Tunnel; print "ready\n"; <STDIN>';
        exec {$^X} $^X, '-T', '-e', $code or die "cannot run perl: $!\n";
    }
    close $_ for $input, $output;
    readline($ready) // die "the fake daemon does not start\n";
    open my $file, '>', $PID_FILE or die "cannot write $PID_FILE: $!\n";
    print {$file} "$pid\n" or die "cannot write $PID_FILE: $!\n";
    close $file or die "cannot write $PID_FILE: $!\n";
    return bless { pid => $pid, writer => $writer, owner => $$ }, __PACKAGE__;
}

sub end ($self) {
    my $pid = delete $self->{pid} // return;
    close $self->{writer};
    waitpid $pid, 0;
    unlink $PID_FILE;
    return;
}

# Ends the process even if the test dies.
sub DESTROY ($self) {
    return if $self->{owner} != $$;
    local ($@, $!, $?);
    $self->end;
    return;
}

my @FAKED = qw(libpve-guest-common-perl proxmox-websocket-tunnel pve-manager);

sub installed_fakes () {
    return
        grep { run('dpkg-query', '-W', '-f', '${db:Status-Status}', $_)->{output} =~ /\Ainstalled/ }
        @FAKED;
}

my $PROGRAM = dirname(__FILE__) . '/../../fake-packages';
my $directory = File::Temp->newdir('fakes-XXXXXX', TMPDIR => 1);

sub fake_packages ($version, $shape = '') {
    my $run = run($PROGRAM, "$directory", $version, $shape);
    die "cannot create the fake packages: $run->{output}" if $run->{code};
    return split /\n/, $run->{output};
}

sub purge_fakes () {
    return run('dpkg', '-P', @FAKED);
}

1;
