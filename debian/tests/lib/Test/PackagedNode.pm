package Test::PackagedNode;

# A system on which pve-tunnel is installed, as seen from outside: files, diversions, what Perl loads.

use v5.36;

use Exporter qw(import);
use File::Basename qw(dirname);
use File::Temp ();
use IO::Handle ();
use Test::More;

our @EXPORT_OK = qw(run run_ok said state_of all_stock modules_on diversions triggered loads daemon
    stood_for stand_ins purge_stand_ins);

=head1 NAME

Test::PackagedNode - the system that packages are tried on

=head1 FUNCTIONS

=head2 run(@command)

Runs it and returns C<{code, said}>: exit code, and what it wrote to standard output and standard
error.

=head2 run_ok($what, @command)

Tests that it ends well, and returns the same.

=head2 said($arguments, $code, $pattern)

Tests that C<pve-tunnel> with these arguments ends with that code and says that. Returns what it
says.

=head2 state_of

For each part (C<overlay>, C<seam>, C<helper>) what is in its place: C<stock VERSION>, C<ours over
VERSION>, C<ours over nothing>, C<nothing>, or words for what should never be.

=head2 all_stock($version)

The same where that version is installed (undef: none), and nothing is enabled.

=head2 modules_on($version, $over = $version)

The same after C<pve-tunnel enable>; C<$over> is C<nothing> where the stock modules have been removed.

=head2 diversions

How many diversions pve-tunnel has.

=head2 triggered

How often the daemons were told to reload.

=head2 loads($module)

C<stock>, C<overlay>, C<seam>, or C<not>: what a fresh Perl under C<-T> has after loading a module of
Proxmox VE. In list context also the warnings.

=head2 daemon

Starts a process that looks like C<pvedaemon>, and has loaded PVE::Tunnel when this returns. Its method
C<end> ends it.

=head2 stood_for

The names of the packages that there are stand-ins for, of those that are installed.

=head2 stand_ins($version, $shape = '')

Makes the stand-in packages of that version and returns their files. The first is that with the
modules.

=head2 purge_stand_ins

Removes those of them that are installed, without a trace.

=cut

my %PATH = (
    overlay => '/usr/share/perl5/PVE/Tunnel.pm',
    seam => '/usr/share/perl5/PVE/StorageTunnel.pm',
    helper => '/usr/bin/proxmox-websocket-tunnel',
);
my %STAND_IN = (
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
    my $said = readline($output) // '';
    close $output;
    return { code => $? >> 8, said => $said };
}

sub run_ok ($what, @command) {
    my $run = run(@command);
    is($run->{code}, 0, $what) or diag($run->{said});
    return $run;
}

sub said ($arguments, $code, $pattern) {
    my $run = run('pve-tunnel', split / /, $arguments);
    my $well = $run->{code} == $code && $run->{said} =~ $pattern;
    ok($well, "pve-tunnel $arguments: exit code $code") or diag("$run->{code}: $run->{said}");
    return $run->{said};
}

sub state_of () {
    my $diverted = _diverted();
    return { map { $_ => _state($_, $diverted->{ $PATH{$_} }) } keys %PATH };
}

sub _state ($part, $aside) {
    my $path = $PATH{$part};
    my $ours = -l $path && readlink $path;
    if ($ours) {
        # Relative, as all links within /usr are.
        my $folder = $path =~ s{/[^/]*\z}{}r;
        my $there = run('realpath', '-m', "$folder/$ours")->{said} =~ s/\n\z//r;
        return "a link to $there" if $there ne $STAND_IN{$part} || !-e $there;
        return 'ours, and no diversion' if ($aside // '') ne "$path.distrib";
        return 'ours over ' . (_version("$path.distrib") // 'nothing');
    }
    return 'a diversion without a link' if defined $aside;
    return "$path.distrib without a diversion" if -e "$path.distrib";
    my $version = _version($path) // return 'nothing';
    return "stock $version";
}

sub _version ($path) {
    open my $file, '<', $path or return;
    local $/ = undef;
    my ($version) = readline($file) =~ /stand-in ([0-9.]+)/;
    close $file;
    return $version // 'unknown';
}

sub all_stock ($version) {
    return { map { $_ => defined $version ? "stock $version" : 'nothing' } keys %PATH };
}

sub modules_on ($version, $over = $version) {
    return { %{ all_stock($version) }, map { $_ => "ours over $over" } qw(overlay seam) };
}

sub _diverted () {
    my $listed = run('dpkg-divert', '--list')->{said};
    return { $listed =~ /^diversion of (\S+) to (\S+) by pve-tunnel$/mg };
}

sub diversions () {
    return scalar keys %{ _diverted() };
}

sub triggered () {
    open my $file, '<', '/var/lib/stand-in/triggered' or return 0;
    my @lines = readline $file;
    close $file;
    return scalar @lines;
}

# What says of itself that it is in effect in a module.
my %REPLACED_BY = ('PVE::Tunnel' => 'Overlay', 'PVE::StorageTunnel' => 'Seam');

sub loads ($module) {
    my $ours = $REPLACED_BY{$module};
    my $code = <<~"END";
        if (!eval { require $module; 1 }) {
            print "answer: not\n";
        } elsif (!PVE::Tunnel::$ours->can('status') || !PVE::Tunnel::$ours\::status()->{installed}) {
            print "answer: stock\n";
        } else {
            print "answer: \L$ours\E\n";
        }
        END
    my $asked = run($^X, '-T', '-e', $code);
    my ($answer) = $asked->{said} =~ s/^answer: (.*)\n//m ? $1 : 'nothing at all';
    return wantarray ? ($answer, [split /\n/, $asked->{said}]) : $answer;
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
    readline($ready) // die "the stand-in daemon does not start\n";
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

# A test that died leaves none behind.
sub DESTROY ($self) {
    return if $self->{owner} != $$;
    local ($@, $!, $?);
    $self->end;
    return;
}

my @STOOD_FOR = qw(libpve-guest-common-perl proxmox-websocket-tunnel pve-manager);

sub stood_for () {
    return
        grep { run('dpkg-query', '-W', '-f', '${db:Status-Status}', $_)->{said} =~ /\Ainstalled/ }
        @STOOD_FOR;
}

my $STAND_IN_PACKAGES = dirname(__FILE__) . '/../../stand-in-packages';
my $made = File::Temp->newdir('stand-ins-XXXXXX', TMPDIR => 1);

sub stand_ins ($version, $shape = '') {
    my $run = run($STAND_IN_PACKAGES, "$made", $version, $shape);
    die "no stand-in packages: $run->{said}" if $run->{code};
    return split /\n/, $run->{said};
}

sub purge_stand_ins () {
    return run('dpkg', '-P', @STOOD_FOR);
}

1;
