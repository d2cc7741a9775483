package TestNode::Guest;

=head1 NAME

TestNode::Guest - a QEMU process with disks

=head1 SYNOPSIS

    my $guest = TestNode::Guest->start(
        vmid => 100, dir => $dir, memory => 256, incoming => 1,
        disks => { scsi0 => "$dir/disk.raw" },
    );
    $guest->qmp->command('cont');
    $guest->stop;

=head1 DESCRIPTION

The same machine on both nodes of a migration: an i440FX with the given RAM and disks, without
display and network. KVM is used if available, otherwise QEMU emulates the CPU. The environment
variable C<GUEST_ACCEL> has another value for QEMU's option C<accel>, such as C<tcg>.

QEMU ends on C<stop>, when the object is destroyed, or when the process that started it ends,
whichever is first.

=cut

use v5.36;

use Errno qw(EINTR);
use Fcntl qw(F_SETFD);
use IO::Socket::UNIX;
use POSIX ();
use Socket qw(AF_UNIX PF_UNSPEC SOCK_STREAM SOMAXCONN);
use Time::HiRes qw(clock_gettime sleep CLOCK_MONOTONIC);

use TestNode::QMP;

use constant {
    QEMU => 'qemu-system-x86_64',
    # RAM beyond the first limit is above the hole for devices. QEMU gets the limit as an option, so
    # that source, target and `ram_ranges` agree.
    LOW_RAM_MAX => 2 << 30,
    HIGH_RAM => 4 << 30,
    # Seconds for QEMU to end after `quit`, and again after SIGTERM.
    STOP_LIMIT => 10,
    # Seconds between two checks whether the process has ended.
    END_INTERVAL => 0.01,
};

=head1 METHODS

=head2 start

Class method. Takes

=over

=item vmid

a number; file names in C<dir> contain it

=item dir

an absolute path: F<DIR/VMID.qmp> is the second monitor, F<DIR/VMID.qemu.log> the output of QEMU

=item memory

MiB

=item disks

hash: drive name (C<scsi0>, ...) to the path of a raw file; the block node is C<drive-NAME>, and the
guest boots from the drive whose name sorts first

=item incoming

true: QEMU waits for C<migrate-incoming>, and the guest remains stopped after the migration

=item load

array of C<[$file, $address]>: files that QEMU loads into RAM at the start

=back

Returns when QEMU's monitor replies. Dies with the last line that QEMU printed if it does not start.

=cut

sub start ($class, %option) {
    my ($vmid, $dir) = @option{qw(vmid dir)};
    my $self = bless { %option, owner => $$, inspect => "$dir/$vmid.qmp" }, $class;

    unlink $self->{inspect};
    # Created here and inherited by QEMU, so that a client can connect at any time.
    my $inspect = IO::Socket::UNIX->new(Local => $self->{inspect}, Listen => SOMAXCONN)
        or die "cannot listen on '$self->{inspect}': $!\n";
    chmod(0600, $self->{inspect}) or die "cannot protect '$self->{inspect}': $!\n";
    my ($control, $qemu_end) = IO::Socket::UNIX->socketpair(AF_UNIX, SOCK_STREAM, PF_UNSPEC)
        or die "socketpair: $!\n";

    my $log = "$dir/$vmid.qemu.log";
    my @command = $self->command_line(fileno($qemu_end), fileno($inspect));
    my $pid = fork() // die "fork: $!\n";
    if (!$pid) {
        POSIX::setpgid(0, 0) if $self->{own_group};
        exec_qemu($log, [$qemu_end, $inspect], \@command);
        POSIX::_exit(127);
    }
    $self->{pid} = $pid;
    close($qemu_end);
    close($inspect);
    if (!eval { $self->{qmp} = TestNode::QMP->attach($control); 1 }) {
        my $error = $@;
        $self->kill_now;
        my $message = last_line($log);
        die "cannot start QEMU: " . ($message ne '' ? "$message\n" : $error);
    }
    return $self;
}

=head2 qmp

The L<TestNode::QMP> of the process that started the guest. Other processes connect to C<inspect>.

=head2 inspect

The path of the second monitor socket, for other processes. It serves one client at a time.

=head2 pid

The process ID, undef once it has ended.

=cut

sub qmp ($self) { return $self->{qmp} }
sub inspect ($self) { return $self->{inspect} }
sub pid ($self) { return $self->{pid} }

=head2 ram_ranges

Class method: C<< TestNode::Guest->ram_ranges($memory) >>. The physical address ranges of the RAM of
a guest with C<$memory> MiB: a list of C<[$address, $bytes]>.

=cut

sub ram_ranges ($class, $memory) {
    my $bytes = $memory << 20;
    return [0, $bytes] if $bytes <= LOW_RAM_MAX;
    return ([0, LOW_RAM_MAX], [HIGH_RAM, $bytes - LOW_RAM_MAX]);
}

=head2 stop

Sends C<quit> to QEMU and waits until the process has ended; sends SIGTERM, then SIGKILL if it does
not end in time. May be called again.

=cut

sub stop ($self) {
    return if !$self->{pid} || $self->{owner} != $$;
    my $asked = eval { $self->{qmp}->command('quit', undef, STOP_LIMIT); 1 };
    kill(TERM => $self->{pid}) if !$asked || !$self->wait_end(STOP_LIMIT);
    $self->kill_now if $self->{pid} && !$self->wait_end(STOP_LIMIT);
    unlink $self->{inspect};
    return;
}

# Waits for the end of the process. The end of the monitor connection usually shows it at once, but
# QEMU may continue without that connection.
sub wait_end ($self, $limit) {
    return 1 if !$self->{pid};
    my $deadline = clock_gettime(CLOCK_MONOTONIC) + $limit;
    my $left = sub { return $deadline - clock_gettime(CLOCK_MONOTONIC) };
    eval { 1 while defined $self->{qmp}->read_message($left->()); 1 };
    while (waitpid($self->{pid}, POSIX::WNOHANG()) == 0) {
        return 0 if $left->() <= 0;
        sleep(END_INTERVAL);
    }
    delete $self->{pid};
    return 1;
}

sub kill_now ($self) {
    # Only a child of this process may be killed. An undefined PID must never reach kill().
    return if !$self->{pid} || $self->{owner} != $$;
    kill(KILL => $self->{pid});
    1 while waitpid($self->{pid}, 0) < 0 && $!{EINTR};
    delete $self->{pid};
    return;
}

sub DESTROY ($self) {
    return if ${^GLOBAL_PHASE} eq 'DESTRUCT' && !$self->{qmp};
    local ($@, $?, $!);
    $self->stop;
    return;
}

sub command_line ($self, $control_fd, $inspect_fd) {
    my @command = (
        # QEMU uses TCG if KVM is not available. Migration is the same with both.
        QEMU, '-machine',
        'pc,accel=' . ($ENV{GUEST_ACCEL} // 'kvm:tcg') . ',max-ram-below-4g=' . LOW_RAM_MAX,
        # With KVM visible, the BIOS would set up the KVM clock. The target's kernel writes to the
        # clock's page in guest RAM before the guest runs there, and the checksums would differ
        # although the migration was correct.
        '-cpu', 'qemu64,kvm=off',
        '-name', "guest-$self->{vmid}",
        '-m', $self->{memory},
        qw(-nodefaults -no-user-config -display none -vga none -boot strict=on),
        '-chardev', "socket,id=control,fd=$control_fd", '-mon', 'chardev=control,mode=control',
        '-chardev', "socket,id=inspect,fd=$inspect_fd,server=on,wait=off",
        '-mon', 'chardev=inspect,mode=control',
        '-device', 'virtio-scsi-pci,id=scsihw0',
    );
    my $bootindex = 100;
    for my $drive (sort keys %{ $self->{disks} }) {
        my ($unit) = $drive =~ /\Ascsi(\d+)\z/ or die "no such drive: '$drive'\n";
        my $file = $self->{disks}{$drive} =~ s/,/,,/gr;
        push @command, '-blockdev',
            "driver=raw,node-name=drive-$drive,file.driver=file,file.filename=$file",
            '-device',
            "scsi-hd,bus=scsihw0.0,scsi-id=$unit,drive=drive-$drive,id=$drive,bootindex=$bootindex";
        $bootindex++;
    }
    for my $load (@{ $self->{load} // [] }) {
        my ($file, $address) = @$load;
        push @command, '-device',
            'loader,file=' . ($file =~ s/,/,,/gr) . sprintf(',addr=0x%x,force-raw=on', $address);
    }
    push @command, qw(-S -incoming defer) if $self->{incoming};
    return @command;
}

sub exec_qemu ($log, $inherit, $command) {
    fcntl($_, F_SETFD, 0) for @$inherit;
    open(STDIN, '<', '/dev/null') or return;
    open(STDOUT, '>', $log) or return;
    open(STDERR, '>&', \*STDOUT) or return;
    # The kernel kills QEMU when the process that started it ends for any reason.
    exec('setpriv', '--pdeathsig', 'KILL', @$command) or print STDERR "cannot run setpriv: $!\n";
    return;
}

sub last_line ($file) {
    open(my $in, '<', $file) or return '';
    my $last = '';
    while (my $line = <$in>) {
        $last = $line if $line =~ /\S/;
    }
    chomp $last;
    return $last;
}

1;
