#!/usr/bin/env bash
# Runs the pinned buf on this tree: tools/buf.sh lint, tools/buf.sh breaking --against ... It comes from its npm package,
# with the versions and hashes of tools/buf/package-lock.json. Without npm the check is skipped, loudly; CI must have it.
set -euo pipefail
# shellcheck source=tools/lib.sh
. "$(dirname "$0")/lib.sh"
cd "$ROOT"

home=$ROOT/build/buf
stamp=$home/.installed
wanted=$(cat tools/buf/package.json tools/buf/package-lock.json | cksum)

without_npm() {
    if on_ci; then
        die "npm is needed to install buf, and CI does not skip the proto checks"
    fi
    say "SKIPPED: buf $*: there is no npm on this machine (Debian: apt-get install npm). CI runs it."
    exit 0
}

(
    lock buf
    [ "$(cat "$stamp" 2>/dev/null || true)" != "$wanted" ] || exit 0
    command -v npm >/dev/null || apt_install nodejs npm || exit 3
    mkdir -p "$home"
    cp tools/buf/package.json tools/buf/package-lock.json "$home/"
    step "buf from npm" npm ci --prefix "$home" --no-audit --no-fund --loglevel=error
    printf '%s\n' "$wanted" >"$stamp"
) || { [ $? -eq 3 ] && without_npm "$@"; exit 1; }

exec "$home/node_modules/.bin/buf" "$@"
