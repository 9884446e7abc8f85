#!/usr/bin/env bash
# Compiles the programs of docs/clients-go-java.md as they stand there, and lets them call a real server.
#
#     tools/check_client_examples.sh [go] [java]        both, when none is named
#
# Needs Go (1.25 or later) with a module proxy, and Java 17 with Maven; fetches modules and jars on the first run. What is
# missing is skipped by name, and is a failure where CI is true. No part of `make test`: it takes minutes.
set -euo pipefail
# shellcheck source=tools/lib.sh
. "$(dirname "$0")/lib.sh"
cd "$ROOT"

GO_PLUGIN=google.golang.org/protobuf/cmd/protoc-gen-go@v1.36.11
GO_GRPC_PLUGIN=google.golang.org/grpc/cmd/protoc-gen-go-grpc@v1.6.2
HOME_DIR=$ROOT/build/client_examples
export PYTHONPATH=$ROOT:$ROOT/gen GOTOOLCHAIN=local GOWORK=off GOFLAGS=-buildvcs=false
languages=("$@")
[ $# -gt 0 ] || languages=(go java)

skip() {
    say "SKIPPED: the example in $1: $2."
    ! on_ci || exit 1
}

build_go() {
    local go bin=$HOME_DIR/bin options
    go=$(command -v go || true)
    [ -n "$go" ] || go=/usr/local/go/bin/go
    "$go" version >/dev/null 2>&1 || { skip Go 'there is no Go on this machine'; return 0; }
    step 'protoc plug-ins for Go' env GOBIN="$bin" sh -c "'$go' install $GO_PLUGIN && '$go' install $GO_GRPC_PLUGIN"
    options=$(cat "$HOME_DIR/go/protoc_options")
    # shellcheck disable=SC2046 # names without spaces
    PATH=$bin:$PATH "$VENV/bin/python" -m grpc_tools.protoc -I protos -I build/third_party \
        --go_out="$HOME_DIR/go" --go_opt="module=example.com/los,$options" \
        --go-grpc_out="$HOME_DIR/go" --go-grpc_opt="module=example.com/los,$options" \
        $(cd protos && find assay -name '*.proto' -not -path 'assay/admin/*')
    [ -z "$("$(dirname "$go")/gofmt" -l "$HOME_DIR/go/main.go")" ] || die 'the Go program is not laid out by gofmt'
    step 'the Go program' sh -c "cd '$HOME_DIR/go' && '$go' mod tidy && '$go' vet . && '$go' build -o example ."
    "$HOME_DIR/go/example" "$1"
}

build_java() {
    local dir=$HOME_DIR/java
    command -v mvn >/dev/null && command -v javac >/dev/null || { skip Java 'there is no Java 17 with Maven'; return 0; }
    mkdir -p "$dir/src/main/proto"
    cp -r protos/assay "$dir/src/main/proto/"
    step 'the Java program' mvn --batch-mode --file "$dir/pom.xml" compile \
        org.apache.maven.plugins:maven-dependency-plugin:3.8.1:build-classpath -Dmdep.outputFile="$dir/target/classpath"
    java -cp "$dir/target/classes:$(cat "$dir/target/classpath")" DecideOnce "$1"
}

# check NAME OUTPUT: what the server must have been told, and the program must have understood.
check() {
    grep -Eq "^$1 VERDICT_[A-Z_]+ [0-9a-f-]{36} 0af7651916cd43dd8448eb211c80319c$" <<<"$2" || die "$1: no decision of the trace given: $2"
    grep -Eq "^$1 los-$1-000418 VERDICT_" <<<"$2" || die "$1: no decision in the batch: $2"
    grep -Eq "^$1 los-$1-000419 INVALID_REQUEST [1-9]" <<<"$2" || die "$1: no error of its own in the batch: $2"
    say "  $1: compiled, and called a server"
}

rm -rf "$HOME_DIR/go" "$HOME_DIR/java" "$HOME_DIR/server"
mkdir -p "$HOME_DIR/server"
"$VENV/bin/python" -m tools.docs_clients "$HOME_DIR"
port=$("$VENV/bin/python" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
(
    cd "$HOME_DIR/server"
    ASSAY_SERVER_ADDRESS=127.0.0.1:$port ASSAY_METRICS_PORT=0 ASSAY_ADMIN_ADDRESS="" \
        exec "$VENV/bin/python" -m engine.cli serve >log 2>&1
) &
server=$!
trap 'kill $server 2>/dev/null || true; wait $server 2>/dev/null || true' EXIT
for _ in $(seq 1000); do
    ! grep -q '^assay: ready' "$HOME_DIR/server/log" 2>/dev/null || break
    kill -0 $server 2>/dev/null || die "the server ended: $(tail -n 5 "$HOME_DIR/server/log")"
    sleep 0.1
done

export TRACEPARENT=00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01
for language in "${languages[@]}"; do
    output=$("build_$language" "127.0.0.1:$port") || die "the example in $language failed: $output"
    [ -z "$output" ] || check "$language" "$output"
done
