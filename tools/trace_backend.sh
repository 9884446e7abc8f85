#!/usr/bin/env bash
# A real tracing backend on the loopback interface: an OpenTelemetry Collector takes OTLP and passes it on to a Zipkin
# server, which keeps traces in memory and has an API and pages to look at them.
#
#   tools/trace_backend.sh fetch                                   its files, to build/; nothing to do when they are there
#   tools/trace_backend.sh start [--owner PID] DIR UI GRPC HTTP    starts both, waits until they answer
#   tools/trace_backend.sh stop DIR                                stops them and waits until they are gone
#
#   DIR                where the two leave their logs
#   UI, GRPC, HTTP     ports: of Zipkin's API and pages, and of OTLP over gRPC and over HTTP
#   --owner PID        stops them by itself when that process has ended
#
# Needs Java 17 or later and Go, and Maven for the first fetch; offline from then on. Without them it says so and exits
# with 3.
set -euo pipefail
# shellcheck source=tools/lib.sh
. "$(dirname "$0")/lib.sh"

HERE=$ROOT/tools/trace_backend
ZIPKIN_DIR=$ROOT/build/zipkin
START_S=120
STOP_S=20

usage() {
    sed -n '5,12s/^# \{0,1\}//p' "$0" >&2
    exit 2
}

missing() {
    say "SKIPPED: the tracing backend needs $1, and there is none on this machine (Debian: apt-get install $2)."
    exit 3
}

# find_java: sets JAVA.
find_java() {
    local candidate version
    for candidate in "${JAVA_HOME:-/nowhere}/bin/java" "$(command -v java || true)" /usr/lib/jvm/*/bin/java; do
        [ -x "$candidate" ] || continue
        version=$("$candidate" -version 2>&1 | sed -n 's/.* version "\([0-9]*\).*/\1/p' | head -n 1)
        if [ "${version:-0}" -ge 17 ]; then
            JAVA=$candidate
            return
        fi
    done
    return 1
}

need_java() {
    find_java || { apt_install openjdk-17-jre-headless && find_java; } || missing 'Java 17 or later' openjdk-17-jre-headless
}

fetch() {
    "$ROOT/tools/otelcol.sh" fetch
    fetch_zipkin
}

fetch_zipkin() (
    local stamp=$ZIPKIN_DIR/.fetched wanted
    wanted=$(cat "$HERE/pom.xml" "$HERE/checksums.sha256" | cksum)
    [ "$(cat "$stamp" 2>/dev/null || true)" != "$wanted" ] || exit 0
    lock zipkin
    [ "$(cat "$stamp" 2>/dev/null || true)" != "$wanted" ] || exit 0
    command -v mvn >/dev/null || apt_install maven || missing Maven maven
    rm -rf "$ZIPKIN_DIR/lib"
    mkdir -p "$ZIPKIN_DIR/lib"
    step 'Zipkin from Maven' mvn --batch-mode --strict-checksums --file "$HERE/pom.xml" \
        -Dassay.lib="$ZIPKIN_DIR/lib" dependency:copy-dependencies
    (cd "$ZIPKIN_DIR/lib" && sha256sum --quiet --strict --check "$HERE/checksums.sha256") ||
        die "what Maven brought is not what tools/trace_backend/checksums.sha256 lists"
    printf '%s\n' "$wanted" >"$stamp"
)

# running PID MARK: whether that process is ours, by what stands in its command line, and not one that has ended.
running() {
    local state
    [ -n "$1" ] && state=$(ps -ww -o stat=,args= -p "$1" 2>/dev/null) || return 1
    case $state in
        Z*) return 1 ;;
        *"$2"*) return 0 ;;
        *) return 1 ;;
    esac
}

pid_of() { cat "$1" 2>/dev/null || true; }
zipkin_mark() { printf '%s' "-Dassay.trace_backend=$1 "; }
collector_mark() { printf '%s' "--config $1/collector.yaml"; }

# healthy PORT: whether Zipkin says there that it is well.
healthy() {
    # shellcheck disable=SC2016
    timeout 5 bash -c 'exec 3<>"/dev/tcp/127.0.0.1/$0" &&
        printf "GET /health HTTP/1.0\r\nHost: localhost\r\n\r\n" >&3 && head -n 1 <&3' "$1" 2>/dev/null | grep -q ' 200'
}

# shellcheck disable=SC2016
listening() { timeout 5 bash -c 'exec 3<>"/dev/tcp/127.0.0.1/$0"' "$1" 2>/dev/null; }

# until_up DIR PID LOG COMMAND...: waits until the command succeeds. Stops everything when it does not.
until_up() {
    local dir=$1 pid=$2 log=$3 began=$SECONDS why=
    shift 3
    until "$@"; do
        kill -0 "$pid" 2>/dev/null || why='it ended'
        [ $((SECONDS - began)) -le $START_S ] || why="it did not answer within $START_S s"
        if [ -n "$why" ]; then
            tail -n 25 "$log" >&2
            stop "$dir"
            die "no tracing backend: $why; all it said is in $log"
        fi
        sleep 0.2
    done
}

start() {
    local owner='' dir ui grpc http port began=$SECONDS zipkin collector
    if [ "${1:-}" = --owner ]; then
        owner=${2:-}
        shift 2
    fi
    [ $# -eq 4 ] || usage
    need_java
    (fetch)
    mkdir -p "$1"
    dir=$(cd "$1" && pwd) ui=$2 grpc=$3 http=$4
    case $dir in *[!A-Za-z0-9/._-]*) die "the directory's name must be plain: $dir" ;; esac
    ! running "$(pid_of "$dir/zipkin.pid")" "$(zipkin_mark "$dir")" || die "a backend runs in $dir already"
    # What answers there would be taken for ours.
    for port in "$ui" "$grpc" "$http"; do
        ! listening "$port" || die "somebody listens on port $port already"
    done

    # Variables of the caller's configure both; they get none.
    (
        cd "$dir"
        exec setsid env -i PATH="$PATH" LANG=C.UTF-8 "$JAVA" -Xms64m -Xmx256m -XX:TieredStopAtLevel=1 -XX:+UseSerialGC \
            "-Dassay.trace_backend=$dir" -Djava.io.tmpdir="$dir" -jar "$(echo "$ZIPKIN_DIR"/lib/zipkin-server-*.jar)" \
            '--armeria.ports[0].ip=127.0.0.1' "--armeria.ports[0].port=$ui" '--armeria.ports[0].protocols[0]=http' \
            --zipkin.storage.type=mem --zipkin.storage.mem.max-spans=50000 --logging.level.root=WARN
    ) </dev/null >"$dir/zipkin.log" 2>&1 9>&- &
    zipkin=$!
    echo "$zipkin" >"$dir/zipkin.pid"
    (
        cd "$dir"
        sed -e "s|@UI@|$ui|g" -e "s|@GRPC@|$grpc|g" -e "s|@HTTP@|$http|g" "$HERE/collector.yaml" >collector.yaml
        exec setsid env -i PATH="$PATH" LANG=C.UTF-8 "$ROOT/build/otelcol/otelcol" --config "$dir/collector.yaml"
    ) </dev/null >"$dir/otelcol.log" 2>&1 9>&- &
    collector=$!
    echo "$collector" >"$dir/otelcol.pid"

    until_up "$dir" "$collector" "$dir/otelcol.log" listening "$grpc"
    until_up "$dir" "$collector" "$dir/otelcol.log" listening "$http"
    until_up "$dir" "$zipkin" "$dir/zipkin.log" healthy "$ui"
    if [ -n "$owner" ]; then
        # In a session of its own: what ends the owner's whole group must not end this.
        # shellcheck disable=SC2016
        setsid bash -c 'while kill -0 "$0" && kill -0 "$1"; do sleep 1; done; kill "$1" "$2"' \
            "$owner" "$zipkin" "$collector" </dev/null >/dev/null 2>&1 9>&- &
    fi
    disown -a
    say "the tracing backend answers after $((SECONDS - began)) s: http://127.0.0.1:$ui/zipkin/," \
        "OTLP at 127.0.0.1:$grpc (gRPC) and 127.0.0.1:$http (HTTP)"
}

# stop_one PIDFILE MARK: ends that process and waits until it is gone.
stop_one() {
    local pid waited=0
    pid=$(pid_of "$1")
    if running "$pid" "$2"; then
        kill -TERM "$pid"
        while running "$pid" "$2"; do
            sleep 0.1
            waited=$((waited + 1))
            [ $waited -ne $((STOP_S * 10)) ] || kill -KILL "$pid"
        done
    fi
    rm -f "$1"
}

stop() {
    local dir
    [ $# -eq 1 ] || usage
    dir=$(cd "$1" 2>/dev/null && pwd) || die "no such directory: $1"
    # First what sends, then what it sends to.
    stop_one "$dir/otelcol.pid" "$(collector_mark "$dir")"
    stop_one "$dir/zipkin.pid" "$(zipkin_mark "$dir")"
}

command=${1:-}
[ $# -eq 0 ] || shift
case $command in
    fetch) need_java && fetch ;;
    start) start "$@" ;;
    stop) stop "$@" ;;
    *) usage ;;
esac
