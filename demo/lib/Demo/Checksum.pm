package Demo::Checksum;

=head1 NAME

Demo::Checksum - compares the RAM and the disks of a stopped guest at source and target

=cut

use v5.36;

use POSIX ();

use TestNode::Guest;
use TestNode::Sha256;

# Bytes of one read.
use constant BLOCK => 1 << 20;

=head1 FUNCTIONS

=head2 compare

C<compare(memory =E<gt> $mib, dir =E<gt> $dir, source =E<gt> \%side, target =E<gt> \%side)>: the
SHA-256 of RAM and disks at source and target. A side is a hash: C<qmp> (the L<TestNode::QMP> of the
stopped guest), C<disk> and C<offline> (arrays of files). Dumps of the RAM are temporarily in
C<dir>. Returns a hash: C<ram_sha256>, C<disk_sha256> and C<offline_sha256>, each with C<source> and
C<target>. C<offline_sha256> is missing if no such files are given.

=cut

sub compare (%option) {
    my @sides = qw(source target);
    my %files;
    my $sums = eval {
        for my $side (@sides) {
            my $dump = "$option{dir}/$side.ram";
            $files{"ram $side"} = dump_ram($option{$side}{qmp}, $option{memory}, $dump);
            for my $what (qw(disk offline)) {
                my $names = $option{$side}{$what} // [];
                $files{"$what $side"} = $names if @$names;
            }
        }
        of_files(%files);
    };
    my $error = $@;
    unlink glob("'$option{dir}/source.ram'* '$option{dir}/target.ram'*");
    die $error if !$sums;
    my %compared;
    for my $name (keys %$sums) {
        my ($what, $side) = split(/ /, $name);
        $compared{"${what}_sha256"}{$side} = $sums->{$name};
    }
    return \%compared;
}

=head2 dump_ram

C<dump_ram($qmp, $memory, $file)>: QEMU writes the RAM of its guest, C<$memory> MiB, to files whose
names begin with C<$file>. The guest must be stopped. Returns a reference to an array of the names.

=cut

sub dump_ram ($qmp, $memory, $file) {
    my $status = $qmp->command('query-status');
    die "the guest is not stopped but '$status->{status}'\n" if $status->{running};
    my @files;
    for my $range (TestNode::Guest->ram_ranges($memory)) {
        my ($address, $bytes) = @$range;
        push @files, sprintf('%s-%x', $file, $address);
        # Seconds: 20 MiB/s on a slow disk, and a minute in addition.
        my $limit = 60 + $bytes / (20 << 20);
        $qmp->command(
            'pmemsave', { val => 0 + $address, size => 0 + $bytes, filename => $files[-1] },
            $limit
        );
        die "QEMU did not write all of the guest's RAM: is the disk full?\n"
            if (-s $files[-1] // 0) != $bytes;
    }
    return \@files;
}

=head2 of_files

C<of_files(name =E<gt> \@files, ...)>: for each name, the SHA-256 of the concatenation of its files.
One process per name runs in parallel. Returns a hash reference: name to lower-case hexadecimal
digits.

=cut

sub of_files (%files) {
    my %pipe;
    for my $name (sort keys %files) {
        my $pid = open($pipe{$name}, '-|') // die "fork: $!\n";
        next if $pid;
        my $sum = eval { of_one($files{$name}) } // "error: $@";
        syswrite(STDOUT, $sum);
        POSIX::_exit(0);
    }
    my %sums;
    for my $name (sort keys %pipe) {
        my $sum = readline($pipe{$name}) // '';
        close($pipe{$name});
        die "cannot compute the checksum of $name: " . ($sum || "no result\n")
            if $sum !~ /\A[0-9a-f]{64}\z/;
        $sums{$name} = $sum;
    }
    return \%sums;
}

sub of_one ($files) {
    my $sha = TestNode::Sha256->new;
    for my $file (@$files) {
        open(my $in, '<:raw', $file) or die "cannot read '$file': $!\n";
        while (sysread($in, my $bytes, BLOCK) // die "cannot read '$file': $!\n") {
            $sha->add($bytes);
        }
        close($in);
    }
    return $sha->hexdigest;
}

1;
