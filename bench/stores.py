"""What features from Redis cost a decision: workload W1 against the same from the embedded store, and Redis stopped.

    python -m bench.stores                   # figures into bench.json, under "stores"

W1 reads 120 features of one applicant in four rows (`bench.w1`). Each engine and the yardstick, a bare grpc.aio echo
under uvloop, run on one core in turns; redis-server and the generator on the other. "bare MGET" is a loop that asks
for the same rows over one hiredis connection and does nothing else. At the end redis-server is stopped (SIGSTOP) under
load, and let go again.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import grpc
import hiredis
from rich import box
from rich.console import Console
from rich.table import Table

from bench import w1
from bench.echo import message_of
from bench.messages import DECIDE_PATH, ID_MARKER, GeneratorError, write_requests
from bench.procfs import machine
from bench.run import ROOT, SERVICE, SHAPES, YARDSTICK, Options, cores, generate
from bench.targets import Answers, Target, TargetError, ask, echo_command, free_port, server, wait_until_serving
from bench.workload import Workload, describe
from engine.bootstrap_stores import open_store
from engine.bundle.load import default_bundle, load_bundle
from engine.config import Config, load_config
from engine.features.stores.redis_protocol import pack

if TYPE_CHECKING:
    from bench.targets import UnaryCall

EMBEDDED, REDIS = "assay, embedded", "assay, redis"
_LOOPS = 20_000
_STOPPED_S = 6.0
_CALLERS = 8


def _settings(kind: str, scratch: Path, bundle: Path, redis_port: int) -> dict[str, str]:
    return {
        "ASSAY_STORE_KIND": kind,
        "ASSAY_REDIS_ADDRESSES": f"127.0.0.1:{redis_port}",
        "ASSAY_STORE_PATH": str(scratch / f"features-{kind}"),
        "ASSAY_RECORD_PATH": str(scratch / f"decisions-{kind}"),
        "ASSAY_BUNDLE_PATH": str(bundle),
        "ASSAY_LOG_LEVEL": "error",
        "ASSAY_METRICS_PORT": "0",
        "ASSAY_ADMIN_ADDRESS": "",
        "ASSAY_RECORD_MASTER_KEY": str(scratch / "master.key"),
        "ASSAY_TRAFFIC_PATH": str(scratch / f"traffic-{kind}"),
        "ASSAY_TRAFFIC_BUNDLES": str(scratch / f"bundles-{kind}"),
        "ASSAY_TRACING_FILE_PATH": str(scratch / f"traces-{kind}.jsonl"),
        "ASSAY_TRACING_ID_KEY_PATH": str(scratch / "telemetry.key"),
    }


def _start(
    stack: ExitStack, name: str, kind: str, scratch: Path, bundle: Path, redis_port: int, core: int
) -> tuple[Target, Workload]:
    settings = _settings(kind, scratch, bundle, redis_port)
    config: Config = load_config(environment={"PATH": os.environ["PATH"], **settings})
    store = open_store(config)
    try:
        work = w1.lay_out(store, default_bundle(), bundle)
    finally:
        store.close()
    port = free_port()
    command = [sys.executable, "-m", "engine.cli", "serve"]
    environment = {**settings, "ASSAY_SERVER_ADDRESS": f"127.0.0.1:{port}"}
    pid = stack.enter_context(server(command, port, core, environment))
    wait_until_serving(port, SERVICE)
    file = scratch / f"{kind}.requests"
    write_requests(file, list(work.requests))
    return Target(name, pid, port, work.requests, file), work


def _redis(stack: ExitStack, scratch: Path, core: int) -> tuple[int, int]:
    """A redis-server of our own: its port and process."""
    program = shutil.which("redis-server")
    if program is None:
        raise TargetError("redis-server is not installed (Debian: apt-get install redis-server)")
    port = free_port()
    command = [program, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(scratch)]
    return port, stack.enter_context(server(command, port, core))


def bare_mget_us(port: int, bundle: Path, core: int) -> float:
    """CPU of this process for one MGET of a request's four rows, sent and parsed, and nothing else."""
    view_names = list(load_bundle(bundle, scenarios=False).catalogue.file.views)
    keys = [b"{applicant/bench-000000}" + name.encode() for name in view_names if name.startswith("w1_")]
    command = pack((b"MGET", *keys))
    own = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        with socket.create_connection(("127.0.0.1", port)) as sock:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            reader = hiredis.Reader()
            began = time.process_time()
            for _ in range(_LOOPS):
                sock.sendall(command)
                reply: Any = False
                while reply is False:
                    reader.feed(sock.recv(65536))
                    reply = reader.gets()
                if len(reply) != w1.VIEWS or None in reply:
                    raise TargetError("the rows are not there")
            return (time.process_time() - began) / _LOOPS * 1e6
    finally:
        os.sched_setaffinity(0, own)


def while_stopped(target: Target, redis_pid: int) -> dict[str, Any]:
    """Callers in a closed loop, while redis-server stands still and after it goes on: latencies and verdicts."""
    phases: dict[str, dict[str, Any]] = {}
    phase = "healthy"
    latencies: dict[str, list[float]] = {"healthy": [], "stopped": [], "again": []}
    verdicts: dict[str, Counter[str]] = {name: Counter() for name in latencies}
    failures: dict[str, Counter[str]] = {name: Counter() for name in latencies}
    over = threading.Event()

    def call(number: int) -> None:
        with grpc.insecure_channel(f"127.0.0.1:{target.port}", [("grpc.use_local_subchannel_pool", 1)]) as channel:
            decide: UnaryCall = channel.unary_unary(DECIDE_PATH)
            count = 0
            while not over.is_set():
                count += 1
                request_id = f"stop-{number:03d}-{count:016d}".encode().ljust(len(ID_MARKER), b"-")
                message = target.requests[(number * 31 + count) % len(target.requests)].replace(ID_MARKER, request_id)
                began, during = time.perf_counter(), phase
                try:
                    answer = decide(message, timeout=0.25)
                except grpc.RpcError as error:
                    failures[during][error.code().name] += 1
                    continue
                latencies[during].append((time.perf_counter() - began) * 1000)
                (verdict,) = describe_one(answer)
                verdicts[during][verdict] += 1

    threads = [threading.Thread(target=call, args=(number,)) for number in range(_CALLERS)]
    for thread in threads:
        thread.start()
    try:
        time.sleep(_STOPPED_S / 2)
        os.kill(redis_pid, signal.SIGSTOP)
        phase = "stopped"
        time.sleep(_STOPPED_S)
        os.kill(redis_pid, signal.SIGCONT)
        phase = "again"
        time.sleep(_STOPPED_S)
    finally:
        os.kill(redis_pid, signal.SIGCONT)
        over.set()
        for thread in threads:
            thread.join()
    for name, found in latencies.items():
        found.sort()
        phases[name] = {
            "calls": len(found),
            "p50_ms": round(found[len(found) // 2], 2),
            "p99_ms": round(found[int(len(found) * 0.99)], 2),
            "max_ms": round(found[-1], 2),
            "verdicts": dict(verdicts[name]),
            "failed": dict(failures[name]),
        }
    return phases


def describe_one(answer: bytes) -> list[str]:
    """The verdict of one answer, in a list."""
    return list(describe(Answers((len(answer),), (answer,))))


def run(options: Options, out: Path, console: Console) -> dict[str, Any]:
    """Measures, adds the figures to `out`, and returns them."""
    server_core, other_core = cores()
    (ROOT / "build").mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=ROOT / "build", prefix="bench.") as name, ExitStack() as stack:
        scratch = Path(name)
        bundle = w1.write_bundle(default_bundle(), scratch / "bundle")
        redis_port, redis_pid = _redis(stack, scratch, other_core)
        embedded, work = _start(stack, EMBEDDED, "embedded", scratch, bundle, redis_port, server_core)
        redis, _ = _start(stack, REDIS, "redis", scratch, bundle, redis_port, server_core)
        answers = ask(embedded.port, embedded.requests)
        echo_port = free_port()
        echo_file = scratch / "echo.requests"
        request = message_of(len(work.requests[0]), ID_MARKER)
        write_requests(echo_file, [request])
        echo = stack.enter_context(
            server(echo_command("aio-uvloop", echo_port, answers.mean_bytes), echo_port, server_core)
        )
        targets = [embedded, redis, Target(YARDSTICK, echo, echo_port, (request,), echo_file)]
        samples: dict[tuple[str, int], list[dict[str, Any]]] = {}
        bare: list[float] = []
        for _ in range(options.rounds):
            bare.append(bare_mget_us(redis_port, bundle, server_core))
            for number in options.in_flight:
                for target in targets:
                    samples.setdefault((target.name, number), []).append(generate(target, number, options, other_core))
        stopped = while_stopped(redis, redis_pid)
    results = []
    for (variant, number), reports in samples.items():
        cpu = median(report["server_cpu_us"] for report in reports)
        yardstick = median(r["server_cpu_us"] for r in samples[YARDSTICK, number])
        results.append(
            {
                "variant": variant,
                "concurrency": number,
                "cpu_us": round(cpu, 1),
                "rps": round(median(report["rps"] for report in reports)),
                "p50_ms": round(median(report["p50_ms"] for report in reports), 3),
                "p99_ms": round(median(report["p99_ms"] for report in reports), 3),
                "ratio_to_echo": round(cpu / yardstick, 2),
                "cpu_us_rounds": [round(report["server_cpu_us"], 1) for report in reports],
            }
        )
    figures = {
        "machine": machine(),
        "features": w1.VIEWS * w1.PER_VIEW,
        "rows": w1.VIEWS,
        "answer_bytes": answers.mean_bytes,
        "bare_mget_us": round(median(bare), 1),
        "results": results,
        "redis_stopped": stopped,
    }
    whole = json.loads(out.read_text(encoding="utf-8")) if out.exists() else {}
    whole["stores"] = figures
    out.write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")
    show(figures, console)
    return figures


def show(figures: dict[str, Any], console: Console) -> None:
    """Prints the figures."""
    table = Table(box=box.SIMPLE, title=f"W1: {figures['features']} features in {figures['rows']} rows; medians")
    for column in ("variant", "in flight", "CPU us", "x echo", "calls/s", "p50 ms", "p99 ms"):
        table.add_column(column, justify="left" if column == "variant" else "right")
    for row in figures["results"]:
        keys = ("cpu_us", "ratio_to_echo", "rps", "p50_ms", "p99_ms")
        table.add_row(row["variant"], str(row["concurrency"]), *(str(row[key]) for key in keys))
    console.print(table)
    by = {(row["variant"], row["concurrency"]): row["cpu_us"] for row in figures["results"]}
    for number in sorted({row["concurrency"] for row in figures["results"]}):
        more = by[REDIS, number] - by[EMBEDDED, number]
        console.print(f"Redis adds {more:.0f} us at {number} in flight; a bare MGET: {figures['bare_mget_us']} us")
    console.print("redis-server stopped under load:", figures["redis_stopped"])


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure what features from Redis cost a decision.")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3.0, help="measured in each run (default: 3)")
    parser.add_argument("--in-flight", type=int, nargs="+", choices=sorted(SHAPES), default=[1, 32])
    parser.add_argument("--out", type=Path, default=ROOT / "bench.json")
    given = parser.parse_args()
    options = Options(
        rounds=given.rounds,
        seconds=given.seconds,
        warmup_s=1.0,
        in_flight=tuple(sorted(given.in_flight)),
        bundle=default_bundle(),
        with_engine=True,
        request_bytes=0,
        answer_bytes=0,
    )
    try:
        run(options, given.out, Console())
    except (TargetError, GeneratorError, subprocess.SubprocessError) as error:
        sys.exit(f"bench: {error}")


if __name__ == "__main__":
    main()
