#!/usr/bin/perl

# configuration_select: the settings in /etc/pve/remote-migration.cfg for one migration, with Perl
# values. The Rust tests check the syntax of the file and every error in it. This test checks that
# values cross the boundary intact, and that plan accepts a selection.

use v5.36;

use Encode qw(encode);
use JSON;
use Test::More;

use PVE::Tunnel::Native;

my $SITES = <<"EOF";
network: dc2
\tremote 192.0.2.7,pve.example.com
\tsource 10.0.0.0/24
\ttarget dc1
\tallow secure,insecure
\tdefault insecure
\tdead-peer-timeout 30

network: storage
    source vmbr1
EOF
my $ENCRYPTED = "$SITES\npolicy: cluster\n\trequire-encryption yes\n";

sub on_source ($text, %call) {
    my %input = (side => 'source', remote => '192.0.2.7', %call);
    return PVE::Tunnel::Native::configuration_select($text, \%input);
}

sub on_target ($text, %call) {
    my %input = (side => 'target', migration_type => 'secure', %call);
    return PVE::Tunnel::Native::configuration_select($text, \%input);
}

sub refused ($what, $status, $pattern, $call) {
    ok(!eval { $call->(); 1 }, "$what is refused");
    like($@, qr/\Apve_tunnel_configuration_select: .*$pattern.*\n\z/, '... with a reason');
    is(PVE::Tunnel::Native::last_status(), $status, '... and its status') if defined($status);
    return;
}

# A selection with Perl booleans in place of JSON booleans, and without its reason.
sub plain ($selection) {
    my %plain =
        map { $_ => JSON::is_bool($selection->{$_}) ? !!$selection->{$_} : $selection->{$_} }
        keys(%$selection);
    delete($plain{reason});
    return \%plain;
}

subtest 'on the source' => sub {
    my %nothing = (
        migration_type => 'secure',
        migration_network => undef,
        configured => !!0,
        network => undef,
        source_network => undef,
        require_encryption => !!0,
        public => !!0,
        gateway => !!0,
        dead_peer_timeout => 60,
        congestion => 'auto',
        buffer => 'auto',
        lanes => undef,
        threads => undef,
        compression => 'none',
    );
    my %dc2 = (
        %nothing,
        migration_type => 'insecure',
        migration_network => 'dc2',
        configured => !!1,
        network => 'dc1',
        source_network => '10.0.0.0/24',
        dead_peer_timeout => 30,
    );
    is_deeply(plain(on_source(undef)), \%nothing, 'the file may be undefined');
    is_deeply(plain(on_source('')), \%nothing, 'the file may be empty');
    is_deeply(plain(on_source($SITES)), \%dc2, 'the network of the remote is selected');
    is_deeply(
        plain(on_source($SITES, migration_type => undef, migration_network => undef)),
        \%dc2, 'undefined type and network select the defaults',
    );
    like(
        on_source($SITES)->{reason}, qr/\Anetwork 'dc2' is configured for remote '192/,
        'the selection has a reason'
    );
    is(on_source($SITES)->{dead_peer_timeout} + 1, 31, 'dead_peer_timeout is a number');
};

subtest 'on the target' => sub {
    my %nothing = (
        network => undef,
        configured => !!0,
        require_encryption => !!0,
        public => !!0,
        congestion => 'auto',
        buffer => 'auto',
        threads => undef,
    );
    is_deeply(plain(on_target(undef)), \%nothing, 'the file may be undefined');
    is_deeply(
        plain(on_target($SITES, migration_network => 'storage')),
        { %nothing, network => 'vmbr1', configured => !!1 },
        'an ID selects the network of this node',
    );
    is_deeply(
        plain(on_target($ENCRYPTED)),
        { %nothing, require_encryption => !!1 },
        'the policy is returned',
    );
};

subtest 'a selection as input of plan' => sub {
    my $plan_of = sub ($selection) {
        my @names = qw(migration_type migration_network configured require_encryption);
        my %input = map { $_ => $selection->{$_} } @names;
        return PVE::Tunnel::Native::plan(
            { %input, caps => ['direct-tcp', 'direct-tls'], planes => ['tls', 'tcp'] });
    };
    my $plan = $plan_of->(on_source($SITES));
    is($plan->{plane}, 'tcp', 'the configured type decides the plane');
    is_deeply($plan->{privileges}, [], '... and needs no privilege');
    like("@{$plan->{warnings}}", qr/CLEAR TEXT.*'dc2'/, '... but has a warning with the network');

    my %requested = (migration_type => 'insecure', migration_network => '10.0.0.0/24');
    my $privileges = $plan_of->(on_source($SITES, %requested))->{privileges};
    is($privileges->[0]{privilege}, 'Sys.Modify', 'a type and network of the user need Sys.Modify');
    is(
        $plan_of->(on_source($ENCRYPTED, migration_type => 'secure'))->{plane}, 'tls',
        'secure migration uses tls'
    );
};

subtest 'refused migrations' => sub {
    my $status = PVE::Tunnel::Native::STATUS_REFUSED;
    refused(
        'a type that the network does not allow', $status, q('storage'.*it allows: secure),
        sub { on_target($SITES, migration_network => 'storage', migration_type => 'insecure') },
    );
};

subtest 'refused files and arguments' => sub {
    my $status = PVE::Tunnel::Native::STATUS_INVALID_ARGUMENT;
    refused(
        'an unknown key', $status, q(line 11: unknown key 'foo' in network 'storage'),
        sub { on_target("$SITES\tfoo 1\n") },
    );
    refused(
        'a file in Latin-1', PVE::Tunnel::Native::STATUS_NOT_UTF8,
        'line 2: is not UTF-8',
        sub { on_target("network: dc2\n\tcomment Z\xfcrich\n") },
    );
    my $utf8 = encode('UTF-8', "network: dc2\n\tcomment Z\xfcrich \x{2603}\n");
    ok(on_target($utf8, migration_network => 'dc2')->{configured}, 'a file in UTF-8 is read');
    refused(
        'a file above 1 MiB', PVE::Tunnel::Native::STATUS_TOO_LONG,
        '1048576', sub { on_target("#\n" x 600_000) },
    );
    refused('a NUL', undef, 'NUL', sub { on_target("# \0") });
    refused('text with wide characters', undef, 'wide', sub { on_target("# \x{2603}") });
    refused('a reference in place of text', undef, 'reference', sub { on_target([]) });

    refused('a misspelt name', $status, 'migration_typ', sub { on_target('', migration_typ => 1) });
    refused(
        'an array in place of the input', undef, 'hash reference',
        sub { PVE::Tunnel::Native::configuration_select('', []) },
    );
};

done_testing();
