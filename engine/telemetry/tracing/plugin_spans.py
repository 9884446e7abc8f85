"""Spans that plug-ins make with the OpenTelemetry SDK, sent with ours.

    provider = TracerProvider()
    provider.add_span_processor(PluginSpans(recorder))

During a call our span is the current one (`context.publish`), so theirs nest under it by themselves. A plug-in whose
provider has an exporter of its own needs none of this.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from opentelemetry.context import Context
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor

from engine.telemetry.tracing.recorder import Recorder
from engine.telemetry.tracing.trace_record import ForeignRecord


class PluginSpans(SpanProcessor):
    """Passes every sampled span that ends to a recorder."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        """Nothing is to be done."""

    def on_end(self, span: ReadableSpan) -> None:
        """See `SpanProcessor.on_end`."""
        context = span.get_span_context()
        if context is not None and context.trace_flags.sampled:
            self._recorder.record_foreign(foreign_record(span))

    def shutdown(self) -> None:
        """The recorder is closed by whoever opened it."""

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """See `SpanProcessor.force_flush`."""
        return self._recorder.flush(timeout_millis / 1000)


def foreign_record(span: ReadableSpan) -> ForeignRecord:
    """A span of the SDK as a record."""
    context, parent, scope = span.get_span_context(), span.parent, span.instrumentation_scope
    assert context is not None
    return (
        None,
        context.trace_id.to_bytes(16, "big"),
        context.span_id.to_bytes(8, "big"),
        parent.span_id.to_bytes(8, "big") if parent else None,
        bool(parent and parent.is_remote),
        ",".join(f"{key}={value}" for key, value in context.trace_state.items()),
        span.name,
        span.kind.value + 1,
        span.start_time or 0,
        span.end_time or 0,
        _pairs(span.attributes),
        span.dropped_attributes,
        tuple((e.name, e.timestamp, _pairs(e.attributes), e.dropped_attributes) for e in span.events),
        span.dropped_events,
        tuple(
            (
                link.context.trace_id.to_bytes(16, "big"),
                link.context.span_id.to_bytes(8, "big"),
                link.context.is_remote,
                _pairs(link.attributes),
                link.dropped_attributes,
            )
            for link in span.links
        ),
        span.dropped_links,
        span.status.status_code.value,
        span.status.description or "",
        *(("", None, "", ()) if scope is None else _scope(scope)),
    )


def _scope(scope: Any) -> tuple[str, str, str, tuple[tuple[str, Any], ...]]:
    return scope.name, scope.version, scope.schema_url or "", _pairs(scope.attributes)


def _pairs(attributes: Mapping[str, Any] | None) -> tuple[tuple[str, Any], ...]:
    return tuple((key, _plain(value)) for key, value in attributes.items()) if attributes else ()


def _plain(value: Any) -> Any:
    """A value that `marshal` takes: subclasses of the plain types are refused by it."""
    if type(value) in (bool, int, float, str, bytes):
        return value
    if isinstance(value, str):
        return str(value)
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value)
    if isinstance(value, bytes | bytearray):
        return bytes(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    return None if value is None else tuple(_plain(one) for one in value)
