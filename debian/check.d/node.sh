# shellcheck shell=bash disable=SC2154 # what is used and not set here, debian/check.d/suite sets
# The packages on a node that knows nothing of how they were built. Uses: node, packages, source, work, suite, here.

# The version of the packages that stand for an earlier release.
readonly PREVIOUS=0.0.1

# Installed, removed and purged, they leave what was there before.
install_and_purge() {
    make_tree "$node"
    offer "$packages" /packages
    snapshot before
    install_from /packages
    verify_installed
    inside "$node" pve-tunnel --version
    snapshot installed
    inside "$node" apt-get -q -y remove pve-tunnel
    purge_ours
    snapshot after
    same before after
    say "$(comm -13 "$(snapshot_of before)" "$(snapshot_of installed)" | wc -l) paths came and went"
}

# No file differs from what its package says.
verify_installed() {
    local names differing
    mapfile -t names < <(our_names)
    differing=$(inside "$node" dpkg --verify "${names[@]}")
    [ -z "$differing" ] || fail "files that are not as their packages have them: $differing"
}

# Copies packages into the tree; what only serves debugging is not installed by anybody here.
offer() {
    mkdir -p "$node$2"
    find "$1" -name '*.deb' ! -name '*-dbgsym_*' -exec cp -t "$node$2" {} +
}

install_from() {
    # shellcheck disable=SC2016 # the inner shell's
    inside "$node" sh -c 'exec apt-get -q -y install "$1"/*.deb' sh "$1"
}

purge_ours() {
    local names
    mapfile -t names < <(our_names)
    purge "${names[@]}"
}

purge() {
    local name known=()
    # apt has forgotten one that was removed and has left nothing.
    for name in "$@"; do
        ! inside "$node" dpkg-query -W "$name" >/dev/null 2>&1 || known+=("$name")
    done
    [ ${#known[@]} -eq 0 ] || inside "$node" apt-get -q -y purge "${known[@]}"
    inside "$node" apt-get -q -y autoremove --purge
}

purge_stand_ins() {
    purge libpve-guest-common-perl proxmox-websocket-tunnel pve-manager
}

our_names() {
    local deb
    for deb in "$packages"/*.deb; do
        dpkg-deb --field "$deb" Package
    done | grep -v -e '-dbgsym$'
}

# Files, packages and processes.
snapshot() {
    {
        "$here/listing" "$node"
        # shellcheck disable=SC2016 # dpkg-query's variables
        inside "$node" dpkg-query -W -f 'package ${Package} ${Version} ${db:Status-Status}\n'
        running
    } | sort >"$(snapshot_of "$1")"
}

snapshot_of() {
    printf '%s/%s/%s.list\n' "$work" "$suite" "$1"
}

running() {
    local process
    for process in /proc/[0-9]*; do
        if [ "$(readlink "$process/root")" = "$node" ]; then
            printf 'process %s\n' "$(tr '\0' ' ' <"$process/cmdline")"
        fi
    done
}

same() {
    diff -U 0 "$(snapshot_of "$1")" "$(snapshot_of "$2")" || fail 'it is not as it was before'
}

# From an earlier release, switched on, to this one; then removed without switching it off.
upgrade() {
    offer_previous /previous
    mkdir -p "$node/stand-ins"
    "$source/debian/tests/stand-in-packages" "$node/stand-ins" 1.0
    mkdir -p "$node/etc/pve"
    printf 'network: dc2\n\tremote pve.example.com\n\tsource 10.0.0.0/24\n' >"$node/etc/pve/remote-migration.cfg"
    snapshot upgrade-before

    install_from /stand-ins
    rm -f "$node/var/lib/stand-in/triggered"
    snapshot stock
    install_from /previous
    [ "$(installed_version)" = "$PREVIOUS" ]
    inside "$node" pve-tunnel enable
    overlay_is_in_effect
    diversions >"$work/$suite/diversions"

    rm -f "$node/var/lib/stand-in/triggered"
    install_from /packages
    [ "$(installed_version)" != "$PREVIOUS" ]
    diversions | diff "$work/$suite/diversions" -
    overlay_is_in_effect
    inside "$node" pve-tunnel status
    grep -qx pve-api-updates "$node/var/lib/stand-in/triggered" || fail 'the daemons were not told of the new version'
    grep -q 'remote pve.example.com' "$node/etc/pve/remote-migration.cfg"
    say "from $PREVIOUS, switched on"

    purge_ours
    rm -f "$node/var/lib/stand-in/triggered"
    snapshot stock-again
    same stock stock-again
    purge_stand_ins
    snapshot upgrade-after
    same upgrade-before upgrade-after
}

installed_version() {
    # shellcheck disable=SC2016 # dpkg-query's variable
    inside "$node" dpkg-query -W -f '${Version}' pve-tunnel
}

diversions() {
    inside "$node" dpkg-divert --list | grep /PVE/ | sort
}

# The same packages, said to be older.
offer_previous() {
    local deb tree version
    mkdir -p "$node$1"
    for deb in "$node/packages"/*.deb; do
        tree=$(mktemp -d)
        dpkg-deb -R "$deb" "$tree/package"
        version=$(dpkg-deb --field "$deb" Version)
        # Exact dependencies, and those that come from the library's symbols.
        sed -i -e "s/^Version: .*/Version: $PREVIOUS/" \
            -e "s/\(pve-tunnel[a-z0-9-]* (>\?= \)${version//./\\.})/\1$PREVIOUS)/g" "$tree/package/DEBIAN/control"
        dpkg-deb --build "$tree/package" "$node$1" >/dev/null
        rm -rf "$tree"
    done
}

overlay_is_in_effect() {
    inside "$node" perl -T -MPVE::Tunnel -MPVE::Tunnel::Overlay -e \
        'exit(PVE::Tunnel::Overlay::status()->{installed} ? 0 : 1)'
}

run_autopkgtest() {
    local output=$work/$suite.tests status=0
    # An upgrade that failed has left them, and tests take them for the real ones.
    purge_stand_ins
    # All that tests and autopkgtest need stays: what is compared is what we leave.
    install_from /packages
    inside "$node" apt-get -q -y satisfy "$(test_dependencies)"
    inside "$node" apt-get -q -y install apt-utils dpkg-dev
    # shellcheck disable=SC2016 # the inner shell's, and dpkg-query's variables
    inside "$node" sh -c 'apt-mark manual $(dpkg-query -W -f "\${Package}:\${Architecture} ") >/dev/null'
    purge_ours
    snapshot tests-before
    rm -rf "$output"
    autopkgtest --output-dir "$output" --no-built-binaries "$packages"/*.deb "$source/" -- chroot "$node" ||
        status=$?
    # A test that is skipped has shown nothing: 2 will not do.
    [ "$status" -eq 0 ] || fail "autopkgtest ended with $status; $output has what each test printed"
    say "$(wc -l <"$output/summary") tests"
}

# Of all tests, less our own packages, which apt does not know.
test_dependencies() {
    local ours
    mapfile -t ours < <(our_names)
    perl -MDpkg::Control -MDpkg::Deps -Mv5.36 -e '
        my ($file, @ours) = @ARGV;
        my %ours = map { $_ => 1 } @ours;
        my @wanted;
        open my $handle, "<", $file or die "$file: $!\n";
        while (my $test = eval { my $c = Dpkg::Control->new(type => CTRL_TESTS); $c->parse($handle, $file) && $c }) {
            push @wanted, grep { !/^@/ && !$ours{ s/ .*//r } } split /\s*,\s*/, $test->{Depends} =~ s/\s+/ /gr;
        }
        say join ", ", @wanted;
    ' "$source/debian/tests/control" "${ours[@]}"
}

tests_leave_nothing() {
    purge_ours
    snapshot tests-after
    same tests-before tests-after
}
