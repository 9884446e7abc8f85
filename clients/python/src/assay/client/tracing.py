"""The caller's trace, carried on to the server: W3C `traceparent` and `tracestate`.

opentelemetry is used where it is installed, and not needed.
"""

from __future__ import annotations

from collections.abc import Callable

Headers = tuple[tuple[str, str], ...]


def _from_opentelemetry() -> Callable[[], Headers] | None:
    try:
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
    except ImportError:
        return None
    propagator = TraceContextTextMapPropagator()

    def headers() -> Headers:
        # The trace alone: a caller's baggage may hold what must not travel.
        carrier: dict[str, str] = {}
        propagator.inject(carrier)
        return tuple(carrier.items())

    return headers


_current = _from_opentelemetry()


def headers(traceparent: str = "", tracestate: str = "") -> Headers:
    """The metadata of a call: what is given, else the current span of opentelemetry, else nothing."""
    if traceparent:
        given = (("traceparent", traceparent),)
        return (*given, ("tracestate", tracestate)) if tracestate else given
    return _current() if _current is not None else ()
