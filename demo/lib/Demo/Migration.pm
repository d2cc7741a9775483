package Demo::Migration;

=head1 NAME

Demo::Migration - moves a running guest to another node, as qemu-server does

=head1 SYNOPSIS

    my $migration = Demo::Migration->new(
        plane => 'websocket', guest => $guest, volumes => { unused0 => "$dir/unused0.raw" },
        node => $node, target_vmid => 200, dir => $dir,
        network => 'demo', progress => $progress, log => $log,
    );
    my $result = $migration->run;

=head1 DESCRIPTION

One migration, from opening the tunnel to C<quit>. It uses only the functions of
L<PVE::Tunnel::Client> and L<PVE::Tunnel::Native>, in the order in which qemu-server calls them. See
C<run> for the steps.

=cut

use v5.36;

use List::Util qw(sum0);
use Time::HiRes qw(clock_gettime CLOCK_MONOTONIC);

use PVE::Tunnel::Client;
use PVE::Tunnel::Client::Negotiation;
use PVE::Tunnel::Native;
use TestNode::QMP;

use Demo::Checksum;
use Demo::Cpu;
use Demo::Image;
use Demo::Plane;
use Demo::Transfer;
use Demo::Volume;

use constant {
    # The version of the worker's API that this module supports.
    OWN_API => 2,
    # Seconds for the target to load the guest, and for the guest's counter to increase.
    LOAD_LIMIT => 60,
    COUNT_LIMIT => 20,
};

=head1 METHODS

=head2 new

Class method. Takes C<plane> (a name of L<Demo::Plane>), C<guest> (a running L<TestNode::Guest>
booted from L<Demo::Image>), C<volumes> (hash: name to file of each volume that the guest does not
use; may be absent), C<node> (a L<TestNode::Node>), C<target_vmid>, C<dir> (for sockets and dumps),
C<network> (the migration network: ID or CIDR), C<storage> and C<bridges> (of the target, default
C<local> and none), C<channels> (the number of connections for the RAM;
may be absent or 0 for one), C<mirror> and C<distant> (see L<Demo::Transfer>), C<progress> (a
L<Demo::Progress>), and C<log> as for the tunnel.

=head2 run

Moves the guest. Returns a hash: C<plane>; the transferred bytes C<ram_bytes>, C<disk_bytes> and
C<offline_bytes>; C<seconds> from the start of the mirror to the end of the migration, and its parts
C<disk_seconds> and C<ram_seconds> (see L<Demo::Transfer>);
C<offline_seconds> until the target had written the offline disks; C<cpu_seconds> (see
L<Demo::Cpu>); C<ram_sha256>, C<disk_sha256> and C<offline_sha256>, each with C<source> and
C<target>; C<running>, true if the guest runs at the target; C<record> of the tunnel; and
C<endpoint>, the address to which the source's QEMU sent the RAM directly, or undef. Dies with one
line if the migration fails or the plan has another plane. Then the target has removed everything.

=cut

sub new ($class, %option) {
    my $row = Demo::Plane::get($option{plane}) // die "no such plane: '$option{plane}'\n";
    my %request = %{ $row->{request} };
    $request{migration_network} = $option{network} if $row->{on_network};
    my %target = (storage => 'local', bridges => '');
    return
        bless { volumes => {}, volids => {}, %target, %option, row => $row, request => \%request },
        $class;
}

sub run ($self) {
    my $cpu = Demo::Cpu->new($self->{node});
    my $result = eval {
        $self->open_tunnel;
        $self->check_plan;
        my $sent = $self->send_volumes;
        $self->prepare_target;
        $self->start_target;
        $self->connect_planes;
        my $moved = $self->move;
        my $sums = $self->compare;
        my $running = $self->resume;
        {
            plane => $self->{plane},
            %$sent, %$moved, %$sums,
            cpu_seconds => $cpu->seconds($self->{tunnel}),
            running => $running,
            endpoint => $self->{endpoint},
        };
    };
    my $error = $@;
    $self->{progress}->clear;
    if (!$result) {
        eval { PVE::Tunnel::Client::finish_tunnel($self->{tunnel}, 1) } if $self->{tunnel};
        die $error;
    }
    PVE::Tunnel::Client::finish_tunnel($self->{tunnel});
    $result->{record} = $self->{tunnel}{record} // die "the tunnel has no record\n";
    return $result;
}

=head2 stop_target

Stops the guest at the target and removes its disks.

=cut

sub stop_target ($self) {
    my $inspect = delete $self->{inspect} // return;
    $inspect->command('quit');
    eval { 1 while defined $inspect->read_message(LOAD_LIMIT) };
    unlink map { $self->target_file($_) } keys %{ $self->{volids} };
    return;
}

sub info ($self, $text) {
    $self->{log}->('info', $text);
    return;
}

# Opening the tunnel also makes the plan, from the operator's request and the planes that this
# program supports. If no plan is possible, this fails before anything is created at the target.
sub open_tunnel ($self) {
    my ($node, $vmid) = @$self{qw(node target_vmid)};
    $self->{tunnel} = PVE::Tunnel::Client::fork_websocket_tunnel(
        $node->conn,
        $node->path($vmid),
        { storages => $self->{storage}, bridges => $self->{bridges} },
        { %{ $self->{request} }, url => $node->url($vmid) },
        $self->{log},
    );
    return;
}

sub check_plan ($self) {
    my ($tunnel, $row) = @$self{qw(tunnel row)};
    my ($api, $age) = @$tunnel{qw(version age)};
    die "the target's tunnel is newer than this node supports: upgrade this node\n"
        if OWN_API < $api - $age;
    die "the target's tunnel is older than this node: upgrade the target node\n" if OWN_API > $api;

    my $plan = $tunnel->{plan};
    die "the demo expects plane '$row->{plane}', and '$row->{offline}' for offline disks, but the "
        . "plan is '$plan->{plane}' and '$plan->{offline}': $plan->{reason}\n"
        if $plan->{plane} ne $row->{plane} || $plan->{offline} ne $row->{offline};
    $self->{warned} = { map { $_ => 1 } @{ $plan->{warnings} } };
    return;
}

# Volumes that the guest does not use do not change, and are sent before everything else.
sub send_volumes ($self) {
    my %sent = (offline_bytes => 0, offline_seconds => 0);
    my $number = 0;
    my $expected = sum0(map { -s } values %{ $self->{volumes} });
    for my $name (sort keys %{ $self->{volumes} }) {
        my $volume = Demo::Volume->new(
            (map { $_ => $self->{$_} } qw(tunnel progress log)),
            file => $self->{volumes}{$name},
            name => "vm-$self->{target_vmid}-disk-$number.raw",
            local => "$self->{dir}/$self->{guest}{vmid}.storage",
            expected => $expected,
        )->send_to($self->{storage});
        $self->{progress}->clear;
        $number++;
        $self->{volids}{$name} = $volume->{volid};
        $sent{offline_bytes} += $volume->{bytes};
        $sent{offline_seconds} += $volume->{seconds};
        $self->info("offline disk $name is '$volume->{volid}' at the target");
    }
    return \%sent;
}

# The target allocates the disks. The configuration contains the names of the volumes at the target.
sub prepare_target ($self) {
    my $guest = $self->{guest};
    my %conf = (memory => $guest->{memory}, %{ $self->{volids} });
    for my $drive (sort keys %{ $guest->{disks} }) {
        my ($interface, $index) = $drive =~ /\A([a-z]+)(\d+)\z/;
        my $size = -s $guest->{disks}{$drive};
        my $disk = $self->command(
            600, 'disk',
            {
                format => 'raw',
                storage => $self->{storage},
                drive => { interface => $interface, index => 0 + $index, size => $size },
            },
        );
        $self->info("disk $drive is '$disk->{volid}' at the target");
        $self->{volids}{$drive} = $disk->{volid};
        $self->{nbd}{$drive} = { %$disk{qw(volid drivestr)} };
        $conf{$drive} = $disk->{drivestr};
    }
    $self->command(120, 'config', { conf => join('', map { "$_: $conf{$_}\n" } sort keys %conf) });
    return;
}

sub start_target ($self) {
    my $start = $self->{tunnel}{plan}{start};
    my $channels = $self->choose_channels;
    my $answer = $self->command(
        120, 'start',
        {
            start_params => {
                statefile => $start->{statefile},
                $channels ? ('multifd-channels' => $channels) : (),
            },
            migrate_opts => {
                type => $start->{type},
                remote_node => 'target',
                migratedfrom => 'source',
                nbd => $self->{nbd},
                defined($start->{network}) ? (network => $start->{network}) : (),
            },
        },
    );
    for my $drive (keys %{ $self->{nbd} }) {
        die "the target does not serve disk '$drive'\n" if !$answer->{drives}{$drive};
    }
    $self->{started} = $answer;
    # Connect now: QEMU sends events only to monitors that are connected, and an event reports that
    # the target has loaded everything.
    $self->{inspect} = TestNode::QMP->new("$self->{node}{dir}/$self->{target_vmid}.qmp");
    return;
}

# A target without this capability would refuse the parameter.
sub choose_channels ($self) {
    my @caps = map { @$_ } @{ $self->{tunnel} }{qw(caps unknown_caps)};
    if ($self->{channels} && !grep { $_ eq 'multifd' } @caps) {
        $self->info('the target does not support multifd: the RAM uses one connection');
        $self->{channels} = 0;
    }
    return $self->{channels};
}

# The target may belong to another administrator. What it announces is validated before anything
# connects there.
sub connect_planes ($self) {
    my ($migrate, $drives) = @{ $self->{started} }{qw(migrate drives)};
    return $self->check_endpoints($migrate, $drives) if $self->{tunnel}{plan}{plane} eq 'qemu';

    die "the target announces '$migrate->{proto}', but the plan requires a UNIX socket\n"
        if $migrate->{proto} ne 'unix';
    my $forward = sub ($remote, $suffix) {
        my $expected = "$self->{target_vmid}$suffix.migrate";
        die "unexpected socket '$remote' at the target\n"
            if $remote !~ m{\A/[\w./-]*/\Q$expected\E\z};
        my $local = "$self->{dir}/$self->{guest}{vmid}$suffix.migrate";
        return $local if $self->{tunnel}{forwarded}{$local};
        PVE::Tunnel::Client::forward_unix_socket($self->{tunnel}, $local, $remote);
        $self->info("'$local' stands for '$remote'");
        return $local;
    };
    $self->{uri} = 'unix:' . $forward->($migrate->{addr}, '');
    for my $drive (sort keys %$drives) {
        my ($remote, $export) =
            $drives->{$drive}{nbd_uri} =~ m{\Anbd:unix:([^:]+):exportname=([\w-]+)\z}
            or die "unexpected NBD address for disk '$drive' at the target\n";
        $self->{servers}{$drive} =
            [{ type => 'unix', path => $forward->($remote, '_nbd') }, $export];
    }
    return;
}

# On the plane 'qemu', QEMU itself connects, and no process of pve-tunnel validates the address.
sub check_endpoints ($self, $migrate, $drives) {
    my $state = $self->checked_endpoint(migrate => $migrate);
    $self->{uri} = $state->{uri};
    $self->{endpoint} = $state->{uri} =~ s/\Atcp://r;
    $self->info("QEMU sends the RAM to $state->{uri}");
    for my $drive (sort keys %$drives) {
        my $nbd = $self->checked_endpoint(nbd_uri => $drives->{$drive}{nbd_uri});
        $self->{servers}{$drive} =
            [{ type => 'inet', host => $nbd->{address}, port => "$nbd->{port}" }, $nbd->{export}];
        $self->info("QEMU sends disk $drive to $nbd->{uri}");
    }
    return;
}

# Validates the announced endpoint, then the route to it: clear text must not leave the migration
# network.
sub checked_endpoint ($self, %announced) {
    my $rules = $self->{tunnel}{rules};
    my $endpoint = PVE::Tunnel::Native::endpoint_check({ %{ $rules->{endpoint} }, %announced });
    my $route =
        PVE::Tunnel::Native::guard_check({ %{ $rules->{guard} }, address => $endpoint->{address} });
    for my $warning (@{ $route->{warnings} }) {
        $self->{log}->('warn', $warning) if !$self->{warned}{$warning}++;
    }
    return $endpoint;
}

# Mirrors the disks, then migrates the RAM while the mirrors continue.
sub move ($self) {
    my $qmp = $self->{guest}->qmp;
    my $transfer = Demo::Transfer->new(
        %$self{qw(progress uri channels mirror distant)},
        qmp => $qmp,
        nbd => $self->{servers}
    );
    my $before = Demo::Image::counter($qmp);
    my $moved = $transfer->run(sub { $self->command(30, 'nbdstop') });
    $self->{progress}->clear;

    $self->{count} = Demo::Image::counter($qmp);
    my $ticks = $self->{count} - $before;
    # A migration of a small guest may be shorter than a tick of its timer; there are 18 per second.
    die "the guest did not run during the migration\n" if $ticks <= 0 && $moved->{seconds} > 1;
    $self->info("the guest counted $ticks ticks during the migration, up to $self->{count}");
    return $moved;
}

# Both guests are stopped now: the migration has stopped the source, and the target is not resumed
# yet.
sub compare ($self) {
    my $inspect = $self->{inspect};
    my $loaded = sub ($data) {
        die "the migration failed at the target\n" if $data->{status} eq 'failed';
        return $data->{status} eq 'completed';
    };
    $inspect->wait_event('MIGRATION', $loaded, LOAD_LIMIT)
        // die "the target has not loaded the guest\n";

    $self->info('comparing checksums');
    my ($guest, $volumes) = @$self{qw(guest volumes)};
    my $sums = Demo::Checksum::compare(
        dir => $self->{dir},
        memory => $guest->{memory},
        source => {
            qmp => $guest->qmp,
            disk => [map { $guest->{disks}{$_} } sort keys %{ $guest->{disks} }],
            offline => [map { $volumes->{$_} } sort keys %$volumes],
        },
        target => {
            qmp => $inspect,
            disk => [map { $self->target_file($_) } sort keys %{ $guest->{disks} }],
            offline => [map { $self->target_file($_) } sort keys %$volumes],
        },
    );
    for my $name ('RAM', 'disk', 'offline disk') {
        my $sum = $sums->{ lc($name =~ s/ .*//r) . '_sha256' } // next;
        my ($source, $target) = @$sum{qw(source target)};
        $self->info("SHA-256 of the $name: "
                . ($source eq $target ? 'equal at source and target' : 'DIFFERENT'));
        $self->info("    $_") for $source, $source eq $target ? () : $target;
    }
    $self->check_last_write;
    return $sums;
}

# The guest writes its count to the disk at each tick. The target's disk must have the last count,
# or the one before if the guest was stopped between counting and writing.
sub check_last_write ($self) {
    my $written = Demo::Image::count_on_disk($self->target_file('scsi0'));
    die "the guest counted to $self->{count}, but the target's disk contains $written\n"
        if $written > $self->{count} || $written < $self->{count} - 1;
    $self->info("the guest's last write is on the target's disk: $written");
    return;
}

sub target_file ($self, $drive) {
    my ($name) = $self->{volids}{$drive} =~ m{/([\w.-]+)\z}
        or die "unexpected volume name for '$drive'\n";
    return "$self->{node}{dir}/$name";
}

# Resumes the guest at the target. Returns whether it continues from its last count without a
# restart.
sub resume ($self) {
    $self->command(30, 'resume');
    my $deadline = clock_gettime(CLOCK_MONOTONIC) + COUNT_LIMIT;
    my $count = $self->{count};
    while ($count <= $self->{count} && clock_gettime(CLOCK_MONOTONIC) < $deadline) {
        $count = Demo::Image::counter($self->{inspect});
    }
    my $running = $count > $self->{count} && $count < $self->{count} + 20 * COUNT_LIMIT;
    $self->info(
        $running
        ? "the guest is running at the target, and its count is $count"
        : "the guest does not continue at the target, and its count is $count"
    );
    $self->{guest}->stop;
    return $running;
}

sub command ($self, $limit, $name, $parameters = undef) {
    return PVE::Tunnel::Client::write_tunnel($self->{tunnel}, $limit, $name, $parameters);
}

1;
