package Test::FakeGuests;

use v5.36;

use Path::Tiny qw(path);

use Demo::Image;
use Demo::Migration;
use Demo::Progress;
use PVE::Tunnel::Client;
use TestNode::Guest;

=head1 NAME

Test::FakeGuests - guests of two fake nodes, and their migration with the demo's code

=head1 DESCRIPTION

A guest is a hash: C<kind> (C<qm> or C<pct>), C<conf>, C<lock>, C<running>, C<files> (its volumes).
A running VM at the source is a real QEMU. The target's guests are those of a test node. F</etc/pve>
has their configurations.

=head1 METHODS

=head2 new(dir, access)

Class method. See L<Test::FakeProxmox>.

=head2 use_node($node)

Migrations go to this L<TestNode::Node>.

=head2 create($kind, $vmid, %conf), config, start, status, stop, unlock, destroy($node, $vmid)

The commands of C<qm>.

=head2 migrate($kind, \%option, $vmid, $target_vmid, $endpoint)

C<remote-migrate>. Dies if the guest, the endpoint or the token do not permit it.

=head2 boot($vmid)

Puts a new running VM at the source in place of the one with this number.

=head2 interrupted($vmid)

Puts what an interrupted migration leaves at both nodes in place of the guests with this number.

=head2 container($vmid)

Puts a container with a volume at the source.

=head2 log_text

The log of the last migration.

=cut

use constant {
    # MiB. Small, so that the test is short.
    MEMORY => 64,
    DISK => 32,
    API_PORT => 8006,
};

# The keys of a configuration, and the privilege that writing them requires.
my %CONFIG_PRIVILEGE = (
    memory => 'Memory',
    cores => 'CPU',
    name => 'Options',
    scsihw => 'HWType',
    scsi0 => 'Disk',
    rootfs => 'Disk',
    net0 => 'Network',
    ciuser => 'Cloudinit',
    ide2 => 'CDROM',
);
my %GUEST = (
    memory => MEMORY,
    cores => 2,
    name => 'guest',
    scsihw => 'virtio-scsi-pci',
    net0 => 'virtio,bridge=vmbr0',
    ciuser => 'user',
    ide2 => 'none,media=cdrom',
);
my %STORAGE = map { $_ => 1 } qw(local-lvm);
my %BRIDGE = map { $_ => 1 } qw(vmbr0);

sub new ($class, %option) {
    path("$option{dir}/source")->mkdir;
    path('/etc/pve/nodes/source')->mkdir;
    symlink('nodes/source', '/etc/pve/local') or die "/etc/pve/local: $!\n";
    return bless {
        %option, guest => { source => {}, target => {} },
        log => path($option{dir}, 'log')
    }, $class;
}

sub use_node ($self, $node) {
    $self->{node} = $node;
    return;
}

# Puts a guest at a node, or removes it, and its configuration in /etc/pve.
sub put ($self, $node, $vmid, $guest) {
    my $folder = path("/etc/pve/nodes/$node/" . ($guest->{kind} eq 'pct' ? 'lxc' : 'qemu-server'));
    $folder->mkdir;
    my %conf = %{ $guest->{conf} // {} };
    $conf{lock} = $guest->{lock} if $guest->{lock};
    $folder->child("$vmid.conf")->spew(map { "$_: $conf{$_}\n" } sort keys %conf);
    $self->{guest}{$node}{$vmid} = $guest;
    return;
}

sub remove ($self, $node, $vmid) {
    my $guest = delete $self->{guest}{$node}{$vmid} // return;
    unlink glob("/etc/pve/nodes/$node/*/$vmid.conf");
    return $guest;
}

sub log_text ($self) { return -e $self->{log} ? $self->{log}->slurp : '' }

sub guest ($self, $node, $vmid) {
    return $self->{guest}{$node}{$vmid}
        // die "Configuration file 'nodes/$node/qemu-server/$vmid.conf' does not exist\n";
}

sub create ($self, $kind, $vmid, %conf) {
    die "guest $vmid already exists\n" if $self->{guest}{source}{$vmid};
    my ($storage) = $conf{scsi0} =~ /\A([\w-]+):/;
    die "storage '$storage' does not exist\n" if !$STORAGE{$storage};
    my $file = "$self->{dir}/source/vm-$vmid-disk-0.raw";
    Demo::Image::write_volume($file, $ENV{FIRST_MIGRATION_DISK} // 1);
    $self->put('source', $vmid, { kind => $kind, conf => \%conf, files => { scsi0 => $file } });
    return;
}

sub boot ($self, $vmid) {
    my $dir = "$self->{dir}/source";
    $self->{load} //= [Demo::Image::write_ram($dir, TestNode::Guest->ram_ranges(MEMORY))];
    my $disk = "$dir/vm-$vmid-disk-0.raw";
    # The QEMU of the guest before uses the same disk.
    $self->{guest}{source}{$vmid}{qemu}->stop if ($self->{guest}{source}{$vmid} // {})->{qemu};
    Demo::Image::write_disk($disk, DISK);
    my $qemu = TestNode::Guest->start(
        vmid => $vmid,
        dir => $dir,
        memory => MEMORY,
        disks => { scsi0 => $disk },
        load => $self->{load},
    );
    Demo::Image::wait_running($qemu->qmp);
    my %conf = (%GUEST, scsi0 => "local-lvm:vm-$vmid-disk-0,size=" . DISK . 'M');
    $self->put(
        'source', $vmid,
        { kind => 'qm', conf => \%conf, running => 1, qemu => $qemu, files => {} }
    );
    $self->remove_target($vmid);
    return;
}

sub container ($self, $vmid) {
    my $file = "$self->{dir}/source/subvol-$vmid.raw";
    Demo::Image::write_volume($file, 1);
    my %conf = (%GUEST{qw(memory cores name net0)}, rootfs => 'local-lvm:1');
    $self->put(
        'source', $vmid,
        { kind => 'pct', conf => \%conf, running => 1, files => { rootfs => $file } }
    );
    return;
}

sub interrupted ($self, $vmid) {
    $self->boot($vmid);
    my $source = $self->guest('source', $vmid);
    $self->put('source', $vmid, { %$source, lock => 'migrate' });
    $self->put(
        'target', $vmid,
        {
            kind => 'qm', conf => { memory => MEMORY }, lock => 'migrate', running => 1, files => {}
        }
    );
    return;
}

sub config ($self, $node, $vmid, $) {
    my $guest = $self->guest($node, $vmid);
    return join('', map { "$_: $guest->{conf}{$_}\n" } sort keys $guest->{conf}->%*);
}

sub status ($self, $node, $vmid, $) {
    return 'status: ' . ($self->guest($node, $vmid)->{running} ? 'running' : 'stopped') . "\n";
}

sub start ($self, $node, $vmid, $) {
    $self->unlocked($node, $vmid)->{running} = 1;
    return;
}

sub stop ($self, $node, $vmid, $) {
    $self->unlocked($node, $vmid)->{running} = 0;
    return;
}

sub unlock ($self, $node, $vmid, $) {
    my $guest = $self->guest($node, $vmid);
    delete $guest->{lock};
    $self->put($node, $vmid, $guest);
    return;
}

sub destroy ($self, $node, $vmid, $) {
    my $guest = $self->unlocked($node, $vmid);
    die "VM $vmid is running - destroy failed\n" if $guest->{running};
    return $self->remove_target($vmid) if $node eq 'target';
    unlink values $guest->{files}->%*;
    $self->remove('source', $vmid);
    return;
}

sub unlocked ($self, $node, $vmid) {
    my $guest = $self->guest($node, $vmid);
    die "VM is locked ($guest->{lock})\n" if $guest->{lock};
    return $guest;
}

sub remove_target ($self, $vmid) {
    my $guest = $self->remove('target', $vmid) // return;
    $guest->{migration}->stop_target if $guest->{migration};
    unlink "$self->{node}{dir}/$vmid.conf", values $guest->{files}->%*;
    return;
}

sub migrate ($self, $kind, $option, $vmid, $target_vmid, $endpoint) {
    my $guest = $self->unlocked('source', $vmid);
    die "guest $vmid is not of this kind\n" if $guest->{kind} ne $kind;
    die "a running guest requires --online or --restart\n"
        if $guest->{running} && !$option->{online} && !$option->{restart};
    die "guest $target_vmid already exists at the target\n" if $self->{guest}{target}{$target_vmid};
    my ($storage, $bridge) = @$option{qw(target-storage target-bridge)};
    die "storage '$storage' does not exist\n" if !$STORAGE{$storage};
    die "bridge '$bridge' does not exist\n" if !$BRIDGE{$bridge};
    my $conn = $self->connection($endpoint);
    $self->check_privileges($conn, $guest, $target_vmid, $storage, $bridge);

    $self->{log}->spew('');
    open(my $nowhere, '>', '/dev/null') or die "/dev/null: $!\n";
    my $migration = Demo::Migration->new(
        plane => 'tls',
        guest => $guest->{qemu} // { vmid => $vmid, memory => $guest->{conf}{memory}, disks => {} },
        volumes => $guest->{files},
        node => Test::FakeGuests::Target->new($self->{node}, $conn, $kind),
        target_vmid => $target_vmid,
        dir => "$self->{dir}/source",
        storage => $storage,
        bridges => $bridge,
        progress => Demo::Progress->new($nowhere),
        log => sub ($level, $text) { $self->append_log($text) },
    );
    # Neither qm nor pct have options for the type and the network.
    $migration->{request} = {};
    my $live = $guest->{running} && $kind eq 'qm';
    $live ? $migration->run : $self->move_stopped($migration);
    my %copy = (
        kind => $kind,
        # What the target's worker has written.
        conf => { path("$self->{node}{dir}/$target_vmid.conf")->slurp =~ m/^(\w+): (.*)$/gm },
        running => $guest->{running},
        files => { map { $_ => $migration->target_file($_) } keys $migration->{volids}->%* },
        ($live ? (migration => $migration) : ()),
    );
    $self->put('target', $target_vmid, \%copy);
    $self->put('source', $vmid, { %$guest, lock => 'migrate', running => 0 });
    return;
}

# To a file, because a child process logs the connector's lines. The child has closed all handles.
sub append_log ($self, $text) {
    open(my $log, '>>', $self->{log}) or die "$self->{log}: $!\n";
    say {$log} $text;
    close($log) or die "$self->{log}: $!\n";
    return;
}

sub move_stopped ($self, $migration) {
    my $moved = eval {
        $migration->open_tunnel;
        $migration->check_plan;
        $migration->send_volumes;
        $migration->prepare_target;
        $migration->command(10, 'unlock');
        1;
    };
    my $error = $@;
    PVE::Tunnel::Client::finish_tunnel($migration->{tunnel}, !$moved) if $migration->{tunnel};
    die $error if !$moved;
    return;
}

# The connection of an endpoint, as qm and pct make it.
sub connection ($self, $endpoint) {
    my %value;
    for my $property (split(/,/, $endpoint)) {
        my ($key, $value) = $property =~ /\A(host|port|apitoken|fingerprint)=(\S+)\z/
            or die "bad property in the endpoint\n";
        die "property '$key' is given twice\n" if exists $value{$key};
        $value{$key} = $value;
    }
    for my $key (qw(host apitoken)) {
        die "the endpoint has no '$key'\n" if !exists $value{$key};
    }
    die "bad fingerprint '$value{fingerprint}'\n"
        if exists $value{fingerprint}
        && $value{fingerprint} !~ /\A[0-9A-F]{2}(?::[0-9A-F]{2}){31}\z/;
    return {
        protocol => 'https',
        host => $value{host},
        port => $value{port} // API_PORT,
        apitoken => $value{apitoken},
        cached_fingerprints => { ($value{fingerprint} // '') => 1 },
    };
}

# What the API and the worker of a target check.
sub check_privileges ($self, $conn, $guest, $vmid, $storage, $bridge) {
    my ($token, $value) = $conn->{apitoken} =~ /\APVEAPIToken=([^=]+)=(.+)\z/
        or die "bad API token\n";
    die "401 no such token\n" if !$self->{access}->is_known($token) || $value ne $self->{value};
    my @required = (
        ['/', 'Sys.Audit'],
        ['/', 'Sys.Incoming'],
        ["/vms/$vmid", 'VM.Audit'],
        ["/vms/$vmid", 'VM.Allocate'],
        ["/storage/$storage", 'Datastore.AllocateSpace'],
        ["/sdn/zones/localnetwork/$bridge", 'SDN.Use'],
    );
    push @required,
        map { ["/vms/$vmid", "VM.Config.$CONFIG_PRIVILEGE{$_}"] } sort keys $guest->{conf}->%*;
    $self->{access}->check($token, @$_) for @required;
    return;
}

package Test::FakeGuests::Target;

# The test node, at the endpoint that the operator gave.

sub new ($class, $node, $conn, $kind) {
    return bless { %$node{qw(pid dir)}, node => $node, conn => $conn, kind => $kind }, $class;
}

sub conn ($self) { return $self->{conn} }

sub path ($self, $vmid) {
    my $path = $self->{node}->path($vmid);
    return $self->{kind} eq 'pct' ? $path =~ s{/qemu/}{/lxc/}r : $path;
}

sub url ($self, $vmid) {
    return
          "wss://$self->{conn}{host}:$self->{conn}{port}/api2/json"
        . $self->path($vmid)
        . 'websocket';
}

1;
