#!/usr/bin/perl

# version_reply_parse and plan, called with Perl values. The Rust tests check the decisions; this
# test checks that values cross the boundary intact.

use v5.36;

use JSON;
use Test::More;

use PVE::Tunnel::Native;

sub parse { return PVE::Tunnel::Native::version_reply_parse(@_) }
sub plan_of (%input) { return PVE::Tunnel::Native::plan({ migration_type => 'secure', %input }) }

sub refused ($function, $what, $pattern, $call, $status = undef) {
    ok(!eval { $call->(); 1 }, "$what is refused");
    like($@, qr/\Apve_tunnel_$function: .*$pattern.*\n\z/, '... with a reason');
    is(PVE::Tunnel::Native::last_status(), $status, '... and its status') if defined($status);
    return;
}

my %OLD = (api => 2, age => 0, caps => [], unknown => []);

subtest 'version replies' => sub {
    is_deeply(
        parse('{"success":1,"api":2,"age":0}'), \%OLD,
        'the reply of an old node has no capabilities'
    );
    is_deeply(
        parse('{"success":true,"api":"2","age":"0","caps":["x-y","insecure-remote","direct-tls"]}'),
        { %OLD, caps => ['insecure-remote', 'direct-tls'], unknown => ['x-y'] },
        'known names are separated from unknown ones',
    );
    is_deeply(
        parse({ success => JSON::true, api => 2, age => 0, caps => ['direct-tcp'] }),
        { %OLD, caps => ['direct-tcp'] },
        'a reply may already be decoded',
    );
    is(parse({ api => 3, age => 1 })->{api} + 1, 4, 'versions are numbers in Perl');

    my %bad = (
        'a reply that is not JSON' => ['success', PVE::Tunnel::Native::STATUS_PROTOCOL],
        'an undefined capability' =>
            [{ api => 2, age => 0, caps => [undef] }, PVE::Tunnel::Native::STATUS_PROTOCOL],
        'a version that is too new' =>
            [{ api => 9, age => 1 }, PVE::Tunnel::Native::STATUS_REFUSED],
    );
    for my $what (sort keys %bad) {
        my ($reply, $status) = $bad{$what}->@*;
        refused('version_reply_parse', $what, '', sub { parse($reply) }, $status);
    }
    refused('version_reply_parse', 'undef', 'undefined', sub { parse(undef) });
    refused('version_reply_parse', 'a NUL', 'NUL', sub { parse(qq({"api":2,"age":0}\0)) });
    refused('version_reply_parse', 'an array reference', 'reference', sub { parse([]) });
    refused(
        'version_reply_parse', 'text with wide characters', 'wide',
        sub { parse(qq({"api":2,"age":0,"x":"\x{2603}"})) },
    );
};

subtest 'secure' => sub {
    my $plan = plan_of();
    is_deeply(
        [@$plan{qw(plane offline network)}], ['websocket', 'websocket', undef],
        'an old node gets the websocket plane',
    );
    is_deeply(
        $plan->{start}, { statefile => 'unix', type => 'websocket' },
        '... with QEMU on UNIX sockets'
    );
    is_deeply($plan->{privileges}, [], '... without further privileges');
    is_deeply($plan->{warnings}, [], '... without warnings');
    ok(length($plan->{reason}), '... and with a reason');

    my %tls = (caps => ['direct-tls'], planes => ['tls', 'websocket']);
    my $failed = { ok => 0, address => '192.0.2.7', port => '60001', error => 'no route to host' };
    $plan = plan_of(%tls, dial => $failed);
    is($plan->{plane}, 'websocket', 'a failed connection attempt leads to the websocket plane');
    like("@{$plan->{warnings}}", qr/192\.0\.2\.7/, '... with the address in a warning');
    like("@{$plan->{warnings}}", qr/60001/, '... and the port');
    like("@{$plan->{warnings}}", qr/no route to host/, '... and the cause');
};

subtest 'insecure' => sub {
    my %insecure = (migration_type => 'insecure', planes => ['websocket', 'qemu']);
    my $plan = plan_of(%insecure, caps => ['insecure-remote'], migration_network => '10.0.0.0/24');
    is_deeply(
        [@$plan{qw(plane offline network)}], ['qemu', 'websocket', '10.0.0.0/24'],
        'the qemu plane on the migration network',
    );
    is_deeply(
        $plan->{start},
        { statefile => 'tcp', type => 'insecure', network => '10.0.0.0/24' },
        'parameters of the start command',
    );
    is_deeply(
        $plan->{privileges},
        [{ path => '/', privilege => 'Sys.Modify', on => ['source', 'target'] }],
        '... which needs Sys.Modify on both nodes',
    );
    ok(scalar($plan->{warnings}->@*), '... and has a warning');

    refused(
        'plan', 'an old target', 'upgrade the target node.*omit migration_type=insecure',
        sub { plan_of(%insecure) },
        PVE::Tunnel::Native::STATUS_REFUSED,
    );
};

subtest 'true and false in every form of Perl' => sub {
    my %clear = (migration_type => 'insecure', planes => ['qemu'], caps => ['insecure-remote']);
    for my $true (1, '1', !!1, JSON::true, \1) {
        refused(
            'plan', 'clear text', 'encrypt',
            sub { plan_of(%clear, require_encryption => $true) }
        );
    }
    for my $false (0, '0', '', !!0, JSON::false, \0) {
        is(plan_of(%clear, require_encryption => $false)->{plane}, 'qemu', 'a false value');
    }
    refused('plan', 'a word', '', sub { plan_of(%clear, require_encryption => 'maybe') });
};

subtest 'refused arguments' => sub {
    refused(
        'plan', 'a misspelt key', 'require_encrypton', sub { plan_of(require_encrypton => 1) },
        PVE::Tunnel::Native::STATUS_INVALID_ARGUMENT,
    );
    my $circle = [];
    push @$circle, $circle;
    for my $value (sub { }, $circle, \*STDIN) {
        ok(!eval { plan_of(caps => $value); 1 }, 'a value that JSON cannot express is refused');
        like($@, qr/(?:JSON|nesting|encode).*\n\z/, '... by the JSON encoder');
    }
    refused('plan', 'an array reference', 'hash reference', sub { PVE::Tunnel::Native::plan([]) });
    refused('plan', 'undef', 'hash reference', sub { PVE::Tunnel::Native::plan(undef) });
    refused(
        'plan', 'a name of 2 MB', '', sub { plan_of(migration_network => 'x' x 2_000_000) },
        PVE::Tunnel::Native::STATUS_TOO_LONG,
    );
};

subtest 'side effects on the caller' => sub {
    my $input = { migration_type => 'secure', dial => { ok => '0', port => '60000' } };
    my $before = JSON->new->canonical->encode($input);
    local $@ = "an earlier error\n";
    PVE::Tunnel::Native::plan($input);
    is($@, "an earlier error\n", '$@ is unchanged');
    is(JSON->new->canonical->encode($input), $before, '... and so is the input');
};

done_testing();
