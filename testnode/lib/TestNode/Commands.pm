package TestNode::Commands;

=head1 NAME

TestNode::Commands - the commands of the test node's worker

=head1 SYNOPSIS

    my $commands = TestNode::Commands->new($request);
    my $result = $commands->handle('ticket', { path => '/...' });

=head1 DESCRIPTION

A fixed table of commands: the name, the parameters and the code of each. A name or a parameter that
is not in the table is rejected. C<query-disk-import> uses the schema and the handler of
C<PVE::StorageTunnel> and looks them up by their full names at run time, as a worker of Proxmox VE
does. An I<old> node reports no C<caps>, and its C<start> accepts only the parameters of Proxmox VE
9. Containers have fewer commands.

=cut

use v5.36;

use Errno ();
use Fcntl qw(O_CREAT O_EXCL O_WRONLY);
use POSIX ();

use PVE::StorageTunnel;
use TestNode::Import;
use TestNode::Incoming;
use TestNode::Schema qw(check);
use TestNode::Ticket qw(make_ticket);

use constant {
    API => 2,
    AGE => 0,
    # 1 TiB in MiB: more than a test machine has, and small enough not to overflow.
    MAX_MEMORY => 1 << 20,
    # Bytes. No file system supports larger files.
    MAX_DISK => 1 << 62,
    MAX_DISKS => 30,
};

my $STORAGE = { type => 'string', pattern => qr/[a-zA-Z][a-zA-Z0-9_.-]{0,99}/, name => 'storage' };
my $FORMAT = { type => 'string', enum => [qw(raw qcow2 vmdk subvol)] };
my $NODE = {
    type => 'string',
    pattern => qr/[a-zA-Z0-9][a-zA-Z0-9.-]{0,63}/,
    name => 'node name',
    optional => 1
};

sub start_schema ($old) {
    return {
        start_params => {
            type => 'object',
            properties => {
                statefile => { type => 'string', enum => $old ? ['unix'] : [qw(unix tcp)] },
                forcemachine => { type => 'string', optional => 1 },
                forcecpu => { type => 'string', optional => 1 },
                skiplock => { type => 'boolean', optional => 1 },
                $old
                ? ()
                : ('multifd-channels' =>
                        { type => 'integer', minimum => 2, maximum => 16, optional => 1 }),
                'nets-host-mtu' => { type => 'string', optional => 1 },
            },
        },
        migrate_opts => {
            type => 'object',
            properties => {
                migratedfrom => $NODE,
                remote_node => $NODE,
                type =>
                    { type => 'string', enum => $old ? ['websocket'] : [qw(websocket insecure)] },
                network => {
                    type => 'string',
                    pattern => qr/[\x21-\x7e]{1,128}/,
                    name => 'network',
                    optional => 1
                },
                spice_ticket => {
                    type => 'string',
                    pattern => qr/[a-fA-F0-9]+/,
                    name => 'ticket',
                    optional => 1
                },
                nbd_proto_version => { type => 'integer', minimum => 1, optional => 1 },
                nbd => { type => 'object', optional => 1 },
                storagemap => { type => 'object', optional => 1 },
            },
        },
    };
}

my %TABLE = (
    version => { schema => {}, code => \&version },
    config => {
        schema => {
            conf => { type => 'string' },
            'firewall-config' => { type => 'string', optional => 1 }
        },
        code => \&config,
    },
    bwlimit => {
        schema => {
            storages => { type => 'array', items => { type => 'string' } },
            bwlimit => { type => 'integer', minimum => 0, optional => 1 },
            operation => { type => 'string', optional => 1 },
        },
        code => sub ($self, $p) { return { bwlimit => $p->{bwlimit} } },
    },
    disk => {
        schema => { format => $FORMAT, storage => $STORAGE, drive => { type => 'object' }, },
        code => \&disk,
        kind => 'qemu',
    },
    'disk-import' => {
        schema => {
            volname =>
                { type => 'string', pattern => qr{[a-zA-Z0-9_/.-]{1,200}}, name => 'volume name' },
            format => $FORMAT,
            export_formats => { type => 'string' },
            storage => $STORAGE,
            snapshot => {
                type => 'string',
                pattern => qr/[a-zA-Z0-9_-]{1,40}/,
                name => 'snapshot name',
                optional => 1
            },
            migration_snapshot => { type => 'boolean', optional => 1 },
            with_snapshots => { type => 'boolean', optional => 1 },
            allow_rename => { type => 'boolean', optional => 1 },
        },
        code => \&disk_import,
    },
    'query-disk-import' => {
        # A reference: a property that is added while the worker runs is accepted.
        schema => $PVE::StorageTunnel::cmd_schema->{'query-disk-import'},
        code => \&query_disk_import,
    },
    start => {
        schema => start_schema(0),
        old_schema => start_schema(1),
        code => \&start,
        kind => 'qemu'
    },
    # The guest of the demo has no agent that could trim. A node of Proxmox VE sends the same answer
    # for such a guest.
    fstrim => { schema => {}, code => sub ($self, $p) { return {} }, kind => 'qemu' },
    stop => { schema => {}, code => \&stop, kind => 'qemu' },
    nbdstop => { schema => {}, code => \&nbdstop, kind => 'qemu' },
    resume => { schema => {}, code => \&resume, kind => 'qemu' },
    unlock => { schema => {}, code => sub ($self, $p) { $self->{locked} = 0; return {} } },
    ticket => { schema => { path => { type => 'string' } }, code => \&ticket },
    quit => { schema => { cleanup => { type => 'boolean', optional => 1 } }, code => \&quit },
);

=head1 METHODS

=head2 new

Class method. C<$request> is the node's request, see L<TestNode::Worker>.

=head2 handle

C<< $commands->handle($name, \%parameters) >>: returns the result, a hash. Dies with one line.

=head2 monitor

The L<TestNode::QMP> of the running guest, or undef.

=head2 abort

Kills the guest and the import, and removes the sockets.

=cut

sub new ($class, $request) {
    my %self = map { $_ => $request->{$_} } qw(socket kind node old params ticket_key);
    ($self{vmid}) = $request->{vmid} =~ /\A([1-9]\d{0,8})\z/
        or die "bad vmid in the node's request\n";
    ($self{dir}) = $request->{dir} =~ m{\A(/[\w./-]+)\z} or die "bad dir in the node's request\n";
    die "bad ticket_key in the node's request\n" if $self{ticket_key} !~ /\A[0-9a-fA-F]{64}\z/;
    # Tickets are for the user, without the name of the token.
    $self{user} = $request->{user} =~ s/!.*//sr;
    my $sockets = {};
    return bless {
        %self,
        sockets => $sockets,
        # A worker of Proxmox VE passes this state to the handlers of other modules.
        state => { vmid => $self{vmid}, sockets => $sockets },
        disks => {},
        volumes => {},
        locked => 1,
        exit => 0
    }, $class;
}

sub handle ($self, $name, $parameters) {
    die "the tunnel is closing, and it is too late for '$name'\n" if $self->{exit};
    my $entry = $TABLE{$name};
    die "unknown command '$name'\n"
        if !$entry || ($entry->{kind} // $self->{kind}) ne $self->{kind};
    my $schema = $self->{old} && $entry->{old_schema} || $entry->{schema};
    my $result = eval {
        check($schema, $parameters);
        $entry->{code}->($self, $parameters);
    };
    die "command '$name' failed: $@" if !$result;
    return $result;
}

sub monitor ($self) { return $self->{incoming} && $self->{incoming}->monitor }

sub abort ($self) {
    $self->{incoming}->abort if $self->{incoming};
    my $import = delete $self->{state}{disk_import};
    $import->abort if $import;
    unlink keys %{ $self->{sockets} };
    return;
}

sub version ($self, $) {
    return { api => API, age => AGE, $self->{old} ? () : (caps => ['insecure-remote', 'multifd']) };
}

sub config ($self, $p) {
    my ($memory) = $p->{conf} =~ /^memory:\s*(\d{1,9})\s*$/m
        or die "the configuration has no 'memory'\n";
    die "memory of $memory MiB is out of range\n" if !$memory || $memory > MAX_MEMORY;
    my $file = "$self->{dir}/$self->{vmid}.conf";
    my $umask = umask(0077);
    my $opened = open(my $out, '>', $file);
    umask($umask);
    die "cannot write '$file': $!\n" if !$opened;
    print {$out} $p->{conf};
    close($out) or die "cannot write '$file': $!\n";
    $self->{memory} = $memory;
    return {};
}

sub disk ($self, $p) {
    check(
        {
            interface => { type => 'string', enum => ['scsi'] },
            index => { type => 'integer', minimum => 0, maximum => MAX_DISKS },
            size => { type => 'integer', minimum => 512, maximum => MAX_DISK },
        },
        $p->{drive},
    );
    die "format '$p->{format}' is not supported here\n" if $p->{format} ne 'raw';
    my $drive = "$p->{drive}{interface}$p->{drive}{index}";
    die "there is a disk '$drive' already\n" if $self->{disks}{$drive};

    my ($volid, $file) = $self->allocate($p->{storage}, undef);
    if (!eval { reserve($file, $p->{drive}{size}); 1 }) {
        my $error = $@;
        unlink $file;
        delete $self->{volumes}{$volid};
        die "cannot allocate $p->{drive}{size} bytes for '$volid': $error";
    }
    my $drivestr = "$volid,size=$p->{drive}{size}";
    $self->{disks}{$drive} = { volid => $volid, file => $file, drivestr => $drivestr };
    return { volid => $volid, drivestr => $drivestr };
}

# Creates an empty file for a volume. Uses the requested name, or the first free number.
sub allocate ($self, $storage, $requested) {
    my $vmid = $self->{vmid};
    my @names = defined($requested) ? ($requested) : map { "vm-$vmid-disk-$_.raw" } 0 .. MAX_DISKS;
    for my $name (@names) {
        my $file = "$self->{dir}/$name";
        if (sysopen(my $out, $file, O_WRONLY | O_CREAT | O_EXCL, 0600)) {
            my $volid = "$storage:$vmid/$name";
            $self->{volumes}{$volid} = $file;
            return ($volid, $file);
        }
        die "cannot create '$file': $!\n" if !$!{EEXIST};
    }
    die "volume '$names[0]' exists already\n";
}

# Allocates the space, so that a full disk is reported now and not during the mirror.
sub reserve ($file, $size) {
    my $pid = open(my $out, '-|') // die "fork: $!\n";
    if (!$pid) {
        open(STDERR, '>&', \*STDOUT);
        exec('fallocate', '--length', $size, $file) or POSIX::_exit(127);
    }
    my $message = join('', <$out>);
    return if close($out);
    # The option --posix would write zeros where fallocate() is not supported, but it does not
    # report a full disk.
    return write_zeros($file, $size) if $message =~ /not supported/;
    $message =~ s/\Afallocate: (?:fallocate failed: )?//;
    chomp $message;
    die(($message || "fallocate ended with $?") . "\n");
}

sub write_zeros ($file, $size) {
    open(my $out, '+<:raw', $file) or die "cannot open '$file': $!\n";
    my $zeros = "\0" x (1 << 20);
    for (my $left = $size; $left > 0;) {
        $left -= syswrite($out, $zeros, $left < length($zeros) ? $left : length $zeros)
            // die "$!\n";
    }
    close($out) or die "$!\n";
    return;
}

sub disk_import ($self, $p) {
    die "an import is running already\n" if $self->{state}{disk_import};
    die "the only supported stream format 'raw+size' is not in '$p->{export_formats}'\n"
        if !grep { $_ eq 'raw+size' } split(/[\s,;]+/, $p->{export_formats});
    die "format '$p->{format}' is not supported here\n" if $p->{format} ne 'raw';
    die "snapshots cannot be imported here\n" if $p->{with_snapshots};

    my ($name) = $p->{volname} =~ m{([^/]+)\z} or die "bad volume name '$p->{volname}'\n";
    my ($volid, $file) = eval { $self->allocate($p->{storage}, $name) };
    if (!defined $volid) {
        die $@ if !$p->{allow_rename};
        ($volid, $file) = $self->allocate($p->{storage}, undef);
    }
    my $socket = "$self->{dir}/$self->{vmid}.storage";
    $self->{state}{disk_import} =
        TestNode::Import->start(socket => $socket, file => $file, volid => $volid);
    # As in Proxmox VE, a clean-up frees the volume only after a query has reported its import.
    delete $self->{volumes}{$volid};
    $self->{sockets}{$socket} = 1;
    return { socket => $socket, format => 'raw+size' };
}

sub query_disk_import ($self, $p) {
    my $import = $self->{state}{disk_import};
    # The seam's error replaces the answer, but not what the handler has learnt.
    my $answer = eval { PVE::StorageTunnel::handle_query_disk_import($self->{state}, $p) };
    my $error = $@;
    $self->{volumes}{ $import->{volid} } = $import->{file} if $import && $import->{complete};
    die $error if !$answer;
    return $answer;
}

sub start ($self, $p) {
    die "the guest runs already\n" if $self->{incoming};
    die "the guest has no configuration yet\n" if !$self->{memory};
    my ($params, $opts) = @$p{qw(start_params migrate_opts)};
    my $tcp = $params->{statefile} eq 'tcp';
    die "statefile '$params->{statefile}' and type '$opts->{type}' do not go together\n"
        if $tcp != ($opts->{type} eq 'insecure');
    for my $drive (sort keys %{ $opts->{nbd} // {} }) {
        die "disk '$drive' was not allocated by this tunnel\n" if !$self->{disks}{$drive};
    }

    my %option = (
        (map { $_ => $self->{$_} } qw(vmid dir memory disks node)),
        export => [sort keys %{ $opts->{nbd} // $self->{disks} }],
        network => $opts->{network},
        channels => $params->{'multifd-channels'},
    );
    my $incoming =
        $tcp ? TestNode::Incoming->on_tcp(%option) : TestNode::Incoming->on_unix(%option);
    $self->{incoming} = $incoming;
    $self->{sockets}{$_} = 1 for $incoming->sockets;
    return $incoming->answer;
}

sub stop ($self, $) {
    my $incoming = delete $self->{incoming} // die "the guest does not run\n";
    delete $self->{sockets}{$_} for $incoming->sockets;
    $incoming->stop;
    return {};
}

sub nbdstop ($self, $) {
    my $incoming = $self->{incoming} // die "the guest does not run\n";
    delete $self->{sockets}{$_} for $incoming->stop_nbd;
    return {};
}

sub resume ($self, $) {
    my $incoming = $self->{incoming} // die "the guest does not run\n";
    $incoming->resume;
    return {};
}

sub ticket ($self, $p) {
    my $path = $p->{path};
    die "socket '$path' is not known here\n" if !$self->{sockets}{$path};
    return { ticket => make_ticket(pack('H*', $self->{ticket_key}), $self->{user}, $path) };
}

sub quit ($self, $p) {
    if ($p->{cleanup}) {
        $self->abort;
        delete $self->{incoming};
        unlink values %{ $self->{volumes} }, "$self->{dir}/$self->{vmid}.conf";
    }
    $self->{exit} = 1;
    return {};
}

1;
