package Test::FakeAccess;

use v5.36;

=head1 NAME

Test::FakeAccess - users, tokens, roles and permissions of a fake Proxmox VE node

=head1 SYNOPSIS

    my $access = Test::FakeAccess->new(value => $uuid);
    $access->check('migration@pve!source', '/vms/100', 'VM.Allocate');

=head1 METHODS

=head2 new(value => $value)

Class method. C<value>: the secret of each token that is created.

=head2 add_role, add_user, add_token, modify_acl, delete_token, delete_user

The commands of C<pveum>. They die if the operator made a mistake.

=head2 permissions($token)

What C</access/permissions> returns: path to privilege to 1, because each is valid below the path, too.

=head2 check($token, $path, $privilege)

Dies if the token lacks the privilege on the path. A token has what both itself and its user have.
The roles of a path replace those of the paths above it.

=head2 unused

The privileges of all roles that C<check> was never called for.

=cut

# The privileges of Proxmox VE 9 that a migration may require.
my %KNOWN = map { $_ => 1 } (
    qw(Datastore.Allocate Datastore.AllocateSpace Datastore.Audit SDN.Audit SDN.Use),
    qw(Sys.Audit Sys.Incoming Sys.Modify Mapping.Use VM.Allocate VM.Audit VM.Migrate VM.PowerMgmt),
    map { "VM.Config.$_" } qw(CDROM CPU Cloudinit Disk HWType Memory Network Options),
);

sub new ($class, %option) {
    return bless { %option, role => {}, user => {}, acl => {}, used => {} }, $class;
}

sub add_role ($self, $name, $privileges) {
    die "role '$name' already exists\n" if $self->{role}{$name};
    my @privileges = split(/[\s,;]+/, $privileges);
    for my $privilege (@privileges) {
        die "invalid privilege '$privilege'\n" if !$KNOWN{$privilege};
    }
    $self->{role}{$name} = \@privileges;
    return;
}

sub add_user ($self, $user) {
    die "user '$user' already exists\n" if $self->{user}{$user};
    $self->{user}{$user} = {};
    return;
}

sub add_token ($self, $user, $name) {
    my $tokens = $self->{user}{$user} // die "no such user ('$user')\n";
    die "Token already exists.\n" if $tokens->{$name};
    $tokens->{$name} = 1;
    return $self->{value};
}

sub modify_acl ($self, $path, %entry) {
    my $privileges = $self->{role}{ $entry{role} } // die "role '$entry{role}' does not exist\n";
    die "invalid ACL path '$path'\n"
        if $path !~ m{\A/(?:vms(?:/\d+)?|storage/[\w-]+|sdn/zones/\w+/\w+)?\z};
    for my $who (split(/,/, $entry{users}), split(/,/, $entry{tokens})) {
        die "'$who' does not exist\n" if !$self->is_known($who);
        $self->{acl}{$who}{$path} = $privileges;
    }
    return;
}

sub is_known ($self, $who) {
    my ($user, $token) = split(/!/, $who);
    my $tokens = $self->{user}{$user} // return 0;
    return defined($token) ? $tokens->{$token} // 0 : 1;
}

sub delete_token ($self, $user, $name) {
    delete $self->{user}{$user}{$name} // die "no such token '$name' for user '$user'\n";
    delete $self->{acl}{"$user!$name"};
    return;
}

sub delete_user ($self, $user) {
    delete $self->{user}{$user} // die "no such user ('$user')\n";
    delete $self->{acl}{$user};
    return;
}

sub permissions ($self, $token) {
    my ($user) = split(/!/, $token);
    my %paths = map { $_ => 1 } map { keys %{ $self->{acl}{$_} // {} } } $user, $token;
    return {
        map {
            $_ => { map { $_ => 1 } $self->effective($token, $_) }
        } keys %paths
    };
}

sub check ($self, $token, $path, $privilege) {
    $self->{used}{$privilege} = 1;
    return if grep { $_ eq $privilege } $self->effective($token, $path);
    die "403 Permission check failed ($path, $privilege)\n";
}

sub effective ($self, $token, $path) {
    my ($user) = split(/!/, $token);
    my %of_user = map { $_ => 1 } $self->granted($user, $path);
    my @effective = sort grep { $of_user{$_} } $self->granted($token, $path);
    return @effective;
}

sub granted ($self, $who, $path) {
    my $acl = $self->{acl}{$who} // return;
    my $privileges = $acl->{'/'} // [];
    my $above = '';
    for my $step (grep { length } split(m{/}, $path)) {
        $above .= "/$step";
        $privileges = $acl->{$above} // $privileges;
    }
    return @$privileges;
}

sub unused ($self) {
    my %granted = map { $_ => 1 } map { @$_ } values $self->{role}->%*;
    my @unused = sort grep { !$self->{used}{$_} } keys %granted;
    return @unused;
}

1;
