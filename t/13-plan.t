#!/usr/bin/perl

# version_reply_parse and plan: what a target said becomes what to do, in Perl's own terms. The
# whole decision table is tested where it is made; here, that nothing of it is lost on the way.

use v5.36;

use JSON;
use Test::More;

use PVE::Tunnel::Native;

sub parse { return PVE::Tunnel::Native::version_reply_parse(@_) }
sub plan_of (%input) { return PVE::Tunnel::Native::plan({ migration_type => 'secure', %input }) }

sub refused ($function, $what, $pattern, $call, $status = undef) {
    ok(!eval { $call->(); 1 }, "$what is refused");
    like($@, qr/\Apve_tunnel_$function: .*$pattern.*\n\z/, 'with words that help');
    is(PVE::Tunnel::Native::last_status(), $status, 'and its status') if defined($status);
    return;
}

my %OLD = (api => 2, age => 0, caps => [], unknown => []);

subtest 'version replies' => sub {
    is_deeply(parse('{"success":1,"api":2,"age":0}'), \%OLD, 'of an old node: no capabilities');
    is_deeply(
        parse('{"success":true,"api":"2","age":"0","caps":["x-y","insecure-remote","direct-tls"]}'),
        { %OLD, caps => ['insecure-remote', 'direct-tls'], unknown => ['x-y'] },
        'known names and unknown ones are told apart',
    );
    is_deeply(
        parse({ success => JSON::true, api => 2, age => 0, caps => ['direct-tcp'] }),
        { %OLD, caps => ['direct-tcp'] },
        'a reply that was decoded already',
    );
    is(parse({ api => 3, age => 1 })->{api} + 1, 4, 'numbers are numbers');

    my %bad = (
        'no JSON' => ['success', PVE::Tunnel::Native::STATUS_PROTOCOL],
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
        'to an old node: websocket',
    );
    is_deeply($plan->{start}, { statefile => 'unix', type => 'websocket' }, 'QEMU on UNIX sockets');
    is_deeply($plan->{privileges}, [], 'no privilege beyond those of a migration');
    is_deeply($plan->{warnings}, [], 'nothing to warn of');
    ok(length($plan->{reason}), 'a reason');

    my %tls = (caps => ['direct-tls'], planes => ['tls', 'websocket']);
    my $failed = { ok => 0, address => '192.0.2.7', port => '60001', error => 'no route to host' };
    $plan = plan_of(%tls, dial => $failed);
    is($plan->{plane}, 'websocket', 'websocket where it did not');
    like("@{$plan->{warnings}}", qr/192\.0\.2\.7/, 'with the address in a warning');
    like("@{$plan->{warnings}}", qr/60001/, 'the port');
    like("@{$plan->{warnings}}", qr/no route to host/, 'and why');
};

subtest 'insecure' => sub {
    my %insecure = (migration_type => 'insecure', planes => ['websocket', 'qemu']);
    my $plan = plan_of(%insecure, caps => ['insecure-remote'], migration_network => '10.0.0.0/24');
    is_deeply(
        [@$plan{qw(plane offline network)}], ['qemu', 'websocket', '10.0.0.0/24'],
        'QEMU to QEMU on the migration network',
    );
    is_deeply(
        $plan->{start},
        { statefile => 'tcp', type => 'insecure', network => '10.0.0.0/24' },
        'what the start command says',
    );
    is_deeply(
        $plan->{privileges},
        [{ path => '/', privilege => 'Sys.Modify', on => ['source', 'target'] }],
        'needs Sys.Modify on both nodes',
    );
    ok(scalar($plan->{warnings}->@*), 'and is warned of');

    refused(
        'plan', 'an old target', 'upgrade the target node.*omit migration_type=insecure',
        sub { plan_of(%insecure) },
        PVE::Tunnel::Native::STATUS_REFUSED,
    );
};

subtest 'true and false, however Perl says them' => sub {
    my %clear = (migration_type => 'insecure', planes => ['qemu'], caps => ['insecure-remote']);
    for my $true (1, '1', !!1, JSON::true, \1) {
        refused(
            'plan', 'clear text', 'encrypt',
            sub { plan_of(%clear, require_encryption => $true) }
        );
    }
    for my $false (0, '0', '', !!0, JSON::false, \0) {
        is(plan_of(%clear, require_encryption => $false)->{plane}, 'qemu', 'false');
    }
    refused('plan', 'a word', '', sub { plan_of(%clear, require_encryption => 'maybe') });
};

subtest 'bad input' => sub {
    refused(
        'plan', 'a misspelt key', 'require_encrypton', sub { plan_of(require_encrypton => 1) },
        PVE::Tunnel::Native::STATUS_INVALID_ARGUMENT,
    );
    my $circle = [];
    push @$circle, $circle;
    for my $value (sub { }, $circle, \*STDIN) {
        ok(!eval { plan_of(caps => $value); 1 }, 'what JSON cannot say is refused');
        like($@, qr/(?:JSON|nesting|encode).*\n\z/, 'by JSON');
    }
    refused('plan', 'no hash', 'hash reference', sub { PVE::Tunnel::Native::plan([]) });
    refused('plan', 'undef', 'hash reference', sub { PVE::Tunnel::Native::plan(undef) });
    refused(
        'plan', 'an endless name', '', sub { plan_of(migration_network => 'x' x 2_000_000) },
        PVE::Tunnel::Native::STATUS_TOO_LONG,
    );
};

subtest 'the caller is not disturbed' => sub {
    my $input = { migration_type => 'secure', dial => { ok => '0', port => '60000' } };
    my $before = JSON->new->canonical->encode($input);
    local $@ = "still being looked at\n";
    PVE::Tunnel::Native::plan($input);
    is($@, "still being looked at\n", 'its $@ stays');
    is(JSON->new->canonical->encode($input), $before, 'its input too');
};

done_testing();
