package TestNode::Incoming;

=head1 NAME

TestNode::Incoming - a guest that waits for its RAM and disks

=head1 SYNOPSIS

    my $incoming = TestNode::Incoming->on_unix(
        vmid => 100, dir => $dir, memory => 256, disks => \%disks, export => ['scsi0'],
    );
    my $answer = $incoming->answer;    # what 'start' says to the source
    $incoming->resume;

=head1 DESCRIPTION

Starts QEMU, has it listen for the migration state and serve the disks over NBD, on UNIX sockets or
on TCP.

On TCP the address is the one this node has in the migration network, and QEMU itself binds the
ports: the first free one of 60000 to 60049 for each. Nobody chooses a port before it is bound, so
two starts cannot choose the same.

=cut

use v5.36;

use JSON ();

use TestNode::Guest;

use constant {
    # Proxmox VE's range for migrations; the end is outside.
    FIRST_PORT => 60000,
    END_PORT => 60050,
    # What the target may still need after the source has sent its last byte, in seconds.
    LOAD_LIMIT => 60,
};

=head1 METHODS

=head2 on_unix

Class method. Takes C<vmid>, C<dir>, C<memory> (MiB), C<disks> (name to C<< { file, drivestr } >>)
and C<export> (the names served). The sockets are F<DIR/VMID.migrate> and F<DIR/VMID_nbd.migrate>.

=head2 on_tcp

Class method. The same with C<network> (as in L<PVE::Tunnel::Native/network_address>, may be undef)
and C<node>.

=cut

sub on_unix ($class, %option) {
    my ($state, $nbd) =
        ("$option{dir}/$option{vmid}.migrate", "$option{dir}/$option{vmid}_nbd.migrate");
    unlink $state, $nbd;
    return $class->start(
        \%option,
        sub ($self, $qmp) {
            $qmp->command('migrate-incoming', { uri => "unix:$state" });
            $self->{sockets} = { state => $state };
            $self->{migrate} = { proto => 'unix', addr => $state, unix_sockets => [$state] };
            return if !@{ $self->{export} };
            $qmp->command(
                'nbd-server-start',
                { addr => { type => 'unix', data => { path => $nbd } } }
            );
            $self->{sockets}{nbd} = $nbd;
            $self->{nbd} = "unix:$nbd";
            push @{ $self->{migrate}{unix_sockets} }, $nbd;
        },
    );
}

sub on_tcp ($class, %option) {
    require PVE::Tunnel::Native;
    my $found = PVE::Tunnel::Native::network_address($option{network}, $option{node});
    my ($address, $host) = @$found{qw(address uri_host)};
    return $class->start(
        \%option,
        sub ($self, $qmp) {
            my $port = listen_for_state($qmp, $host);
            $self->{sockets} = {};
            $self->{migrate} = { proto => 'tcp', addr => $address, port => $port };
            return if !@{ $self->{export} };
            $port = serve_disks($qmp, $address);
            $self->{nbd} = "$host:$port";
        },
    );
}

=head2 answer

What C<start> answers: C<migrate> (C<proto>, C<addr>, and C<unix_sockets> or C<port>) and C<drives>,
where each disk has C<drivestr> and C<nbd_uri>.

=cut

sub answer ($self) {
    my %drives = map {
        $_ => {
            drivestr => $self->{disks}{$_}{drivestr},
            nbd_uri => "nbd:$self->{nbd}:exportname=drive-$_",
        }
    } @{ $self->{export} };
    return { migrate => $self->{migrate}, drives => \%drives };
}

=head2 sockets

The paths of the UNIX sockets: those a ticket may be had for.

=head2 monitor

The guest's L<TestNode::QMP>.

=cut

sub sockets ($self) { return values %{ $self->{sockets} } }
sub monitor ($self) { return $self->{guest}->qmp }

=head2 stop_nbd

Ends the disks' server, if there is one. Returns the socket it was on.

=cut

sub stop_nbd ($self) {
    return if !defined $self->{nbd};
    $self->{guest}->qmp->command('nbd-server-stop');
    delete $self->{nbd};
    return delete $self->{sockets}{nbd} // ();
}

=head2 resume

Waits until QEMU has loaded everything, then lets the guest run.

=cut

sub resume ($self) {
    my $qmp = $self->{guest}->qmp;
    if (!$self->{loaded}) {
        $qmp->wait_event(
            MIGRATION => sub ($data) {
                die "the migration failed at the target\n" if $data->{status} eq 'failed';
                return $data->{status} eq 'completed';
            },
            LOAD_LIMIT,
        ) // die "the guest's state has not arrived\n";
        $self->{loaded} = 1;
    }
    $qmp->command('cont');
    return;
}

=head2 stop

Ends QEMU in good order.

=head2 abort

Ends QEMU now, from a signal handler too.

=cut

sub stop ($self) {
    $self->{guest}->stop;
    unlink $self->sockets;
    return;
}

sub abort ($self) {
    $self->{guest}->kill_now;
    unlink $self->sockets, $self->{guest}->inspect;
    return;
}

sub start ($class, $option, $listen) {
    my %files = map { $_ => $option->{disks}{$_}{file} } keys %{ $option->{disks} };
    my $guest = TestNode::Guest->start(
        (map { $_ => $option->{$_} } qw(vmid dir memory)),
        disks => \%files,
        incoming => 1
    );
    my $self = bless {
        guest => $guest,
        disks => $option->{disks},
        export => $option->{export},
        sockets => {}
    }, $class;
    my $qmp = $guest->qmp;
    # Its completion is an event, so that nobody has to ask again and again.
    $qmp->command(
        'migrate-set-capabilities',
        { capabilities => [{ capability => 'events', state => JSON::true }] }
    );
    $listen->($self, $qmp);
    for my $drive (@{ $self->{export} }) {
        $qmp->command(
            'block-export-add',
            {
                type => 'nbd',
                id => "export-$drive",
                name => "drive-$drive",
                'node-name' => "drive-$drive",
                writable => JSON::true,
            },
        );
    }
    return $self;
}

# An incoming migration can be started once only, so QEMU is given the whole range, and tells what
# it took.
sub listen_for_state ($qmp, $host) {
    my $last = END_PORT - 1;
    $qmp->command('migrate-incoming', { uri => "tcp:$host:${\FIRST_PORT},to=$last" });
    my ($listening) = @{ $qmp->command('query-migrate')->{'socket-address'} // [] };
    my ($port) = ($listening->{port} // '') =~ /\A(\d+)\z/ or die "QEMU does not tell its port\n";
    return 0 + $port;
}

# Where QEMU serves disks it does not tell, but it can be asked again after a port that was taken.
sub serve_disks ($qmp, $address) {
    for my $port (FIRST_PORT .. END_PORT - 1) {
        my $inet = { host => $address, port => "$port" };
        my $served = eval {
            $qmp->command('nbd-server-start', { addr => { type => 'inet', data => $inet } });
            1;
        };
        return $port if $served;
        die $@ if $@ !~ /Address already in use/;
    }
    die "no free port on $address from " . FIRST_PORT . ' to ' . (END_PORT - 1) . "\n";
}

1;
