#!/bin/sh
# Make the root folder in which the tests run libvirt: Debian 12 with libvirt 11.3 and QEMU 10 of its backports, or with
# its own libvirt 9.0 and QEMU 7.2.
#
#   setup.sh [--print] [9]
#
# It lies in libvirt/root under ${PAGEWIRE_CACHE:-${XDG_CACHE_HOME:-~/.cache}/pagewire}, that with 9.0 in libvirt-9/root
# (for PAGEWIRE_TEST_LIBVIRT=9 npm test -- --only libvirt; not in CI). Some 300 MB each: packages that were
# unpacked and no more, so that nothing is installed, started or configured on this machine. test/e2e/libvirt/host.ts
# makes hosts of it, in namespaces, as root. Safe to run again and at the same time. --print only tells where it is; to
# remove it, delete the folder.
set -eu

instead="there is no other way to run the tests of libvirt"
. "$(dirname "$(readlink -f "$0")")/../debian.sh"

print=
if [ "${1-}" = --print ]; then
    print=1
    shift
fi
packages="libvirt-daemon libvirt-daemon-driver-qemu libvirt-clients qemu-system-x86"
case ${1-} in
    "") version=11.3 name=libvirt options="-t bookworm-backports" ;;
    # there the daemon's unit and profile are in a package that the daemon itself does not need
    9) version=9.0 name=libvirt-9 options="" packages="$packages libvirt-daemon-system systemd" ;;
    *) fail "no libvirt '$1': nothing for 11.3, or 9" ;;
esac
folder=$cache/$name

# changes with what stands below: a root made by an older script is made anew
edition=2
is_ready() { [ "$(cat "$folder/ready" 2>/dev/null)" = $edition ]; }

if is_ready; then
    echo "libvirt $folder/root"
    exit
fi
[ -z "$print" ] || fail "libvirt $version is not there"

begin
if ! is_ready; then                      # else: made by the run we waited for
    say "fetching libvirt $version ..."
    open_release bookworm
    # shellcheck disable=SC2086 # words
    apt apt-get install --download-only --no-install-recommends -y $options $packages bash dash coreutils sed grep gzip \
        lzop zstd procps util-linux mount iproute2 nftables libc-bin libgcc-s1 libstdc++6 >&2 ||
        fail "cannot download libvirt (see above)"
    new=$work/$name
    mkdir -p "$new/root/usr" "$new/root/etc"
    for name in bin sbin lib lib64; do   # /usr is merged, also in what older packages hold
        mkdir "$new/root/usr/$name"
        ln -s "usr/$name" "$new/root/$name"
    done
    for deb in "$apt"/archives/*.deb; do
        dpkg --fsys-tarfile "$deb" | tar -x --keep-directory-symlink --exclude=./usr/share/doc --exclude=./usr/share/man \
            --exclude=./usr/share/locale -C "$new/root"
    done
    # what the packages' scripts would have made
    ln -sf dash "$new/root/usr/bin/sh"
    ln -sf ../bin/true "$new/root/usr/sbin/dmidecode" # it would look for this machine's memory
    rm -rf "$new/root/var/run"
    ln -s /run "$new/root/var/run"
    echo 'hosts: files' >"$new/root/etc/nsswitch.conf"
    cat >"$new/root/etc/passwd" <<END
root:x:0:0:root:/root:/bin/bash
libvirt-qemu:x:64055:104:Libvirt Qemu,,,:/var/lib/libvirt:/usr/sbin/nologin
pagewire:x:990:990:pagewire migration proxy:/run/pagewire:/usr/sbin/nologin
nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin
END
    cat >"$new/root/etc/group" <<END
root:x:0:
tty:x:5:
kvm:x:104:
libvirt-qemu:x:64055:libvirt-qemu
pagewire:x:990:libvirt-qemu
nogroup:x:65534:
END
    for program in libvirtd virsh; do
        found=$(chroot "$new/root" "$program" --version) || fail "the $program that was fetched does not run"
        case $found in *"$version."*) ;; *) fail "wanted libvirt $version, the mirror has ${found:-one that does not run}" ;; esac
    done
    echo $edition >"$new/ready"
    rm -rf "$folder"
    mv "$new" "$folder"
fi
echo "libvirt $folder/root"
