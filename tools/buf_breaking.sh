#!/usr/bin/env bash
# Holds protos/ against a released state: tools/buf_breaking.sh [REF]. Without a ref: the newest tag; without a tag there
# is nothing released that could break.
set -euo pipefail
# shellcheck source=tools/lib.sh
. "$(dirname "$0")/lib.sh"
cd "$ROOT"

ref=${1:-$(git describe --tags --abbrev=0 2>/dev/null || true)}
if [ -z "$ref" ]; then
    say "nothing is released yet (no tag): no protos to break. AGAINST=ref compares with any commit."
    exit 0
fi
# A plain directory rather than buf's own git reader: that one would miss build/third_party, which is not committed.
old=$(mktemp -d "$ROOT/build/breaking.XXXXXX")
trap 'rm -rf "$old"' EXIT
git archive "$ref" protos | tar -x -C "$old"
mkdir -p "$old/build"
cp -r build/third_party "$old/build/"
cp buf.yaml "$old/"
tools/buf.sh breaking --against "$old"
say "protos/ breaks nothing against $ref"
