"""The mode `stock`: every span becomes a ReadableSpan of the OpenTelemetry SDK and goes to a processor of the SDK, with
any exporter behind it. It costs several times what the other modes do, and takes exporters that they do not have.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan, SpanProcessor
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, TraceFlags, TraceState
from opentelemetry.trace.status import Status, StatusCode

from engine.telemetry.tracing.batcher import OWN_SCOPE
from engine.telemetry.tracing.recorder import Recorder
from engine.telemetry.tracing.resource import resource_of
from engine.telemetry.tracing.settings import TracingSettings
from engine.telemetry.tracing.shapes import SHAPES
from engine.telemetry.tracing.stage_run import spell_out
from engine.telemetry.tracing.trace_record import ForeignRecord, Scope, Span, TraceRecord, foreign_span

_KINDS = {kind.value + 1: kind for kind in SpanKind}


def readable(span: Span, scope: Scope, resource: Resource) -> ReadableSpan:
    """A span as the SDK's processors and exporters take it."""

    def context(span_id: bytes, remote: bool) -> SpanContext:
        state = TraceState.from_header([span.tracestate]) if span.tracestate else None
        return SpanContext(_number(span.trace_id), _number(span_id), remote, TraceFlags(TraceFlags.SAMPLED), state)

    code = StatusCode(span.status_code)
    return ReadableSpan(
        name=span.name,
        context=context(span.span_id, False),
        parent=context(span.parent_id, span.parent_is_remote) if span.parent_id else None,
        resource=resource,
        attributes=dict(span.attributes),
        events=[Event(e.name, dict(e.attributes), e.time_ns) for e in span.events],
        links=[
            Link(SpanContext(_number(one.trace_id), _number(one.span_id), one.is_remote), dict(one.attributes))
            for one in span.links
        ],
        kind=_KINDS[span.kind],
        status=Status(code, span.status_message or None),
        start_time=span.start_ns,
        end_time=span.end_ns,
        instrumentation_scope=InstrumentationScope(
            scope.name, scope.version or None, scope.schema_url or None, dict(scope.attributes) or None
        ),
    )


def _number(id_: bytes) -> int:
    return int.from_bytes(id_, "big")


class StockRecorder(Recorder):
    """See `Recorder`. The processor's `on_end` is called in the calls' own threads: give it a BatchSpanProcessor."""

    active = True

    def __init__(
        self, settings: TracingSettings, processor: SpanProcessor, resource: Mapping[str, Any] | None = None
    ) -> None:
        self._processor, self._rule = processor, dataclasses.replace(settings.tail)
        self._resource = Resource(resource_of(settings, resource))
        self._recorded = self._thinned = self._failed = 0

    def record(self, record: TraceRecord) -> None:
        """See `Recorder.record`."""
        if not self._rule.keeps(record):
            self._thinned += 1
            return
        self._recorded += 1
        for span in spell_out(record, SHAPES):
            self._end(span, OWN_SCOPE)

    def record_foreign(self, record: ForeignRecord) -> None:
        """See `Recorder.record_foreign`."""
        self._end(*foreign_span(record))

    def _end(self, span: Span, scope: Scope) -> None:
        try:
            self._processor.on_end(readable(span, scope, self._resource))
        except Exception:
            # A processor of somebody else's making; a call does not fail for it.
            self._failed += 1

    def flush(self, timeout_s: float) -> bool:
        """See `Recorder.flush`."""
        return bool(self._processor.force_flush(int(timeout_s * 1000)))

    def close(self, timeout_s: float) -> None:
        """See `Recorder.close`."""
        self.flush(timeout_s)
        self._processor.shutdown()

    def stats(self) -> Mapping[str, int]:
        """See `Recorder.stats`."""
        return {
            "recorded_traces": self._recorded,
            "thinned_traces": self._thinned,
            "malformed_records": self._failed,
        }
