#!/usr/bin/perl

# The record of a finished migration: plane, cipher, endpoints, fingerprints, bytes and counters.
use v5.36;

use File::Temp qw(tempdir);
use FindBin;
use JSON ();
use Test::More;

use lib map { "$FindBin::Bin/../$_" } qw(t/lib demo/lib testnode/lib perl/blib/lib perl/blib/arch);
use Demo::Image;
use Test::MigrationProcess;
use TestNode::Node;

# Clear text and an explicit migration network require the privilege Sys.Modify.
plan skip_all => 'only root has Sys.Modify outside of Proxmox VE' if $> != 0;

# A test that hangs must fail.
local $SIG{ALRM} = sub { die "the test timed out\n" };
alarm(120);
local $SIG{PIPE} = 'IGNORE';

my $DIR = tempdir(CLEANUP => 1);
my $SIZE = 4 << 20;
Demo::Image::write_volume("$DIR/volume", $SIZE >> 20);
my $NODE = TestNode::Node->start(dir => "$DIR/target", listen => '127.0.0.1');

my $PRINT = qr/\A[0-9A-F]{2}(?::[0-9A-F]{2}){31}\z/;
my $vmid = 200;

for my $case (
    ['websocket', qr/\ATLSv1_[23] \S+\z/, qr/\A127\.0\.0\.1:(?!600[0-4]\d\z)\d+\z/],
    ['tls', qr/\ATLSv1_3 \S+\z/, qr/\A127\.0\.0\.1:600[0-4]\d\z/],
    ['tcp', qr/\AUNENCRYPTED\z/, qr/\A127\.0\.0\.1:600[0-4]\d\z/],
    )
{
    my ($plane, $cipher, $remote) = @$case;
    subtest $plane => sub {
        my $migration = Test::MigrationProcess->start(
            plane => $plane,
            node => $NODE,
            dir => "$DIR/$plane",
            target_vmid => ++$vmid,
            volume => "$DIR/volume",
        );
        my $end = $migration->end;
        ok($end->{done}, 'the migration succeeds') or diag($end->{error});
        my @json = $migration->log =~ /^info: tunnel: record: (.*)$/mg;
        is(scalar(@json), 1, 'the log has one record in JSON');
        my $record = JSON::decode_json($json[0]);
        is_deeply($record, $end->{record}, 'the caller has the same record');
        is($record->{$_}, $plane, "the record has the plane as $_") for qw(plane forwards_plane);
        like($record->{cipher}, $cipher, 'the record has the cipher');
        like($record->{remote}, $remote, 'the record has the endpoint of the target');
        is($record->{local}, '127.0.0.1', 'the record has the address of the source');

        if ($plane eq 'tcp') {
            is($record->{$_}, undef, "the record has no $_") for qw(fingerprint own_fingerprint);
        } else {
            like($record->{fingerprint}, $PRINT, 'the record has the fingerprint of the target');
        }
        like($record->{own_fingerprint}, $PRINT, 'the record has the fingerprint of the source')
            if $plane eq 'tls';
        is($record->{sent}, $SIZE + 8, 'the record has the bytes sent');
        is($record->{received}, 0, 'the record has the bytes received');
        cmp_ok($record->{seconds}, '>', 0, 'the record has the seconds');
        is($record->{forwards}, 1, 'the record has the number of forwards');
        is($record->{failed}, 0, 'the record has the number of failures');
        my %none = map { $_ => 0 } qw(tls silent malformed key number crowded socket heartbeat);
        is_deeply(
            $record->{refused},
            $plane eq 'websocket' ? undef : \%none,
            'the record has the refusals'
        );

        my @summary = $migration->log =~ /^info: tunnel: migration data: (.*)$/mg;
        is(scalar(@summary), 1, 'the log has one summary in plain text');
        like(
            $summary[0],
            qr{\Aplane $plane \($record->{cipher}\) from 127\.0\.0\.1 to \Q$record->{remote}\E},
            'the summary has plane, cipher and endpoints'
        );
        like(
            $summary[0], qr/: 4\.0 MiB sent, 0 B received in [\d.]+ s, /,
            'the summary has the bytes and the seconds'
        );
    };
}

$NODE->stop;
done_testing;
