"""What a whole decision costs: workload W1 (`bench.w1`) with everything on, against the yardstick in the same run.

    python -m bench.whole                    # figures into bench.json, under "w1"
    python -m bench.whole --flame FILE.svg   # and a flame graph of the server at 32 in flight (needs py-spy)

Redis on loopback, 120 features in four rows, two explained models, all tables, four reasons, a trace of every call to a
collector, the journal `process`, sealed, and metrics. The server is on one core with all its threads and children;
Redis, the collector and the generator are on the other. `batch` and `stream` are DecideBatch and DecideStream with as
many items in flight as `concurrency` says; their CPU is that of one item, and their `ratio_to_echo` is to the echo of
one call.
"""

from __future__ import annotations

import argparse
import json
import queue
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any

import grpc
from rich import box
from rich.console import Console
from rich.table import Table

from assay.decision.v1 import decision_service_pb2 as pb
from assay.decision.v1 import decision_service_pb2_grpc as rpc
from bench import w1
from bench.echo import message_of
from bench.messages import ID_MARKER, GeneratorError, write_requests
from bench.procfs import cpu_seconds, machine
from bench.run import ROOT, SERVICE, SHAPES, YARDSTICK, Options, cores, generate
from bench.targets import Target, TargetError, ask, echo_command, free_port, server, wait_until_serving
from bench.watched import collector
from engine.bootstrap_stores import open_store
from engine.bundle.load import default_bundle
from engine.config import load_config

DIRECT, THREADS, BATCH, STREAM = "assay", "assay, threads", "batch", "stream"
BATCH_ITEMS = 32


def redis(stack: ExitStack, scratch: Path, core: int) -> str:
    """A Redis of its own: its address."""
    if shutil.which("redis-server") is None:
        raise TargetError("redis-server is not installed (tools/redis_server.sh)")
    port = free_port()
    command = ["redis-server", "--port", str(port), "--save", "", "--bind", "127.0.0.1", "--dir", str(scratch)]
    stack.enter_context(server(command, port, core))
    return f"127.0.0.1:{port}"


def start(
    stack: ExitStack, name: str, settings: dict[str, str], scratch: Path, requests: tuple[bytes, ...], core: int
) -> Target:
    word = name.replace(", ", "-")
    port = free_port()
    environment = {
        "ASSAY_SERVER_ADDRESS": f"127.0.0.1:{port}",
        "ASSAY_RECORD_PATH": str(scratch / f"decisions-{word}"),
        "ASSAY_LOG_LEVEL": "error",
        "ASSAY_METRICS_PORT": "0",
        "ASSAY_ADMIN_ADDRESS": "",
        "ASSAY_RECORD_MASTER_KEY": str(scratch / "master.key"),
        "ASSAY_TRAFFIC_PATH": str(scratch / f"traffic-{word}"),
        "ASSAY_TRAFFIC_BUNDLES": str(scratch / f"bundles-{word}"),
        "ASSAY_TRACING_EXPORTERS": "otlp",
        "ASSAY_TRACING_ID_KEY_PATH": str(scratch / "telemetry.key"),
        **settings,
    }
    pid = stack.enter_context(server([sys.executable, "-m", "engine.cli", "serve"], port, core, environment))
    wait_until_serving(port, SERVICE)
    file = scratch / f"{word}.requests"
    write_requests(file, list(requests))
    return Target(name, pid, port, requests, file)


# --- many at once -----------------------------------------------------------------------------------------------------


def _made(requests: tuple[bytes, ...]) -> Callable[[], pb.DecideRequest]:
    """Gives requests in turn, each with an id of its own."""
    ready = [pb.DecideRequest.FromString(request) for request in requests]
    run, count = uuid.uuid4().hex, 0

    def one() -> pb.DecideRequest:
        nonlocal count
        request = ready[count % len(ready)]
        count += 1
        request.request_id = f"many-{run}-{count}"
        return request

    return one


def _batches(stub: Any, one: Callable[[], pb.DecideRequest], until_s: float, note: Callable[[int], None]) -> None:
    while time.monotonic() < until_s:
        batch = pb.DecideBatchRequest(requests=[one() for _ in range(BATCH_ITEMS)])
        answer = stub.DecideBatch(batch, timeout=60)
        note(sum(item.HasField("decision") for item in answer.items))


def _stream(
    stub: Any, one: Callable[[], pb.DecideRequest], until_s: float, note: Callable[[int], None], window: int
) -> None:
    room: queue.SimpleQueue[None] = queue.SimpleQueue()
    for _ in range(window):
        room.put(None)

    def messages() -> Iterator[pb.DecideStreamRequest]:
        while time.monotonic() < until_s:
            room.get()
            yield pb.DecideStreamRequest(request=one())

    for answer in stub.DecideStream(messages(), timeout=120):
        note(answer.HasField("decision"))
        room.put(None)


def many(target: Target, kind: str, number: int, options: Options) -> dict[str, float]:
    """Sends batches or streams with so many items in flight, and gives CPU of the server and items a second."""
    counts: list[int] = []
    with grpc.insecure_channel(f"127.0.0.1:{target.port}") as channel:
        stub, one = rpc.DecisionServiceStub(channel), _made(target.requests)
        begin_s = time.monotonic() + options.warmup_s
        until_s = begin_s + options.seconds
        workers = max(1, number // BATCH_ITEMS) if kind == BATCH else 4
        if kind == BATCH:
            jobs = [threading.Thread(target=_batches, args=(stub, one, until_s, counts.append)) for _ in range(workers)]
        else:
            window = max(1, number // workers)
            jobs = [
                threading.Thread(target=_stream, args=(stub, one, until_s, counts.append, window))
                for _ in range(workers)
            ]
        for job in jobs:
            job.start()
        time.sleep(options.warmup_s)
        counted, used_s, began_s = sum(counts), cpu_seconds(target.pid), time.monotonic()
        time.sleep(options.seconds)
        done, spent_s, passed_s = sum(counts) - counted, cpu_seconds(target.pid) - used_s, time.monotonic() - began_s
        for job in jobs:
            job.join()
    if not done:
        raise TargetError(f"{kind}: nothing was decided")
    return {"server_cpu_us": spent_s / done * 1e6, "rps": done / passed_s, "p50_ms": 0.0, "p99_ms": 0.0}


# --- the run ----------------------------------------------------------------------------------------------------------


def run(options: Options, out: Path, console: Console, flame: Path | None) -> dict[str, Any]:
    """Measures, adds the figures to `out`, and returns them."""
    server_core, other_core = cores()
    (ROOT / "build").mkdir(exist_ok=True)
    samples: dict[tuple[str, int], list[dict[str, Any]]] = {}
    with tempfile.TemporaryDirectory(dir=ROOT / "build", prefix="bench.") as name, ExitStack() as stack:
        scratch = Path(name)
        bundle = w1.write_bundle(default_bundle(), scratch / "bundle")
        store_settings = {
            "ASSAY_STORE_KIND": "redis",
            "ASSAY_REDIS_ADDRESSES": redis(stack, scratch, other_core),
            "ASSAY_BUNDLE_PATH": str(bundle),
        }
        store = open_store(load_config(environment=store_settings), guarded=False)
        try:
            work = w1.lay_out(store, default_bundle(), bundle)
        finally:
            store.close()
        settings = store_settings | {"ASSAY_TRACING_ENDPOINT": collector(stack, other_core)}
        direct = start(stack, DIRECT, settings, scratch, work.requests, server_core)
        threads = start(
            stack, THREADS, settings | {"ASSAY_SERVER_DIRECT": "false"}, scratch, work.requests, server_core
        )
        answers = ask(direct.port, direct.requests)
        stages = _stages(answers.messages)
        echo_port, echo_file = free_port(), scratch / "echo.requests"
        request = message_of(len(work.requests[0]), ID_MARKER)
        write_requests(echo_file, [request])
        command = echo_command("aio-uvloop", echo_port, answers.mean_bytes)
        echo_pid = stack.enter_context(server(command, echo_port, server_core))
        targets = [direct, threads, Target(YARDSTICK, echo_pid, echo_port, (request,), echo_file)]
        for turn in range(options.rounds):
            for number in options.in_flight:
                for target in targets[turn % 3 :] + targets[: turn % 3]:
                    console.print(f"round {turn + 1}: {target.name}, {number} in flight", style="dim")
                    found = generate(target, number, options, other_core)
                    samples.setdefault((target.name, number), []).append(found)
                    if target is direct and number == 32:
                        for kind in (BATCH, STREAM):
                            console.print(f"round {turn + 1}: {kind}, {number} in flight", style="dim")
                            samples.setdefault((kind, number), []).append(many(direct, kind, number, options))
        memory = memory_mib(direct.pid)
        if flame is not None:
            _draw(direct, options, other_core, flame)
    figures = {
        "machine": machine(),
        "answer_bytes": answers.mean_bytes,
        "stages_us": stages,
        "memory_mib": memory,
        "results": [_result(key, samples) for key in samples],
    }
    whole = json.loads(out.read_text(encoding="utf-8")) if out.exists() else {}
    whole["w1"] = figures
    out.write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")
    show(figures, console)
    return figures


def _result(key: tuple[str, int], samples: dict[tuple[str, int], list[dict[str, Any]]]) -> dict[str, Any]:
    variant, number = key
    reports = samples[key]
    cpu_us = median(report["server_cpu_us"] for report in reports)
    yardstick = median(report["server_cpu_us"] for report in samples[YARDSTICK, number])
    return {
        "variant": variant,
        "concurrency": number,
        "cpu_us": round(cpu_us, 1),
        "rps": round(median(report["rps"] for report in reports)),
        "p50_ms": round(median(report["p50_ms"] for report in reports), 3),
        "p99_ms": round(median(report["p99_ms"] for report in reports), 3),
        "ratio_to_echo": round(cpu_us / yardstick, 2),
        "cpu_us_rounds": [round(report["server_cpu_us"], 1) for report in reports],
    }


def _stages(messages: tuple[bytes, ...]) -> dict[str, float]:
    """Median times of the stages, as lone answers say themselves, in microseconds."""
    times = [pb.DecideResponse.FromString(message).decision.stage_times for message in messages]
    names = [field.name for field in times[0].DESCRIPTOR.fields]
    return {name: round(median(getattr(one, name).ToNanoseconds() / 1000 for one in times), 1) for name in names}


def memory_mib(pid: int, what: str = "VmRSS") -> int:
    """Resident memory of one process, without its children. what: RssAnon for its own alone, without mapped files,
    whose pages the kernel takes back when it needs them."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{what}:"):
            return int(line.split()[1]) // 1024
    return 0


def _draw(target: Target, options: Options, core: int, file: Path) -> None:
    """A flame graph of what holds the interpreter while 32 calls are in flight."""
    command = ["py-spy", "record", "--pid", str(target.pid), "--duration", str(int(options.seconds))]
    command += ["--rate", "400", "--gil", "--format", "flamegraph", "--output", str(file)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as spy:
        generate(target, 32, options, core)
        spy.wait(60)


def show(figures: dict[str, Any], console: Console) -> None:
    """Prints the figures."""
    table = Table(box=box.SIMPLE, title="W1, everything on; medians")
    keys = ("cpu_us", "ratio_to_echo", "rps", "p50_ms", "p99_ms")
    for column in ("variant", "in flight", "CPU us", "x echo", "per s", "p50 ms", "p99 ms"):
        table.add_column(column, justify="left" if column == "variant" else "right")
    for row in sorted(figures["results"], key=lambda row: row["concurrency"]):
        table.add_row(row["variant"], str(row["concurrency"]), *(str(row[key]) for key in keys))
    console.print(table)
    console.print(f"stages of a lone decision, us: {figures['stages_us']}; memory: {figures['memory_mib']} MiB")


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure what a whole decision costs.")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0, help="measured in each run (default: 3)")
    parser.add_argument("--in-flight", type=int, nargs="+", choices=sorted(SHAPES), default=[1, 8, 32])
    parser.add_argument("--flame", type=Path, help="an SVG file to draw a flame graph into")
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
        run(options, given.out, Console(), given.flame)
    except (TargetError, GeneratorError) as error:
        sys.exit(f"bench: {error}")


if __name__ == "__main__":
    main()
