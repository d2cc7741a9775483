#!/usr/bin/perl

# The seam in the real PVE::StorageTunnel, with the real PVE::JSONSchema for the schemas. Both must
# be installed or in PERL5LIB. PVE::StorageTunnel also loads modules whose code this test does not
# run, such as PVE::Storage. Empty modules replace these if they are missing.

use v5.36;

use FindBin;
use lib "$FindBin::RealBin/lib";

use JSON;
use Test::More;

use PVE::Tunnel::Seam;
use Test::TunnelNode;

# Limits the run time of the test.
local $SIG{ALRM} = sub { die "the test timed out\n" };
alarm(300);

BEGIN {
    my $missing = Test::TunnelNode::missing('PVE::JSONSchema', 'PVE::Tools', 'PVE::Tunnel');
    $missing //= 'PVE::StorageTunnel is missing'
        if !grep { !ref && -e "$_/PVE/StorageTunnel.pm" } @INC;
    plan skip_all => $missing if defined $missing;
}

my @replaced;

BEGIN {
    require PVE::JSONSchema;
    for my $module (qw(PVE::Storage PVE::Storage::Common)) {
        next if !defined Test::TunnelNode::missing($module);
        my $file = $module =~ s{::}{/}gr . '.pm';
        $INC{$file} = __FILE__; ## no critic (RequireLocalizedPunctuationVars)
        push @replaced, $module;
    }
    # Options that the schema of another command needs: PVE::Storage::Common registers one, and
    # qemu-server the one that libpve-guest-common-perl up to 5.1.1 uses. The handler calls the
    # function. Each of these modules may load without the others.
    my $missing_drive = @replaced ? 'unused' : Test::TunnelNode::missing('PVE::QemuServer::Drive');
    my @options = (
        ('pve-storage-image-format') x grep({ $_ eq 'PVE::Storage::Common' } @replaced),
        ('pve-qm-image-format') x defined($missing_drive),
    );
    PVE::JSONSchema::register_standard_option($_, { type => 'string' }) for @options;
    require PVE::QemuServer::Drive if !defined $missing_drive;
    if (grep { $_ eq 'PVE::Storage' } @replaced) {
        no warnings 'once'; ## no critic (ProhibitNoWarnings)
        *PVE::Storage::volume_imported_message = sub ($volid, $pattern = 0) {
            return $pattern ? qr/^imported '(.*)'$/ : "imported '$volid'\n";
        };
    }
    require PVE::StorageTunnel;
}
diag "runs the real PVE::StorageTunnel ($INC{'PVE/StorageTunnel.pm'})"
    . (@replaced ? ", without @replaced" : '');

# The command table of a worker refers to the same hash.
my $table = { 'query-disk-import' => $PVE::StorageTunnel::cmd_schema->{'query-disk-import'} };
my $DIRECT = { op => 'hello', protocol => 1, version => '0.1.0', more => [1, { a => undef }] };

sub command ($state, $line) {
    my $params = decode_json($line);
    delete $params->{cmd};
    my $schema = {
        type => 'object',
        properties => $table->{'query-disk-import'},
        additionalProperties => 0,
    };
    my $result = eval {
        PVE::JSONSchema::validate($params, $schema);
        PVE::StorageTunnel::handle_query_disk_import($state, $params);
    };
    return $result // "$@";
}

sub line (%params) {
    return encode_json({ cmd => 'query-disk-import', %params });
}

my $original = \&PVE::StorageTunnel::handle_query_disk_import;
my $refusal = {
    probe => qr/direct.*property is not defined in schema/s,
    no_import => "no disk import running\n"
};

subtest 'without the seam' => sub {
    like(command({}, line(direct => $DIRECT)), $refusal->{probe}, 'the probe is refused');
    is(command({}, line()), $refusal->{no_import}, 'the command works as before');
};

PVE::Tunnel::Seam::install(check => sub (@) { return 0 });
$PVE::Tunnel::Seam::CONFIGURATION = '/nonexistent';

subtest 'with the seam' => sub {
    my $hello = command({}, line(direct => $DIRECT));
    is(ref($hello) && $hello->{direct}{protocol}, 2, 'the probe is answered')
        or diag(explain($hello));
    is_deeply($hello->{direct}{caps}, ['direct-tls'], '... by the seam');
    ok(JSON->new->encode({ %$hello, success => JSON::true }), '... and can be encoded as JSON');
    like(command({}, line(direct => $_)), qr/direct/, 'direct that is not an object is refused')
        for 'hello', 1, ['hello'];
    like(command({}, line(direct => undef)), qr/'direct' is not an object/, 'null is refused');
    like(
        command({}, line(more => 1)), qr/more.*property is not defined in schema/s,
        'other unknown properties are refused as before'
    );
    is(
        command({}, line()), $refusal->{no_import},
        'without the property the command works as before'
    );

    # An import that has ended and has written a message.
    pipe(my $fh, my $writer) or die "pipe: $!\n";
    my $pid = fork() // die "fork: $!\n";
    POSIX::_exit(0) if !$pid;
    print {$writer} "something went wrong\n";
    close($writer);
    my $state = {
        sockets => { '/nonexistent/a' => 1 },
        disk_import => { pid => $pid, fh => $fh, socket => '/nonexistent/a' }
    };
    open(my $out, '>&', \*STDOUT) or die "dup: $!\n";
    open(STDOUT, '>', '/dev/null') or die "/dev/null: $!\n";
    my $pending = command($state, line());
    my $direct = command($state, line(direct => $DIRECT));
    open(STDOUT, '>&', $out) or die "dup: $!\n";
    is_deeply(
        $pending, { status => 'pending', msg => "something went wrong\n" },
        'the status of a running import is returned'
    );
    ok($direct->{direct}, '... and the seam answers in the meantime');
    is_deeply(
        [sort keys %$state], [qw(disk_import sockets)],
        '... without a change to the state of the import'
    );
    waitpid($pid, 0);
};

subtest 'after uninstall' => sub {
    is(PVE::Tunnel::Seam::uninstall(), 1, 'uninstall reports that the seam was installed');
    is(\&PVE::StorageTunnel::handle_query_disk_import, $original, 'the original handler is back');
    like(command({}, line(direct => $DIRECT)), $refusal->{probe}, 'the probe is refused');
    is(command({}, line()), $refusal->{no_import}, 'the command works as before');
    is_deeply(
        $PVE::StorageTunnel::cmd_schema->{'query-disk-import'}, {},
        'the original schema is back'
    );
};

done_testing;
