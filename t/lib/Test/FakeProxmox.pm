package Test::FakeProxmox;

use v5.36;

use IO::Select;
use IO::Socket::UNIX;
use JSON ();
use Path::Tiny qw(path);
use POSIX qw(WEXITSTATUS WIFEXITED);
use Socket qw(SOMAXCONN);

use Test::FakeAccess;
use Test::FakeGuests;

=head1 NAME

Test::FakeProxmox - fake commands of Proxmox VE on two nodes, which accept exactly what the real ones do

=head1 SYNOPSIS

    my $proxmox = Test::FakeProxmox->new(dir => $dir, value => $uuid, at_target => \@command);
    my $result = $proxmox->run('target', 'pveum user add migration@pve');

=head1 DESCRIPTION

F</usr/bin> gets a link for each command to F<t/lib/fake/proxmox-command>, which asks this object.
C<qm remote-migrate> and C<pct remote-migrate> perform the migration, with the demo's code, to the
test node. An argument that the real command does not have is an error.

=head1 METHODS

=head2 new(dir, value, at_target)

Class method. C<value> is the secret of each API token, C<at_target> the words that precede a command
to run it at the target.

=head2 run($node, $commands)

Runs commands with a shell on C<source> or C<target>. Returns a hash: C<code> and C<output>.

=head2 access, guests, log_text

The L<Test::FakeAccess>; the L<Test::FakeGuests>; the log of the last migration, a string.

=cut

# Seconds for all commands of a block.
use constant LIMIT => 300;

my $VMID = qr/[1-9]\d{2,8}/;
my $NAME = qr/[A-Za-z][\w.-]*/;
my $USER = qr/[\w.-]+\@(?:pve|pam)/;
my $FLAG = undef;
my %MIGRATE = (
    positional => [$VMID, $VMID, qr/\S+/],
    required => { 'target-storage' => $NAME, 'target-bridge' => $NAME },
);
my %LIMIT = (bwlimit => qr/\d+/, delete => $FLAG);

# Command to its arguments. Options without a pattern are flags.
my %COMMANDS = (
    'pveum role add' => {
        positional => [$NAME],
        required => { privs => qr/[\w.]+(?:[ ,;]+[\w.]+)*/ },
        code => sub ($self, $p, $name) { $self->{access}->add_role($name, $p->{privs}) },
    },
    'pveum user add' => {
        positional => [$USER],
        code => sub ($self, $p, $user) { $self->{access}->add_user($user) },
    },
    'pveum user delete' => {
        positional => [$USER],
        code => sub ($self, $p, $user) { $self->{access}->delete_user($user) },
    },
    'pveum user token add' => {
        positional => [$USER, $NAME],
        options => { privsep => qr/1/ },
        code => sub ($self, $p, $user, $name) {
            return 'value: ' . $self->{access}->add_token($user, $name) . "\n";
        },
    },
    'pveum user token delete' => {
        positional => [$USER, $NAME],
        code => sub ($self, $p, @who) { $self->{access}->delete_token(@who) },
    },
    'pveum user token permissions' => {
        positional => [$USER, $NAME],
        code => sub ($self, $p, $user, $name) {
            my $permissions = $self->{access}->permissions("$user!$name");
            return join(
                '',
                map { "$_ " . join(' ', sort keys $permissions->{$_}->%*) . "\n" }
                    sort keys %$permissions
            );
        },
    },
    'pveum acl modify' => {
        positional => [qr{/[\w/-]*}],
        required => { roles => $NAME, users => $USER, tokens => qr/$USER!$NAME/ },
        code => sub ($self, $p, $path) {
            $self->{access}->modify_acl($path, role => $p->{roles}, %$p{qw(users tokens)});
        },
    },
    # What pve-tunnel itself runs.
    'pvesm status' => {
        positional => [],
        options => { enabled => qr/1/, content => qr/[a-z,]+/ },
        code => sub ($self, $p) {
            return
                "Name Type Status Total Used Available %\nlocal-lvm lvmthin active 1 1 1 1.00%\n";
        },
    },
    'pvesm list' => {
        positional => [$NAME],
        code => sub ($self, $p, $storage) { return "Volid Format Type Size VMID\n" },
    },
    'pvesh get' => {
        positional => [qr{/cluster/tasks}],
        options => { 'output-format' => qr/json/ },
        code => sub ($self, $p, $path) { return "[]\n" },
    },
    'qm create' => {
        positional => [$VMID],
        required => {
            name => $NAME,
            memory => qr/\d+/,
            scsi0 => qr/$NAME:\d+/,
            net0 => qr/virtio,bridge=$NAME/
        },
        code => sub ($self, $p, $vmid) { $self->{guests}->create('qm', $vmid, %$p) },
    },
    'qm remote-migrate' => {
        %MIGRATE,
        options => { online => $FLAG, %LIMIT },
        code => sub ($self, $p, @guest) { $self->{guests}->migrate('qm', $p, @guest) },
    },
    'pct remote-migrate' => {
        %MIGRATE,
        options => { restart => $FLAG, timeout => qr/\d+/, %LIMIT },
        code => sub ($self, $p, @guest) { $self->{guests}->migrate('pct', $p, @guest) },
    },
    'qm destroy' => {
        positional => [$VMID],
        options => { 'destroy-unreferenced-disks' => qr/[01]/ },
    },
    (map { ("qm $_" => { positional => [$VMID] }) } qw(config start status stop unlock)),
);

sub new ($class, %option) {
    my $access = Test::FakeAccess->new(value => $option{value});
    my $self = bless {
        %option,
        access => $access,
        guests => Test::FakeGuests->new(%option, access => $access),
        path => "$option{dir}/commands",
    }, $class;
    $self->{listener} = IO::Socket::UNIX->new(Local => $self->{path}, Listen => SOMAXCONN)
        or die "cannot listen on '$self->{path}': $!\n";
    symlink($self->{path}, '/etc/fake-proxmox') or die "/etc/fake-proxmox: $!\n";
    my $program = path(__FILE__)->parent(2)->child('fake/proxmox-command')->absolute;
    for my $name (sort keys %{ { map { m/\A(\S+)/ => 1 } keys %COMMANDS } }) {
        my $folder = $name eq 'pvesm' ? '/usr/sbin' : '/usr/bin';
        symlink($program, "$folder/$name") or die "$folder/$name: $!\n";
    }
    return $self;
}

sub access ($self) { return $self->{access} }
sub guests ($self) { return $self->{guests} }
sub log_text ($self) { return $self->{guests}->log_text }

sub run ($self, $node, $commands) {
    pipe(my $reader, my $writer) or die "pipe: $!\n";
    my $pid = fork() // die "fork: $!\n";
    if (!$pid) {
        %ENV = (PATH => '/usr/sbin:/usr/bin:/sbin:/bin', HOME => '/root', LC_ALL => 'C.UTF-8');
        open(STDIN, '<', '/dev/null') or POSIX::_exit(127);
        open(STDOUT, '>&', $writer) or POSIX::_exit(127);
        open(STDERR, '>&', \*STDOUT) or POSIX::_exit(127);
        my @at = $node eq 'target' ? $self->{at_target}->@* : ();
        exec(@at, 'sh', '-ec', $commands) or POSIX::_exit(127);
    }
    close($writer);
    my ($output, $select) = ('', IO::Select->new($reader, $self->{listener}));
    my $open = 1;
    while ($open) {
        my @ready = $select->can_read(LIMIT) or die "the commands do not end: $commands\n";
        for my $handle (@ready) {
            if ($handle == $self->{listener}) {
                $self->answer(scalar $handle->accept);
            } else {
                $open = sysread($reader, $output, 65536, length $output);
            }
        }
    }
    waitpid($pid, 0);
    return { code => WIFEXITED($?) ? WEXITSTATUS($?) : 255, output => $output };
}

# Answers one command. The client writes its line before it reads.
sub answer ($self, $client) {
    my $request = JSON::decode_json(scalar readline($client));
    my $output = eval { $self->perform($request->{node}, $request->{words}->@*) };
    my %answer =
        defined($output) ? (output => $output, code => 0) : (output => $@ || "\n", code => 255);
    say {$client} JSON::encode_json(\%answer);
    close($client);
    return;
}

sub perform ($self, $node, @words) {
    my ($name, $count);
    for my $length (2 .. 4) {
        next if @words < $length;
        my $candidate = join(' ', @words[0 .. $length - 1]);
        ($name, $count) = ($candidate, $length) if $COMMANDS{$candidate};
    }
    die "unknown command '@words'\n" if !defined $name;
    my $command = $COMMANDS{$name};
    my ($options, @positional) = arguments($name, $command, @words[$count .. $#words]);
    die "'$name' is a command of the target in this manual\n"
        if $name =~ /\Apveum/ && $node ne 'target';
    die "'$name' is a command of the source in this manual\n"
        if $name =~ /(?:remote-migrate|create)\z/ && $node ne 'source';
    return $command->{code}->($self, $options, @positional) // '' if $command->{code};
    my ($method) = $name =~ /(\w+)\z/;
    return $self->{guests}->$method($node, @positional, $options) // '';
}

# The options and the positional arguments. Dies if one is unknown, missing or malformed.
sub arguments ($name, $command, @words) {
    my @positional;
    for my $pattern ($command->{positional}->@*) {
        my $word = shift(@words) // die "$name: not enough arguments\n";
        die "$name: bad argument '$word'\n" if $word !~ /\A$pattern\z/;
        push @positional, $word;
    }
    my %known = (%{ $command->{required} // {} }, %{ $command->{options} // {} });
    my %option;
    while (@words) {
        my $word = shift @words;
        my ($option) = $word =~ /\A--([a-z0-9-]+)\z/ or die "$name: bad argument '$word'\n";
        die "$name: unknown option '$word'\n" if !exists $known{$option};
        my $value = defined($known{$option}) ? shift(@words) // '' : 1;
        die "$name: bad value '$value' of $word\n" if $value !~ /\A${\($known{$option} \/\/ 1)}\z/;
        $option{$option} = $value;
    }
    for my $option (sort keys %{ $command->{required} // {} }) {
        die "$name: --$option is missing\n" if !exists $option{$option};
    }
    return (\%option, @positional);
}

1;
