package Demo::Report;

=head1 NAME

Demo::Report - the results of the migrations: a table, and a JSON file

=cut

use v5.36;

use File::Basename qw(dirname);
use File::Path qw(make_path);
use JSON;

use Demo::Plane;

# Two tables, so that each fits 80 columns.
my @MIGRATION = (
    ['plane', '%s'],
    ['wire', '%s'],
    ['MiB', '%.0f'],
    ['seconds', '%.2f'],
    ['MB/s', '%.0f'],
    ['RAM', '%s'],
    ['disk', '%s'],
    ['offline', '%s'],
    ['guest', '%s'],
);
my @CPU = (['plane', '%s'], ['connector', '%.2f'], ['listener', '%.2f'], ['pveproxy', '%.2f']);

my @MIGRATION_LEGEND = (
    'MiB, seconds, MB/s: RAM and disk of the running guest. 1 MB = 10^6 bytes.',
    'RAM, disk, offline: whether the SHA-256 is equal at source and target. The',
    'report contains the checksums.',
);
my @CPU_LEGEND = (
    'CPU seconds of each process per GiB of all transferred data. The test node',
    'replaces pveproxy.',
);

# The first part of the names of byte counts and checksums.
my @MOVED = qw(ram disk offline);

=head1 FUNCTIONS

=head2 migration

C<migration(\%result)>: the entry in the report for a result of L<Demo::Migration>:

=over

=item plane, ok

the name of the plane, and whether the migration was correct

=item ram_bytes, disk_bytes, offline_bytes

transferred bytes

=item seconds, mb_per_s

duration and rate for RAM and disk of the running guest; 1 MB is 10^6 bytes

=item disk_seconds, ram_seconds

the two parts of the duration: until the mirror of the disk was complete, and from then on

=item offline_seconds

duration for the offline disk, until the target had written it

=item cpu_s_per_gib, listener_cpu_s_per_gib, pveproxy_cpu_s_per_gib

CPU seconds of the connector, the listener and the test node per GiB of all transferred data

=item ram_sha256, disk_sha256, offline_sha256

each with C<source> and C<target>

=item endpoint, cipher, record

the address that received the RAM, the cipher or C<UNENCRYPTED>, and the record of the tunnel

=back

=cut

sub migration ($result) {
    my %migration = map { $_ => $result->{$_} } 'plane', map { "${_}_sha256" } @MOVED;
    $migration{$_} = 0 + $result->{$_} for map { "${_}_bytes" } @MOVED;
    $migration{$_} = rounded($result->{$_})
        for qw(seconds disk_seconds ram_seconds offline_seconds);
    $migration{mb_per_s} = rounded(live_bytes($result) / $result->{seconds} / 1e6);
    my $gib = (live_bytes($result) + $result->{offline_bytes}) / (1 << 30);
    my $cpu = $result->{cpu_seconds};
    $migration{cpu_s_per_gib} = rounded($cpu->{connector} / $gib);
    $migration{"${_}_cpu_s_per_gib"} = rounded($cpu->{$_} / $gib) for qw(listener pveproxy);
    my $record = $result->{record};
    @migration{qw(cipher record)} = ($record->{cipher}, $record);
    $migration{endpoint} = $result->{endpoint} // $record->{remote};
    $migration{ok} = faults($result) ? JSON::false : JSON::true;
    return \%migration;
}

=head2 faults

C<faults(\%result)>: the faults of a migration, a list of messages: a checksum differs, the data
used another plane than expected, or the guest does not continue at the target.

=cut

sub faults ($result) {
    my $plane = Demo::Plane::get($result->{plane});
    my @faults;
    for my $what (@MOVED) {
        my ($source, $target) = @{ $result->{"${what}_sha256"} }{qw(source target)};
        push @faults, "$what differs: SHA-256 $source at the source, $target at the target"
            if $source !~ /\A[0-9a-f]{64}\z/ || $source ne $target;
    }
    # The plane of the RAM and the disk, and that of the offline disk.
    my $used = join(', ', @{ $result->{record} }{qw(plane forwards_plane)});
    my $expected = join(', ', @$plane{qw(plane offline)});
    push @faults, "the data used the planes $used; expected $expected" if $used ne $expected;
    push @faults, 'the guest does not continue at the target' if !$result->{running};
    return map { "plane '$result->{plane}': $_" } @faults;
}

sub live_bytes ($result) { return $result->{ram_bytes} + $result->{disk_bytes} }

=head2 table

C<table(@results)>: the lines of the tables with their explanations, and the paths of the data. No
line is longer than 80 characters if the addresses are of IPv4.

=cut

sub table (@results) {
    return (
        aligned(\@MIGRATION, map { migration_row($_) } @results),
        '', @MIGRATION_LEGEND, '',
        aligned(\@CPU, map { cpu_row($_) } @results),
        '', @CPU_LEGEND, '',
        map { path($_) } @results
    );
}

=head2 check_file

C<check_file($file)>: dies with the reason if the report cannot be written there. Creates the folder.

=head2 write_file

C<write_file($file, @results)>: writes the report, as JSON C<{"crossings":[...]}>. Dies with the
reason.

=cut

sub check_file ($file) {
    my $new = open_new($file);
    close($new);
    unlink "$file.new";
    return;
}

sub write_file ($file, @results) {
    my $json =
        JSON->new->canonical->pretty->encode({ crossings => [map { migration($_) } @results] });
    my $out = open_new($file);
    print {$out} $json;
    close($out) or refuse($file, $!);
    rename("$file.new", $file) or refuse($file, $!);
    return;
}

# Opens the file that takes the place of the report when it is complete.
sub open_new ($file) {
    refuse($file, 'it is a directory') if -d $file;
    make_path(dirname($file), { error => \my $errors });
    for my $error (@$errors) {
        my ($path, $reason) = %$error;
        refuse($file, "cannot create the folder '$path': $reason");
    }
    open(my $out, '>', "$file.new") or refuse($file, "cannot create '$file.new': $!");
    return $out;
}

sub refuse ($file, $reason) {
    die "cannot write the report '$file': $reason: set REPORT= to another file\n";
}

sub migration_row ($result) {
    my $migration = migration($result);
    return [
        $result->{plane},
        Demo::Plane::get($result->{plane})->{wire},
        live_bytes($result) / 1048576,
        @$migration{qw(seconds mb_per_s)},
        (map { agreement($result->{"${_}_sha256"}) } @MOVED),
        $result->{running} ? 'running' : 'STOPPED',
    ];
}

sub cpu_row ($result) {
    my $migration = migration($result);
    return [
        $result->{plane},
        @$migration{qw(cpu_s_per_gib listener_cpu_s_per_gib pveproxy_cpu_s_per_gib)}
    ];
}

# The lines of a table: names of the columns, a rule, and the rows.
sub aligned ($columns, @values) {
    my @rows = [map { $_->[0] } @$columns];
    for my $row (@values) {
        push @rows, [map { sprintf($columns->[$_][1], $row->[$_]) } 0 .. $#$row];
    }
    my @width = (0) x @$columns;
    for my $row (@rows) {
        for my $i (0 .. $#$row) {
            $width[$i] = length $row->[$i] if length($row->[$i]) > $width[$i];
        }
    }
    my @lines = map { line($_, \@width) } @rows;
    splice(@lines, 1, 0, join('  ', map { '-' x $_ } @width));
    return @lines;
}

# The path of the data: address and cipher.
sub path ($result) {
    my $record = $result->{record};
    my @to = ("$record->{remote}, $record->{cipher}");
    @to = (
        "$result->{endpoint}, UNENCRYPTED",
        "$record->{remote}, $record->{cipher}: the offline disk, plane '$record->{forwards_plane}'"
    ) if defined $result->{endpoint};
    return map { sprintf('%-9s  to %s', $_ ? '' : $result->{plane}, $to[$_]) } 0 .. $#to;
}

sub agreement ($sum) { return $sum->{source} eq $sum->{target} ? 'equal' : 'DIFFER' }

sub line ($row, $width) {
    return join('  ', map { sprintf('%-*s', $width->[$_], $row->[$_]) } 0 .. $#$row) =~ s/ +\z//r;
}

sub rounded ($number) { return 0 + sprintf('%.3f', $number) }

1;
