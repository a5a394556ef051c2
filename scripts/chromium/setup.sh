#!/bin/sh
# Fetch the browser that the tests open the bench report in, from Debian's own package:
#
#   setup.sh [--print]
#
# chromium-headless-shell with all the libraries it needs and a font, unpacked into a folder of its own under
# ${PAGEWIRE_CACHE:-${XDG_CACHE_HOME:-~/.cache}/pagewire}, and a command `chromium` that runs it through its own dynamic
# loader. Nothing is installed, no root is needed. Safe to run again and at the same time. --print only tells where it is.
set -eu

instead="install chromium by your system's means, or name a command in PAGEWIRE_CHROMIUM"
. "$(dirname "$(readlink -f "$0")")/../debian.sh"
print=
if [ "${1-}" = --print ]; then print=1; shift; fi
[ $# -eq 0 ] || fail "I take no arguments but --print"

ready=$cache/chromium/chromium
if [ ! -e "$ready" ]; then
    [ -z "$print" ] || fail "not there: chromium"
    begin
fi
if [ ! -e "$ready" ]; then               # else: made by the run we waited for
    say "fetching chromium ..."
    open_release bookworm
    apt apt-get install --download-only --no-install-recommends -y chromium-headless-shell fonts-dejavu-core fontconfig-config >&2 ||
        fail "cannot download chromium (see above)"
    new=$work/chromium
    mkdir "$new"
    for deb in "$apt"/archives/*.deb; do dpkg -x "$deb" "$new"; done
    libs=$(cd "$new" && find . -path '*/lib*/*.so*' ! -path '*/share/*' | sed 's,/[^/]*$,,' | sort -u | sed 's,^\.,$root,' | paste -sd: -)
    loader=$(cd "$new" && find . -name 'ld-linux*.so.*' -type f | sed -n 1p)
    [ -n "$loader" ] || fail "the packages of chromium hold no dynamic loader"
    # It looks for its own files beside the program that the kernel was told to run, which is the loader; and its own
    # processes are to be started by this command too.
    cp "$new/$loader" "$new/usr/lib/chromium/loader"
    cat >"$new/chromium.new" <<END
#!/bin/sh
root=\$(dirname "\$(readlink -f "\$0")")
FONTCONFIG_SYSROOT=\$root
export FONTCONFIG_SYSROOT
exec "\$root/usr/lib/chromium/loader" --inhibit-cache --library-path "$libs" \\
    "\$root/usr/lib/chromium/chromium-headless-shell" --browser-subprocess-path="\$root/chromium" --no-zygote "\$@"
END
    chmod 755 "$new/chromium.new"
    mv "$new/chromium.new" "$new/chromium"
    "$new/chromium" --no-sandbox --disable-gpu --dump-dom 'data:text/html,<p>it runs' 2>/dev/null | grep -q 'it runs' ||
        fail "the chromium that was fetched does not run"
    rm -rf "$cache/chromium"
    mv "$new" "$cache/chromium"
fi
echo "chromium $ready"
