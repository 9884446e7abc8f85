"""What an operator would write: a plug-in with a span of its own around every read of the embedded store, and an
exporter of the OpenTelemetry SDK for the mode `stock`."""

from __future__ import annotations

from collections.abc import Sequence

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import SpanProcessor
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from engine.features.stores.embedded import EmbeddedStore


def install() -> None:
    """Wraps the store's read."""
    tracer, read = trace.get_tracer("lender"), EmbeddedStore.read

    def traced(store: EmbeddedStore, keys: Sequence[bytes], deadline_s: float | None = None) -> list[bytes | None]:
        with tracer.start_as_current_span("lender.read") as span:
            span.set_attribute("lender.keys", len(keys))
            return read(store, keys, deadline_s)

    EmbeddedStore.read = traced  # type: ignore[method-assign, assignment]


def processor() -> SpanProcessor:
    """What the mode `stock` is given: the SDK's own batches and its own exporter, to where its variables say."""
    return BatchSpanProcessor(OTLPSpanExporter(insecure=True), schedule_delay_millis=100)
