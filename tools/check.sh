#!/usr/bin/env bash
# Every static check, one after the other; what fails is named at the end, so one run shows it all.
set -euo pipefail
# shellcheck source=tools/lib.sh
. "$(dirname "$0")/lib.sh"
cd "$ROOT"

failed=()
check() { # check NAME COMMAND...
    local name=$1
    shift
    say "== $name"
    "$@" || failed+=("$name")
}

check 'lint' "$VENV/bin/ruff" check --output-format concise .
check 'layout (ruff format settles it)' "$VENV/bin/ruff" format --check --output-format concise .
check 'types' "$VENV/bin/python" -m mypy
check 'layers' "$VENV/bin/lint-imports" --cache-dir build/import_linter --no-logo
check 'protos' tools/buf.sh lint
check 'alerts and collector' tools/check_observability.sh
check 'deployment' tools/check_deploy.sh

if [ ${#failed[@]} -gt 0 ]; then
    printf 'failed: %s\n' "${failed[@]}" >&2
    exit 1
fi
say 'all checks passed'
