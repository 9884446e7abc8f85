#!/usr/bin/env bash
# Makes sure that redis-server is there for the tests, which start their own on free ports. Debian's package starts a
# service when it is installed; what was installed here is stopped again. Without it, and without a way to install it,
# the tests against Redis are skipped, loudly; CI must have it.
set -euo pipefail
# shellcheck source=tools/lib.sh
. "$(dirname "$0")/lib.sh"

! command -v redis-server >/dev/null || exit 0

if apt_install redis-server; then
    if [ -d /run/systemd/system ]; then
        systemctl disable --now redis-server >/dev/null 2>&1 || true
    elif [ -x /etc/init.d/redis-server ]; then
        /etc/init.d/redis-server stop >/dev/null 2>&1 || true
    fi
    ! command -v redis-server >/dev/null || exit 0
fi

message='redis-server is not installed (Debian: apt-get install redis-server)'
if on_ci; then
    die "$message, and CI does not skip the tests against Redis"
fi
say "SKIPPED: the tests against Redis: $message"
