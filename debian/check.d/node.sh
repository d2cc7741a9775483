# shellcheck shell=bash disable=SC2154 # debian/check.d/suite sets the other variables
# Installs and tests the packages in a tree that was not used for the build. Uses: node, packages, source, work, suite,
# here.

# The version of the packages that represent an earlier release.
readonly PREVIOUS=0.0.1

# Installing, removing and purging the packages restores the previous state.
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
    note "$(comm -13 "$(snapshot_of before)" "$(snapshot_of installed)" | wc -l) paths installed and removed"
}

# All files are as in their packages.
verify_installed() {
    local names differing
    mapfile -t names < <(our_names)
    differing=$(inside "$node" dpkg --verify "${names[@]}")
    [ -z "$differing" ] || fail "files that differ from their packages: $differing"
}

# Copies the packages into the tree, except those with debug symbols.
offer() {
    mkdir -p "$node$2"
    find "$1" -name '*.deb' ! -name '*-dbgsym_*' -exec cp -t "$node$2" {} +
}

install_from() {
    # shellcheck disable=SC2016 # the inner shell expands it
    inside "$node" sh -c 'exec apt-get -q -y install "$1"/*.deb' sh "$1"
}

purge_ours() {
    local names
    mapfile -t names < <(our_names)
    purge "${names[@]}"
}

purge() {
    local name installed=()
    # apt rejects the name of a package that dpkg does not list: one that was removed and left no configuration files.
    for name in "$@"; do
        ! inside "$node" dpkg-query -W "$name" >/dev/null 2>&1 || installed+=("$name")
    done
    [ ${#installed[@]} -eq 0 ] || inside "$node" apt-get -q -y purge "${installed[@]}"
    inside "$node" apt-get -q -y autoremove --purge
}

purge_fakes() {
    purge libpve-guest-common-perl proxmox-websocket-tunnel pve-manager
}

our_names() {
    local deb
    for deb in "$packages"/*.deb; do
        dpkg-deb --field "$deb" Package
    done | grep -v -e '-dbgsym$'
}

# Records files, packages and processes.
snapshot() {
    {
        "$here/listing" "$node"
        # shellcheck disable=SC2016 # variables of dpkg-query
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
    diff -U 0 "$(snapshot_of "$1")" "$(snapshot_of "$2")" || fail 'files, packages or processes differ from the previous state'
}

# Upgrades from an earlier release that is enabled, then removes the packages without disabling first.
upgrade() {
    offer_previous /previous
    mkdir -p "$node/fakes"
    "$source/debian/tests/fake-packages" "$node/fakes" 1.0
    mkdir -p "$node/etc/pve"
    printf 'network: dc2\n\tremote pve.example.com\n\tsource 10.0.0.0/24\n' >"$node/etc/pve/remote-migration.cfg"
    # Proxmox VE creates the lock of its ports for its first migration and keeps it.
    : >"$node/run/lock/pve-ports.lck"
    snapshot upgrade-before

    install_from /fakes
    rm -f "$node/var/lib/fake/triggered"
    snapshot stock
    install_from /previous
    [ "$(installed_version)" = "$PREVIOUS" ]
    inside "$node" pve-tunnel enable
    overlay_is_in_effect
    diversions >"$work/$suite/diversions"

    rm -f "$node/var/lib/fake/triggered"
    install_from /packages
    [ "$(installed_version)" != "$PREVIOUS" ]
    diversions | diff "$work/$suite/diversions" -
    overlay_is_in_effect
    inside "$node" pve-tunnel status
    grep -qx pve-api-updates "$node/var/lib/fake/triggered" || fail 'the upgrade did not reload the daemons'
    grep -q 'remote pve.example.com' "$node/etc/pve/remote-migration.cfg"
    note "from $PREVIOUS, while enabled"

    purge_ours
    rm -f "$node/var/lib/fake/triggered"
    snapshot stock-again
    same stock stock-again
    purge_fakes
    snapshot upgrade-after
    same upgrade-before upgrade-after
}

installed_version() {
    # shellcheck disable=SC2016 # variable of dpkg-query
    inside "$node" dpkg-query -W -f '${Version}' pve-tunnel
}

diversions() {
    inside "$node" dpkg-divert --list | grep /PVE/ | sort
}

# Creates packages with the same content and an older version.
offer_previous() {
    local deb tree version upstream
    mkdir -p "$node$1"
    for deb in "$node/packages"/*.deb; do
        tree=$(mktemp -d)
        dpkg-deb -R "$deb" "$tree/package"
        version=$(dpkg-deb --field "$deb" Version)
        upstream=${version%%~*}
        # Also changes the version in dependencies that are exact, or that are derived from the library's symbols, whose
        # versions end at the ~ of the release.
        sed -i -e "s/^Version: .*/Version: $PREVIOUS/" \
            -e "s/\(pve-tunnel[a-z0-9-]* (>\?= \)\(${version//./\\.}\|${upstream//./\\.}~\))/\1$PREVIOUS)/g" \
            "$tree/package/DEBIAN/control"
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
    # The test suite repeats what `make test` runs in the tree, so a quick check leaves it out.
    local skipped=${quick:+suite}
    # A failed upgrade check may have left the fake packages. Tests would treat them as a real Proxmox VE.
    purge_fakes
    # Installs all dependencies of the tests and of autopkgtest before the snapshot, and keeps them after it.
    install_from /packages
    inside "$node" apt-get -q -y satisfy "$(test_dependencies "$skipped")"
    inside "$node" apt-get -q -y install apt-utils dpkg-dev
    # shellcheck disable=SC2016 # the inner shell and dpkg-query expand it
    inside "$node" sh -c 'apt-mark manual $(dpkg-query -W -f "\${Package}:\${Architecture} ") >/dev/null'
    purge_ours
    snapshot tests-before
    rm -rf "$output"
    local -a options=()
    [ -z "$skipped" ] || options+=(--skip-test="$skipped")
    # The test node is not under test. A quick check on this machine's release does not compile it once more.
    if [ -n "$quick" ] && [ "$suite" = "$(. /etc/os-release && printf '%s' "${VERSION_CODENAME-}")" ]; then
        options+=(--copy "$PWD/target/release/testnode:/tmp/testnode" --env TESTNODE=/tmp/testnode)
    fi
    autopkgtest --output-dir "$output" --no-built-binaries "${options[@]}" \
        "$packages"/*.deb "$source/" -- chroot "$node" || status=$?
    rm -f "$node/tmp/testnode"
    # Status 2 means that a test was skipped, which is a failure here.
    [ "$status" -eq 0 ] || fail "autopkgtest ended with $status; $output contains the output of each test"
    note "$(wc -l <"$output/summary") tests"
}

# The dependencies of all tests except one, without our own packages, which no repository contains.
test_dependencies() {
    local ours
    mapfile -t ours < <(our_names)
    perl -MDpkg::Control -MDpkg::Deps -Mv5.36 -e '
        my ($file, $skipped, @ours) = @ARGV;
        my %ours = map { $_ => 1 } @ours;
        my @required;
        open my $handle, "<", $file or die "$file: $!\n";
        while (my $test = eval { my $c = Dpkg::Control->new(type => CTRL_TESTS); $c->parse($handle, $file) && $c }) {
            # A test with a Test-Command has no name here.
            next if length $skipped && ($test->{Tests} // "") eq $skipped;
            push @required, grep { !/^@/ && !$ours{ s/ .*//r } } split /\s*,\s*/, $test->{Depends} =~ s/\s+/ /gr;
        }
        say join ", ", @required;
    ' "$source/debian/tests/control" "$1" "${ours[@]}"
}

tests_leave_nothing() {
    purge_ours
    snapshot tests-after
    same tests-before tests-after
}
