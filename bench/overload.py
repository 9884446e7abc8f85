"""What becomes of answers when more calls come than can be answered: workload W1 at fractions and multiples of the
server's capacity, with admission and without.

    python -m bench.overload        # figures into bench.json, under "overload"; the table into docs/performance.md

Each variant is a whole server on one core; the generator (`bench.h2open`: Poisson arrivals, times from when a call was
due) is on the other. Capacity is what the server answers to callers who each wait for their answer. A caller of gRPC's
own asks a little beside the generator, and says what refused calls are told.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import grpc
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status
from rich import box
from rich.console import Console
from rich.table import Table

from bench import w1
from bench.messages import DECIDE_PATH, ID_MARKER, GeneratorError, write_requests
from bench.procfs import machine
from bench.run import ROOT, SERVICE, cores
from bench.targets import Target, TargetError, free_port, server, wait_until_serving
from engine.bundle.load import default_bundle
from engine.features.stores.embedded import EmbeddedStore

if TYPE_CHECKING:
    from bench.targets import UnaryCall

ON, OFF = "admission", "none"
FACTORS = (0.5, 1.0, 1.5, 2.0, 3.0)
UNLOADED = 0.1
# The generator is the limit when it is later than this, or at work for more than this share of its time.
LAG_MOST_MS, BUSY_MOST = 1.0, 0.8
PAGE = ROOT / "docs" / "performance.md"
_BEGIN, _END = "<!-- overload -->", "<!-- /overload -->"
_ASKS_PER_S = 20


@dataclass(frozen=True, slots=True)
class Options:
    """How long to measure, and what."""

    rounds: int
    seconds: float
    warmup_s: float
    deadline_ms: int
    factors: tuple[float, ...]
    settings: dict[str, str]


def _start(stack: ExitStack, variant: str, scratch: Path, bundle: Path, core: int, more: dict[str, str]) -> Target:
    store = EmbeddedStore(scratch / "features")
    try:
        work = w1.lay_out(store, default_bundle(), bundle)
    finally:
        store.close()
    port = free_port()
    environment = {
        "ASSAY_SERVER_ADDRESS": f"127.0.0.1:{port}",
        "ASSAY_STORE_PATH": str(scratch / "features"),
        "ASSAY_RECORD_PATH": str(scratch / f"decisions-{variant}"),
        "ASSAY_BUNDLE_PATH": str(bundle),
        "ASSAY_LOG_LEVEL": "error",
        "ASSAY_METRICS_PORT": "0",
        "ASSAY_ADMIN_ADDRESS": "",
        "ASSAY_RECORD_MASTER_KEY": str(scratch / "master.key"),
        "ASSAY_TRAFFIC_PATH": str(scratch / f"traffic-{variant}"),
        "ASSAY_TRAFFIC_BUNDLES": str(scratch / f"bundles-{variant}"),
        "ASSAY_TRACING_FILE_PATH": str(scratch / f"traces-{variant}.jsonl"),
        "ASSAY_TRACING_ID_KEY_PATH": str(scratch / "telemetry.key"),
        "ASSAY_ADMISSION_ENABLED": str(variant == ON).lower(),
        # Without admission calls may wait for as long as they like.
        "ASSAY_SERVER_WAITING_MAX": "512" if variant == ON else "100000",
        **more,
    }
    pid = stack.enter_context(server([sys.executable, "-m", "engine.cli", "serve"], port, core, environment))
    wait_until_serving(port, SERVICE)
    file = scratch / f"{variant}.requests"
    write_requests(file, list(work.requests))
    return Target(variant, pid, port, work.requests, file)


def _generate(module: str, target: Target, core: int, *arguments: str) -> dict[str, Any]:
    command = [
        *("taskset", "-c", str(core), sys.executable, "-m", module),
        *("--port", str(target.port), "--requests", str(target.requests_file)),
        *arguments,
    ]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, cwd=ROOT)
    if done.returncode != 0:
        raise GeneratorError(f"{target.name}: {done.stderr.strip()[-2000:]}")
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def _capacity(target: Target, options: Options, core: int) -> float:
    """Decisions a second that callers get who each wait for their answer; the best of several numbers of them."""
    found = []
    for connections, streams in ((1, 8), (4, 8)):
        shape = ("--connections", str(connections), "--streams", str(streams))
        report = _generate("bench.h2gen", target, core, *shape, "--warmup", "1", "--seconds", str(options.seconds))
        found.append(float(report["rps"]))
    return max(found)


def _open(target: Target, rate: float, options: Options, core: int, seed: int) -> dict[str, Any]:
    return _generate(
        "bench.h2open",
        target,
        core,
        *("--rate", f"{rate:.1f}", "--seconds", str(options.seconds), "--warmup", str(options.warmup_s)),
        *("--deadline-ms", str(options.deadline_ms), "--seed", str(seed)),
    )


class _Asker:
    """A caller of gRPC's own: what refused calls are told."""

    def __init__(self, target: Target) -> None:
        self.delays_ms: list[float] = []
        self.without = 0
        self._target, self._stop = target, threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        with grpc.insecure_channel(f"127.0.0.1:{self._target.port}") as channel:
            call: UnaryCall = channel.unary_unary(DECIDE_PATH)
            number = 0
            while not self._stop.wait(1 / _ASKS_PER_S):
                number += 1
                name = f"asker-{time.time_ns():x}-{number:04d}".encode()[: len(ID_MARKER)].ljust(len(ID_MARKER), b"-")
                try:
                    call(self._target.requests[0].replace(ID_MARKER, name), timeout=1)
                except grpc.RpcError as error:
                    if error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED:
                        self._told(error)

    def _told(self, error: Any) -> None:
        told = RetryInfo()
        for name, value in error.trailing_metadata() or ():
            if name == "grpc-status-details-bin":
                for detail in Status.FromString(value).details:
                    if detail.Unpack(told):
                        self.delays_ms.append(told.retry_delay.seconds * 1e3 + told.retry_delay.nanos / 1e6)
                        return
        self.without += 1

    @contextmanager
    def asking(self) -> Iterator[None]:
        """Asks until the block ends."""
        self._thread.start()
        try:
            yield
        finally:
            self._stop.set()
            self._thread.join()


def run(options: Options, out: Path, console: Console) -> dict[str, Any]:
    """Measures, adds the figures to `out`, and returns them."""
    server_core, other_core = cores()
    (ROOT / "build").mkdir(exist_ok=True)
    samples: dict[tuple[str, float], list[dict[str, Any]]] = {}
    capacities: list[float] = []
    with tempfile.TemporaryDirectory(dir=ROOT / "build", prefix="bench.") as name, ExitStack() as stack:
        scratch = Path(name)
        bundle = w1.write_bundle(default_bundle(), scratch / "bundle")
        targets = [_start(stack, variant, scratch, bundle, server_core, options.settings) for variant in (ON, OFF)]
        for turn in range(options.rounds):
            capacities.append(_capacity(targets[1], options, other_core))
            console.print(f"round {turn + 1}: {capacities[-1]:.0f} decisions a second", style="dim")
            capacity = median(capacities)
            for factor in (UNLOADED, *options.factors):
                for target in targets:
                    asker = _Asker(target)
                    with asker.asking():
                        report = _open(target, factor * capacity, options, other_core, seed=turn * 100 + 1)
                    report |= {"delays_ms": asker.delays_ms, "without_delay": asker.without}
                    samples.setdefault((target.name, factor), []).append(report)
                    _say(console, target.name, factor, report)
                    time.sleep(0.5)
    figures = {"machine": machine(), "capacity": round(median(capacities)), "deadline_ms": options.deadline_ms}
    figures["results"] = _results(samples)
    whole = json.loads(out.read_text(encoding="utf-8")) if out.exists() else {}
    whole["overload"] = figures
    out.write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")
    show(figures, console)
    return figures


def _say(console: Console, name: str, factor: float, report: dict[str, Any]) -> None:
    limit = ""
    if report["lag_p99_ms"] > LAG_MOST_MS or report["busy"] > BUSY_MOST:
        limit = f" [yellow]the generator is the limit: {report['lag_p99_ms']} ms late, {report['busy']:.0%} busy[/]"
    console.print(
        f"  {name} at {factor} x: offered {report['offered']:.0f}, goodput {report['goodput']:.0f}, "
        f"p99 {report['p99_ms']} ms, refused {sum(report['refused'].values())}, late {report['late']}{limit}",
        style="dim",
        highlight=False,
        soft_wrap=True,
    )


def _results(samples: dict[tuple[str, float], list[dict[str, Any]]]) -> list[dict[str, Any]]:
    def middle(variant: str, factor: float, key: str) -> float:
        return float(median(report[key] for report in samples[variant, factor]))

    best = max(middle(variant, factor, "goodput") for variant, factor in samples)
    rows = []
    for (variant, factor), reports in samples.items():
        delays_ms = sorted(delay for report in reports for delay in report["delays_ms"])
        calls = sum(report["calls"] for report in reports)
        refused = sum(sum(report["refused"].values()) for report in reports)
        lag_ms, busy = middle(variant, factor, "lag_p99_ms"), middle(variant, factor, "busy")
        rows.append(
            {
                "variant": variant,
                "factor": factor,
                "offered": round(middle(variant, factor, "offered")),
                "goodput": round(middle(variant, factor, "goodput")),
                "goodput_ratio": round(middle(variant, factor, "goodput") / best, 3),
                "p50_ms": round(middle(variant, factor, "p50_ms"), 2),
                "p99_ms": round(middle(variant, factor, "p99_ms"), 2),
                "p99_ratio": round(middle(variant, factor, "p99_ms") / middle(variant, UNLOADED, "p99_ms"), 2),
                "refused_share": round(refused / calls, 3),
                "refused_p99_ms": round(middle(variant, factor, "refused_p99_ms"), 2),
                "late_share": round(sum(report["late"] for report in reports) / calls, 3),
                "retry_ms": [delays_ms[0], median(delays_ms), delays_ms[-1]] if delays_ms else [],
                "refused_without_delay": sum(report["without_delay"] for report in reports),
                "generator_is_limit": lag_ms > LAG_MOST_MS or busy > BUSY_MOST,
                "generator_lag_p99_ms": round(lag_ms, 3),
            }
        )
    return rows


_COLUMNS = (
    "admission", "x capacity", "offered/s", "goodput/s", "of the best", "p50 ms", "p99 ms", "x unloaded", "refused",
    "too late", "told to wait, ms",
)  # fmt: skip


def _cells(row: dict[str, Any]) -> list[str]:
    delays = row["retry_ms"]
    return [
        "yes" if row["variant"] == ON else "no",
        f"{row['factor']:g}" + (" *" if row["generator_is_limit"] else ""),
        f"{row['offered']:,}",
        f"{row['goodput']:,}",
        f"{row['goodput_ratio']:.0%}",
        f"{row['p50_ms']:.1f}",
        f"{row['p99_ms']:.1f}",
        f"{row['p99_ratio']:.1f}",
        f"{row['refused_share']:.0%}",
        f"{row['late_share']:.0%}",
        f"{delays[0]:.0f} to {delays[2]:.0f}" if delays else "",
    ]


def show(figures: dict[str, Any], console: Console) -> None:
    """Prints the figures."""
    table = Table(box=box.SIMPLE, title=f"Overload, W1; capacity {figures['capacity']:,} decisions a second")
    for column in _COLUMNS:
        table.add_column(column, justify="right")
    for row in _ordered(figures):
        table.add_row(*_cells(row))
    console.print(table)
    if any(row["generator_is_limit"] for row in figures["results"]):
        console.print("* the generator could not keep up: these figures are its own", style="yellow")


def _ordered(figures: dict[str, Any]) -> list[dict[str, Any]]:
    return sorted(figures["results"], key=lambda row: (row["variant"] != ON, row["factor"]))


def markdown(figures: dict[str, Any]) -> str:
    """The table of docs/performance.md."""
    capacity, patience_ms = figures["capacity"], figures["deadline_ms"]
    lines = [f"Capacity {capacity:,} decisions a second; callers wait {patience_ms} ms at most.", ""]
    lines += ["| " + " | ".join(_COLUMNS) + " |", "| " + " | ".join(["---"] * len(_COLUMNS)) + " |"]
    lines += ["| " + " | ".join(_cells(row)) + " |" for row in _ordered(figures)]
    if any(row["generator_is_limit"] for row in figures["results"]):
        lines += ["", "\\* The generator could not keep up: these figures are its own."]
    return "\n".join(lines)


def write_page(figures: dict[str, Any], page: Path = PAGE) -> bool:
    """Puts the table between its marks. False where the page has no marks."""
    text = page.read_text(encoding="utf-8")
    before, begin, rest = text.partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if not begin or not end:
        return False
    page.write_text(f"{before}{_BEGIN}\n\n{markdown(figures)}\n\n{_END}{after}", encoding="utf-8")
    return True


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure what becomes of answers under too many calls.")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5.0, help="measured in each run (default: 5)")
    parser.add_argument("--warmup", type=float, default=1.5, help="seconds before each (default: 1.5)")
    parser.add_argument("--deadline-ms", type=int, default=500, help="of every call (default: 500)")
    parser.add_argument("--factors", type=float, nargs="+", default=list(FACTORS), help="times the capacity")
    parser.add_argument("--set", nargs="+", default=[], metavar="NAME=VALUE", help="settings of the server, ASSAY_...")
    parser.add_argument("--out", type=Path, default=ROOT / "bench.json")
    given = parser.parse_args()
    options = Options(
        rounds=given.rounds,
        seconds=given.seconds,
        warmup_s=given.warmup,
        deadline_ms=given.deadline_ms,
        factors=tuple(given.factors),
        settings=dict(pair.split("=", 1) for pair in given.set),
    )
    try:
        figures = run(options, given.out, Console())
    except (TargetError, GeneratorError) as error:
        sys.exit(f"bench: {error}")
    if given.out == ROOT / "bench.json" and not write_page(figures):
        sys.exit(f"bench: {PAGE} has no {_BEGIN} ... {_END} for the table")


if __name__ == "__main__":
    main()
