package TestNode::Incoming;

=head1 NAME

TestNode::Incoming - a guest that receives its RAM and disks

=head1 SYNOPSIS

    my $incoming = TestNode::Incoming->on_unix(
        vmid => 100, dir => $dir, memory => 256, disks => \%disks, export => ['scsi0'],
    );
    my $answer = $incoming->answer;    # the result of the command 'start'
    $incoming->resume;

=head1 DESCRIPTION

Starts QEMU, which listens for the migration state and serves the disks over NBD, on UNIX sockets or
on TCP.

On TCP, QEMU uses the address of this node in the migration network. It binds the first free port of
60000 to 60049 for the state, and the next free one for the disks. A port is never selected before
it is bound, so two guests cannot select the same port.

=cut

use v5.36;

use JSON ();

use TestNode::Guest;

use constant {
    # The port range of Proxmox VE for migrations; END_PORT is not part of it.
    FIRST_PORT => 60000,
    END_PORT => 60050,
    # Seconds for the target to load the state after the source has sent the last byte.
    LOAD_LIMIT => 60,
};

=head1 METHODS

=head2 on_unix

Class method. Takes C<vmid>, C<dir>, C<memory> (MiB), C<disks> (name to C<< { file, drivestr } >>),
C<export> (names of the disks to serve), and C<channels> (the number of connections for the state
with multifd; undef for one connection without it). The sockets are F<DIR/VMID.migrate> and
F<DIR/VMID_nbd.migrate>.

=head2 on_tcp

Class method. Takes the same, and C<network> (as in L<PVE::Tunnel::Native/network_address>, may be
undef) and C<node>.

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

The result of the command C<start>: C<migrate> (C<proto>, C<addr>, and C<unix_sockets> or C<port>)
and C<drives>, with C<drivestr> and C<nbd_uri> for each disk.

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

The paths of the UNIX sockets. The worker issues tickets for them.

=head2 monitor

The guest's L<TestNode::QMP>.

=cut

sub sockets ($self) { return values %{ $self->{sockets} } }
sub monitor ($self) { return $self->{guest}->qmp }

=head2 stop_nbd

Stops the NBD server, if it is running. Returns the path of its UNIX socket, if it had one.

=cut

sub stop_nbd ($self) {
    return if !defined $self->{nbd};
    $self->{guest}->qmp->command('nbd-server-stop');
    delete $self->{nbd};
    return delete $self->{sockets}{nbd} // ();
}

=head2 resume

Waits until QEMU has loaded the state, then starts the guest.

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

Stops QEMU and waits for its end.

=head2 abort

Kills QEMU. May be called from a signal handler.

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
    # QEMU then reports the end of the migration as an event, and polling is not necessary.
    my @names = ('events', $option->{channels} ? 'multifd' : ());
    my @capabilities = map { { capability => $_, state => JSON::true } } @names;
    $qmp->command('migrate-set-capabilities', { capabilities => \@capabilities });
    $qmp->command('migrate-set-parameters', { 'multifd-channels' => 0 + $option->{channels} })
        if $option->{channels};
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

# QEMU accepts `migrate-incoming` only once. It therefore gets the whole port range, and reports the
# port that it has bound.
sub listen_for_state ($qmp, $host) {
    my $last = END_PORT - 1;
    $qmp->command('migrate-incoming', { uri => "tcp:$host:${\FIRST_PORT},to=$last" });
    my ($listening) = @{ $qmp->command('query-migrate')->{'socket-address'} // [] };
    my ($port) = ($listening->{port} // '') =~ /\A(\d+)\z/ or die "QEMU does not report its port\n";
    return 0 + $port;
}

# QEMU does not report the port of its NBD server, but `nbd-server-start` may be repeated with
# another port if one is in use.
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
