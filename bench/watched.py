"""What watching a decision costs: workload W1 without traces, with traces by an exporter process, by a thread, and by
the OpenTelemetry SDK, all sending the same spans over OTLP to the same collector.

    python -m bench.watched                  # figures into bench.json, under "watched"

Every variant is a whole server on one core with all its threads and children, in turns with the others and with the
yardstick; the collector (rotel, which throws away what it takes) and the generator are on the other core. The last
variant has neither traces nor metrics.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from bench import w1
from bench.echo import message_of
from bench.messages import ID_MARKER, GeneratorError, write_requests
from bench.procfs import machine
from bench.run import ROOT, SERVICE, SHAPES, YARDSTICK, Options, cores, generate
from bench.targets import Target, TargetError, ask, echo_command, free_port, server, wait_until_serving
from engine.bundle.load import default_bundle
from engine.features.stores.embedded import EmbeddedStore

OFF, PROCESS, THREAD, STOCK, BLIND = "no traces", "exporter process", "thread", "stock SDK", "no traces, no metrics"
_MODES = {
    OFF: {"ASSAY_TRACING_MODE": "off"},
    PROCESS: {"ASSAY_TRACING_MODE": "process"},
    THREAD: {"ASSAY_TRACING_MODE": "thread"},
    STOCK: {"ASSAY_TRACING_MODE": "stock", "ASSAY_TRACING_PROCESSOR": "bench.watched:stock_processor"},
    BLIND: {"ASSAY_TRACING_MODE": "off", "ASSAY_METRICS_EXPORTERS": ""},
}
_COLLECTOR = "BENCH_COLLECTOR"


def stock_processor() -> Any:
    """What an engine would use that did nothing of its own: the SDK's batches over its OTLP exporter."""
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    # A queue that holds all, so that no span that is dropped makes it look cheap.
    return BatchSpanProcessor(OTLPSpanExporter(endpoint=os.environ[_COLLECTOR], insecure=True), max_queue_size=1 << 20)


def collector(stack: ExitStack, core: int) -> str:
    """A collector of its own that takes everything and keeps nothing: its endpoint."""
    spec = importlib.util.find_spec("rotel")
    if spec is None or spec.origin is None:
        raise TargetError("rotel is not installed (make setup-dev)")
    grpc_port, http_port = free_port(), free_port()
    home = stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-rotel-"))
    command = [str(Path(spec.origin).parent / "rotel-agent"), "start", "--exporter", "blackhole"]
    command += ["--otlp-grpc-endpoint", f"127.0.0.1:{grpc_port}", "--otlp-http-endpoint", f"127.0.0.1:{http_port}"]
    command += ["--pid-file", f"{home}/pid", "--log-file", f"{home}/log"]
    stack.enter_context(server(command, grpc_port, core))
    return f"http://127.0.0.1:{grpc_port}"


def _start(stack: ExitStack, variant: str, scratch: Path, bundle: Path, collector: str, core: int) -> Target:
    word = variant.replace(" ", "-").replace(",", "")
    store = EmbeddedStore(scratch / "features")
    try:
        work = w1.lay_out(store, default_bundle(), bundle)
    finally:
        store.close()
    port = free_port()
    environment = {
        "ASSAY_SERVER_ADDRESS": f"127.0.0.1:{port}",
        "ASSAY_STORE_PATH": str(scratch / "features"),
        "ASSAY_RECORD_PATH": str(scratch / f"decisions-{word}"),
        "ASSAY_BUNDLE_PATH": str(bundle),
        "ASSAY_LOG_LEVEL": "error",
        "ASSAY_METRICS_PORT": "0",
        "ASSAY_ADMIN_ADDRESS": "",
        "ASSAY_RECORD_MASTER_KEY": str(scratch / "master.key"),
        "ASSAY_TRAFFIC_PATH": str(scratch / f"traffic-{word}"),
        "ASSAY_TRAFFIC_BUNDLES": str(scratch / f"bundles-{word}"),
        "ASSAY_TRACING_EXPORTERS": "otlp",
        "ASSAY_TRACING_ENDPOINT": collector,
        "ASSAY_TRACING_ID_KEY_PATH": str(scratch / "telemetry.key"),
        _COLLECTOR: collector,
        **_MODES[variant],
    }
    pid = stack.enter_context(server([sys.executable, "-m", "engine.cli", "serve"], port, core, environment))
    wait_until_serving(port, SERVICE)
    file = scratch / f"{word}.requests"
    write_requests(file, list(work.requests))
    return Target(variant, pid, port, work.requests, file)


def run(options: Options, out: Path, console: Console) -> dict[str, Any]:
    """Measures, adds the figures to `out`, and returns them."""
    server_core, other_core = cores()
    (ROOT / "build").mkdir(exist_ok=True)
    samples: dict[tuple[str, int], list[dict[str, Any]]] = {}
    with tempfile.TemporaryDirectory(dir=ROOT / "build", prefix="bench.") as name, ExitStack() as stack:
        scratch = Path(name)
        bundle = w1.write_bundle(default_bundle(), scratch / "bundle")
        endpoint = collector(stack, other_core)
        targets = [_start(stack, variant, scratch, bundle, endpoint, server_core) for variant in _MODES]
        answers = ask(targets[0].port, targets[0].requests)
        echo_port, echo_file = free_port(), scratch / "echo.requests"
        request = message_of(len(targets[0].requests[0]), ID_MARKER)
        write_requests(echo_file, [request])
        command = echo_command("aio-uvloop", echo_port, answers.mean_bytes)
        echo = stack.enter_context(server(command, echo_port, server_core))
        targets.append(Target(YARDSTICK, echo, echo_port, (request,), echo_file))
        for turn in range(options.rounds):
            for number in options.in_flight:
                # In another order each time: what one leaves behind must not always hit the same next one.
                for target in targets[turn % len(targets) :] + targets[: turn % len(targets)]:
                    console.print(f"round {turn + 1}: {target.name}, {number} in flight", style="dim")
                    samples.setdefault((target.name, number), []).append(generate(target, number, options, other_core))
    results = []
    for (variant, number), reports in samples.items():
        cpu = median(report["server_cpu_us"] for report in reports)
        yardstick = median(r["server_cpu_us"] for r in samples[YARDSTICK, number])
        off = median(r["server_cpu_us"] for r in samples[OFF, number])
        results.append(
            {
                "variant": variant,
                "concurrency": number,
                "cpu_us": round(cpu, 1),
                "rps": round(median(report["rps"] for report in reports)),
                "p50_ms": round(median(report["p50_ms"] for report in reports), 3),
                "p99_ms": round(median(report["p99_ms"] for report in reports), 3),
                "ratio_to_echo": round(cpu / yardstick, 2),
                "ratio_to_no_traces": round(cpu / off, 3),
                "cpu_us_rounds": [round(report["server_cpu_us"], 1) for report in reports],
            }
        )
    figures = {"machine": machine(), "answer_bytes": answers.mean_bytes, "results": results}
    whole = json.loads(out.read_text(encoding="utf-8")) if out.exists() else {}
    whole["watched"] = figures
    out.write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")
    show(figures, console)
    return figures


def show(figures: dict[str, Any], console: Console) -> None:
    """Prints the figures."""
    table = Table(box=box.SIMPLE, title="W1, watched; medians")
    keys = ("cpu_us", "ratio_to_no_traces", "ratio_to_echo", "rps", "p50_ms", "p99_ms")
    for column in ("variant", "in flight", "CPU us", "x no traces", "x echo", "calls/s", "p50 ms", "p99 ms"):
        table.add_column(column, justify="left" if column == "variant" else "right")
    for row in sorted(figures["results"], key=lambda row: row["concurrency"]):
        table.add_row(row["variant"], str(row["concurrency"]), *(str(row[key]) for key in keys))
    console.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure what traces and metrics cost a decision.")
    parser.add_argument("--rounds", type=int, default=5)
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
    except (TargetError, GeneratorError) as error:
        sys.exit(f"bench: {error}")


if __name__ == "__main__":
    main()
