#!/usr/bin/env bash
# Pins every dependency with its hashes: requirements/{server,build,loadtest,train,dev}.txt from pyproject.toml. They agree:
# each is compiled under those before it as constraints. UPGRADE=1 takes the newest versions that pyproject allows.
set -euo pipefail
cd "$(dirname "$0")/.."

compile() { # compile NAME [option...]
    local name=$1
    shift
    echo "lock: requirements/$name.txt"
    CUSTOM_COMPILE_COMMAND="make lock" "${PYTHON:-.venv/bin/python}" -m piptools compile pyproject.toml \
        --quiet --generate-hashes --strip-extras --allow-unsafe --resolver=backtracking --no-header \
        --no-emit-index-url --no-emit-trusted-host --no-emit-find-links --no-emit-options \
        ${UPGRADE:+--upgrade} --output-file "requirements/$name.txt" "$@"
    sed -i '1i # Made by `make lock` from pyproject.toml, for Python 3.11. Do not edit.' "requirements/$name.txt"
}

mkdir -p requirements
sed -i '/^# Made by/d' requirements/*.txt 2>/dev/null || true
compile server
compile build --extra build --constraint requirements/server.txt
compile loadtest --extra load-test --constraint requirements/build.txt
compile train --extra train --constraint requirements/loadtest.txt
compile dev --extra build --extra load --extra load-test --extra spark --extra train --extra dev \
    --constraint requirements/train.txt --constraint requirements/loadtest.txt

if grep -nE 'https?://|--(extra-)?index-url|--find-links|--trusted-host' requirements/*.txt; then
    echo "lock: an address got into a lock file" >&2
    exit 1
fi
