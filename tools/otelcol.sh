#!/usr/bin/env bash
# Runs the pinned OpenTelemetry Collector: tools/otelcol.sh validate --config FILE, tools/otelcol.sh --config FILE ...
# `tools/otelcol.sh fetch` only makes sure that it is there. It is built once, from the Collector's published Go modules
# at the versions and with the hashes of tools/otelcol/go.mod and go.sum, to build/otelcol; offline from then on.
# Without Go it says so and exits with 3.
set -euo pipefail
# shellcheck source=tools/lib.sh
. "$(dirname "$0")/lib.sh"

SOURCE=$ROOT/tools/otelcol
HOME_DIR=$ROOT/build/otelcol
# What go.mod asks for.
GO_MINOR=25

find_go() {
    local candidate version
    for candidate in "$(command -v go || true)" /usr/local/go/bin/go; do
        [ -n "$candidate" ] && version=$("$candidate" env GOVERSION 2>/dev/null) || continue
        version=${version#go1.}
        if [ "${version%%[!0-9]*}" -ge $GO_MINOR ] 2>/dev/null; then
            GO=$candidate
            return
        fi
    done
    say "SKIPPED: the OpenTelemetry Collector needs Go 1.$GO_MINOR or later to be built, and there is none on this machine."
    exit 3
}

fetch() (
    local stamp=$HOME_DIR/.built wanted
    wanted=$(cd "$SOURCE" && find . -type f | LC_ALL=C sort | xargs cat | cksum)
    [ "$(cat "$stamp" 2>/dev/null || true)" != "$wanted" ] || exit 0
    lock otelcol
    [ "$(cat "$stamp" 2>/dev/null || true)" != "$wanted" ] || exit 0
    find_go
    mkdir -p "$HOME_DIR"
    export GOTOOLCHAIN=local CGO_ENABLED=0 GOWORK=off GOFLAGS='-mod=readonly -trimpath -buildvcs=false'
    step 'the OpenTelemetry Collector from its Go modules' \
        "$GO" build -C "$SOURCE" -ldflags '-s -w' -o "$HOME_DIR/otelcol" .
    printf '%s\n' "$wanted" >"$stamp"
)

fetch
[ "${1:-}" = fetch ] || exec "$HOME_DIR/otelcol" "$@"
