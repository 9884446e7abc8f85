"""What a trace costs the serving process: CPU of the whole process, its threads and the last flush included.

    python -m bench.tracing [--traces 4000] [--rounds 5] [--json FILE]

Every variant makes the same trace (9 spans, some 50 attributes, as one decision gives) so many times, at a bounded
rate, and sends it over OTLP to a sink that takes anything. Each run is a process of its own; variants take turns, and
the median is shown. `nothing` is the loop without traces; what the others cost is told as the difference.

    nothing   no trace at all
    notes     the values are collected and the record is made, and nothing becomes of it
    process   records go to the exporter process, whose own CPU is told apart
    thread    records are encoded and sent by threads of the serving process
    stock     the engine's mode `stock`: records become spans of the SDK, BatchSpanProcessor, the SDK's gRPC exporter
    sdk       the OpenTelemetry SDK as its documentation has it: nested start_as_current_span, set_attribute
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc

from bench.procfs import cpu_seconds
from engine.telemetry.tracing.process_recorder import ProcessRecorder
from engine.telemetry.tracing.recorder import Recorder, open_recorder
from engine.telemetry.tracing.settings import Mode, OtlpSettings, TracingSettings
from engine.telemetry.tracing.shapes import SHAPES
from tests.support.traces import SPANS, decision, served

VARIANTS = ("nothing", "notes", "process", "thread", "stock", "sdk")
_WARMUP = 200
_GROUP, _PAUSE_S = 10, 0.004


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _sdk_processor(endpoint: str) -> Any:
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    exporter = OTLPSpanExporter(endpoint=endpoint, insecure=True)
    return BatchSpanProcessor(exporter, max_queue_size=1 << 20, schedule_delay_millis=1000)


def _sdk(endpoint: str) -> tuple[Callable[[int], None], Callable[[], object]]:
    """The SDK used as documented: a span around each stage, an attribute at a time."""
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import SpanKind

    provider = TracerProvider()
    provider.add_span_processor(_sdk_processor(endpoint))
    tracer = provider.get_tracer("assay")
    kinds = {kind.value + 1: kind for kind in SpanKind}

    def one(n: int) -> None:
        first, *others = decision(n)[8]
        stages = [(SHAPES[span[0]], span[6]) for span in (first, *others)]

        def fill(span: Any, place: int) -> None:
            shape, values = stages[place]
            for key, value in shape.constants:
                span.set_attribute(key, value)
            for attribute, value in zip(shape.attributes, values, strict=True):
                if value is not None:
                    span.set_attribute(attribute.key, value)

        with tracer.start_as_current_span(stages[0][0].name, kind=kinds[stages[0][0].kind]) as root:
            for place in range(1, len(stages)):
                shape = stages[place][0]
                with tracer.start_as_current_span(shape.name, kind=kinds[shape.kind]) as span:
                    fill(span, place)
            fill(root, 0)

    return one, provider.shutdown


def _ours(mode: Mode, endpoint: str) -> Recorder:
    settings = TracingSettings(mode=mode, exporters=("otlp",), otlp=OtlpSettings(endpoint=endpoint))
    return open_recorder(settings, processor=_sdk_processor(endpoint) if mode == "stock" else None)


def _run(variant: str, endpoint: str, traces: int) -> dict[str, float]:
    """One measured run, in this process."""
    work: Callable[[int], object]
    end: Callable[[], object] = lambda: None  # noqa: E731
    recorder: Recorder | None = None
    if variant == "nothing":
        work = int
    elif variant == "notes":
        work = served
    elif variant == "sdk":
        work, end = _sdk(endpoint)
    else:
        recorder = _ours(variant, endpoint)  # type: ignore[arg-type]
        record = recorder.record

        def work(n: int) -> None:
            record(served(n))

        end = lambda: recorder.close(30)  # noqa: E731
    for n in range(_WARMUP):
        work(n)
    if recorder is not None:
        recorder.flush(30)
    exporter = recorder.exporter if isinstance(recorder, ProcessRecorder) else None
    exporter_pid = exporter.pid if exporter is not None else None
    exporter_s = -cpu_seconds(exporter_pid) if exporter_pid is not None else 0.0
    begun_cpu_s = _cpu_s()
    on_thread_s = 0.0
    for first in range(0, traces, _GROUP):
        thread_s = time.thread_time()
        for n in range(first, first + _GROUP):
            work(n)
        on_thread_s += time.thread_time() - thread_s
        time.sleep(_PAUSE_S)
    if exporter_pid is not None and recorder is not None:
        recorder.flush(30)
        exporter_s += cpu_seconds(exporter_pid)
    end()
    used_s = _cpu_s() - begun_cpu_s
    if recorder is not None and (lost := recorder.stats().get("dropped_traces", 0)):
        raise SystemExit(f"{lost} traces were dropped: the figure would flatter")
    return {
        "cpu_us": used_s / traces * 1e6,
        "request_us": on_thread_s / traces * 1e6,
        "exporter_us": exporter_s / traces * 1e6,
    }


def _sink() -> tuple[grpc.Server, str]:
    """Takes everything and reads nothing."""
    server = grpc.server(futures.ThreadPoolExecutor(2), options=[("grpc.max_receive_message_length", 1 << 28)])
    handler: Any = grpc.unary_unary_rpc_method_handler(lambda content, context: b"")
    name = "opentelemetry.proto.collector.trace.v1.TraceService"
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(name, {"Export": handler}),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    return server, f"http://127.0.0.1:{port}"


def measure(traces: int, rounds: int) -> dict[str, dict[str, float]]:
    """Medians by variant: cpu_us of the serving process, request_us of it on the calls' thread, exporter_us of the
    exporter process; each for one trace."""
    server, endpoint = _sink()
    found: dict[str, list[dict[str, float]]] = {variant: [] for variant in VARIANTS}
    try:
        for _ in range(rounds):
            for variant in VARIANTS:
                command = [sys.executable, "-m", "bench.tracing", "--variant", variant, "--endpoint", endpoint]
                done = subprocess.run(
                    [*command, "--traces", str(traces)], check=True, capture_output=True, text=True, timeout=300
                )
                found[variant].append(json.loads(done.stdout.splitlines()[-1]))
    finally:
        server.stop(None)
    medians = {
        variant: {key: statistics.median(run[key] for run in runs) for key in runs[0]}
        for variant, runs in found.items()
    }
    base_us = medians["nothing"]["cpu_us"]
    for one in medians.values():
        one["net_us"] = one["cpu_us"] - base_us
    return medians


def main() -> None:
    parser = argparse.ArgumentParser(description="What a trace costs the serving process.")
    parser.add_argument("--traces", type=int, default=4000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--variant", choices=VARIANTS, help=argparse.SUPPRESS)
    parser.add_argument("--endpoint", default="", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.variant:
        print(json.dumps(_run(options.variant, options.endpoint, options.traces)))
        return
    medians = measure(options.traces, options.rounds)
    attributes = sum(value is not None for span in decision()[8] for value in span[6])
    print(f"{options.traces} traces of {SPANS} spans and {attributes} attributes, {options.rounds} rounds, medians")
    print(f"{'':10}{'CPU us a trace':>16}{'on its thread':>16}{'exporter':>12}{'of sdk':>9}")
    for variant, one in medians.items():
        share = one["net_us"] / medians["sdk"]["net_us"]
        print(f"{variant:10}{one['net_us']:16.1f}{one['request_us']:16.1f}{one['exporter_us']:12.1f}{share:9.1%}")
    if options.json is not None:
        options.json.write_text(json.dumps(medians, indent=2) + "\n", "utf-8")


if __name__ == "__main__":
    main()
