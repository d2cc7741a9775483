package Demo::Report;

=head1 NAME

Demo::Report - what came out of the crossings: a table for people, a file for programs

=cut

use v5.36;

use File::Basename qw(dirname);
use File::Path qw(make_path);
use JSON;
use List::Util qw(sum);

use Demo::Plane;

use constant GIB => 1 << 30;

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
    'MiB, seconds: RAM, disk and offline disk together. MB/s: 10^6 bytes.',
    'connector, listener, pveproxy: CPU seconds of each per GiB that went over; pveproxy is the test node in its place.',
    'RAM, disk, offline: whether their SHA-256 is the same at both ends. The sums are above, and in the report.',
);

# What moves, as the names of its bytes and of its checksum begin.
my @MOVED = qw(ram disk offline);

=head1 FUNCTIONS

=head2 crossing

C<crossing(\%result)>: a result of L<Demo::Migration> as the report has it: C<plane>, C<ram_bytes>,
C<disk_bytes>, C<offline_bytes>, C<seconds>, C<mb_per_s>, C<cpu_s_per_gib>, C<ram_sha256>,
C<disk_sha256> and C<offline_sha256> with C<source> and C<target>, and C<ok>. Bytes are those that
went over; MB are 10^6 bytes; CPU is that of the connector, and there are also
C<listener_cpu_s_per_gib> and C<pveproxy_cpu_s_per_gib>.

=cut

sub crossing ($result) {
    my $bytes = bytes($result);
    my %crossing = map { $_ => $result->{$_} } 'plane', map { "${_}_sha256" } @MOVED;
    $crossing{$_} = 0 + $result->{$_} for map { "${_}_bytes" } @MOVED;
    $crossing{seconds} = rounded($result->{seconds});
    $crossing{mb_per_s} = rounded($bytes / $result->{seconds} / 1e6);
    my $cpu = $result->{cpu_seconds};
    $crossing{cpu_s_per_gib} = rounded($cpu->{connector} / $bytes * GIB);
    $crossing{"${_}_cpu_s_per_gib"} = rounded($cpu->{$_} / $bytes * GIB) for qw(listener pveproxy);
    $crossing{ok} = is_ok($result) ? JSON::true : JSON::false;
    return \%crossing;
}

=head2 is_ok

C<is_ok(\%result)>: the checksums agree, and the guest goes on at the target.

=cut

sub is_ok ($result) {
    for my $sum (map { $result->{"${_}_sha256"} } @MOVED) {
        return 0 if $sum->{source} !~ /\A[0-9a-f]{64}\z/ || $sum->{source} ne $sum->{target};
    }
    return $result->{goes_on};
}

sub bytes ($result) {
    return sum(map { $result->{"${_}_bytes"} } @MOVED);
}

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
    return (@lines, '', @LEGEND);
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
        bytes($result) / 1048576,
        @$crossing{qw(seconds mb_per_s cpu_s_per_gib)},
        @$crossing{qw(listener_cpu_s_per_gib pveproxy_cpu_s_per_gib)},
        (map { agreement($result->{"${_}_sha256"}) } @MOVED),
        $result->{goes_on} ? 'goes on' : 'STANDS',
    );
    return [map { sprintf($COLUMNS[$_][1], $values[$_]) } 0 .. $#COLUMNS];
}

sub agreement ($sum) { return $sum->{source} eq $sum->{target} ? 'equal' : 'DIFFERENT' }

sub line ($row, $width) {
    return join('  ', map { sprintf('%-*s', $width->[$_], $row->[$_]) } 0 .. $#$row) =~ s/ +\z//r;
}

sub rounded ($number) { return 0 + sprintf('%.3f', $number) }

1;
