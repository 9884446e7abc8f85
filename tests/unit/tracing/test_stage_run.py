"""A run of stages: packed by the call's thread, spelled out as the same spans by every way out."""

from __future__ import annotations

import json
import marshal
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.resources import Resource

from engine.telemetry.tracing import names, shapes
from engine.telemetry.tracing.batcher import OWN_SCOPE, Batcher
from engine.telemetry.tracing.call import CallTrace
from engine.telemetry.tracing.context import begin
from engine.telemetry.tracing.otlp_json import record_json
from engine.telemetry.tracing.otlp_output import OtlpOutput
from engine.telemetry.tracing.output import Source
from engine.telemetry.tracing.settings import TracingSettings
from engine.telemetry.tracing.shapes import SHAPES, misfits
from engine.telemetry.tracing.stage_run import layout, plain_spans, spans_in, spell_out, stages_in
from engine.telemetry.tracing.stock import readable
from engine.telemetry.tracing.trace_record import ERROR, STAGES, SpanRecord, TraceRecord
from tests.support.traces import decision

MODELS = (("credit", "3.1.0"), ("fraud", "2.0.4"), ("income", "1"))
counts = st.integers(0, 2**40)
RESOURCE = {"service.name": "assay"}


@st.composite
def runs(draw: st.DrawFn, parent: int = 0, tick: int = 0) -> SpanRecord:
    """A run of any decision."""
    models = MODELS[: draw(st.integers(0, 3))]
    moments = sorted(draw(st.lists(st.integers(0, 10**9), min_size=10 + len(models), max_size=10 + len(models))))
    numbers = [tick + one for one in moments] + [draw(counts) for _ in range(6)]
    numbers += [draw(st.integers(1, 4)), draw(st.integers(0, 1))]
    statuses = tuple(draw(st.sampled_from(("OK", "MISSING_INPUT", "FAILED"))) for _ in models)
    rules = tuple(draw(st.lists(st.text(max_size=5), max_size=4)))
    words = (draw(st.sampled_from(("process", "disk"))), draw(st.integers(0, 50)), models)
    status = draw(st.sampled_from((None, None, "not recorded")))
    packed = layout(len(models)).pack(*numbers)
    return (STAGES, None, parent, numbers[0], numbers[-9], status, (words, packed, statuses, rules))


@st.composite
def records(draw: st.DrawFn) -> TraceRecord:
    """A call of one decision, or of a batch whose decisions are spans of their own."""
    traceparent = draw(st.sampled_from((None, "00-" + "ab" * 16 + "-" + "cd" * 8 + "-01")))
    call = CallTrace(begin(traceparent, draw(st.sampled_from((None, "vendor=1")))), 10)
    call.add(shapes.STORE_READ, 11, 12, ("redis", "MGET", "db", None, "fast", 9, 8, 0, False, 1, "closed"))
    items = draw(st.integers(0, 3))
    if not items:
        call.spans.append(draw(runs()))
    for index in range(items):
        place = call.add(shapes.DECIDE_ITEM, 20, 30, (index, None, *(None,) * 15))
        call.spans.append(draw(runs(place)))
        call.add(shapes.STORE_READ, 31, 32, (*("x",) * 5, 1, 1, 0, True, 2, None), parent=place)
    return call.end(shapes.DECIDE_BATCH, 99, ("OK", None, "h", 1, 2, 3.0, items), ERROR)


def plain(record: TraceRecord) -> TraceRecord:
    """The same with its runs spelled out."""
    return (*record[:8], plain_spans(record[1], record[8]))


@given(records())
def test_every_way_out_gives_the_spans_that_are_spelled_out(record: TraceRecord) -> None:
    packed: Any = record
    record = marshal.loads(marshal.dumps(packed))
    whole = plain(record)
    assert spans_in(record[8]) == len(whole[8])
    assert not [wrong for span in whole[8] for wrong in misfits(SHAPES[span[0]], span[6])]
    output = OtlpOutput(lambda body, spans: None)
    assert b"".join(output.forms(record)) == b"".join(output.forms(whole))
    told = ",".join(record_json(record))
    assert told == ",".join(record_json(whole))
    assert spell_out(record, SHAPES) == spell_out(whole, SHAPES)
    ids = [span["spanId"] for span in json.loads(f"[{told}]")]
    assert len(set(ids)) == len(ids)


@given(records())
def test_the_bytes_are_those_of_the_sdk(record: TraceRecord) -> None:
    sent: list[bytes] = []
    batcher = Batcher(TracingSettings(), [OtlpOutput(lambda body, spans: sent.append(body))])
    batcher.add([record], Source(RESOURCE))
    batcher.close()
    found = ExportTraceServiceRequest.FromString(sent[0])
    every = [readable(span, OWN_SCOPE, Resource(RESOURCE)) for span in spell_out(record, SHAPES)]
    assert found == encode_spans(every)


def test_what_the_spans_of_a_run_say() -> None:
    numbers = [*range(100, 170, 10), 141, 145, 149, 171, 180, 16, 2048, 3, 1, 2, 5, 2, 1]
    values = (("process", 11, MODELS[:2]), layout(2).pack(*numbers), ("OK", "FAILED"), ("ko-1", "co-a"))
    record = (*decision()[:8], [decision()[8][0], (STAGES, None, 0, 100, 180, "not recorded", values)])
    assert spans_in(record[8]) == 1 + stages_in(2) == 8
    _, validate, features, credit, fraud, policy, reasons, written = spell_out(record, SHAPES)
    offset = record[5] - record[6]
    assert [one.start_ns - offset for one in (validate, features, credit, fraud, policy, reasons, written)] == [
        100, 120, 141, 145, 140, 150, 171
    ]  # fmt: skip
    assert [one.end_ns - offset for one in (validate, features, credit, fraud, policy, reasons, written)] == [
        110, 130, 145, 149, 150, 160, 180
    ]  # fmt: skip
    assert dict(features.attributes) == {
        names.FEATURES_DERIVED: 11,
        names.FEATURES_SUBSTITUTED: 3,
        names.FEATURES_STALE: 1,
        names.FEATURES_UNAVAILABLE: 2,
    }
    assert dict(credit.attributes)[names.MODEL_BATCH_SIZE] == 16
    assert (fraud.status_message, credit.status_code) == ("the model failed", 0)
    assert dict(policy.attributes) == {
        names.VERDICT: "DECLINE",
        names.RULES_FIRED: ("ko-1", "co-a"),
        names.COUNTER_OFFER_JUDGED: True,
    }
    assert dict(reasons.attributes) == {names.REASONS_COUNT: 5}
    assert dict(written.attributes) == {names.RECORD_BYTES: 2048, names.RECORD_DURABILITY: "process"}
    assert written.status_message == "not recorded"


@pytest.mark.parametrize("packed", [b"", b"\0" * 8, layout(1).pack(*range(19))])
def test_what_is_no_run_harms_no_other_trace(packed: bytes) -> None:
    good = decision()
    values: tuple[Any, ...] = (("process", 0, MODELS[:2]), packed, ("OK", "OK"), ())
    bad = (*good[:8], [good[8][0], (STAGES, None, 0, 0, 1, None, values)])
    with pytest.raises(struct.error):
        spell_out(bad, SHAPES)
    sent: list[tuple[bytes, int]] = []
    batcher = Batcher(TracingSettings(), [OtlpOutput(lambda body, spans: sent.append((body, spans)))])
    batcher.add([bad, good], Source(RESOURCE))
    batcher.close()
    assert batcher.stats()["malformed_records"] == 1
    assert [spans for _, spans in sent] == [len(good[8])]
