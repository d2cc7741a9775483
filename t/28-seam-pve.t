#!/usr/bin/perl

# The seam in the real PVE::StorageTunnel, with schemas checked by the real PVE::JSONSchema, which
# have to be installed or in PERL5LIB. What PVE::StorageTunnel loads besides and this test does not
# reach, PVE::Storage above all, is replaced by empty modules where it is not there.

use v5.36;

use FindBin;
use lib "$FindBin::RealBin/lib";

use JSON;
use Test::More;

use PVE::Tunnel::Seam;
use Test::TunnelNode;

# A test that stands still is a failed test.
local $SIG{ALRM} = sub { die "the test stands still\n" };
alarm(300);

BEGIN {
    my $missing = Test::TunnelNode::missing('PVE::JSONSchema', 'PVE::Tools', 'PVE::Tunnel');
    $missing //= 'PVE::StorageTunnel is not there'
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
    # PVE::Storage brings the first for the schema of another command; the second is the handler's.
    if (@replaced) {
        PVE::JSONSchema::register_standard_option('pve-storage-image-format', { type => 'string' });
        no warnings 'once'; ## no critic (ProhibitNoWarnings)
        *PVE::Storage::volume_imported_message = sub ($volid, $pattern = 0) {
            return $pattern ? qr/^imported '(.*)'$/ : "imported '$volid'\n";
        };
    }
    require PVE::StorageTunnel;
}
diag "runs the real PVE::StorageTunnel ($INC{'PVE/StorageTunnel.pm'})"
    . (@replaced ? ", without @replaced" : '');

# A worker's table shares the hash, and names the handler.
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
my $known = {
    direct => qr/direct.*property is not defined in schema/s,
    none => "no disk import running\n"
};

subtest 'without the seam' => sub {
    like(command({}, line(direct => $DIRECT)), $known->{direct}, 'the probe is refused');
    is(command({}, line()), $known->{none}, 'the command is as ever');
};

PVE::Tunnel::Seam::install(check => sub (@) { return 0 });
$PVE::Tunnel::Seam::CONFIGURATION = '/nonexistent';

subtest 'with the seam' => sub {
    my $hello = command({}, line(direct => $DIRECT));
    is(ref($hello) && $hello->{direct}{protocol}, 1, 'the probe is answered')
        or diag(explain($hello));
    is_deeply($hello->{direct}{caps}, ['direct-tls'], '... by the seam');
    ok(JSON->new->encode({ %$hello, success => JSON::true }), '... in what goes over the wire');
    like(command({}, line(direct => $_)), qr/direct/, 'what is no object is refused')
        for 'hello', 1, ['hello'];
    like(command({}, line(direct => undef)), qr/'direct' is not an object/, 'null, too');
    like(
        command({}, line(more => 1)), qr/more.*property is not defined in schema/s,
        'other properties are as unknown as before'
    );
    is(command({}, line()), $known->{none}, 'without the property the command is as ever');

    # An import that has ended and left its message.
    pipe(my $fh, my $theirs) or die "pipe: $!\n";
    my $pid = fork() // die "fork: $!\n";
    POSIX::_exit(0) if !$pid;
    print {$theirs} "something went wrong\n";
    close($theirs);
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
        'a running import is asked'
    );
    ok($direct->{direct}, '... and the seam may be, meanwhile');
    is_deeply([sort keys %$state], [qw(disk_import sockets)], '... which leaves its state alone');
    waitpid($pid, 0);
};

subtest 'undone' => sub {
    is(PVE::Tunnel::Seam::uninstall(), 1, 'uninstall');
    is(\&PVE::StorageTunnel::handle_query_disk_import, $original, 'their handler');
    like(command({}, line(direct => $DIRECT)), $known->{direct}, 'the probe is refused');
    is(command({}, line()), $known->{none}, 'the command is as ever');
    is_deeply($PVE::StorageTunnel::cmd_schema->{'query-disk-import'}, {}, 'their schema');
};

done_testing;
