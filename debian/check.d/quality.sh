# shellcheck shell=bash disable=SC2154 # debian/check.d/suite sets the other variables
# Runs Debian's analysis tools on sources, build log and packages. Uses: builder, packages, source, tarball, quick.

run_lintian() {
    inside "$builder" apt-get -q -y install lintian
    # The tree of the build contains results, so the source package is from another one. The crates are most of it. A
    # quick check keeps only the files at the top of each crate, such as its license.
    inside "$builder" mkdir -p "$FIRST/lint"
    local options=()
    [ -z "$quick" ] || options=('--exclude=*/vendor/*/*/*')
    xz -dc "$tarball" | inside "$builder" tar -C "$FIRST/lint" "${options[@]}" -xf -
    inside "$builder" -C "$FIRST/lint" dpkg-source ${quick:+-z1} --build "$(unpacked "$FIRST/lint")"
    # Pedantic and informational tags are printed, but are not failures.
    as first "$builder" sh -c \
        "exec lintian --pedantic --display-info --tag-display-limit 0 --fail-on error,warning $FIRST/*.changes $FIRST/lint/*.dsc"
}

# A comment with the reason must precede each override, or each group of overrides without an empty line between them.
overrides_have_reasons() {
    local files
    mapfile -t files < <(find "$source/debian" -name '*lintian-overrides')
    if [ ${#files[@]} -eq 0 ]; then
        note 'there are none'
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
    # The lines "Compiling NAME vVERSION" are from cargo, not from a C compiler.
    as first "$builder" blhc --line-numbers --ignore-line '\s*Compiling \S+ v[0-9]\S*( \(\S+\))?' "$FIRST/build.log"
}

# The command, the library and the Perl module must have full RELRO, BIND_NOW, no run path, and the stack protector. The
# C code has the stack protector: the Perl module, and ring in the library and the command. The command must also be a
# PIE. Fortified functions and -fcf-protection are not required, because Rust does not support them.
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

    # Branch protection is a feature of ARM. The option does not exist in bookworm.
    local without=(--nofortify --nocfprotection)
    ! inside "$builder" grep -q nobranchprotection /usr/bin/hardening-check || without+=(--nobranchprotection)
    inside "$builder" hardening-check "${without[@]}" "$FIRST/unpacked$command"
    for file in "$library" "$module"; do
        inside "$builder" hardening-check --nopie "${without[@]}" "$FIRST/unpacked$file"
    done
    for file in "$command" "$library" "$module"; do
        no_run_path "$tree$file"
    done
    note 'RELRO, BIND_NOW, PIE, stack protector of C, no run path'
}

# The only file that matches a pattern, as a path in the tree.
only() {
    local found
    # shellcheck disable=SC2086 # a pattern
    found=$(cd "$1" && find .$2 -maxdepth 0 -type f)
    [ "$(wc -l <<<"$found")" -eq 1 ] || fail "expected one file $2, found: $found"
    printf '%s\n' "${found#.}"
}

no_run_path() {
    ! objdump -p "$1" | grep -E 'R(UN)?PATH' || fail "$1 has a run path"
}
