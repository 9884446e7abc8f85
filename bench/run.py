"""What a whole decision costs, against a bare gRPC echo of the same message sizes on the same core in the same run.

    python -m bench.run                      # everything; figures to bench.json
    python -m bench.run --without-engine     # the yardstick alone

All servers run on one core, the generator on another; variants take turns in every round, so that a slow minute of the
machine hits them alike; figures are medians over the rounds. CPU is user and system time of the server with all its
threads and children, per call answered. `ratio_to_echo` divides it by that of the grpc.aio echo under uvloop.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from bench import h2load
from bench.echo import KINDS, THREADS, message_of
from bench.messages import ID_MARKER, GeneratorError, write_requests
from bench.report import ENGINE, about, show
from bench.targets import Target, TargetError, ask, echo_command, free_port, server, wait_until_serving

ROOT = Path(__file__).resolve().parent.parent
YARDSTICK = "echo aio-uvloop"
SERVICE = "assay.decision.v1.DecisionService"
# Calls in flight -> connections and calls in flight on each. A caller keeps one connection for up to eight at once.
SHAPES = {1: (1, 1), 8: (1, 8), 32: (4, 8), 64: (8, 8)}
CROSS_CHECK_IN_FLIGHT = 32
CROSS_CHECKED = ("echo aio-uvloop", "echo threads")
CROSS_CHECK_CALLS = 20_000


@dataclass(frozen=True, slots=True)
class Options:
    """How long to measure, and what."""

    rounds: int
    seconds: float
    warmup_s: float
    in_flight: tuple[int, ...]
    bundle: Path
    with_engine: bool
    request_bytes: int
    answer_bytes: int


@dataclass
class Samples:
    """The rounds of one variant at one number of calls in flight."""

    reports: list[dict[str, Any]] = field(default_factory=list)

    def middle(self, key: str) -> float:
        return float(median(report[key] for report in self.reports))


def cores() -> tuple[int, int]:
    """The server's core and the generator's. Raises TargetError where there is only one."""
    allowed = sorted(os.sched_getaffinity(0))
    if len(allowed) < 2:
        raise TargetError("two cores are needed, one for the server and one for the generator")
    return allowed[0], allowed[-1]


def start_all(
    stack: ExitStack, options: Options, scratch: Path, server_core: int
) -> tuple[list[Target], dict[str, Any]]:
    """Starts every server, the engine first, since its messages give the echo its sizes. Returns what was sent, too."""
    targets: list[Target] = []
    request_bytes, answer_bytes = options.request_bytes, options.answer_bytes
    sent: dict[str, Any] = {}
    if options.with_engine:
        bundle = options.bundle.resolve()
        engine, sent, answer_bytes = _start_engine(stack, scratch, server_core, bundle)
        request_bytes = round(sum(map(len, engine.requests)) / len(engine.requests))
        targets.append(engine)
    request = message_of(request_bytes, ID_MARKER)
    for kind in KINDS:
        port = free_port()
        pid = stack.enter_context(server(echo_command(kind, port, answer_bytes), port, server_core))
        file = scratch / f"{kind}.requests"
        write_requests(file, [request])
        targets.append(Target(f"echo {kind}", pid, port, (request,), file))
        if set(ask(port, [request]).sizes) != {answer_bytes}:
            raise TargetError(f"the echo {kind} answers in another size than {answer_bytes} bytes")
    return targets, {"request_bytes": request_bytes, "answer_bytes": answer_bytes, **sent}


def _start_engine(stack: ExitStack, scratch: Path, core: int, bundle: Path) -> tuple[Target, dict[str, Any], int]:
    from bench.workload import describe, lay_out

    work = lay_out(scratch / "features", bundle)
    file, port = scratch / "engine.requests", free_port()
    write_requests(file, list(work.requests))
    environment = {
        "ASSAY_SERVER_ADDRESS": f"127.0.0.1:{port}",
        "ASSAY_BUNDLE_PATH": str(bundle),
        "ASSAY_STORE_PATH": str(scratch / "features"),
        "ASSAY_RECORD_PATH": str(scratch / "decisions"),
        "ASSAY_LOG_LEVEL": "warning",
        "ASSAY_METRICS_PORT": "0",
        "ASSAY_ADMIN_ADDRESS": "",
        "ASSAY_RECORD_MASTER_KEY": str(scratch / "master.key"),
        "ASSAY_TRAFFIC_PATH": str(scratch / "traffic"),
        "ASSAY_TRAFFIC_BUNDLES": str(scratch / "bundles"),
        "ASSAY_TRACING_FILE_PATH": str(scratch / "traces.jsonl"),
        "ASSAY_TRACING_ID_KEY_PATH": str(scratch / "telemetry.key"),
    }
    pid = stack.enter_context(server([sys.executable, "-m", "engine.cli", "serve"], port, core, environment))
    wait_until_serving(port, SERVICE)
    answers = ask(port, work.requests)
    sent = {
        "scenarios": work.scenarios,
        "requests": len(work.requests),
        "rows": work.rows,
        "verdicts": dict(describe(answers)),
    }
    return Target(ENGINE, pid, port, work.requests, file), sent, answers.mean_bytes


def generate(target: Target, in_flight: int, options: Options, core: int) -> dict[str, Any]:
    """One run of the generator. Raises GeneratorError when it fails or any call did."""
    connections, streams = SHAPES[in_flight]
    command = [
        *("taskset", "-c", str(core), sys.executable, "-m", "bench.h2gen"),
        *("--port", str(target.port), "--requests", str(target.requests_file), "--server-pid", str(target.pid)),
        *("--connections", str(connections), "--streams", str(streams)),
        *("--warmup", str(options.warmup_s), "--seconds", str(options.seconds)),
    ]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, cwd=ROOT)
    if done.returncode != 0:
        raise GeneratorError(f"{target.name}, {in_flight} in flight: {done.stderr.strip()[-2000:]}")
    report: dict[str, Any] = json.loads(done.stdout)
    if report["failed"]:
        raise GeneratorError(f"{target.name}, {in_flight} in flight: calls failed: {report['failed']}")
    return report


def measure(
    targets: list[Target], options: Options, sizes: dict[str, Any], core: int, console: Console
) -> dict[str, Any]:
    """All rounds. Returns the lists `results` and `cross_check` of bench.json."""
    samples = {(target.name, number): Samples() for number in options.in_flight for target in targets}
    witness: dict[str, list[h2load.H2loadReport]] = {name: [] for name in CROSS_CHECKED}
    cross_check = h2load.available() and CROSS_CHECK_IN_FLIGHT in options.in_flight
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("measuring", total=len(samples) * options.rounds)
        for turn in range(options.rounds):
            for number in options.in_flight:
                for target in targets:
                    progress.update(task, description=f"round {turn + 1}: {target.name}, {number} in flight")
                    samples[target.name, number].reports.append(generate(target, number, options, core))
                    if cross_check and number == CROSS_CHECK_IN_FLIGHT and target.name in witness:
                        witness[target.name].append(_witness(target, number, sizes["answer_bytes"], core))
                    progress.advance(task)
    results = []
    for number in options.in_flight:
        yardstick = samples[YARDSTICK, number].middle("server_cpu_us")
        for target in targets:
            results.append(_result(target.name, number, samples[target.name, number], yardstick))
    checks = [
        {
            "variant": name,
            "concurrency": CROSS_CHECK_IN_FLIGHT,
            "h2gen_cpu_us": round(samples[name, CROSS_CHECK_IN_FLIGHT].middle("server_cpu_us"), 1),
            "h2load_cpu_us": round(median(report.server_cpu_us for report in reports), 1),
            "h2gen_p50_ms": round(samples[name, CROSS_CHECK_IN_FLIGHT].middle("p50_ms"), 3),
            "h2load_p50_ms": round(median(report.p50_ms for report in reports), 3),
        }
        for name, reports in witness.items()
        if reports
    ]
    return {"results": results, "cross_check": checks}


def _witness(target: Target, number: int, answer_bytes: int, core: int) -> h2load.H2loadReport:
    connections, streams = SHAPES[number]
    return h2load.run(
        target.port,
        target.requests[0],
        connections=connections,
        streams=streams,
        calls=CROSS_CHECK_CALLS,
        core=core,
        server_pid=target.pid,
        answer_bytes=answer_bytes,
    )


def _result(name: str, number: int, samples: Samples, yardstick_us: float) -> dict[str, Any]:
    cpu_us = samples.middle("server_cpu_us")
    return {
        "variant": name,
        "concurrency": number,
        "connections": SHAPES[number][0],
        "cpu_us": round(cpu_us, 1),
        "rps": round(samples.middle("rps")),
        "p50_ms": round(samples.middle("p50_ms"), 3),
        "p99_ms": round(samples.middle("p99_ms"), 3),
        "ratio_to_echo": round(cpu_us / yardstick_us, 2),
        "cpu_us_rounds": [round(report["server_cpu_us"], 1) for report in samples.reports],
        "generator_cpu_us": round(samples.middle("generator_cpu_us"), 1),
        "calls": sum(report["calls"] for report in samples.reports),
    }


def run(options: Options, out: Path, console: Console) -> dict[str, Any]:
    """Starts, measures, checks that the servers still answer, writes `out`, and returns the figures."""
    load_before = os.getloadavg()[0]
    if load_before > 0.5:
        console.print(
            f"[yellow]The machine is busy (load {load_before:.1f}): CPU per call and ratios hold better than times."
        )
    server_core, generator_core = cores()
    (ROOT / "build").mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=ROOT / "build", prefix="bench.") as scratch, ExitStack() as stack:
        with console.status("starting the servers"):
            targets, sent = start_all(stack, options, Path(scratch), server_core)
        measured = measure(targets, options, sent, generator_core, console)
        for target in targets:
            ask(target.port, target.requests)
    connections = {number: shape[0] for number, shape in SHAPES.items()}
    settings = {**asdict(options), "bundle": options.bundle.name, "echo_threads": THREADS, "connections": connections}
    figures = {**about(settings, sent, load_before), **measured}
    temporary = out.with_suffix(".json.tmp")
    temporary.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    temporary.replace(out)
    show(figures, console)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure what a decision costs against a bare gRPC echo.")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3.0, help="measured in each run (default: 3)")
    parser.add_argument("--warmup", type=float, default=1.0, help="seconds before each (default: 1)")
    parser.add_argument("--in-flight", type=int, nargs="+", choices=sorted(SHAPES), default=sorted(SHAPES))
    parser.add_argument("--bundle", type=Path, default=ROOT / "models" / "lending", help="default: the one that ships")
    parser.add_argument("--without-engine", action="store_true", help="the echo servers alone")
    parser.add_argument("--request-bytes", type=int, default=500, help="without the engine: size of a request")
    parser.add_argument("--answer-bytes", type=int, default=500, help="without the engine: size of an answer")
    parser.add_argument("--out", type=Path, default=ROOT / "bench.json")
    given = parser.parse_args()
    options = Options(
        rounds=given.rounds,
        seconds=given.seconds,
        warmup_s=given.warmup,
        in_flight=tuple(sorted(given.in_flight)),
        bundle=given.bundle,
        with_engine=not given.without_engine,
        request_bytes=given.request_bytes,
        answer_bytes=given.answer_bytes,
    )
    try:
        run(options, given.out, Console())
    except (TargetError, GeneratorError, h2load.H2loadError) as error:
        sys.exit(f"bench: {error}")


if __name__ == "__main__":
    main()
