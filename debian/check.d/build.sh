# shellcheck shell=bash disable=SC2154 # debian/check.d/suite sets the other variables
# Builds the packages twice from the tarball. Uses: builder, tarball, packages, work, suite, quick.

# Directories of the first and the second build inside the tree, which are the home directories of their users.
readonly FIRST=/build SECOND=/srv/built/elsewhere
# Offset of the clock in the second build.
readonly LATER='+400 days'

# A quick check is about the packages: not about speed, size or debug symbols.
QUICKLY=()
[ -z "$quick" ] ||
    QUICKLY=(CARGO_PROFILE_RELEASE_OPT_LEVEL=0 CARGO_PROFILE_RELEASE_DEBUG=0 DPKG_DEB_COMPRESSOR_LEVEL=1)
readonly QUICKLY

build_dependencies() {
    make_tree "$builder"
    inside "$builder" useradd --create-home --home-dir "$FIRST" first
    unpack_for_build first "$builder" "$FIRST"
    inside "$builder" apt-get -q -y build-dep "$(unpacked "$FIRST")"
}

# unpack USER TREE DIRECTORY
unpack() {
    xz -dc "$tarball" | as "$1" "$2" tar -C "$3" -xf -
}

# Unpacks for a build, with the version of packages for this release.
unpack_for_build() {
    unpack "$@"
    as "$1" "$2" "$(unpacked "$3")/debian/release-version"
}

# The directory that the tarball unpacks to, below $1.
unpacked() {
    printf '%s/%s\n' "$1" "$(basename "$tarball" .tar.xz)"
}

build_first() {
    local options
    options="parallel=$(nproc)${quick:+ nocheck noautodbgsym}"
    offline "$(uname -n)" as first "$builder" -C "$(unpacked "$FIRST")" \
        HOME="$FIRST" LC_ALL=C.UTF-8 TZ=UTC "DEB_BUILD_OPTIONS=$options" "${QUICKLY[@]}" \
        dpkg-buildpackage --no-sign --build=binary 2>&1 | tee "$(build_log)"
    cp "$builder$FIRST"/*.deb "$builder$FIRST"/*.changes "$packages"
    note "$(find "$packages" -name '*.deb' | wc -l) packages${quick:+, built without tests}"
}

build_log() {
    printf '%s/%s.build.log\n' "$work" "$suite"
}

# Uses another directory, user, umask, locale, time zone, host name, number of jobs, and another year.
build_second() {
    inside "$builder" mkdir -p "$(dirname "$SECOND")"
    inside "$builder" useradd --create-home --home-dir "$SECOND" second
    unpack_for_build second "$builder" "$SECOND"
    inside "$builder" apt-get -q -y install faketime
    offline elsewhere as second "$builder" -C "$(unpacked "$SECOND")" \
        HOME="$SECOND" LC_ALL=C TZ=XXX-14 'DEB_BUILD_OPTIONS=parallel=1 nocheck' \
        sh -c 'umask 027 && exec "$@"' sh \
        faketime -f "$LATER" dpkg-buildpackage --no-sign --build=binary
}

compare_builds() {
    local deb different=0
    for deb in "$packages"/*.deb; do
        deb=$(basename "$deb")
        sha256sum "$builder$FIRST/$deb" "$builder$SECOND/$deb"
        cmp "$builder$FIRST/$deb" "$builder$SECOND/$deb" || { show_difference "$deb"; different=1; }
    done
    [ "$different" -eq 0 ] || fail 'the two builds differ'
    note 'byte for byte'
}

show_difference() {
    local first=$builder$FIRST second=$builder$SECOND unpacked
    if command -v diffoscope >/dev/null; then
        diffoscope --text-color never "$first/$1" "$second/$1" || true
        return
    fi
    unpacked=$(mktemp -d)
    dpkg-deb -R "$first/$1" "$unpacked/first"
    dpkg-deb -R "$second/$1" "$unpacked/second"
    (cd "$unpacked" && diff -r first second) || true
    (
        diff <(cd "$unpacked/first" && find . -printf '%p %M %U:%G %t %l\n' | sort) \
            <(cd "$unpacked/second" && find . -printf '%p %M %U:%G %t %l\n' | sort)
    ) || true
    rm -rf "$unpacked"
}
