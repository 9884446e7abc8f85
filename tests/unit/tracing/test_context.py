"""The caller's trace context: what is taken, what is not, and what nests under a call."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import get_args

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from engine.telemetry.tracing import context
from engine.telemetry.tracing.context import CallContext, HeadRule, begin, from_metadata, parse_tracestate
from engine.telemetry.tracing.settings import Sampler

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
GOOD = f"00-{TRACE}-{SPAN}-01"


def test_a_callers_trace_is_joined() -> None:
    call = begin(GOOD, "vendor=a")
    assert (call.trace_id.hex(), call.parent_id and call.parent_id.hex()) == (TRACE, SPAN)
    assert (call.tracestate, call.flags) == ("vendor=a", 1)
    assert len(call.span_id) == 8
    assert call.span_id != call.parent_id
    assert call.traceparent == f"00-{TRACE}-{call.span_id.hex()}-01"


@pytest.mark.parametrize(
    "header",
    [
        "",
        "00",
        GOOD.upper(),
        GOOD + "-more",
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE[:-1]}-{SPAN}-01",
        f"00-{TRACE[:-1]}g-{SPAN}-01",
        f" {GOOD}",
        f"00-{TRACE}-{SPAN}-1",
        f"00-{TRACE}-{SPAN}-01\n",
    ],
)
def test_a_header_that_makes_no_sense_is_as_good_as_none(header: str) -> None:
    call = begin(header, "vendor=a")
    assert call.trace_id.hex() != TRACE
    assert (call.parent_id, call.tracestate, call.flags) == (None, None, 1)


def test_a_later_version_is_read_as_far_as_it_is_known() -> None:
    for header in (f"01-{TRACE}-{SPAN}-00", f"cc-{TRACE}-{SPAN}-00-what-the-future-brings"):
        call = begin(header)
        assert (call.trace_id.hex(), call.flags) == (TRACE, 0)


def test_metadata_of_grpc() -> None:
    call = from_metadata([("x", b"y"), ("traceparent", GOOD), ("tracestate", "a=1"), ("tracestate", "b=2")])
    assert (call.trace_id.hex(), call.tracestate) == (TRACE, "a=1,b=2")
    twice = from_metadata([("traceparent", GOOD), ("traceparent", GOOD)])
    assert twice.parent_id is None
    assert from_metadata([]).parent_id is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a=1", "a=1"),
        (" a=1 ,\tb=x y , ", "a=1,b=x y"),
        ("tenant@vendor=1", "tenant@vendor=1"),
        ("a=1,a=2", None),
        ("A=1", None),
        ("a", None),
        ("a=é", None),
        ("a=" + "x" * 600, None),
        (",".join(f"k{n}=1" for n in range(33)), None),
        ("", None),
    ],
)
def test_tracestate_is_passed_on_whole_or_not_at_all(text: str, expected: str | None) -> None:
    assert parse_tracestate(text) == expected


def test_what_is_passed_on_is_what_opentelemetry_reads() -> None:
    call = begin(GOOD, "a=1, b=x")
    carrier = {"traceparent": call.traceparent, "tracestate": call.tracestate or ""}
    span = trace.get_current_span(TraceContextTextMapPropagator().extract(carrier)).get_span_context()
    assert (span.trace_id, span.span_id) == (int(TRACE, 16), int.from_bytes(call.span_id, "big"))
    assert span.trace_state.to_header() == call.tracestate


def test_new_ids_do_not_repeat_and_are_not_empty() -> None:
    calls = [begin() for _ in range(2000)]
    assert len({call.trace_id for call in calls}) == len({call.span_id for call in calls}) == 2000
    assert all(any(call.trace_id) and any(call.span_id) for call in calls)


def test_a_fork_makes_ids_of_its_own() -> None:
    code = """
import os
from engine.telemetry.tracing.context import begin
begin()
reader, writer = os.pipe()
if os.fork() == 0:
    os.write(writer, begin().trace_id)
    os._exit(0)
os.wait()
assert os.read(reader, 16) != begin().trace_id
"""
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ | {"PYTHONPATH": "."}, timeout=100)


def _call(flags: int, parent: bool, trace_id: bytes = b"\xff" * 16) -> CallContext:
    return CallContext(trace_id, b"s" * 8, b"p" * 8 if parent else None, None, flags)


@pytest.mark.parametrize(
    ("sampler", "unsampled_parent", "sampled_parent", "no_parent"),
    [
        ("always_on", True, True, True),
        ("always_off", False, False, False),
        ("traceidratio", False, False, False),
        ("parentbased_always_on", False, True, True),
        ("parentbased_always_off", False, True, False),
        ("parentbased_traceidratio", False, True, False),
    ],
)
def test_the_head_rule(sampler: Sampler, unsampled_parent: bool, sampled_parent: bool, no_parent: bool) -> None:
    low = b"\x00" * 16  # outside of any share but the whole
    rule = HeadRule(sampler, 0.5)
    assert rule.records(_call(0, True, low)) is unsampled_parent
    assert rule.records(_call(1, True, low)) is sampled_parent
    assert rule.records(_call(1, False, low)) is no_parent


def test_every_sampler_is_tried() -> None:
    assert set(get_args(Sampler)) == {
        "always_on",
        "always_off",
        "traceidratio",
        "parentbased_always_on",
        "parentbased_always_off",
        "parentbased_traceidratio",
    }


def test_a_share_of_the_traces_is_about_that_share() -> None:
    rule = HeadRule("traceidratio", 0.25)
    kept = sum(rule.records(begin()) for _ in range(8000))
    assert 1700 < kept < 2300


def test_spans_of_plug_ins_nest_under_the_call_and_nothing_is_left_behind() -> None:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    call = begin(f"00-{TRACE}-{SPAN}-00", "a=1")
    token = context.publish(call)
    with provider.get_tracer("plugin").start_as_current_span("bureau"):
        pass
    context.withdraw(token)
    (span,) = exporter.get_finished_spans()
    assert span.parent is not None
    assert (span.parent.trace_id, span.parent.span_id) == (int(TRACE, 16), int.from_bytes(call.span_id, "big"))
    assert span.parent.trace_state.to_header() == "a=1"
    assert not trace.get_current_span().get_span_context().is_valid


def test_a_process_without_opentelemetry_neither_needs_nor_loads_it() -> None:
    code = """
import sys
sys.modules["opentelemetry"] = None  # whoever imports it fails
from engine.telemetry.tracing import context
context.withdraw(context.publish(context.begin()))
from engine.telemetry.tracing import recorder, process_recorder, thread_recorder, exporter_main
from engine.telemetry.tracing import otlp_grpc, otlp_http, waterfall
"""
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ | {"PYTHONPATH": "."}, timeout=100)
