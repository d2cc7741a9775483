package Demo::Usage;

=head1 NAME

Demo::Usage - what the demo prints with --help

=cut

use v5.36;

use Demo::Plane;

my $USAGE = <<'END';
usage: demo/demo [RAM=MiB] [DISK=MiB] [OFFLINE=MiB] [PLANES=name,...]
                 [LINK=ms,loss] [CHANNELS=number] [MIRROR=MiB] [REPORT=file]

Moves a running QEMU guest between two nodes on this machine, once over each
plane, and compares checksums of its RAM and disks.

  RAM      memory of the guest, 64 to 65536, default 256
  DISK     size of its disk, 1 to 1048576, default 512
  OFFLINE  size of a second disk, which the guest does not use, 1 to 1048576,
           default 64
  PLANES   the planes to use, one after another, default all of:
           %s
           tls-lanes is the plane tls with up to 8 connections for a stream; it
           is used by default if there is a LINK
  LINK     the round trip and the loss of an emulated link of 1 Gbit/s between
           the nodes, such as 40ms or 20ms,1%%; requires root
  CHANNELS number of connections for the RAM (multifd), 2 to 16, default one
           connection
  MIRROR   data in flight of a disk's mirror (buf-size), 1 to 1024, default
           QEMU's
  REPORT   file for the report, default target/demo/report.json

Environment variables with these names have the same effect. Temporary files in
TMPDIR use about 3 x RAM + 2 x (DISK + OFFLINE).
END

=head1 FUNCTIONS

=head2 text

The usage, with the names of the planes.

=cut

sub text () {
    return sprintf($USAGE, join(',', Demo::Plane::names()));
}

1;
