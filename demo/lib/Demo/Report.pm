package Demo::Report;

=head1 NAME

Demo::Report - what came out of the crossings: a table for people, a file for programs

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

# For who sees the table for the first time.
my @LEGEND = (
    'MiB, seconds, MB/s: RAM and disk of the running guest. MB: 10^6 bytes.',
    'connector, listener, pveproxy: CPU seconds of each for a GiB of all that went over. The test node is its pveproxy.',
    'RAM, disk, offline: whether their SHA-256 is the same at both ends. The sums are above, and in the report.',
);

# What moves, as the names of its bytes and of its checksum begin.
my @MOVED = qw(ram disk offline);

=head1 FUNCTIONS

=head2 crossing

C<crossing(\%result)>: a result of L<Demo::Migration> as the report has it:

=over

=item plane, ok

its name, and whether everything was right

=item ram_bytes, disk_bytes, offline_bytes

that went over

=item seconds, mb_per_s

of the running guest's RAM and disk; MB are 10^6 bytes

=item offline_seconds

of the offline disk, until the target has written it

=item cpu_s_per_gib, listener_cpu_s_per_gib, pveproxy_cpu_s_per_gib

CPU seconds of the connector and of those two for each GiB of all that went over

=item ram_sha256, disk_sha256, offline_sha256

each with C<source> and C<target>

=item endpoint, cipher, record

where the RAM went, the tunnel's word for what protected the data, and the tunnel's own account

=back

=cut

sub crossing ($result) {
    my %crossing = map { $_ => $result->{$_} } 'plane', map { "${_}_sha256" } @MOVED;
    $crossing{$_} = 0 + $result->{$_} for map { "${_}_bytes" } @MOVED;
    $crossing{$_} = rounded($result->{$_}) for qw(seconds offline_seconds);
    $crossing{mb_per_s} = rounded(live_bytes($result) / $result->{seconds} / 1e6);
    my $gib = (live_bytes($result) + $result->{offline_bytes}) / (1 << 30);
    my $cpu = $result->{cpu_seconds};
    $crossing{cpu_s_per_gib} = rounded($cpu->{connector} / $gib);
    $crossing{"${_}_cpu_s_per_gib"} = rounded($cpu->{$_} / $gib) for qw(listener pveproxy);
    my $record = $result->{record};
    @crossing{qw(cipher record)} = ($record->{cipher}, $record);
    $crossing{endpoint} = $result->{endpoint} // $record->{remote};
    $crossing{ok} = faults($result) ? JSON::false : JSON::true;
    return \%crossing;
}

=head2 faults

C<faults(\%result)>: what went wrong, a list of sentences: a checksum differs, the data took another
plane than the one that was to be shown, the guest does not go on at the target.

=cut

sub faults ($result) {
    my $plane = Demo::Plane::get($result->{plane});
    my @faults;
    for my $what (@MOVED) {
        my ($source, $target) = @{ $result->{"${what}_sha256"} }{qw(source target)};
        push @faults, "$what differs: SHA-256 $source at the source, $target at the target"
            if $source !~ /\A[0-9a-f]{64}\z/ || $source ne $target;
    }
    my ($took, $of_forwards) = @{ $result->{record} }{qw(plane forwards_plane)};
    push @faults, "the data took plane '$took', and '$of_forwards' without QEMU"
        if $took ne $plane->{name} || $of_forwards ne $plane->{offline};
    push @faults, 'the guest does not go on at the target' if !$result->{goes_on};
    return map { "plane '$result->{plane}': $_" } @faults;
}

sub live_bytes ($result) { return $result->{ram_bytes} + $result->{disk_bytes} }

=head2 table

C<table(@results)>: the table and what its columns mean, as lines.

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
    return (@lines, '', (map { way($_) } @results), '', @LEGEND);
}

=head2 write_file

C<write_file($file, @results)>: the report, as JSON C<{"crossings":[...]}>.

=cut

sub write_file ($file, @results) {
    make_path(dirname($file));
    my $json =
        JSON->new->canonical->pretty->encode({ crossings => [map { crossing($_) } @results] });
    open(my $out, '>', "$file.new") or die "cannot write '$file': $!\n";
    print {$out} $json;
    close($out) or die "cannot write '$file': $!\n";
    rename("$file.new", $file) or die "cannot write '$file': $!\n";
    return;
}

sub row ($result) {
    my $crossing = crossing($result);
    my @values = (
        $result->{plane},
        Demo::Plane::get($result->{plane})->{wire},
        live_bytes($result) / 1048576,
        @$crossing{qw(seconds mb_per_s cpu_s_per_gib)},
        @$crossing{qw(listener_cpu_s_per_gib pveproxy_cpu_s_per_gib)},
        (map { agreement($result->{"${_}_sha256"}) } @MOVED),
        $result->{goes_on} ? 'goes on' : 'STANDS',
    );
    return [map { sprintf($COLUMNS[$_][1], $values[$_]) } 0 .. $#COLUMNS];
}

sub way ($result) {
    my $record = $result->{record};
    my $plane = sprintf('%-9s ', $result->{plane});
    return "$plane to $record->{remote}, $record->{cipher}" if !defined $result->{endpoint};
    return
          "$plane to $result->{endpoint}, UNENCRYPTED; offline disk by '$record->{forwards_plane}'"
        . " to $record->{remote}, $record->{cipher}";
}

sub agreement ($sum) { return $sum->{source} eq $sum->{target} ? 'equal' : 'DIFFERENT' }

sub line ($row, $width) {
    return join('  ', map { sprintf('%-*s', $width->[$_], $row->[$_]) } 0 .. $#$row) =~ s/ +\z//r;
}

sub rounded ($number) { return 0 + sprintf('%.3f', $number) }

1;
