# shellcheck shell=bash disable=SC2154 # what is used and not set here, debian/check.d/suite sets
# What others' tools say of sources, build and packages. Uses: builder, packages, source.

run_lintian() {
    inside "$builder" apt-get -q -y install lintian
    # What is pedantic or only information is shown, and fails nothing.
    as first "$builder" sh -c \
        "exec lintian --pedantic --display-info --show-overrides --tag-display-limit 0 --fail-on error,warning $FIRST/*.changes"
}

# Each line of an override has a comment right above it, or above the lines that it stands with.
overrides_have_reasons() {
    local files
    mapfile -t files < <(find "$source/debian" -name '*lintian-overrides')
    if [ ${#files[@]} -eq 0 ]; then
        say 'there are none'
        return
    fi
    awk '
        FNR == 1 || /^$/ { reason = 0 }
        /^#/ { reason = 1; next }
        /./ { ++count; if (!reason) { print FILENAME ":" FNR ": no reason: " $0; bad = 1 } }
        END { print count " overrides" >"/dev/fd/3"; exit bad }
    ' "${files[@]}"
}

compiler_flags() {
    inside "$builder" apt-get -q -y install blhc
    cp "$(build_log)" "$builder$FIRST/build.log"
    # "Compiling NAME vVERSION" is cargo's: no C compiler, and none that is hidden.
    as first "$builder" blhc --line-numbers --ignore-line '\s*Compiling \S+ v[0-9]\S*( \(\S+\))?' "$FIRST/build.log"
}

# Asked of all three files: full RELRO, BIND_NOW, no run path, and the stack protector, which what is compiled from C has:
# the Perl module, and ring in the library and the command. Of the command also PIE. Not asked: fortified functions and
# -fcf-protection, which Rust does not have.
hardening() {
    local tree=$builder$FIRST/unpacked deb file arch
    inside "$builder" apt-get -q -y install devscripts binutils
    for deb in "$packages"/*.deb; do
        dpkg-deb -x "$deb" "$tree"
    done
    arch=$(inside "$builder" dpkg-architecture -qDEB_HOST_MULTIARCH)
    local command=/usr/bin/pve-tunnel library module
    library=$(only "$tree" "/usr/lib/$arch/libpve_tunnel.so.*.*")
    module=$(only "$tree" "/usr/lib/$arch/perl5/*/auto/PVE/Tunnel/Native/Native.so")

    # Branch protection is ARM's, and newer than bookworm.
    local without=(--nofortify --nocfprotection)
    ! inside "$builder" grep -q nobranchprotection /usr/bin/hardening-check || without+=(--nobranchprotection)
    inside "$builder" hardening-check "${without[@]}" "$FIRST/unpacked$command"
    for file in "$library" "$module"; do
        inside "$builder" hardening-check --nopie "${without[@]}" "$FIRST/unpacked$file"
    done
    for file in "$command" "$library" "$module"; do
        no_run_path "$tree$file"
    done
    say 'RELRO, BIND_NOW, PIE, stack protector of C, no run path'
}

# The one file that a pattern stands for, as a path in the tree.
only() {
    local found
    # shellcheck disable=SC2086 # a pattern
    found=$(cd "$1" && find .$2 -maxdepth 0 -type f)
    [ "$(wc -l <<<"$found")" -eq 1 ] || fail "there should be one $2, and there are: $found"
    printf '%s\n' "${found#.}"
}

no_run_path() {
    ! objdump -p "$1" | grep -E 'R(UN)?PATH' || fail "$1 has a run path"
}
