# shellcheck shell=bash disable=SC2154 # debian/check.d/suite sets the other variables
# Creates apt repositories of the packages, and installs from them with the printed commands. Uses: client, packages,
# work, suite.

readonly REPOSITORY=$work/$suite/repository
readonly SOURCES=/etc/apt/sources.list.d/pve-tunnel.sources

# Without a signature, and then signed.
install_from_repository() {
    local key index=$client$REPOSITORY/dists/$suite/main/binary-$(dpkg --print-architecture)
    # The sockets of gpg's agent require a short path.
    GNUPGHOME=$(mktemp -d)
    export GNUPGHOME
    trap 'gpgconf --kill all; rm -rf "$GNUPGHOME"' EXIT
    key=$(gpg --batch --status-fd 1 --passphrase '' --quick-generate-key debian/check ed25519 sign |
        awk '$2 == "KEY_CREATED" { print $4 }')

    publish
    if grep '^Signed-By' "$client$SOURCES"; then
        fail 'the sources of an unsigned repository name a key'
    fi
    install_pve_tunnel
    readme_undo

    publish --key "$key"
    inside "$client" sh -exc "$(printed '  install ')"
    rm "$index"/Packages.*
    sed -i 's/^Description: .*/Description: changed/' "$index/Packages"
    # Apt does not read an index again that it has.
    rm "$client"/var/lib/apt/lists/*_repository_dists_*
    if inside "$client" apt-get -q update; then
        fail 'apt accepts an index that was changed after it was signed'
    fi
    offer_repository
    install_pve_tunnel
    readme_undo
    note "$(built_version), unsigned and signed"
}

# Creates the repository, and adds the printed sources to the tree.
publish() {
    debian/repository "$@" "$REPOSITORY" "$packages" | tee "$REPOSITORY.txt"
    offer_repository
    sed -n '/^  Types: deb$/,/^$/s/^  //p' "$REPOSITORY.txt" >"$client$SOURCES"
    cat "$client$SOURCES"
}

# Copies the repository to the same path in the tree, because the sources contain the path.
offer_repository() {
    rm -rf "${client:?}$REPOSITORY"
    mkdir -p "$client$REPOSITORY"
    cp -r "$REPOSITORY/." "$client$REPOSITORY"
}

# The printed lines that begin with $1.
printed() {
    grep "^$1" "$REPOSITORY.txt"
}

install_pve_tunnel() {
    local installed
    inside "$client" sh -exc "$(printed '  apt-get ')"
    # shellcheck disable=SC2016 # variable of dpkg-query
    installed=$(inside "$client" dpkg-query -W -f '${Version}\n' \
        pve-tunnel libpve-tunnel0 libpve-tunnel-native-perl | sort -u)
    [ "$installed" = "$(built_version)" ] || fail "installed is $installed, expected is $(built_version)"
}

# The only version of the built packages.
built_version() {
    local deb
    for deb in "$packages"/*.deb; do
        dpkg-deb --field "$deb" Version
    done | sort -u
}
