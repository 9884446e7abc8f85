#!/usr/bin/env bash
# Makes the virtual environment and brings it up to a level: `server` (what runs Assay and generates the stubs), `load`
# (load tests besides) or `dev` (everything, for tests and training). Does nothing, offline too, when the locks have not changed since.
#
#     tools/setup_venv.sh server|load|dev        VENV=.venv-other to use another folder
set -euo pipefail
# shellcheck source=tools/lib.sh
. "$(dirname "$0")/lib.sh"
cd "$ROOT"

level=${1:?server, load or dev}
case $level in
    server) locks=(requirements/server.txt requirements/build.txt) ;;
    load) locks=(requirements/server.txt requirements/build.txt requirements/loadtest.txt) ;;
    dev) locks=(requirements/dev.txt) ;;
    *) die "unknown level $level: server, load or dev" ;;
esac

find_python() {
    local name path
    for name in "${PYTHON:-python3.11}" python3.11 python3.12 python3.13 python3; do
        path=$(command -v "$name") || continue
        if "$path" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            printf '%s' "$path"
            return
        fi
    done
    return 1
}

make_venv() {
    local python
    if ! python=$(find_python); then
        if ! apt_install python3 python3-venv || ! python=$(find_python); then
            die "no Python 3.11 or newer found. Install one (Debian 12: apt-get install python3 python3-venv), or name" \
                "it: make PYTHON=/path/to/python3.11 ..."
        fi
    fi
    if ! "$python" -c 'import venv, ensurepip' 2>/dev/null; then
        if ! apt_install python3-venv || ! "$python" -c 'import venv, ensurepip' 2>/dev/null; then
            die "$python has no venv module. On Debian: apt-get install python3-venv"
        fi
    fi
    step "Python environment in ${VENV#"$ROOT"/} ($("$python" --version))" "$python" -m venv --clear "$VENV"
}

wanted=$(cat "${locks[@]}" pyproject.toml tools/setup_venv.sh | cksum)
stamp=$VENV/.assay-$level
lock venv
[ "$(cat "$stamp" 2>/dev/null || true)" != "$wanted" ] || exit 0

"$VENV/bin/python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || make_venv
requirements=()
for file in "${locks[@]}"; do requirements+=(-r "$file"); done
export PIP_DISABLE_PIP_VERSION_CHECK=1
step "Python packages: $level ($(cat "${locks[@]}" | grep -c '==') pinned with hashes)" \
    "$VENV/bin/python" -m pip install --require-hashes "${requirements[@]}"
# The engine itself, in place: the `assay` command, the stubs in gen/ and the client beside them follow the tree.
step "The assay command" "$VENV/bin/python" -m pip install --no-deps --no-build-isolation --editable .
printf '%s\n' "$ROOT/gen" "$ROOT/clients/python/src" >"$("$VENV/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/assay-gen.pth"
printf '%s\n' "$wanted" >"$stamp"
# What a level holds needs no further look when a lower one is asked for.
small=(requirements/server.txt requirements/build.txt)
rest=(pyproject.toml tools/setup_venv.sh)
[ "$level" = server ] || cat "${small[@]}" "${rest[@]}" | cksum >"$VENV/.assay-server"
[ "$level" != dev ] || cat "${small[@]}" requirements/loadtest.txt "${rest[@]}" | cksum >"$VENV/.assay-load"
