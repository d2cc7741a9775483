package Test::MigrationProcess;

# A migration in a process of its own, which stops at the point that a test requests.

use v5.36;

use IO::Select;
use JSON ();
use POSIX ();

use Demo::Image;
use Demo::Migration;
use PVE::Tunnel::Client;
use Test::Processes qw(children program command_line);
use TestNode::Guest;
use TestNode::Node;
use TestNode::QMP;

=head1 NAME

Test::MigrationProcess - the caller of a migration, as a process that can be stopped and killed

=head1 SYNOPSIS

    my $migration = Test::MigrationProcess->start(
        plane => 'tls', node => $node, dir => $dir, target_vmid => 200,
        volume => $file, stop_at => 'volume',
    );
    $migration->wait_at;
    kill(KILL => $migration->pid('connector'));
    $migration->go;
    my $end = $migration->end;

=head1 METHODS

=head2 start(%options)

Class method. C<plane>, C<node> and C<target_vmid> as for L<Demo::Migration>; C<dir>, which is
created, for local sockets and the log; C<network>, by default 127.0.0.0/8; C<stop_at>, a name from
the list below. Then either C<volume>, a file that is sent alone, or C<disk> and C<load>: a running
guest of 64 MiB with that disk and that load in its RAM, and perhaps a C<volume> that it does not
use. C<dead_peer_timeout> is in seconds. C<lanes> is the number of lanes of each stream, whether or
not they help.

The process leads a session of its own, which has all processes of the source. SIGHUP, SIGINT,
SIGQUIT and SIGTERM interrupt it as they interrupt a task of Proxmox VE: the migration fails, and the
process cleans up. QEMU is not in its process group.

    request      the request for a worker follows
    worker       the worker has started, and the connector has not; signals are deferred
    connected    the connector is connected, and the planes are not negotiated
    forward      the sockets of the next forward exist and have no connection
    volume       half of the volume is in the tunnel
    volume end   all of the volume is in the tunnel, without its end
    nbd, ram     part of the disk or of the RAM is sent; the rest follows slowly
    end          everything has arrived, and the migration is not finished

=head2 wait_at

Waits until the migration has stopped at C<stop_at>. Dies with its error if it has ended before.

=head2 go

Continues the migration.

=head2 pid($name)

The process ID of C<caller>, C<child>, C<connector>, C<source QEMU>, C<worker>, C<listener> or
C<target QEMU> at the time when C<wait_at> returned; undef if there was none.

=head2 port

The port of the listener.

=head2 heartbeat

The port of the source's heartbeat connection.

=head2 accelerate

Removes the limit of the rate at C<nbd> and C<ram>.

=head2 end($seconds = 60)

Waits for the end of the migration. Returns a hash: C<done>, true if it reports success; C<error>,
its error; C<killed>, true if it reported neither; C<record>; C<result>, what L<Demo::Migration/run>
has returned; C<guest>, the final status of the guest at the source, if there is one. Dies after that
time.

=head2 log

The log of all processes of the migration so far.

=cut

my $JSON = JSON->new->utf8->canonical;

use constant {
    SOURCE_VMID => 100,
    MEMORY => 64,
    # Bytes a second. At these rates the RAM takes a quarter of a minute, and the disk 4 s.
    SLOW_RAM => 2 << 20,
    SLOW_DISK => 4 << 20,
    # Bytes that the mirror of a disk has in flight; it sleeps between them.
    DISK_IN_FLIGHT => 1 << 20,
    # Seconds until the migration must have reached its point.
    REACH_LIMIT => 60,
};

sub start ($class, %option) {
    mkdir $option{dir} or die "mkdir $option{dir}: $!\n";
    pipe my $reader, my $to_test or die "pipe: $!\n";
    pipe my $from_test, my $writer or die "pipe: $!\n";
    my $pid = fork // die "fork: $!\n";
    if (!$pid) {
        close $_ for $reader, $writer;
        alarm 0;
        POSIX::setsid();
        $_->autoflush(1) for $to_test;
        my $self = bless { %option, reports => $to_test, orders => $from_test, owner => $$ },
            'Test::MigrationProcess::Caller';
        my $result = eval { $self->run } // { error => "$@" };
        print {$to_test} $JSON->encode($result) . "\n";
        POSIX::_exit(0);
    }
    close $_ for $to_test, $from_test;
    $writer->autoflush(1);
    return bless {
        caller => $pid, owner => $$, reader => $reader, writer => $writer,
        node => $option{node}, dir => $option{dir}
    }, $class;
}

sub next_report ($self, $seconds) {
    IO::Select->new($self->{reader})->can_read($seconds)
        or die "the migration has not reported within $seconds s:\n" . $self->log;
    my $line = readline $self->{reader};
    return defined $line ? $JSON->decode($line) : { killed => 1 };
}

sub wait_at ($self) {
    my $at = $self->next_report(REACH_LIMIT);
    die 'the migration has ended: ' . ($at->{error} // 'without an error') . "\n" . $self->log
        if !$at->{at};
    $self->{at} = $at;
    my %pid = (caller => $self->{caller}, child => $at->{child});
    ($pid{connector}) = children($at->{child}) if defined $at->{child};
    ($pid{'source QEMU'}) = $at->{qemu} // ();
    # The workers of earlier migrations have ended: a test has checked that.
    ($pid{worker}) = children($self->{node}{pid});
    for my $child (defined($pid{worker}) ? children($pid{worker}) : ()) {
        my $command = command_line($child) // '';
        $pid{listener} = $child if $command =~ /\Apve-tunnel listener/;
        $pid{'target QEMU'} = $child if (program($child) // '') =~ /\Aqemu/;
    }
    $self->{pid} = \%pid;
    return;
}

sub go ($self) {
    local $SIG{PIPE} = 'IGNORE';
    # Not print, which keeps the bytes in a buffer if the process has ended.
    syswrite $self->{writer}, "go\n";
    return;
}

sub pid ($self, $name) { return $self->{pid}{$name} }

sub port ($self) { return $self->{at}{port} }

sub heartbeat ($self) { return $self->{at}{heartbeat} }

sub accelerate ($self) {
    my $qmp = TestNode::QMP->new("$self->{dir}/${\SOURCE_VMID}.qmp");
    my %unlimited = (
        nbd => ['block-job-set-speed', { device => 'mirror-scsi0', speed => 0 }],
        ram => ['migrate-set-parameters', { 'max-bandwidth' => 0 }],
    );
    $qmp->command($unlimited{ $self->{at}{at} }->@*);
    return;
}

sub end ($self, $seconds = 60) {
    my $result = $self->next_report($seconds);
    waitpid $self->{caller}, 0;
    $self->{ended} = 1;
    return $result;
}

sub log ($self) { ## no critic (ProhibitBuiltinHomonyms)
    return TestNode::Node::slurp("$self->{dir}/log");
}

sub DESTROY ($self) {
    return if $self->{owner} != $$ || $self->{ended};
    local ($@, $!, $?);
    kill KILL => $self->{caller};
    waitpid $self->{caller}, 0;
    return;
}

# The code of that process. It also serves as the progress display of the demo's code, which reports
# how far the migration is.
package Test::MigrationProcess::Caller;

BEGIN { Test::Processes->import('connections_to') }

sub run ($self) {
    if (defined $self->{dead_peer_timeout} || $self->{lanes}) {
        my $cidr = $self->{network} // '127.0.0.0/8';
        my $file = "$self->{dir}/remote-migration.cfg";
        open my $out, '>', $file or die "$file: $!\n";
        my %network = (
            remote => $self->{node}{address},
            allow => 'secure,insecure',
            (map { $_ => $cidr } qw(source target)),
            (map { $_ => $self->{$_} } grep { $self->{$_} } 'lanes'),
            (map { s/_/-/gr => $self->{$_} } grep { $self->{$_} } 'dead_peer_timeout'),
        );
        print {$out} "network: test\n", map { "\t$_ $network{$_}\n" } sort keys %network;
        close $out or die "$file: $!\n";
        $self->{network} = 'test';
        $PVE::Tunnel::Client::Negotiation::CONFIGURATION = $file;
    }
    local @SIG{qw(HUP INT QUIT TERM)} = (sub { die "received interrupt\n" }) x 4;
    $self->stop_after_forward;
    $self->stop_before_tunnel;
    my $guest =
        $self->{disk} ? $self->start_guest : { vmid => Test::MigrationProcess::SOURCE_VMID };
    my $migration = $self->{migration} = Demo::Migration->new(
        (map { $_ => $self->{$_} } qw(plane node target_vmid dir)),
        guest => $guest,
        volumes => { $self->{volume} ? (unused0 => $self->{volume}) : () },
        network => $self->{network} // '127.0.0.0/8',
        loopback => 1,
        progress => $self,
        log => sub ($level, $text) { $self->log_line($level, $text) },
    );

    my $result = eval { $self->{disk} ? $migration->run : $self->send_volume };
    my $report =
        $result ? { done => 1, record => $result->{record}, result => $result } : { error => "$@" };
    if ($self->{disk}) {
        $report->{guest} = eval { $guest->qmp->command('query-status')->{status} } // 'gone';
        $guest->stop;
    }
    return $report;
}

sub start_guest ($self) {
    my $guest = TestNode::Guest->start(
        vmid => Test::MigrationProcess::SOURCE_VMID,
        dir => $self->{dir},
        memory => Test::MigrationProcess::MEMORY,
        disks => { scsi0 => $self->{disk} },
        load => $self->{load},
        own_group => 1,
    );
    my $qmp = $guest->qmp;
    $qmp->{slow} = $self->{stop_at} // '';
    bless $qmp, 'Test::MigrationProcess::SlowQMP';
    Demo::Image::wait_running($qmp);
    $self->{qemu} = $guest->pid;
    return $guest;
}

# Opens a tunnel, sends a volume, and ends the tunnel.
sub send_volume ($self) {
    my $migration = $self->{migration};
    my $sent = eval {
        $migration->open_tunnel;
        $migration->check_plan;
        $migration->send_volumes;
        $self->stop('end');
        1;
    };
    my $error = $@;
    if (!$sent) {
        eval { PVE::Tunnel::Client::finish_tunnel($migration->{tunnel}, 1) }
            if $migration->{tunnel};
        die $error;
    }
    PVE::Tunnel::Client::finish_tunnel($migration->{tunnel});
    return { record => $migration->{tunnel}{record} };
}

# A guest has two forwards, and the last one is for its disk.
sub stop_after_forward ($self) {
    my $forward = \&PVE::Tunnel::Client::forward_unix_socket;
    no warnings 'redefine'; ## no critic (ProhibitNoWarnings)
    *PVE::Tunnel::Client::forward_unix_socket = sub ($tunnel, $local, @arguments) {
        $forward->($tunnel, $local, @arguments);
        $self->stop('forward') if !$self->{disk} || $local =~ /_nbd/;
        return;
    };
    return;
}

sub stop_before_tunnel ($self) {
    my $post = \&PVE::Tunnel::Client::API::post;
    my $negotiate = \&PVE::Tunnel::Client::Negotiation::negotiate;
    no warnings 'redefine'; ## no critic (ProhibitNoWarnings)
    *PVE::Tunnel::Client::API::post = sub (@arguments) {
        # The client defers signals from here on. Before, they interrupt it.
        $self->stop('request');
        my $task = $post->(@arguments);
        $self->stop('worker');
        return $task;
    };
    *PVE::Tunnel::Client::Negotiation::negotiate = sub ($tunnel, $request) {
        local $self->{migration}{tunnel} = $tunnel;
        $self->stop('connected');
        # The configuration has only the most lanes of a stream.
        $request = { %$request, first_lanes => $self->{lanes} } if $self->{lanes};
        $negotiate->($tunnel, $request);
        # So far, the heartbeat is the only connection to the listener.
        ($self->{heartbeat}) = map { $_->{port} } connections_to($tunnel->{direct}{port})
            if $tunnel->{direct};
        return;
    };
    return;
}

sub stop ($self, $point) {
    return if $point ne ($self->{stop_at} // '') || $self->{stopped}++;
    my $tunnel = $self->{migration}{tunnel} // {};
    my %at = (
        at => $point,
        child => $tunnel->{pid},
        qemu => $self->{qemu},
        port => ($tunnel->{direct} // {})->{port},
        heartbeat => $self->{heartbeat},
    );
    print { $self->{reports} } $JSON->encode(\%at) . "\n";
    readline $self->{orders};
    return;
}

sub log_line ($self, $level, $text) {
    open my $out, '>>', "$self->{dir}/log" or die "log: $!\n";
    print {$out} "$level: $text\n";
    close $out or die "log: $!\n";
    $self->stop('end') if $$ == $self->{owner} && $text eq 'comparing checksums';
    return;
}

sub show ($self, $what, $done, $total) {
    if ($what eq 'offline disk') {
        $self->stop($done < $total ? 'volume' : 'volume end') if $done >= $total / 2;
    } elsif ($what eq 'RAM') {
        # The first 16 MiB are almost all zeros; the next 32 MiB are random.
        $self->stop('ram') if $done > 17 << 20 && $done < 48 << 20;
    } elsif ($done > 0 && $done < $total) {
        $self->stop('nbd');
    }
    return;
}

sub interval ($) { return 0.05 }
sub clear ($) { return }
sub line ($, $) { return }

# Limits the rate of the part in which the migration is to stop.
package Test::MigrationProcess::SlowQMP;

BEGIN { our @ISA = ('TestNode::QMP') } ## no critic (ProhibitExplicitISA)

sub command ($self, $name, $arguments = undef, @more) {
    my %slow = (
        'ram migrate-set-parameters' => { 'max-bandwidth' => Test::MigrationProcess::SLOW_RAM },
        'nbd blockdev-mirror' => {
            speed => Test::MigrationProcess::SLOW_DISK,
            'buf-size' => Test::MigrationProcess::DISK_IN_FLIGHT,
        },
    );
    my $slow = $slow{"$self->{slow} $name"};
    $arguments = { %$arguments, %$slow } if $slow;
    return $self->SUPER::command($name, $arguments, @more);
}

1;
