package Demo::Image;

=head1 NAME

Demo::Image - what the demo's guest consists of: random RAM, a random disk, and a little program

=head1 DESCRIPTION

The guest needs no operating system. The first sector of its disk is a program that the BIOS starts;
at each tick of the clock (18.2 a second) it counts in RAM, fills one page with the count, and
writes the count to the second sector of the disk through the BIOS. So a guest that is being moved
is running: its RAM gets dirty and its disk is written to.

=cut

use v5.36;

use Time::HiRes qw(clock_gettime CLOCK_MONOTONIC);

use constant {
    # Seconds that the BIOS may take where everything is emulated.
    BOOT_LIMIT => 60,
    # Physical address of the counter, 32 bit little endian.
    COUNTER => 0x600,
    # Where the random bytes start: above what BIOS and program use.
    RANDOM_START => 16 << 20,
    # Left alone at the end of RAM, where the BIOS keeps its tables.
    RANDOM_END_GAP => 16 << 20,
    # The smallest guest in MiB: below, nothing random would fit.
    MEMORY_MIN => 64,
    DISK_MIN => 1,
    BLOCK => 1 << 20,
};

# 16-bit code for address 0x7c00. The pages it fills are 0x10000 to 0x4ffff, the disk is the one it
# was booted from.
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
# boot drive kept at 0x5fe; cld
# counter = 0; sti
# again: hlt, until the next tick
# counter += 1; eax = counter
# es = 0x1000 + (counter mod 64) * 0x100
# 1024 times eax to es:0
# disk address packet, drive, int 13h function 43h without verify
# go on at "again"
# the packet: 1 sector from 0000:0600 to sector 1

=head1 FUNCTIONS

=head2 write_ram

C<write_ram($dir, @ranges)>: random bytes for the guest's RAM as L<TestNode::Guest/ram_ranges>
describes it: all of it but the first and the last 16 MiB below the devices. Returns a list of
C<[$file, $address]>.

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

C<write_disk($file, $size)>: a raw disk of C<$size> MiB (at least 1): the program, then random
bytes.

=cut

sub write_disk ($file, $size) {
    my $sector = pack('a510 v', $PROGRAM, 0xaa55);
    write_random($file, $sector, $size << 20);
    return;
}

=head2 write_volume

C<write_volume($file, $size)>: the same without the program, for a disk that nothing is booted from.

=cut

sub write_volume ($file, $size) {
    write_random($file, '', $size << 20);
    return;
}

=head2 counter

C<counter($qmp)>: how often the guest's program has been round.

=head2 count_on_disk

C<count_on_disk($file)>: the count that the program has written to its disk.

=head2 wait_running

C<wait_running($qmp)>: returns when the guest's BIOS has started the program and that has been
round; dies if this takes too long.

=cut

sub counter ($qmp) {
    my $said = $qmp->command(
        'human-monitor-command',
        { 'command-line' => sprintf('xp /1wx 0x%x', COUNTER) }
    );
    return
        hex(($said =~ /:\s*0x([0-9a-f]{8})/)[0] // die "QEMU does not show the guest's memory\n");
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
    # What is in RAM before the program starts is not its count; two that follow each other are.
    my ($before, $now) = (0, 0);
    while (!$before || $now <= $before || $now > $before + 100) {
        die "the guest does not start\n" if clock_gettime(CLOCK_MONOTONIC) > $deadline;
        # Nothing tells of the count but the count: asked for once per round of the program, about.
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
        my $want = $left < BLOCK ? $left : BLOCK;
        my $got = sysread($random, my $block, $want) || die "cannot read /dev/urandom: $!\n";
        substr($block, 0, length $start, $start) if $left == $bytes;
        print {$out} $block or die "cannot write '$file': $!\n";
        $left -= $got;
    }
    close($out) or die "cannot write '$file': $!\n";
    return;
}

1;
