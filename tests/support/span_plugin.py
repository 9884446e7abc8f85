"""A plug-in as an operator would write it: a span of its own around every read of the embedded store."""

from __future__ import annotations

from collections.abc import Sequence

from opentelemetry import trace

from engine.features.stores.embedded import EmbeddedStore


def install() -> None:
    """Wraps the store's read."""
    tracer, read = trace.get_tracer("lender"), EmbeddedStore.read

    def traced(store: EmbeddedStore, keys: Sequence[bytes], deadline_s: float | None = None) -> list[bytes | None]:
        with tracer.start_as_current_span("lender.read") as span:
            span.set_attribute("lender.keys", len(keys))
            return read(store, keys, deadline_s)

    EmbeddedStore.read = traced  # type: ignore[method-assign, assignment]
