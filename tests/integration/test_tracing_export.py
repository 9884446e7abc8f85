"""Traces on their way to a real collector's ports: what arrives is what was recorded, in every mode."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from engine.telemetry.tracing import context, names
from engine.telemetry.tracing.plugin_spans import PluginSpans
from engine.telemetry.tracing.process_recorder import ProcessRecorder
from engine.telemetry.tracing.recorder import Recorder, open_recorder
from engine.telemetry.tracing.search import find_trace
from engine.telemetry.tracing.settings import Mode, OtlpSettings, Protocol, TracingSettings
from engine.telemetry.tracing.tail import TailRule
from engine.telemetry.tracing.trace_record import DECLINE
from tests.support.otlp_sink import OtlpSink, assert_arrived, assert_trees, sinking
from tests.support.redis_servers import Certificates
from tests.support.traces import SPANS, decision

ROOT = Path(__file__).resolve().parents[2]
MODES: tuple[Literal["process", "thread"], ...] = ("process", "thread")
TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@pytest.fixture
def sink() -> Iterator[OtlpSink]:
    with sinking() as opened:
        yield opened


def settings(sink: OtlpSink, mode: Mode, protocol: Protocol = "grpc") -> TracingSettings:
    endpoint = sink.grpc_endpoint if protocol == "grpc" else sink.http_endpoint
    otlp = OtlpSettings(endpoint=endpoint, protocol=protocol)
    return TracingSettings(mode=mode, exporters=("otlp",), otlp=otlp, batch_delay_s=0.2)


def recording(settings: TracingSettings) -> Recorder:
    recorder = open_recorder(settings)
    assert recorder.active
    return recorder


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
def test_what_was_recorded_arrives(sink: OtlpSink, mode: Mode, protocol: Protocol) -> None:
    recorder = recording(settings(sink, mode, protocol))
    records = [decision(n) for n in range(50)]
    records.append(decision(50, traceparent=f"00-{TRACE}-{SPAN}-01", tracestate="vendor=x", status="no store answers"))
    for record in records:
        recorder.record(record)
    assert recorder.flush(60)
    spans = sink.spans
    assert len(spans) == 51 * SPANS
    assert len(assert_trees(spans)) == 51
    for record in records:
        assert_arrived(record, spans)
    resource = spans[0].resource
    assert (resource["service.name"], resource["telemetry.sdk.name"]) == ("assay", "assay")
    assert resource["process.pid"] == os.getpid()
    assert spans[0].scope == "assay"
    # What comes without a flush comes all the same.
    recorder.record(decision(99))
    sink.wait_count(52 * SPANS)
    recorder.close(10)
    stats = recorder.stats()
    assert stats["recorded_traces"] == 52
    assert stats["dropped_traces"] == 0


@pytest.mark.parametrize("mode", MODES)
def test_the_end_sends_what_is_left(sink: OtlpSink, mode: Mode) -> None:
    recorder = recording(replace(settings(sink, mode), batch_delay_s=60.0))
    for n in range(300):
        recorder.record(decision(n))
    recorder.close(20)
    assert len(sink.spans) == 300 * SPANS
    recorder.record(decision(301))
    assert recorder.stats()["dropped_traces"] == 1


@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
def test_headers_and_compression(sink: OtlpSink, protocol: Protocol) -> None:
    base = settings(sink, "thread", protocol)
    otlp = replace(base.otlp, headers=(("Api-Key", "secret"),), compression="gzip")
    recorder = recording(replace(base, otlp=otlp))
    recorder.record(decision())
    recorder.close(10)
    assert len(sink.spans) == SPANS
    (headers,) = sink.mood.headers
    assert headers["api-key"] == "secret"
    if protocol == "http/protobuf":
        assert headers["content-encoding"] == "gzip"
        assert headers["content-type"] == "application/x-protobuf"


@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
def test_tls_with_a_certificate_of_our_own(tmp_path: Path, protocol: Protocol) -> None:
    made = Certificates(tmp_path)
    with sinking(tls=made) as sink:
        plain = replace(settings(sink, "process", protocol), retry_max_s=0.2)
        trusting = replace(plain, otlp=replace(plain.otlp, certificate=str(made.ca)))
        known = replace(
            trusting,
            otlp=replace(trusting.otlp, client_certificate=str(made.client), client_key=str(made.client_key)),
        )
        # Who does not trust the collector, and whom it does not know, sends nothing.
        for stranger in (plain, trusting):
            recorder = open_recorder(stranger)
            recorder.record(decision())
            assert not recorder.flush(1.5)
            recorder.close(1)
        assert sink.spans == []
        recorder = open_recorder(known)
        recorder.record(decision())
        assert recorder.flush(60)
        assert len(sink.spans) == SPANS
        recorder.close(10)


def test_the_tail_rule_thins_plain_traces_and_says_so(sink: OtlpSink) -> None:
    recorder = recording(replace(settings(sink, "process"), tail=TailRule(plain_kept_ratio=0.25)))
    plain, declined = [decision(n) for n in range(400)], [decision(n, outcome=DECLINE) for n in range(20)]
    for record in plain + declined:
        recorder.record(record)
    assert recorder.flush(60)
    arrived = {span.trace_id for span in sink.spans}
    assert {record[0].hex() for record in declined} <= arrived
    assert 20 + 60 < len(arrived) < 20 + 140
    assert {span.resource[names.PLAIN_KEPT_RATIO] for span in sink.spans} == {0.25}
    stats = recorder.stats()
    assert stats["thinned_traces"] == 420 - len(arrived)
    assert stats["kept_decline"] == 20
    recorder.close(10)


@pytest.mark.parametrize("mode", MODES)
def test_spans_of_plug_ins_join_the_trace(sink: OtlpSink, mode: Mode) -> None:
    recorder = recording(settings(sink, mode))
    provider = TracerProvider()
    provider.add_span_processor(PluginSpans(recorder))
    tracer = provider.get_tracer("acme.bureau", "2.1")
    call = context.begin(f"00-{TRACE}-{SPAN}-01")
    token = context.publish(call)
    with (
        pytest.raises(LookupError),
        tracer.start_as_current_span("bureau.ask", attributes={"bureau": "north", "tries": [1, 2]}),
        tracer.start_as_current_span("bureau.connect"),
    ):
        raise LookupError("no such bureau")
    context.withdraw(token)
    record = decision(duration_ms=60_000)
    record = (call.trace_id, call.span_id, call.parent_id, *record[3:5], record[5] - 10**9, *record[6:])
    recorder.record(record)
    assert recorder.flush(60)
    spans = {span.name: span for span in sink.spans}
    assert len(spans) == SPANS - 1 + 2  # two models have one name
    assert_trees(sink.spans)
    ask, connect = spans["bureau.ask"], spans["bureau.connect"]
    assert (ask.parent_id, connect.parent_id) == (call.span_id.hex(), ask.span_id)
    assert ask.attributes == {"bureau": "north", "tries": [1, 2]}
    assert (ask.scope, ask.status, connect.events) == ("acme.bureau", 2, ("exception",))
    assert provider.force_flush(10_000)
    recorder.close(10)


def test_the_stock_mode_hands_the_same_spans_to_an_exporter_of_the_sdk(sink: OtlpSink) -> None:
    processor = BatchSpanProcessor(OTLPSpanExporter(endpoint=sink.grpc_endpoint, insecure=True))
    recorder = open_recorder(settings(sink, "stock"), processor=processor)
    records = [decision(n) for n in range(5)] + [decision(9, traceparent=f"00-{TRACE}-{SPAN}-01", tracestate="a=1")]
    for record in records:
        recorder.record(record)
    assert recorder.flush(60)
    assert len(assert_trees(sink.spans)) == 6
    for record in records:
        assert_arrived(record, sink.spans)
    recorder.close(10)
    with pytest.raises(ValueError, match="SpanProcessor"):
        open_recorder(settings(sink, "stock"))


def test_file_and_collector_get_the_same(sink: OtlpSink, tmp_path: Path) -> None:
    path = tmp_path / "traces.jsonl"
    both = replace(settings(sink, "process"), exporters=("otlp", "file"), file_path=str(path))
    recorder = recording(both)
    record = decision(3)
    recorder.record(record)
    assert recorder.flush(60)
    stored = find_trace(path, record[0].hex())
    assert stored is not None
    assert {(s.span_id, s.parent_id, s.name, s.start_ns) for s in stored.spans} == {
        (s.span_id, s.parent_id, s.name, s.start_ns) for s in sink.spans
    }
    recorder.close(10)


def test_several_workers_share_one_exporter(sink: OtlpSink) -> None:
    owner = ProcessRecorder(settings(sink, "process"))
    assert owner.exporter is not None
    workers = [
        open_recorder(settings(sink, "process"), address=owner.exporter.address, resource={names.WORKER: n})
        for n in range(3)
    ]
    for n in range(300):
        workers[n % 3].record(decision(n))
    for worker in workers:
        worker.close(10)
    assert owner.flush(60)
    spans = sink.spans
    assert len(assert_trees(spans)) == 300
    by_worker = [sum(span.resource[names.WORKER] == n for span in spans) for n in range(3)]
    assert by_worker == [100 * SPANS] * 3
    owner.close(10)


SERVER = """
import json, os, signal, sys, threading, time
from engine.telemetry.tracing.recorder import open_recorder
from engine.telemetry.tracing.settings import from_plain
from tests.support.redis_servers import Certificates
from tests.support.traces import decision
recorder = open_recorder(from_plain(json.loads(sys.argv[1])))
stop = threading.Event()
for number in (signal.SIGTERM, signal.SIGINT):
    signal.signal(number, lambda *_: stop.set())
for n in range(200):
    recorder.record(decision(n))
while recorder.stats()["recorder_queue_bytes"]:  # what is in the server's own memory dies with it
    time.sleep(0.01)
if recorder.stats().get("exporter_restarts") is not None:
    print("exporter", recorder.exporter.pid, flush=True)
print("ready", flush=True)
stop.wait()
recorder.close(15)
print(json.dumps(recorder.stats()), flush=True)
"""


def start_server(chosen: TracingSettings) -> subprocess.Popen[str]:
    from engine.telemetry.tracing.settings import to_plain

    return subprocess.Popen(
        [sys.executable, "-c", SERVER, json.dumps(to_plain(chosen))],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def said(server: subprocess.Popen[str], word: str) -> str:
    assert server.stdout is not None
    for line in server.stdout:
        if line.startswith(word):
            return line.strip()
    raise AssertionError(f"the server ended without saying {word!r}")


def gone(pid: int, within_s: float = 60.0) -> bool:
    end_s = time.monotonic() + within_s
    while time.monotonic() < end_s:
        try:
            with open(f"/proc/{pid}/stat", encoding="ascii") as file:
                if file.read().rpartition(")")[2].split()[0] == "Z":
                    return True
        except FileNotFoundError:
            return True
        time.sleep(0.02)
    return False


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_the_whole_group_does_not_cost_the_last_spans(sink: OtlpSink, number: signal.Signals) -> None:
    """As Ctrl-C in a terminal and an init system that ends a unit do it: everyone gets the signal at once."""
    server = start_server(replace(settings(sink, "process"), batch_delay_s=60.0))
    exporter = int(said(server, "exporter").split()[1])
    said(server, "ready")
    os.kill(exporter, number)
    os.killpg(server.pid, number)
    assert server.wait(60) == 0
    assert len(sink.spans) == 200 * SPANS
    assert gone(exporter)


def test_the_exporter_sends_what_it_has_when_the_server_is_killed_and_ends(sink: OtlpSink) -> None:
    server = start_server(replace(settings(sink, "process"), batch_delay_s=60.0))
    exporter = int(said(server, "exporter").split()[1])
    said(server, "ready")
    server.kill()
    server.wait(60)
    sink.wait_count(200 * SPANS)
    assert gone(exporter)
