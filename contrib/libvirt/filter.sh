#!/bin/sh
# What libvirt's daemon runs in the place of lzop, gzip, zstd, …: `pagewire install-libvirt-filter` put it here, and
# `pagewire install-libvirt-filter --uninstall` takes it away.
#
#   NAME -c …     packs the guest's stream with pagewire
#   NAME -dc …    gives a stream back: with pagewire what pagewire packed, with the real NAME all else
#
# How it fails, libvirt depends on (docs/libvirt.md). A save that fails reads its input to the end first: QEMU must be
# able to write all of it. A restore that fails has written a byte: without one QEMU waits for ever; it is an invalid
# one, where nothing was written yet. One line says why; the exit code is 0 when and only when all is well.
# This is no part of the program that packs, so that it holds where that is killed or cannot even start.

node=@NODE@
program=@PROGRAM@

name=${0##*/}
again='run pagewire install-libvirt-filter again'
newline='
'
# The exit code of the program for a restore that fails when some of the stream is out.
some_is_out=32
set -f # a folder's name in PATH is no pattern

# The program that we stand for: the first in PATH that is not this one.
find_real() {
    IFS=:
    for folder in $PATH; do
        real=${folder:-.}/$name
        if [ -f "$real" ] && [ -x "$real" ] && ! [ "$real" -ef "$0" ]; then
            unset IFS
            return
        fi
    done
    unset IFS
    real=
}

# try COMMAND…: runs it on our input and output; what it says is in $said, how it ended in $status
try() {
    said=$("$@" 2>&1 >&3 3>&-)
    status=$?
} 3>&1 2>/dev/null # a shell has words of its own for what a signal ended

# $reason: why a command that was tried failed, in one line
explain() {
    case $said in
    'pagewire: '*) reason=${said#pagewire: } reason=${reason%%"$newline"*} ;;
    *)
        reason="$1 ended with $status"
        [ $status -le 128 ] || reason="$1 was ended by signal $((status - 128))"
        while [ "${said#"$newline"}" != "$said" ]; do said=${said#"$newline"}; done
        [ -z "$said" ] || reason="$reason: ${said%%"$newline"*}"
        ;;
    esac
}

# $reason, if what we run is not there
is_missing() {
    if ! [ -x "$node" ]; then
        reason="there is no $node: $again"
    elif ! [ -r "$program" ]; then
        reason="there is no $program: $again"
    else
        return 1
    fi
}

fail_save() {
    cat >/dev/null
    echo "pagewire: cannot save: $reason" >&2
    trap - EXIT
    exit 1
}

fail_restore() {
    trap '' PIPE # QEMU may have gone
    echo "pagewire: cannot restore: $reason" >&2
    [ "$status" = $some_is_out ] || printf '\377' 2>/dev/null
    trap - EXIT
    exit 1
}

# The bytes that were read to see what they are, and then the rest.
whole_input() {
    printf "$head"
    exec cat
}

restore_with() { whole_input | "$@"; }

case ${1-} in
-c)
    # Where not even a process can be made, this takes none: cat reads to the end, finds no such file, and fails.
    trap 'exec cat - "pagewire: cannot save: no process can be started" >/dev/null' EXIT
    if is_missing; then fail_save; fi
    try "$node" "$program" save
    if [ $status -ne 0 ]; then explain "$node"; fail_save; fi
    ;;
-dc)
    status=
    trap 'reason="no process can be started"; fail_restore' EXIT
    bytes=$(dd bs=1 count=4 2>/dev/null | od -An -to1)
    head=
    for byte in $bytes; do head=$head\\$byte; done
    if [ "$head" = '\363\120\127\106' ]; then
        if is_missing; then fail_restore; fi
        if [ -f /proc/self/fd/0 ]; then
            try "$node" "$program" restore 4 # it goes back by these bytes
        else
            try restore_with "$node" "$program" restore
        fi
        if [ $status -ne 0 ]; then explain "$node"; fail_restore; fi
    else
        find_real
        if [ -z "$real" ]; then
            reason="this is no image of pagewire's, and there is no other $name in PATH: install $name"
            fail_restore
        fi
        try restore_with "$real" "$@"
        if [ $status -ne 0 ]; then explain "$real"; fail_restore; fi
    fi
    ;;
*)
    find_real
    if [ -z "$real" ]; then
        echo "pagewire: $name is installed for libvirt's -c and -dc only, and there is no other $name in PATH" >&2
        exit 127
    fi
    exec "$real" "$@"
    ;;
esac
trap - EXIT
exit 0
