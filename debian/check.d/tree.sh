# shellcheck shell=bash disable=SC2154 # debian/check.d/suite sets the other variables
# Creates clean Debian systems in directories ("trees"). Uses: suite, work.

readonly KEYRING=/usr/share/keyrings/debian-archive-keyring.gpg
# Days. An older base system lacks recent updates. Creating one takes less than a minute.
readonly BASE_DAYS=1

# The base system is kept as a tar archive, and so are the downloaded packages. All trees are unpacked from it.
make_base() {
    local base=$work/$suite.tar tree=$work/$suite/base mirror
    if [ -n "$(find "$base" -mtime "-$BASE_DAYS" 2>/dev/null)" ]; then
        note 'as of today'
        return
    fi
    mirror=$(sources | awk -v suite="$suite" '$2 == suite { print $1; exit }')
    [ -n "$mirror" ] || fail "apt's sources contain no Debian mirror with a suite of this machine's codename"
    rm -f "$base"
    debootstrap --variant=minbase --keyring="$KEYRING" "$suite" "$tree" "$mirror"

    sources | sed "s|^|deb [signed-by=$KEYRING] |" >"$tree/etc/apt/sources.list"
    apt-config dump | grep -E '^Acquire::https?::Proxy' >"$tree/etc/apt/apt.conf.d/01proxy" || true
    # Only declared dependencies are installed, so that a missing one causes a failure. Recommended and suggested
    # packages do not prevent an automatic removal.
    cat >"$tree/etc/apt/apt.conf.d/02check" <<-'END'
	APT::Install-Recommends "false";
	APT::AutoRemove::RecommendsImportant "false";
	APT::AutoRemove::SuggestsImportant "false";
	Acquire::Languages "none";
	Acquire::Retries "3";
	Dpkg::Use-Pty "false";
	END
    # The trees are temporary and need not survive a crash of the machine.
    echo force-unsafe-io >"$tree/etc/dpkg/dpkg.cfg.d/check"
    # Installing a package must not start a service.
    printf '#!/bin/sh\nexit 101\n' >"$tree/usr/sbin/policy-rc.d"
    chmod 755 "$tree/usr/sbin/policy-rc.d"
    printf '127.0.0.1 localhost\n::1 localhost\n127.0.1.1 %s\n' "$(uname -n)" >"$tree/etc/hosts"

    mount_into "$tree"
    inside "$tree" apt-get -q update
    inside "$tree" apt-get -q -y dist-upgrade
    unmount_from "$tree"
    tar --one-file-system -C "$tree" -cf "$base.new" .
    mv "$base.new" "$base"
    rm -rf --one-file-system "$tree"
}

# Prints mirror, suite and component of each Debian repository in this machine's apt sources. Replaces this machine's
# codename by the suite that is checked.
sources() {
    local codename
    # shellcheck source=/dev/null
    codename=$(. /etc/os-release && printf '%s' "$VERSION_CODENAME")
    # shellcheck disable=SC2016 # variables of apt
    apt-get indextargets --format '$(REPO_URI) $(RELEASE) $(COMPONENT) $(ORIGIN)' 'Created-By: Packages' |
        awk -v ours="$codename" -v theirs="$suite" '
            $3 == "main" && $4 == "Debian" && sub("^" ours, "", $2) && $2 ~ /^(|-updates|-security)$/ {
                print $1, theirs $2, $3
            }' | sort -u
}

make_tree() {
    local tree=$1
    mkdir -p "$tree"
    tar -C "$tree" -xf "$work/$suite.tar"
    mount_into "$tree"
    inside "$tree" apt-get -q update
}

# Mounts the file systems that a system requires. The only bind mount from this machine is the directory of downloads.
mount_into() {
    local tree=$1 name type minor
    mkdir -p "$work/$suite.archives/partial"
    mount --bind "$work/$suite.archives" "$tree/var/cache/apt/archives"
    mount -t proc proc "$tree/proc"
    mount -t sysfs sysfs "$tree/sys"
    mount -t tmpfs -o mode=755 dev "$tree/dev"
    while read -r name type minor; do
        mknod -m 666 "$tree/dev/$name" c "$type" "$minor"
    done <<-'END'
	null 1 3
	zero 1 5
	full 1 7
	random 1 8
	urandom 1 9
	tty 5 0
	END
    [ ! -e /dev/kvm ] || mknod -m 666 "$tree/dev/kvm" c 10 232
    mkdir "$tree/dev/net" "$tree/dev/pts" "$tree/dev/shm"
    [ ! -e /dev/net/tun ] || mknod -m 666 "$tree/dev/net/tun" c 10 200
    mount -t devpts -o newinstance,ptmxmode=666,mode=620,gid=5 devpts "$tree/dev/pts"
    mount -t tmpfs -o mode=1777 shm "$tree/dev/shm"
    ln -s pts/ptmx "$tree/dev/ptmx"
    ln -s /proc/self/fd "$tree/dev/fd"
    ln -s fd/0 "$tree/dev/stdin"
    ln -s fd/1 "$tree/dev/stdout"
    ln -s fd/2 "$tree/dev/stderr"
}

unmount_from() {
    local tree=$1 path
    for path in dev/pts dev/shm dev sys proc var/cache/apt/archives; do
        umount "$tree/$path"
    done
}

# inside TREE [ARGUMENTS OF env]... COMMAND...: runs a command in the tree as root. Of this machine's environment, only
# the proxies are passed.
inside() {
    as 0 "$@"
}

# as USER TREE [ARGUMENTS OF env]... COMMAND...: the same as another user.
as() {
    local user=$1 tree=$2 name environment=()
    shift 2
    for name in http_proxy https_proxy no_proxy; do
        [ -z "${!name-}" ] || environment+=("$name=${!name}")
    done
    "${enter[@]}" env -i "${environment[@]}" PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
        HOME=/root LANG=C.UTF-8 DEBIAN_FRONTEND=noninteractive \
        chroot --userspec="$user:" "$tree" /usr/bin/env "$@"
}

enter=()

# offline HOSTNAME FUNCTION...: runs a function. Commands that it runs inside a tree have this host name, and a network
# with loopback only.
offline() {
    # shellcheck disable=SC2016 # the inner shell expands it
    local enter=(unshare --net --uts -- bash -c 'ip link set lo up && hostname "$0" && exec "$@"' "$1")
    shift
    "$@"
}
