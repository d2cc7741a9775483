package Test::FaultSetup;

use v5.36;

use Exporter qw(import);
use File::Temp qw(tempdir);
use Test::More;

use Demo::Image;
use Test::EmulatedGuest;
use Test::MigrationProcess;
use TestNode::Guest;
use TestNode::Node;

our @EXPORT_OK = qw(volume_migration guest_migration has_qemu);

=head1 NAME

Test::FaultSetup - the target and the data of tests that disturb a migration

=head1 SYNOPSIS

    use Test::PrivateNetwork;

    my %VOLUME = volume_migration(600);
    kill_at(%VOLUME, plane => 'tls', victim => 'connector', point => 'volume');
    $VOLUME{node}->stop;

=head1 FUNCTIONS

=head2 volume_migration($limit, $link)

Starts a target in a session of its own, on loopback or at the target's end of a
L<Test::MigrationLink>, and writes a volume that is larger than all buffers between source and
target. Returns C<node>, C<dir> and C<volume>, options for L<Test::FaultInjection>. The
test is skipped for users other than root, and dies after C<$limit> seconds.

=head2 guest_migration(%migration)

The options of a running guest, C<disk> and C<load>, in place of C<volume>.

=head2 has_qemu

Whether QEMU is installed.

=cut

# In MiB. The buffers between source and target hold less than the volume.
use constant { VOLUME => 4, DISK => 16 };

sub volume_migration ($limit, $link = undef) {
    # Clear text and an explicit migration network require the privilege Sys.Modify.
    plan skip_all => 'only root has Sys.Modify outside of Proxmox VE' if $> != 0;

    ## no critic (RequireLocalizedPunctuationVars)
    # A test that hangs must fail.
    $SIG{ALRM} = sub { die "the test timed out\n" };
    alarm($limit);
    $SIG{PIPE} = 'IGNORE';

    my $dir = tempdir(CLEANUP => 1);
    Demo::Image::write_volume("$dir/volume", VOLUME);
    my $node = TestNode::Node->start(
        dir => "$dir/target",
        listen => $link ? $link->node : '127.0.0.1',
        wrap => ['setsid', $link ? $link->at_target : ()],
    );
    return (node => $node, dir => $dir, volume => "$dir/volume");
}

sub guest_migration (%migration) {
    my $dir = $migration{dir};
    my @ranges = TestNode::Guest->ram_ranges(Test::MigrationProcess::MEMORY);
    my @load = Demo::Image::write_ram($dir, @ranges);
    Demo::Image::write_disk("$dir/disk", DISK);
    return (node => $migration{node}, dir => $dir, disk => "$dir/disk", load => \@load);
}

sub has_qemu () {
    return scalar grep { -x "$_/qemu-system-x86_64" } split(/:/, $ENV{PATH});
}

1;
