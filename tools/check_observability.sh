#!/usr/bin/env bash
# What deploy/observability holds, judged by those whom it is for: Prometheus' own checker takes the configuration and
# the alerts and runs their tests, the OpenTelemetry Collector takes its configuration. What cannot be had on this machine
# is skipped, loudly; CI must have Prometheus' checker. (Names, labels and dashboards are held by tests/unit/metrics/test_deploy.py.)
set -euo pipefail
# shellcheck source=tools/lib.sh
. "$(dirname "$0")/lib.sh"
cd "$ROOT/deploy/observability"

# have TOOL: whether it can be run. Where it cannot it has said so.
have() {
    local code=0
    "$ROOT/tools/$1.sh" fetch || code=$?
    [ $code -ne 3 ] || [ "$1" != promtool ] || ! on_ci || die "CI does not skip what $1 checks"
    [ $code -eq 0 ] || [ $code -eq 3 ] || exit $code
    return $code
}

if have promtool; then
    "$ROOT/tools/promtool.sh" check config prometheus/prometheus.yml
    "$ROOT/tools/promtool.sh" test rules prometheus/alerts_test.yml
fi
if have otelcol; then
    TRACES_ENDPOINT=localhost:4317 "$ROOT/tools/otelcol.sh" validate --config collector/config.yaml
    say 'the Collector takes collector/config.yaml'
fi
