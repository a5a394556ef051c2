# What scripts/qemu/setup.sh, scripts/libvirt/setup.sh and scripts/chromium/setup.sh share: Debian packages, downloaded
# by an APT of our own.
# The mirror and how to reach it come from this machine's own APT configuration; nothing is installed.
# $instead: what to do where that does not work.

# where all that is fetched lies
cache=${PAGEWIRE_CACHE:-${XDG_CACHE_HOME:-${HOME:?is not set: set PAGEWIRE_CACHE}/.cache}/pagewire}

say() { printf 'setup.sh: %s\n' "$*" >&2; }
fail() { say "$*"; exit 1; }

# begin: the lock is ours, $work a folder that goes with us, and $uri a Debian mirror that this machine itself uses
begin() {
    for tool in apt-get apt-cache dpkg flock; do
        command -v "$tool" >/dev/null || fail "no $tool here, this works on Debian and what derives from it: $instead"
    done
    [ "$(dpkg --print-architecture)" = amd64 ] || fail "this works on amd64: $instead"
    mkdir -p "$cache"
    exec 9>"$cache/lock"
    flock -w 900 9 || fail "another run has held $cache/lock for 15 minutes"
    rm -rf "$cache"/new.*                # left by a run that was killed: with the lock held nobody uses it
    work=$(mktemp -d "$cache/new.XXXXXX")
    trap 'rm -rf "$work"' EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM HUP
    targets=$(apt-get indextargets --format '$(REPO_URI) $(LABEL)' 'Created-By: Packages')
    # the label is known once apt-get update has run; without it go by the usual end of the address
    uri=$(printf '%s\n' "$targets" | awk '$2 == "Debian" { print $1; exit }')
    [ -n "$uri" ] || uri=$(printf '%s\n' "$targets" | awk '$1 ~ /\/debian\/?$/ { print $1; exit }')
    [ -n "$uri" ] || fail "this machine's APT sources name no Debian mirror: $instead"
}

# apt COMMAND...: APT with lists, state and archives of its own under $apt; everything else as this machine has it
apt() {
    command=$1
    shift
    "$command" -q=2 -o Dir::State="$apt" -o Dir::State::status="$apt/status" -o Dir::Cache="$apt" \
        -o Dir::Cache::archives="$apt/archives" -o Dir::Etc::sourcelist="$apt/sources.list" -o Dir::Etc::sourceparts=/dev/null \
        -o Dir::Etc::preferencesparts=/dev/null -o APT::Sandbox::User="$(id -un)" -o Debug::NoLocking=1 \
        -o APT::Update::Post-Invoke::= -o Acquire::Retries=3 -o Acquire::Languages=none "$@"
}

# a private APT over RELEASE and its backports, in $work/RELEASE
open_release() {
    apt=$work/$1
    if [ ! -e "$apt/ok" ]; then
        mkdir -p "$apt/lists/partial" "$apt/archives/partial"
        : >"$apt/status"
        for suite in "$1" "$1-backports"; do echo "deb $uri $suite main"; done >"$apt/sources.list"
        apt apt-get update >&2 || fail "cannot read Debian's package lists (see above)"
        : >"$apt/ok"
    fi
}
