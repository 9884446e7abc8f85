#!/usr/bin/env bash
# Runs Prometheus' own checker: tools/promtool.sh check config FILE, tools/promtool.sh test rules FILE ...
# `tools/promtool.sh fetch` only makes sure that it is there. One that is installed is taken; otherwise it is unpacked
# from Debian's package `prometheus` to build/promtool. The package is not installed, or its service would start.
# Where neither can be had it says so and exits with 3.
set -euo pipefail
# shellcheck source=tools/lib.sh
. "$(dirname "$0")/lib.sh"

HOME_DIR=$ROOT/build/promtool

unpack() (
    set -e
    rm -rf "$HOME_DIR"
    mkdir -p "$HOME_DIR/unpacked"
    cd "$HOME_DIR"
    apt-get download -q prometheus || { apt-get update -q && apt-get download -q prometheus; }
    dpkg-deb -x prometheus_*.deb unpacked
    mv unpacked/usr/bin/promtool .
    rm -rf unpacked prometheus_*.deb
    ./promtool --version
)

fetch() (
    ! command -v promtool >/dev/null || exit 0
    [ ! -x "$HOME_DIR/promtool" ] || exit 0
    lock promtool
    [ ! -x "$HOME_DIR/promtool" ] || exit 0
    if command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null; then
        export -f unpack
        export HOME_DIR
        step "promtool from Debian's package" bash -c unpack && exit 0
    fi
    say 'SKIPPED: promtool is not installed, and there is no package to take it from (Debian: prometheus).'
    exit 3
)

fetch
if [ "${1:-}" != fetch ]; then
    tool=$(command -v promtool || true)
    exec "${tool:-$HOME_DIR/promtool}" "$@"
fi
