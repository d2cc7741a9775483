# shellcheck shell=bash disable=SC2154 # debian/check.d/suite sets the other variables
# Runs the commands of README.md, CONTRIBUTING.md and docs/c.md in clean systems, as they are written there. Uses:
# newcomers, client, tester, packages, source, clone, tarball, work, suite, quick.

# The clone of the repository, inside its tree.
readonly CLONE=/root/pve-tunnel
# Directory of the tests inside their tree.
readonly CHECKOUT=/root/checkout

# follow TREE DIRECTORY FILE HEADING NUMBER: runs the commands of an indented block.
follow() {
    local commands
    commands=$(documented "$source/$3" "$4" "$5")
    [ -n "$commands" ] || fail "$3 has no indented block number $5 below '$4'"
    inside "$1" -C "$2" sh -exc "$commands"
}

# documented FILE HEADING NUMBER: prints an indented block below a heading. The first one has the number 1.
documented() {
    awk -v heading="$2" -v wanted="$3" '
        /^#/ { below = $0 == heading; count = 0 }
        !/^    / { inside = 0; next }
        !inside { inside = 1; ++count }
        below && count == wanted { print substr($0, 5) }
    ' "$1"
}

# The packages are the same as those that were built offline with the declared build dependencies. A quick check only
# installs what the build requires.
readme_packages() {
    local tree=$newcomers/packages heading='## Install' deb
    new_system "$tree"
    if [ -n "$quick" ]; then
        inside "$tree" -C "$CLONE" sh -exc "$(documented "$source/README.md" "$heading" 1 | head -n 1)"
        inside "$tree" -C "$CLONE" dpkg-checkbuilddeps
        note 'build dependencies only'
    else
        follow "$tree" "$CLONE" README.md "$heading" 1
        for deb in "$packages"/*.deb; do
            cmp "$deb" "$tree$CLONE/target/deb/$(basename "$deb")"
        done
        note "byte for byte those of 'build offline'"
    fi
    discard "$tree"
}

readme_demo() {
    local tree=$newcomers/demo
    new_system "$tree"
    follow "$tree" "$CLONE" README.md '## Demo, without Proxmox VE' 1
    discard "$tree"
}

# Compiles and runs the first program of the page.
c_quick_start() {
    local tree=$newcomers/c page=docs/c.md
    new_system "$tree"
    follow "$tree" "$CLONE" "$page" '## Build' 1
    fenced c "$source/$page" >"$tree/root/program.c"
    follow "$tree" /root "$page" '## Build' 2
    inside "$tree" -C /root ./program | diff <(fenced text "$source/$page") -
    discard "$tree"
}

# The first block of a language in a file.
fenced() {
    awk -v begin="\`\`\`$1" '
        $0 == begin { inside = 1; next }
        /^```/ && inside { exit }
        inside { print }
    ' "$2"
}

# The three packages on a node, and off it again. The node has fake packages of Proxmox VE.
readme_install() {
    local name
    make_tree "$client"
    # The answer of an operator to apt's questions.
    echo 'APT::Get::Assume-Yes "true";' >"$client/etc/apt/apt.conf.d/03yes"
    mkdir "$client/fakes"
    "$source/debian/tests/fake-packages" "$client/fakes" 1.0
    inside "$client" sh -c 'apt-get -q install /fakes/*.deb'
    for name in libpve-tunnel0 libpve-tunnel-native-perl pve-tunnel; do
        cp "$packages/$name"_*.deb "$client/root"
    done
    follow "$client" /root README.md '## Install' 2
    inside "$client" pve-tunnel status | grep -x 'pve-tunnel is on'
    readme_undo
}

readme_undo() {
    follow "$client" /root README.md '## Undo' 1
    if inside "$client" sh -c 'command -v pve-tunnel'; then
        fail 'the command is still installed'
    fi
}

# The tests as root, because some of them run only as root, and the builds run as other users. `setup` installs the
# packages that the tests require, so this also finds a package that it does not list.
test_as_root() {
    local commands
    commands=$(documented "$source/CONTRIBUTING.md" '# Contributing' 1)
    [[ $commands == './setup && '*' && make test && '* ]] ||
        fail "CONTRIBUTING.md does not begin with ./setup and make test, but with $commands"
    # Tests create mount namespaces, and `unshare --mount` requires a mount point as its root.
    mkdir -p "$tester"
    mount --bind "$tester" "$tester"
    make_tree "$tester"
    mkdir -p "$tester$CHECKOUT"
    unpack 0 "$tester" "$CHECKOUT"
    inside "$tester" -C "$(unpacked "$CHECKOUT")" ./setup
    offline "$(uname -n)" as 0 "$tester" -C "$(unpacked "$CHECKOUT")" make test 2>&1 | tee "$work/$suite.test.log"
}

# Creates a clean system with a clone of the repository, in which cargo downloads crates as on this machine: from the
# same registries, with the same certificate authorities.
new_system() {
    local tree=$1 configuration=${CARGO_HOME:-$HOME/.cargo}/config.toml
    make_tree "$tree"
    mkdir -p "$tree/usr/local/share/ca-certificates" "$tree/root/.cargo"
    find /usr/local/share/ca-certificates -name '*.crt' -exec cp -t "$tree/usr/local/share/ca-certificates" {} +
    [ ! -e "$configuration" ] || awk '/^\[/ { ours = /^\[(source|registry|registries|http|net)[].]/ } ours' \
        "$configuration" >"$tree/root/.cargo/config.toml"
    cp -r "$clone" "$tree$CLONE"
}

# Frees the disk.
discard() {
    unmount_from "$1"
    rm -rf --one-file-system "${1:?}"
}
