"""`make trace-demo`: a real tracing backend, a server that sends its traces there, a few decisions, and what the
backend then has of them. It stays until Ctrl-C; with `--once` it ends by itself."""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
from pathlib import Path
from threading import Event

import grpc
from rich.console import Console

from assay.decision.v1 import decision_pb2, decision_service_pb2_grpc
from demo.applicants import Applicant, gather_cast
from demo.server import running_server
from demo.show import verdict_of
from engine.bundle.load import default_bundle, load_bundle
from engine.bundle.rows import RowWriter
from engine.clock import SystemClock
from engine.features.stores.embedded import EmbeddedStore
from engine.telemetry.tracing import names
from engine.telemetry.tracing.search import StoredSpan, StoredTrace
from engine.telemetry.tracing.waterfall import waterfall
from tools.trace_backend import TraceBackend, ZipkinSpan, running_backend

_SEED, _CONSUMERS, _COMPANIES = 20, 8, 4
_DAY_US = 86_400_000_000
_KINDS = {"SERVER": 2, "CLIENT": 3}
# A call and its eight stages; what more there is comes with them.
_SPANS = 9


def main(once: bool) -> int:
    """Runs the demonstration. once: do not stay. Gives the exit code."""
    console = Console(width=None if sys.stdout.isatty() else 150)
    console.rule("[bold]Assay: decisions in a tracing backend")
    with tempfile.TemporaryDirectory(prefix="assay-traces-") as name:
        directory = Path(name)
        console.print("starting an OpenTelemetry Collector and a Zipkin server (the first time they are fetched) ...")
        try:
            with running_backend(directory / "backend") as backend:
                os.environ |= {
                    "OTEL_EXPORTER_OTLP_ENDPOINT": backend.otlp_grpc,
                    "OTEL_TRACES_EXPORTER": "otlp",
                    "OTEL_METRICS_EXPORTER": "none",
                }
                _decide(console, backend, directory)
                if not once:
                    _stay(console)
        except (RuntimeError, TimeoutError) as error:
            console.print(str(error), style="red", markup=False)
            return 1
        except KeyboardInterrupt:
            return 130
    return 0


def _decide(console: Console, backend: TraceBackend, directory: Path) -> None:
    """Sends some applications, and shows the backend's traces of them."""
    cast = gather_cast(_CONSUMERS, _COMPANIES, _SEED)
    people = [*cast.consumers, *cast.companies]
    _load(people, directory)
    console.print(f"starting a server with OTEL_EXPORTER_OTLP_ENDPOINT={backend.otlp_grpc} ...", highlight=False)
    with running_server(directory) as address, grpc.insecure_channel(address) as channel:
        stub = decision_service_pb2_grpc.DecisionServiceStub(channel)
        decisions = [(one, stub.Decide(one.request, timeout=30).decision) for one in people]
    # The server has drained, so every trace is on its way.
    console.rule("Decisions, and where their traces are")
    for one, decision in decisions:
        console.print(f"{one.name:<24}", verdict_of(decision), backend.page(decision.trace_id), soft_wrap=True)
    chosen = _chosen([decision for _, decision in decisions])
    console.rule(f"One of them, as {backend.api(chosen.trace_id)} gives it")
    spans = backend.wait(chosen.trace_id, _SPANS)
    console.print_json(json.dumps({**spans[0], "tags": {k: v for k, v in spans[0]["tags"].items() if _ours(k)}}))
    console.print(f"... and {len(spans) - 1} more spans:", highlight=False)
    console.print(waterfall(_stored(spans)))


def _load(people: list[Applicant], directory: Path) -> None:
    """Writes every applicant's rows into the embedded store that the server is about to read."""
    writer = RowWriter(load_bundle(default_bundle(), scenarios=False).catalogue)
    now_us = SystemClock.now_us()
    store = EmbeddedStore(directory / "features")
    try:
        for one in people:
            store.write(
                writer.row(view, entity_id, values, now_us - round(age_days * _DAY_US))
                for view, entity_id, values, age_days in one.rows
            )
    finally:
        store.close()


def _chosen(decisions: list[decision_pb2.Decision]) -> decision_pb2.Decision:
    """One with reasons, if there is one: there is more to see."""
    return next((one for one in decisions if one.verdict == decision_pb2.VERDICT_DECLINE), decisions[0])


def _ours(tag: str) -> bool:
    """Whether a tag is of the span, and not of the process that made it."""
    return tag.startswith(("assay.", "db.", "rpc.", "server.", "error"))


def _stored(spans: list[ZipkinSpan]) -> StoredTrace:
    """The backend's spans as `assay trace` shows its own."""
    return StoredTrace(
        spans[0]["traceId"],
        tuple(
            StoredSpan(
                span["traceId"],
                span["id"],
                span.get("parentId", ""),
                span["name"],
                _KINDS.get(span.get("kind", ""), 1),
                span["timestamp"] * 1000,
                (span["timestamp"] + span.get("duration", 0)) * 1000,
                {key: value for key, value in span["tags"].items() if _ours(key) and key != names.RPC_SYSTEM},
                2 if "error" in span["tags"] else 0,
                span["tags"].get("otel.status_description", ""),
                (),
                {names.SERVICE_NAME: span["localEndpoint"]["serviceName"]},
            )
            for span in spans
        ),
    )


def _stay(console: Console) -> None:
    """Waits for Ctrl-C, or for whoever ends this process."""
    console.rule("The backend stays until Ctrl-C")
    told = Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: told.set())
    while not told.wait(0.5):
        pass


if __name__ == "__main__":
    sys.exit(main("--once" in sys.argv[1:]))
