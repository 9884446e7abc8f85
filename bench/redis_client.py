"""What one read from Redis costs the reader: the store's lean connection, redis-py, and a bare loop of the same MGET.

    python -m bench.redis_client [--rounds 5] [--calls 10000]

redis-server runs on one core, the reader on another, over loopback TCP. The figures are the reader's user and system
time for a call, medians over rounds in which the variants take turns. All of them pack their command for every call
and parse with hiredis. "bare" has no time limit, no checks, and one connection for each thread; "lean" is the whole of
`RedisStore.read` with a deadline; "redis-py" has a socket time-out and its pool of connections.
"""

from __future__ import annotations

import argparse
import os
import shutil
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import hiredis
import redis
from rich import box
from rich.console import Console
from rich.table import Table

from bench.targets import free_port, server
from engine.features.stores.redis import RedisStore
from engine.features.stores.redis_protocol import pack
from engine.features.stores.redis_settings import RedisSettings

VALUE_BYTES = 400
KEYS = (4, 18)
THREADS = (1, 10)
# Enough for a busy machine: a read that is late would be no measurement.
BUDGET_S = 10.0
VARIANTS = ("bare", "lean", "redis-py")

# Reads as often as it is told.
Reader = Callable[[int], None]


def _bare(port: int, keys: Sequence[bytes]) -> Reader:
    sock = socket.create_connection(("127.0.0.1", port))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    partial_reply = object()
    reader = hiredis.Reader(notEnoughData=partial_reply)

    def read(calls: int) -> None:
        for _ in range(calls):
            sock.send(pack((b"MGET", *keys)))
            reply = partial_reply
            while reply is partial_reply:
                reader.feed(sock.recv(65536))
                reply = reader.gets()

    return read


def _lean(store: RedisStore, keys: Sequence[bytes]) -> Reader:
    def read(calls: int) -> None:
        for _ in range(calls):
            store.read(keys, time.monotonic() + BUDGET_S)

    return read


def _redis_py(client: redis.Redis, keys: Sequence[bytes]) -> Reader:
    def read(calls: int) -> None:
        for _ in range(calls):
            client.mget(keys)

    return read


def measure(readers: Sequence[Reader], calls: int) -> float:
    """CPU microseconds of this process for a call, with every reader in a thread of its own."""
    each = calls // len(readers)
    with ThreadPoolExecutor(len(readers)) as pool:
        begin_s = time.process_time()
        for future in [pool.submit(reader, each) for reader in readers]:
            future.result()
        return (time.process_time() - begin_s) / (each * len(readers)) * 1e6


def run(port: int, rounds: int, calls: int) -> dict[tuple[int, int, str], float]:
    """The medians by number of keys, number of threads, and variant."""
    keys = [b"{subject/%012d}view_%02d" % (7, i) for i in range(max(KEYS))]
    client = redis.Redis(port=port, socket_timeout=BUDGET_S, socket_connect_timeout=1.0)
    client.mset({key: os.urandom(VALUE_BYTES) for key in keys})
    store = RedisStore(RedisSettings((f"127.0.0.1:{port}",)))
    make: dict[str, Callable[[Sequence[bytes]], Reader]] = {
        "bare": partial(_bare, port),
        "lean": partial(_lean, store),
        "redis-py": partial(_redis_py, client),
    }
    figures: dict[tuple[int, int, str], list[float]] = {}
    for count in KEYS:
        for threads in THREADS:
            readers = {name: [make[name](keys[:count]) for _ in range(threads)] for name in VARIANTS}
            for name in VARIANTS:
                measure(readers[name], calls // 10)
            for i in range(rounds):
                for name in (*VARIANTS[i % 3 :], *VARIANTS[: i % 3]):
                    figures.setdefault((count, threads, name), []).append(measure(readers[name], calls))
    store.close()
    return {key: statistics.median(found) for key, found in figures.items()}


def show(figures: dict[tuple[int, int, str], float], console: Console) -> None:
    """Prints the medians and their ratios."""
    table = Table(box=box.SIMPLE, title=f"One MGET of values of {VALUE_BYTES} bytes: CPU µs of the reader")
    for column in ("keys", "threads", *VARIANTS, "lean / bare", "redis-py / lean"):
        table.add_column(column, justify="right")
    for count in KEYS:
        for threads in THREADS:
            bare, lean, full = (figures[count, threads, name] for name in VARIANTS)
            cells = [f"{bare:.1f}", f"{lean:.1f}", f"{full:.1f}", f"{lean / bare:.2f}", f"{full / lean:.2f}"]
            table.add_row(str(count), str(threads), *cells)
    console.print(table)


def main() -> int:
    """Measures and prints. Needs redis-server."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--calls", type=int, default=10_000)
    options = parser.parse_args()
    binary = shutil.which("redis-server")
    if binary is None:
        print("redis-server is not installed (tools/redis_server.sh says how)", file=sys.stderr)
        return 1
    first, *others = sorted(os.sched_getaffinity(0))
    port = free_port()
    with tempfile.TemporaryDirectory() as home:
        command = [binary, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", home]
        with server(command, port, first):
            if others:
                os.sched_setaffinity(0, others)
            show(run(port, options.rounds, options.calls), Console())
    return 0


if __name__ == "__main__":
    sys.exit(main())
