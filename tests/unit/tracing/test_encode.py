"""The encoder against the SDK's own: the same bytes for the same spans."""

from __future__ import annotations

import base64
import json
import marshal
from collections.abc import Sequence
from typing import Any

import pytest
from google.protobuf import json_format
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, TraceFlags, TraceState
from opentelemetry.trace.status import Status, StatusCode

from engine.telemetry.tracing import shapes
from engine.telemetry.tracing.batcher import OWN_SCOPE, Batcher
from engine.telemetry.tracing.encode import compile_shape, encode_span
from engine.telemetry.tracing.otlp_json import record_json, request_json, span_json
from engine.telemetry.tracing.otlp_output import OtlpOutput
from engine.telemetry.tracing.output import Source
from engine.telemetry.tracing.plugin_spans import foreign_record
from engine.telemetry.tracing.settings import TracingSettings
from engine.telemetry.tracing.shapes import SHAPES, SpanShape
from engine.telemetry.tracing.stage_run import spell_out
from engine.telemetry.tracing.stock import readable
from engine.telemetry.tracing.trace_record import AnyRecord, child_id, foreign_span
from engine.telemetry.tracing.wire import any_value

RESOURCE = Resource({"service.name": "assay-é", "process.pid": 4711, "share": 0.25, "tags": ("a", "b")})

texts = st.text(st.characters(codec="utf-8"), max_size=40)
keys = st.text(st.characters(codec="utf-8"), min_size=1, max_size=20)
numbers = st.one_of(st.integers(-(2**63), 2**63 - 1), st.sampled_from([0, 1, -1, 127, 128, 2**40, -(2**40)]))
floats = st.floats()
scalars = st.one_of(texts, st.booleans(), numbers, floats, st.binary(max_size=20))
values = st.one_of(
    scalars,
    st.lists(texts, max_size=4).map(tuple),
    st.lists(numbers, max_size=4).map(tuple),
    st.lists(st.booleans(), max_size=4).map(tuple),
    st.lists(floats, max_size=4).map(tuple),
)
attributes = st.dictionaries(keys, values, max_size=6)
trace_ids = st.integers(1, 2**128 - 1)
span_ids = st.integers(1, 2**64 - 1)
times = st.integers(0, 2**63)
states = st.sampled_from([None, TraceState([("vendor", "a:1"), ("other", "x;y")]), TraceState([])])
contexts = st.builds(
    SpanContext, trace_ids, span_ids, st.booleans(), st.sampled_from([TraceFlags(0), TraceFlags(1)]), states
)
scopes = st.builds(
    InstrumentationScope,
    texts,
    st.none() | texts,
    st.none() | texts,
    st.none() | st.dictionaries(keys, texts, max_size=2),
)
spans = st.builds(
    ReadableSpan,
    name=texts,
    context=contexts,
    parent=st.none() | contexts,
    resource=st.just(RESOURCE),
    attributes=attributes,
    events=st.lists(st.builds(Event, texts, attributes, times), max_size=3),
    links=st.lists(st.builds(Link, contexts, attributes), max_size=2),
    kind=st.sampled_from(SpanKind),
    status=st.one_of(
        st.just(Status(StatusCode.UNSET)),
        st.just(Status(StatusCode.OK)),
        st.builds(Status, st.just(StatusCode.ERROR), st.none() | texts),
    ),
    start_time=times,
    end_time=times,
    instrumentation_scope=scopes,
)


def sent(records: Sequence[AnyRecord]) -> bytes:
    """What leaves for records that have come through the socket."""
    bodies: list[bytes] = []
    batcher = Batcher(
        TracingSettings(batch_spans_max=10_000, batch_bytes_max=1 << 30),
        [OtlpOutput(lambda body, count: bodies.append(body))],
    )
    batcher.add(marshal.loads(marshal.dumps(list(records))), Source(dict(RESOURCE.attributes)))
    batcher.flush()
    assert batcher.stats().get("malformed_records", 0) == 0
    return b"".join(bodies)


@settings(max_examples=60)
@given(st.lists(spans, min_size=1, max_size=4))
def test_any_span_of_the_sdk_is_encoded_to_the_sdk_encoders_bytes(many: list[ReadableSpan]) -> None:
    assert sent([foreign_record(span) for span in many]) == encode_spans(many).SerializeToString()


def _value_of(attribute: shapes.Attribute) -> st.SearchStrategy[Any]:
    by_type: dict[str, st.SearchStrategy[Any]] = {
        "str": st.one_of(texts, st.sampled_from(["x" * 63, "x" * 64, "x" * 200, "é" * 40])),
        "int": numbers,
        "float": st.one_of(floats, st.sampled_from([0.0, -0.0, 1.0])),
        "bool": st.booleans(),
        "bytes": st.binary(max_size=20),
        "strs": st.lists(texts, max_size=4).map(tuple),
    }
    return st.none() | by_type[attribute.type]


# Every type, kept and not kept; the shipped shapes have no use for some of them.
ODD = SpanShape(
    "odd",
    shapes.CLIENT,
    tuple(
        shapes.Attribute(f"odd.{kind}.{varied}", kind, varied)
        for kind in ("str", "int", "float", "bool", "bytes", "strs")
        for varied in (False, True)
    ),
    (("constant", "é"),),
)


@st.composite
def trace_records(draw: st.DrawFn) -> AnyRecord:
    ids = draw(st.tuples(st.binary(min_size=16, max_size=16), st.binary(min_size=8, max_size=8).filter(any)))
    made = []
    for place in range(draw(st.integers(1, 8))):
        number = draw(st.integers(0, len(SHAPES) - 1))
        bare = draw(st.tuples(*(_value_of(attribute) for attribute in SHAPES[number].attributes)))
        own_id = draw(st.none() | st.binary(min_size=8, max_size=8).filter(any)) if place else None
        start, end = draw(st.integers(1, 2**40)), draw(st.integers(1, 2**40))
        parent = draw(st.integers(0, place - 1)) if place else -1
        made.append((number, own_id, parent, start, end, draw(st.none() | texts), bare))
    caller = draw(st.none() | st.binary(min_size=8, max_size=8).filter(any))
    state = draw(st.sampled_from([None, "vendor=a:1,other=x;y"]))
    return (*ids, caller, state, 1, draw(st.integers(2**60, 2**61)), draw(st.integers(0, 2**44)), 0, made)


@settings(max_examples=60)
@given(st.lists(trace_records(), min_size=1, max_size=2))
def test_the_shapes_encoders_give_the_sdk_encoders_bytes(records: list[Any]) -> None:
    every = [readable(span, OWN_SCOPE, RESOURCE) for record in records for span in spell_out(record, SHAPES)]
    assert sent(records) == encode_spans(every).SerializeToString()


@settings(max_examples=60)
@given(st.lists(st.tuples(*(_value_of(attribute) for attribute in ODD.attributes)), min_size=1, max_size=3))
def test_every_type_of_attribute_kept_or_not(many: list[tuple[Any, ...]]) -> None:
    encode = compile_shape(ODD)
    ids = b"\x0a\x10" + b"t" * 16 + b"\x12\x08" + b"s" * 8
    # Twice: the second time from what was kept.
    for bare in many + many:
        record = (b"t" * 16, b"s" * 8, None, None, 1, 0, 0, 0, [(0, None, -1, 5, 7, None, bare)])
        (span,) = spell_out(record, (ODD,))
        assert encode(ids, 5, 7, None, b"\x85\x01\x00\x01\x00\x00", bare) == encode_span(span)


def test_values_that_compare_equal_are_what_their_attribute_says() -> None:
    """1, 1.0 and True are one key to a dict: whichever comes first must not stand for the others."""
    encode = compile_shape(SpanShape("s", 1, (shapes.Attribute("n", "int"), shapes.Attribute("b", "bool"))))
    first, second = (encode(b"", 5, 7, None, b"", bare) for bare in ((True, 1), (1, True)))
    assert first == second
    assert any_value(1) in first
    assert any_value(True) in first


def read_json(line: str) -> ExportTraceServiceRequest:
    """OTLP's JSON as protobuf's own library understands it: there ids are base64 and not hexadecimal digits."""
    plain = json.loads(line)
    for span in plain["resourceSpans"][0]["scopeSpans"][0]["spans"]:
        for owner in (span, *span.get("links", ())):
            for key in {"traceId", "spanId", "parentSpanId"} & owner.keys():
                owner[key] = base64.b64encode(bytes.fromhex(owner[key])).decode()
    return json_format.ParseDict(plain, ExportTraceServiceRequest())


@settings(max_examples=40)
@given(spans)
def test_the_json_of_any_span_means_the_same(span: ReadableSpan) -> None:
    one, scope = foreign_span(foreign_record(span))
    read = read_json(request_json(dict(RESOURCE.attributes), {scope: [span_json(one)]}))
    assert str(read) == str(encode_spans([span]))  # as text, where NaN equals itself


@settings(max_examples=40)
@given(trace_records())
def test_the_json_of_a_record_means_the_same(record: Any) -> None:
    # Twice: the second time from what was kept.
    first, again = record_json(record), record_json(record)
    assert first == again
    read = read_json(request_json(dict(RESOURCE.attributes), {OWN_SCOPE: first}))
    expected = encode_spans([readable(span, OWN_SCOPE, RESOURCE) for span in spell_out(record, SHAPES)])
    assert str(read) == str(expected)


@pytest.mark.parametrize("value", [2**63, -(2**63) - 1, object(), 1 + 2j])
def test_what_no_attribute_can_hold_is_refused(value: object) -> None:
    with pytest.raises((OverflowError, TypeError)):
        any_value(value)


def test_halves_of_surrogate_pairs_do_not_stop_a_span() -> None:
    assert any_value("a\ud800b") == any_value("a?b")


@given(st.binary(min_size=8, max_size=8).filter(any))
def test_ids_of_children_differ_from_one_another_and_from_the_roots(root: bytes) -> None:
    ids = [root, *(child_id(root, place) for place in range(1, 300))]
    assert len(set(ids)) == len(ids)
    assert all(any(one) and len(one) == 8 for one in ids)


def test_one_record_that_cannot_be_encoded_harms_no_other() -> None:
    from tests.support.traces import decision

    good, bad, short = decision(1), decision(2), decision(3)
    bad[8][3] = (*bad[8][3][:6], (2**70, 0, 0, 0))  # type: ignore[index]
    short[8][3] = (*short[8][3][:6], (1, 2))  # type: ignore[index]
    bodies: list[bytes] = []
    batcher = Batcher(TracingSettings(), [OtlpOutput(lambda body, count: bodies.append(body))])
    batcher.add([bad, good, short], Source({}))
    batcher.flush()
    assert batcher.stats()["malformed_records"] == 2
    request = ExportTraceServiceRequest.FromString(bodies[0])
    (scope_spans,) = request.resource_spans[0].scope_spans
    assert {span.trace_id for span in scope_spans.spans} == {good[0]}
    assert len(scope_spans.spans) == len(good[8])
