# Shared by the set-up scripts: source it. Messages for a person, logs in build/log, one set-up at a time.
# shellcheck shell=bash

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
VENV=${VENV:-$ROOT/.venv}
case $VENV in /*) ;; *) VENV=$ROOT/$VENV ;; esac
mkdir -p "$ROOT/build/log"

say() { printf '%s\n' "$*" >&2; }

die() {
    say "error: $*"
    exit 1
}

# on_ci: whether a missing tool is a failure rather than something to skip.
on_ci() { [ "${CI:-}" = true ] || [ "${CI:-}" = 1 ]; }

# lock NAME: waits until no other set-up of that name runs in this clone.
lock() {
    if command -v flock >/dev/null; then
        exec 9>"$ROOT/build/$1.lock"
        flock 9
    fi
}

# step MESSAGE COMMAND...: runs the command with its output in build/log, shows the seconds on a terminal, and shows the
# end of the log when the command fails.
step() {
    local message=$1 log seconds=0 pid code=0
    shift
    log=$ROOT/build/log/$(printf '%s' "$message" | tr -cs 'A-Za-z0-9' '-').$$.log
    "$@" >"$log" 2>&1 9>&- &
    pid=$!
    if [ -t 2 ]; then
        while kill -0 "$pid" 2>/dev/null; do
            printf '\r  %s ... %d s' "$message" "$seconds" >&2
            sleep 1
            seconds=$((seconds + 1))
        done
        printf '\r\033[K' >&2
    else
        say "  $message ..."
    fi
    wait "$pid" || code=$?
    if [ "$code" -ne 0 ]; then
        say "  $message: failed (exit $code). The end of $log:"
        tail -n 25 "$log" >&2
        return "$code"
    fi
    rm -f "$log"
    [ ! -t 2 ] || say "  $message: done"
}

# apt_install PACKAGE...: installs Debian packages where that can be done without asking anybody. Returns 1 where not.
apt_install() {
    [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null || return 1
    (
        lock apt
        export DEBIAN_FRONTEND=noninteractive
        step "Debian: $*" sh -c '
            apt-get install -y -q --no-install-recommends "$@" || {
                apt-get update -q && apt-get install -y -q --no-install-recommends "$@"; }' sh "$@"
    )
}
