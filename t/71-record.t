#!/usr/bin/perl

# What is on record when a migration is over, and in nothing that was printed, logged or shown by ps:
# the session key.
use v5.36;

use File::Temp qw(tempdir);
use FindBin;
use JSON ();
use Test::More;

use lib map { "$FindBin::Bin/../$_" } qw(t/lib demo/lib testnode/lib perl/blib/lib perl/blib/arch);
use Demo::Image;
use Test::MigrationProcess;
use TestNode::Node;

# Clear text and an explicit network need it.
plan skip_all => 'only root has Sys.Modify outside of Proxmox VE' if $> != 0;

# A test that stands still is a failed test.
local $SIG{ALRM} = sub { die "the test stands still\n" };
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
        ok($end->{done}, 'the migration went through') or diag($end->{error});
        my @json = $migration->log =~ /^info: tunnel: record: (.*)$/mg;
        is(scalar(@json), 1, 'one line for programs');
        my $record = JSON::decode_json($json[0]);
        is_deeply($record, $end->{record}, '... which the caller has, too');
        is($record->{$_}, $plane, "... with $_") for qw(plane forwards_plane);
        like($record->{cipher}, $cipher, '... with the cipher');
        like($record->{remote}, $remote, '... both endpoints');
        is($record->{local}, '127.0.0.1', '... of which one is here');

        if ($plane eq 'tcp') {
            is($record->{$_}, undef, "... no $_") for qw(fingerprint own_fingerprint);
        } else {
            like($record->{fingerprint}, $PRINT, '... the fingerprint');
        }
        like($record->{own_fingerprint}, $PRINT, '... and ours') if $plane eq 'tls';
        is($record->{sent}, $SIZE + 8, '... bytes');
        is($record->{received}, 0, '... both ways');
        cmp_ok($record->{seconds}, '>', 0, '... seconds');
        is($record->{forwards}, 1, '... forwards');
        is($record->{failed}, 0, '... failures');
        my %none = map { $_ => 0 } qw(tls silent malformed key number crowded socket);
        is_deeply($record->{refused}, $plane eq 'websocket' ? undef : \%none, '... and refusals');

        my @people = $migration->log =~ /^info: tunnel: migration data: (.*)$/mg;
        is(scalar(@people), 1, 'one line for people');
        like(
            $people[0],
            qr{\Aplane $plane \($record->{cipher}\) from 127\.0\.0\.1 to \Q$record->{remote}\E},
            '... says the same'
        );
        like($people[0], qr/: 4\.0 MiB sent, 0 B received in [\d.]+ s, /, '... and how much');
    };
}

$NODE->stop;
done_testing;
