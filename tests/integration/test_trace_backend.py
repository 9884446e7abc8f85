"""A real tracing backend: what an OpenTelemetry Collector and a Zipkin server give back is what was recorded."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote
from urllib.request import urlopen

import pytest

from engine.telemetry.tracing import names as n
from engine.telemetry.tracing.recorder import open_recorder
from engine.telemetry.tracing.resource import resource_of
from engine.telemetry.tracing.settings import OtlpSettings, Protocol, TracingSettings
from engine.telemetry.tracing.shapes import INTERNAL, SHAPES
from engine.telemetry.tracing.trace_record import TraceRecord, child_id
from tests.support.applications import all_ids, consumer, load_rows, new_id
from tests.support.server import open_store, running
from tests.support.traces import SPANS, decision
from tools.trace_backend import BackendMissing, TraceBackend, ZipkinSpan, running_backend

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]
TRACE, CALLER = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
STAGES = {n.VALIDATE: 1, n.STORE_READ: 1, n.FEATURES: 1, n.MODEL: 2, n.POLICY: 1, n.REASONS: 1, n.RECORD: 1}
# Zipkin's words for OTLP's kinds; an internal span has none, and a tag instead.
KINDS = {2: "SERVER", 3: "CLIENT"}


@pytest.fixture(scope="module")
def backend(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TraceBackend]:
    try:
        with running_backend(tmp_path_factory.mktemp("backend")) as one:
            yield one
    except BackendMissing as missing:
        pytest.skip(f"no tracing backend takes part: {missing}")


def _tag(value: Any) -> str:
    """An attribute's value as OpenTelemetry has it spelled where there is only text."""
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))


def _expected(record: TraceRecord, resource: dict[str, Any]) -> list[dict[str, Any]]:
    """The spans of a record in Zipkin's terms, but for their times."""
    trace_id, root_id, caller, tracestate, _, _, _, _, spans = record
    ids = [root_id if not place else child_id(root_id, place) for place in range(len(spans))]
    common = {key: _tag(value) for key, value in resource.items() if key != n.SERVICE_NAME}
    common |= {"otel.library.name": n.SCOPE, "otel.library.version": resource[n.SERVICE_VERSION]}
    common |= {"w3c.tracestate": tracestate} if tracestate else {}
    made = []
    for place, (number, _, parent, _, _, status, values) in enumerate(spans):
        shape = SHAPES[number]
        pairs = zip(shape.attributes, values, strict=True)
        tags = common | dict(shape.constants) | {a.key: _tag(value) for a, value in pairs if value is not None}
        if shape.kind == INTERNAL:
            tags["span.kind"] = "internal"
        if status is not None:
            tags |= {"error": "true", "otel.status_code": "STATUS_CODE_ERROR", "otel.status_description": status}
        span = {"traceId": trace_id.hex(), "id": ids[place].hex(), "name": shape.name.lower(), "tags": tags}
        above = ids[parent] if parent >= 0 else caller
        span |= {"localEndpoint": {"serviceName": resource[n.SERVICE_NAME]}}
        span |= {"parentId": above.hex()} if above else {}
        span |= {"kind": KINDS[shape.kind]} if shape.kind in KINDS else {}
        made.append(span)
    return made


@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
def test_the_backend_gives_back_what_was_recorded(backend: TraceBackend, protocol: Protocol) -> None:
    by_grpc = protocol == "grpc"
    endpoint = backend.otlp_grpc if by_grpc else backend.otlp_http
    # Both share one backend; a trace of its own each.
    trace_id = TRACE if by_grpc else TRACE[::-1]
    settings = TracingSettings(
        exporters=("otlp",),
        otlp=OtlpSettings(endpoint=endpoint, protocol=protocol),
        resource={n.SERVICE_NAME: "lender"},
    )
    records = [decision(number) for number in range(20)]
    traceparent = f"00-{trace_id}-{CALLER}-01"
    records.append(decision(20, traceparent=traceparent, tracestate="a=1,b=2", status="no store answers"))
    recorder = open_recorder(settings)
    try:
        for record in records:
            recorder.record(record)
        assert recorder.flush(30)
        assert recorder.stats()["exported_spans"] == len(records) * SPANS
    finally:
        recorder.close(10)
    resource = resource_of(settings)
    for record in records:
        found = {span["id"]: span for span in backend.wait(record[0].hex(), SPANS)}
        expected = _expected(record, resource)
        assert set(found) == {span["id"] for span in expected}
        offset_ns = record[5] - record[6]
        for span, (_, _, _, start, end, _, _) in zip(expected, record[8], strict=True):
            given = found[span["id"]]
            begun_us, took_us = given.pop("timestamp"), given.pop("duration")
            assert given == span
            # Zipkin counts whole microseconds.
            assert abs(begun_us - (start + offset_ns) / 1000) <= 1 and abs(took_us - (end - start) / 1000) <= 1


def _search(backend: TraceBackend, question: str) -> list[list[ZipkinSpan]]:
    with urlopen(f"http://127.0.0.1:{backend.ui_port}/api/v2/traces?{question}", timeout=30) as answer:
        found: list[list[ZipkinSpan]] = json.load(answer)
    return found


def test_a_served_decision_is_one_trace_there_and_is_found_by_what_it_decided(
    backend: TraceBackend, tmp_path_factory: pytest.TempPathFactory
) -> None:
    settings = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": backend.otlp_grpc,
        "OTEL_METRICS_EXPORTER": "none",
        "OTEL_SERVICE_NAME": "served",
        "ASSAY_TRACING_BATCH_DELAY_S": "0.1",
    }
    subject = new_id("backend")
    with running(tmp_path_factory.mktemp("served"), settings=settings) as (server, client):
        with open_store(server.home) as store:
            load_rows(store, all_ids(subject))
        answer = client.stub.Decide(consumer(subject), timeout=30).decision
        spans = backend.wait(answer.trace_id, 1 + sum(STAGES.values()))
    [root] = [span for span in spans if "parentId" not in span]
    assert (root["name"], root["kind"]) == (f"{n.DECISION_SERVICE}/Decide".lower(), "SERVER")
    stages = [span for span in spans if span is not root]
    assert {span["parentId"] for span in stages} == {root["id"]}
    assert Counter(span["name"] for span in stages) == STAGES
    assert root["tags"][n.DECISION_ID] == answer.decision_id
    assert root["tags"][n.VERDICT] == "APPROVE" and "error" not in root["tags"]
    # As an operator would look for it.
    verdict, nobody = quote(f"{n.VERDICT}=APPROVE and {n.DECISION_ID}={answer.decision_id}"), quote(f"{n.VERDICT}=NONE")
    [trace] = _search(backend, f"serviceName=served&annotationQuery={verdict}")
    assert {span["id"] for span in trace} == {span["id"] for span in spans}
    assert not _search(backend, f"serviceName=served&annotationQuery={nobody}")
