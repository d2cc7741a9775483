package Demo::Report;

=head1 NAME

Demo::Report - the results of the migrations: a table, and a JSON file

=cut

use v5.36;

use File::Basename qw(dirname);
use File::Path qw(make_path);
use JSON;

use Demo::Plane;

my @COLUMNS = (
    ['plane', '%s'],
    ['wire', '%s'],
    ['MiB', '%.0f'],
    ['seconds', '%.2f'],
    ['MB/s', '%.0f'],
    ['connector', '%.2f'],
    ['listener', '%.2f'],
    ['pveproxy', '%.2f'],
    ['RAM', '%s'],
    ['disk', '%s'],
    ['offline', '%s'],
    ['guest', '%s'],
);

my @LEGEND = (
    'MiB, seconds, MB/s: RAM and disk of the running guest. 1 MB = 10^6 bytes.',
    'connector, listener, pveproxy: CPU seconds per GiB of all transferred data.',
    'The test node replaces pveproxy.',
    'RAM, disk, offline: whether the SHA-256 is equal at source and target.',
    'The report contains the checksums.',
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
    my $expected = join(', ', @$plane{qw(name offline)});
    push @faults, "the data used the planes $used; expected $expected" if $used ne $expected;
    push @faults, 'the guest does not continue at the target' if !$result->{running};
    return map { "plane '$result->{plane}': $_" } @faults;
}

sub live_bytes ($result) { return $result->{ram_bytes} + $result->{disk_bytes} }

=head2 table

C<table(@results)>: the lines of the table, followed by explanations.

=cut

sub table (@results) {
    my @rows = ([map { $_->[0] } @COLUMNS], map { row($_) } @results);
    my @width;
    for my $row (@rows) {
        for my $i (0 .. $#$row) {
            $width[$i] = length $row->[$i] if length($row->[$i]) > ($width[$i] // 0);
        }
    }
    my @lines = map { line($_, \@width) } @rows;
    splice(@lines, 1, 0, join('  ', map { '-' x $_ } @width));
    return (@lines, '', (map { path($_) } @results), '', @LEGEND);
}

=head2 write_file

C<write_file($file, @results)>: writes the report, as JSON C<{"crossings":[...]}>.

=cut

sub write_file ($file, @results) {
    make_path(dirname($file));
    my $json =
        JSON->new->canonical->pretty->encode({ crossings => [map { migration($_) } @results] });
    open(my $out, '>', "$file.new") or die "cannot write '$file': $!\n";
    print {$out} $json;
    close($out) or die "cannot write '$file': $!\n";
    rename("$file.new", $file) or die "cannot write '$file': $!\n";
    return;
}

sub row ($result) {
    my $migration = migration($result);
    my @values = (
        $result->{plane},
        Demo::Plane::get($result->{plane})->{wire},
        live_bytes($result) / 1048576,
        @$migration{qw(seconds mb_per_s cpu_s_per_gib)},
        @$migration{qw(listener_cpu_s_per_gib pveproxy_cpu_s_per_gib)},
        (map { agreement($result->{"${_}_sha256"}) } @MOVED),
        $result->{running} ? 'running' : 'STOPPED',
    );
    return [map { sprintf($COLUMNS[$_][1], $values[$_]) } 0 .. $#COLUMNS];
}

# The path of the data: address and cipher.
sub path ($result) {
    my $record = $result->{record};
    my $plane = sprintf('%-9s ', $result->{plane});
    return "$plane to $record->{remote}, $record->{cipher}" if !defined $result->{endpoint};
    return "$plane to $result->{endpoint}, UNENCRYPTED; "
        . "offline disk over '$record->{forwards_plane}' to $record->{remote}, $record->{cipher}";
}

sub agreement ($sum) { return $sum->{source} eq $sum->{target} ? 'equal' : 'DIFFERENT' }

sub line ($row, $width) {
    return join('  ', map { sprintf('%-*s', $width->[$_], $row->[$_]) } 0 .. $#$row) =~ s/ +\z//r;
}

sub rounded ($number) { return 0 + sprintf('%.3f', $number) }

1;
