package Demo::Image;

=head1 NAME

Demo::Image - the guest of the demo: random RAM, a random disk, and a small program

=head1 DESCRIPTION

The guest has no operating system. The BIOS starts a program in the first sector of its disk. At
each tick of the timer (18.2 per second), the program increments a counter in RAM, fills one page
with the count, and writes the count to the second sector of the disk through the BIOS. The guest
thus keeps changing its RAM and its disk during the migration.

=cut

use v5.36;

use Time::HiRes qw(clock_gettime CLOCK_MONOTONIC);

use constant {
    # Seconds for the BIOS to start the program. Emulation is slow.
    BOOT_LIMIT => 60,
    # Physical address of the counter, 32 bit little endian.
    COUNTER => 0x600,
    # Start of the random bytes, above the memory that BIOS and program use.
    RANDOM_START => 16 << 20,
    # Size of the area without random bytes at the end of RAM, which contains tables of the BIOS.
    RANDOM_END_GAP => 16 << 20,
    # MiB. A smaller guest has too little memory for random bytes.
    MEMORY_MIN => 64,
    DISK_MIN => 1,
    BLOCK => 1 << 20,
};

# 16-bit code for address 0x7c00. It fills the pages from 0x10000 to 0x4ffff, and writes to the disk
# that the BIOS booted from.
my $PROGRAM = pack 'H*', join '', qw(
    fa                    31c0 8ed8 8ed0        bc007c
    8816fe05              fc
    66c706000600000000    fb
    f4
    66ff060006            66a10006
    89c3 83e33f c1e308 80c710 8ec3
    31ff                  b90004                66f3ab
    be477c                8a16fe05              b443 b000
    cd13                  ebd2
    1000 0100 0006 0000 0100000000000000
);
# cli; ds = ss = 0, stack below the program
# boot drive to 0x5fe; cld
# counter = 0; sti
# again: hlt, until the next tick
# counter += 1; eax = counter
# es = 0x1000 + (counter mod 64) * 0x100
# 1024 times eax to es:0
# disk address packet, drive, int 13h function 43h without verify
# jump to "again"
# the packet: 1 sector from 0000:0600 to sector 1

=head1 FUNCTIONS

=head2 write_ram

C<write_ram($dir, @ranges)>: writes random bytes for the guest's RAM to files. C<@ranges> are those
of L<TestNode::Guest/ram_ranges>. The first and the last 16 MiB below the hole for devices are
omitted. Returns a list of C<[$file, $address]>.

=cut

sub write_ram ($dir, @ranges) {
    my ($low, @high) = @ranges;
    my @pieces = ([RANDOM_START, $low->[1] - RANDOM_START - RANDOM_END_GAP], @high);
    my @load;
    for my $piece (@pieces) {
        my ($address, $bytes) = @$piece;
        my $file = sprintf('%s/ram-%x', $dir, $address);
        write_random($file, '', $bytes);
        push @load, [$file, $address];
    }
    return @load;
}

=head2 write_disk

C<write_disk($file, $size)>: writes a raw disk of C<$size> MiB (at least 1): the program, then
random bytes.

=cut

sub write_disk ($file, $size) {
    my $sector = pack('a510 v', $PROGRAM, 0xaa55);
    write_random($file, $sector, $size << 20);
    return;
}

=head2 write_volume

C<write_volume($file, $size)>: the same without the program, for a disk that the guest does not boot
from.

=cut

sub write_volume ($file, $size) {
    write_random($file, '', $size << 20);
    return;
}

=head2 counter

C<counter($qmp)>: the counter of the guest's program in RAM.

=head2 count_on_disk

C<count_on_disk($file)>: the count that the program wrote to its disk last.

=head2 wait_running

C<wait_running($qmp)>: returns when the guest's program is running and counting. Dies after 60
seconds.

=cut

sub counter ($qmp) {
    my $dump = $qmp->command(
        'human-monitor-command',
        { 'command-line' => sprintf('xp /1wx 0x%x', COUNTER) }
    );
    return
        hex(($dump =~ /:\s*0x([0-9a-f]{8})/)[0] // die "QEMU does not show the guest's memory\n");
}

sub count_on_disk ($file) {
    open(my $in, '<:raw', $file) or die "cannot read '$file': $!\n";
    seek($in, 512, 0) or die "cannot read '$file': $!\n";
    my $got = read($in, my $bytes, 4);
    die "'$file' is too short\n" if ($got // 0) != 4;
    return unpack('V', $bytes);
}

sub wait_running ($qmp) {
    my $deadline = clock_gettime(CLOCK_MONOTONIC) + BOOT_LIMIT;
    # Before the program starts, RAM contains another value. Two increasing values are its count.
    my ($before, $now) = (0, 0);
    while (!$before || $now <= $before || $now > $before + 100) {
        die "the guest does not start\n" if clock_gettime(CLOCK_MONOTONIC) > $deadline;
        # No event reports the count, so it is polled about once per timer tick.
        $qmp->wait_event('RESET', sub ($) { 0 }, 0.055);
        ($before, $now) = ($now, counter($qmp));
    }
    return;
}

sub write_random ($file, $start, $bytes) {
    open(my $random, '<:raw', '/dev/urandom') or die "cannot open /dev/urandom: $!\n";
    open(my $out, '>:raw', $file) or die "cannot create '$file': $!\n";
    my $left = $bytes;
    while ($left > 0) {
        my $size = $left < BLOCK ? $left : BLOCK;
        my $got = sysread($random, my $block, $size) || die "cannot read /dev/urandom: $!\n";
        substr($block, 0, length $start, $start) if $left == $bytes;
        print {$out} $block or die "cannot write '$file': $!\n";
        $left -= $got;
    }
    close($out) or die "cannot write '$file': $!\n";
    return;
}

1;
