#!/bin/sh
# Fetch the QEMUs, the kernel and the nft that the end-to-end tests run, from Debian's own packages:
#
#   7.2     Debian 12               10   Debian 12's backports suite
#   11      Debian 13's backports   kernel   Debian 12's linux-image-cloud-amd64
#   nft     Debian 12's nftables             userland a Debian 12 with sqlite and redis, for guests (npm run bench:save)
#
#   setup.sh [--print] [7.2] [10] [11] [kernel] [nft] [userland]     (default: all but userland)
#
# Each lands in a folder of its own under ${PAGEWIRE_CACHE:-${XDG_CACHE_HOME:-~/.cache}/pagewire}: the package with all
# the libraries it needs, unpacked, and a command `qemu` that runs it through its own dynamic loader. So nothing is
# installed, no root is needed, nothing is mounted, and several versions stand side by side. The mirror and how to reach
# it come from this machine's own APT configuration. Safe to run again and at the same time: what is there is left
# alone, what is half made is removed, a lock keeps a second run waiting.
# --print only tells where things are. To remove everything, delete the folder.
set -eu

instead="install qemu-system-x86 by your system's means, or name QEMU commands in PAGEWIRE_QEMU"
. "$(dirname "$(readlink -f "$0")")/../debian.sh"
print=
if [ "${1-}" = --print ]; then print=1; shift; fi
[ $# -gt 0 ] || set -- 7.2 10 11 kernel nft

# where NAME's ready file stands; it exists if and only if NAME is complete
ready_file() {
    case $1 in
    kernel) echo "$cache/kernel/vmlinuz" ;;
    7.2 | 10 | 11) echo "$cache/qemu-$1/qemu" ;;
    nft) echo "$cache/nft/nft" ;;
    userland) echo "$cache/userland/root" ;;
    *) fail "I know 7.2, 10, 11, kernel, nft and userland, not '$1'" ;;
    esac
}

unpack_into() {   # DIRECTORY: every archive that was downloaded
    for deb in "$apt"/archives/*.deb; do dpkg -x "$deb" "$1"; done
    rm -f "$apt"/archives/*.deb
}

find_libraries() {   # those in $new, for a command that runs a program through its own dynamic loader
    # their folders, relative to the root: some packages keep theirs one level down
    libs=$(cd "$new" && find . -path '*/lib*/*.so.*' ! -path '*/share/*' ! -path '*/qemu/*' |
        sed 's,/[^/]*$,,' | sort -u | sed 's,^\.,$root,' | paste -sd: -)
    loader=$(cd "$new" && find . -name 'ld-linux*.so.*' | sed -n '1s,^\./,,p')
}

make_qemu() {     # VERSION RELEASE TARGET-RELEASE
    open_release "$2"
    apt apt-get install --download-only --no-install-recommends -y -t "$3" qemu-system-x86 >&2 ||
        fail "cannot download QEMU $1 (see above)"
    new=$work/qemu-$1
    mkdir "$new"
    unpack_into "$new"
    find_libraries
    modules=$(cd "$new" && find usr/lib -path '*/qemu/*.so' | sed -n '1s,/[^/]*$,,p')
    [ -n "$loader" ] || fail "the packages of QEMU $1 hold no dynamic loader"
    cat >"$new/qemu.new" <<END
#!/bin/sh
root=\$(dirname "\$(readlink -f "\$0")")
QEMU_MODULE_DIR=\$root/$modules
export QEMU_MODULE_DIR
exec "\$root/$loader" --inhibit-cache --library-path "$libs" "\$root/usr/bin/qemu-system-x86_64" \\
    -L "\$root/usr/share/qemu" -L "\$root/usr/share/seabios" -L "\$root/usr/lib/ipxe/qemu" "\$@"
END
    chmod 755 "$new/qemu.new"
    found=$("$new/qemu.new" --version | sed -n '1s/.*version \([0-9.]*\).*/\1/p')
    case $found in
    "$1".*) ;;
    *) fail "wanted QEMU $1, the mirror has ${found:-one that does not run}" ;;
    esac
    mv "$new/qemu.new" "$new/qemu"
    rm -rf "$cache/qemu-$1"
    mv "$new" "$cache/qemu-$1"
}

make_kernel() {
    open_release bookworm
    package=$(apt apt-cache depends linux-image-cloud-amd64 | awk '$1 == "Depends:" && $2 ~ /^linux-image-[0-9]/ { print $2; exit }')
    [ -n "$package" ] || fail "the mirror names no linux-image for linux-image-cloud-amd64"
    (cd "$apt/archives" && apt apt-get download "$package" >&2) || fail "cannot download $package (see above)"
    new=$work/kernel
    mkdir "$new" "$new/root"
    unpack_into "$new/root"
    mv "$new"/root/boot/vmlinuz-* "$new/vmlinuz"
    rm -rf "$new/root" "$cache/kernel"
    mv "$new" "$cache/kernel"
}

make_nft() {
    open_release bookworm
    apt apt-get install --download-only --no-install-recommends -y nftables >&2 || fail "cannot download nftables (see above)"
    new=$work/nft
    mkdir "$new"
    unpack_into "$new"
    find_libraries
    [ -n "$loader" ] || fail "the packages of nftables hold no dynamic loader"
    cat >"$new/nft.new" <<END
#!/bin/sh
root=\$(dirname "\$(readlink -f "\$0")")
exec "\$root/$loader" --inhibit-cache --library-path "$libs" "\$root/usr/sbin/nft" "\$@"
END
    chmod 755 "$new/nft.new"
    "$new/nft.new" --version >/dev/null || fail "the nft that was fetched does not run"
    rm -rf "$cache/nft"
    mv "$new/nft.new" "$new/nft"
    mv "$new" "$cache/nft"
}

# a tree of files, not an installed system: no package's own scripts have run
make_userland() {
    open_release bookworm
    apt apt-get install --download-only --no-install-recommends -y busybox-static bash coreutils findutils grep sed tar gzip \
        perl python3 vim-runtime sqlite3 redis-server redis-tools wamerican >&2 || fail "cannot download the userland (see above)"
    new=$work/userland
    mkdir "$new" "$new/root"
    unpack_into "$new/root"
    rm -rf "$cache/userland"
    mv "$new" "$cache/userland"
}

missing=
for name; do
    file=$(ready_file "$name")
    if [ -e "$file" ]; then echo "$name $file"; else missing="$missing $name"; fi
done
[ -n "$missing" ] || exit 0
[ -z "$print" ] || fail "not there:$missing"

begin

for name in $missing; do
    file=$(ready_file "$name")
    if [ ! -e "$file" ]; then            # else: made by the run we waited for
        say "fetching ${name} ..."
        case $name in
        7.2) make_qemu 7.2 bookworm bookworm ;;
        10) make_qemu 10 bookworm bookworm-backports ;;
        11) make_qemu 11 trixie trixie-backports ;;
        kernel) make_kernel ;;
        nft) make_nft ;;
        userland) make_userland ;;
        esac
    fi
    echo "$name $file"
done
