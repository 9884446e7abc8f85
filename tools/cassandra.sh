#!/usr/bin/env bash
# A real Apache Cassandra node for the tests: one process on the loopback interface, everything it keeps in one directory.
#
#   tools/cassandra.sh fetch                              its files, to build/cassandra; nothing to do when they are there
#   tools/cassandra.sh start [OPTIONS] DIR PORT           starts a node, waits until it answers CQL, says after how long
#   tools/cassandra.sh stop DIR                           stops it and waits until it is gone
#
#   --storage-port N   where nodes would find it (default: PORT + 1)
#   --password         asks clients for user and password; the first user is cassandra, password cassandra
#   --tls              speaks TLS alone, and asks clients for a certificate; DIR/tls holds ca.pem, client.pem, client.key
#   --owner PID        stops it by itself when that process has ended
#
# CASSANDRA_JVM_OPTS holds further options of the JVM; -XX:TieredStopAtLevel=4 is right for a node that is measured.
# Needs Java 17, and Maven for the first fetch; offline from then on. Without them it says so and exits with 3.
set -euo pipefail
# shellcheck source=tools/lib.sh
. "$(dirname "$0")/lib.sh"

HERE=$ROOT/tools/cassandra
HOME_DIR=$ROOT/build/cassandra
START_S=300
STOP_S=60

usage() {
    sed -n '4,14s/^# \{0,1\}//p' "$0" >&2
    exit 2
}

missing() {
    say "SKIPPED: Cassandra needs $1, and there is none on this machine (Debian: apt-get install $2)."
    exit 3
}

is_java_17() { [ -x "$1" ] && "$1" -version 2>&1 | grep -q 'version "17\.'; }

# find_java: sets JAVA. Cassandra 5.0 runs on Java 17 and on none later.
find_java() {
    local candidate
    for candidate in "${JAVA_HOME:-/nowhere}/bin/java" "$(command -v java || true)" /usr/lib/jvm/*17*/bin/java; do
        if is_java_17 "$candidate"; then
            JAVA=$candidate
            return
        fi
    done
    return 1
}

need_java() { find_java || { apt_install openjdk-17-jre-headless && find_java; } || missing 'Java 17' openjdk-17-jre-headless; }

fetch() {
    local lib=$HOME_DIR/lib stamp=$HOME_DIR/.fetched wanted
    wanted=$(cat "$HERE/pom.xml" "$HERE/checksums.sha256" | cksum)
    [ "$(cat "$stamp" 2>/dev/null || true)" != "$wanted" ] || return 0
    lock cassandra
    [ "$(cat "$stamp" 2>/dev/null || true)" != "$wanted" ] || return 0
    command -v mvn >/dev/null || apt_install maven || missing Maven maven
    rm -rf "$lib"
    mkdir -p "$lib"
    step 'Cassandra from Maven' mvn --batch-mode --strict-checksums --file "$HERE/pom.xml" \
        -Dassay.lib="$lib" dependency:copy-dependencies
    (cd "$lib" && sha256sum --quiet --strict --check "$HERE/checksums.sha256") ||
        die "what Maven brought is not what tools/cassandra/checksums.sha256 lists"
    [ "$(find "$lib" -name '*.jar' | wc -l)" -eq "$(wc -l <"$HERE/checksums.sha256")" ] ||
        die "Maven brought files that tools/cassandra/checksums.sha256 does not list"
    printf '%s\n' "$wanted" >"$stamp"
}

# running PID DIR: whether that process is the node of that directory, and not one that has ended.
running() {
    local state
    [ -n "$1" ] && state=$(ps -ww -o stat=,args= -p "$1" 2>/dev/null) || return 1
    case $state in
        Z*) return 1 ;;
        *"-Dcassandra.storagedir=$2 "*) return 0 ;;
        *) return 1 ;;
    esac
}

pid_of() { cat "$1/cassandra.pid" 2>/dev/null || true; }

# answers DIR PORT TLS: whether a CQL server says there what it supports (an OPTIONS frame, answered by SUPPORTED).
answers() {
    local first
    if [ "$3" = true ]; then
        first=$(printf '\4\0\0\0\5\0\0\0\0' | timeout 5 openssl s_client -quiet -no_ign_eof -connect "127.0.0.1:$2" \
            -CAfile "$1/tls/ca.pem" -cert "$1/tls/client.pem" -key "$1/tls/client.key" 2>/dev/null | head -c 5 | od -An -tx1)
    else
        # shellcheck disable=SC2016
        first=$(timeout 5 bash -c 'exec 3<>"/dev/tcp/127.0.0.1/$0" && printf "\4\0\0\0\5\0\0\0\0" >&3 && head -c 5 <&3' \
            "$2" 2>/dev/null | od -An -tx1)
    fi
    [ "$first" = ' 84 00 00 00 06' ]
}

# certificates DIR: an authority of its own, a certificate of the node and one of a client, good for 30 days.
certificates() (
    umask 077
    mkdir -p "$1/tls"
    cd "$1/tls"
    [ ! -e client.pem ] || exit 0
    command -v openssl >/dev/null || missing OpenSSL openssl
    openssl req -x509 -newkey rsa:2048 -nodes -days 30 -subj '/CN=assay tests' -keyout ca.key -out ca.pem 2>openssl.log
    for who in node client; do
        openssl req -newkey rsa:2048 -nodes -subj "/CN=$who" -keyout "$who.key" -out "$who.csr" 2>>openssl.log
        openssl x509 -req -in "$who.csr" -CA ca.pem -CAkey ca.key -CAcreateserial -days 30 -out "$who.pem" \
            -extfile <(printf 'subjectAltName=IP:127.0.0.1,DNS:localhost\n') 2>>openssl.log
    done
    openssl pkcs12 -export -in node.pem -inkey node.key -certfile ca.pem -name node -passout "pass:$2" -out node.p12
    "$(dirname "$JAVA")/keytool" -importcert -noprompt -alias ca -file ca.pem -storetype PKCS12 -storepass "$2" \
        -keystore trust.p12 >>openssl.log 2>&1
)

start() {
    local tls=false password=false owner='' storage_port='' dir port pid began=$SECONDS store_password
    while [ $# -gt 0 ]; do
        case $1 in
            --tls) tls=true ;;
            --password) password=true ;;
            --owner) owner=$2 && shift ;;
            --storage-port) storage_port=$2 && shift ;;
            -*) usage ;;
            *) break ;;
        esac
        shift
    done
    [ $# -eq 2 ] || usage
    need_java
    (fetch)
    mkdir -p "$1"
    dir=$(cd "$1" && pwd)
    port=$2
    case $dir in *[!A-Za-z0-9/._-]*) die "the directory's name must be plain: $dir" ;; esac
    pid=$(pid_of "$dir")
    ! running "$pid" "$dir" || die "a node runs in $dir already (process $pid)"

    mkdir -p "$dir/conf" "$dir/tmp"
    chmod 700 "$dir"
    store_password=assay-tests
    [ $tls = false ] || certificates "$dir" "$store_password"
    sed -e "s|@DIR@|$dir|g" -e "s|@PORT@|$port|g" -e "s|@STORAGE_PORT@|${storage_port:-$((port + 1))}|g" \
        -e "s|@TLS@|$tls|g" -e "s|@STORE_PASSWORD@|$store_password|g" \
        -e "s|@AUTHENTICATOR@|$([ $password = true ] && echo Password || echo AllowAll)Authenticator|g" \
        -e "s|@AUTHORIZER@|$([ $password = true ] && echo Cassandra || echo AllowAll)Authorizer|g" \
        "$HERE/cassandra.yaml" >"$dir/conf/cassandra.yaml"

    (
        cd "$dir"
        # shellcheck disable=SC2086
        exec setsid "$JAVA" "@$HERE/jvm.options" ${CASSANDRA_JVM_OPTS:-} -javaagent:"$(echo "$HOME_DIR"/lib/jamm-*.jar)" \
            -Dcassandra.storagedir="$dir" -Dcassandra.config="file://$dir/conf/cassandra.yaml" \
            -Dlogback.configurationFile="$HERE/logback.xml" -Dcassandra-foreground=yes \
            -Djava.io.tmpdir="$dir/tmp" -Djna.tmpdir="$dir/tmp" \
            -cp "$HOME_DIR/lib/*" org.apache.cassandra.service.CassandraDaemon
    ) </dev/null >>"$dir/node.log" 2>&1 9>&- &
    pid=$!
    echo "$pid" >"$dir/cassandra.pid"

    until answers "$dir" "$port" $tls && { [ $password = false ] || grep -q 'superuser role' "$dir/node.log"; }; do
        if ! kill -0 "$pid" 2>/dev/null; then
            tail -n 25 "$dir/node.log" >&2
            die "Cassandra ended; all it said is in $dir/node.log"
        fi
        if [ $((SECONDS - began)) -gt $START_S ]; then
            stop "$dir"
            tail -n 25 "$dir/node.log" >&2
            die "Cassandra did not answer within $START_S s; all it said is in $dir/node.log"
        fi
        sleep 0.2
    done
    if [ -n "$owner" ]; then
        # In a session of its own: what ends the owner's whole group must not end this.
        # shellcheck disable=SC2016
        setsid bash -c 'while kill -0 "$0" && kill -0 "$1"; do sleep 1; done; kill -CONT "$1"; kill "$1"' \
            "$owner" "$pid" </dev/null >/dev/null 2>&1 9>&- &
    fi
    disown -a
    say "Cassandra answers on 127.0.0.1:$port after $((SECONDS - began)) s (process $pid)"
}

stop() {
    local dir pid waited=0
    [ $# -eq 1 ] || usage
    dir=$(cd "$1" 2>/dev/null && pwd) || die "no such directory: $1"
    pid=$(pid_of "$dir")
    if ! running "$pid" "$dir"; then
        say "no node runs in $dir"
        return 0
    fi
    kill -CONT "$pid"
    kill -TERM "$pid"
    while running "$pid" "$dir"; do
        sleep 0.2
        waited=$((waited + 1))
        if [ $waited -eq $((STOP_S * 5)) ]; then
            say "Cassandra did not stop within $STOP_S s; it is killed"
            kill -KILL "$pid"
        fi
    done
    rm -f "$dir/cassandra.pid"
}

command=${1:-}
[ $# -eq 0 ] || shift
case $command in
    fetch) need_java && fetch ;;
    start) start "$@" ;;
    stop) stop "$@" ;;
    *) usage ;;
esac
