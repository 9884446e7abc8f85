"""What the request path notes of a call, and what a span is once it is spelled out.

A trace record is a tuple of builtins, cheap to make and understood by `marshal`:

    (trace_id, root_id, parent_id, tracestate, flags, wall_ns, base_tick, outcome, spans)

    trace_id    16 bytes
    root_id     8 bytes: the id of the first span
    parent_id   8 bytes, the caller's span; None without a caller's
    tracestate  as the caller sent it, or None
    flags       the caller's trace flags, 1 without a caller's
    wall_ns     nanoseconds since 1970 UTC at `base_tick`
    base_tick   a count of the clock that the spans' ticks come from
    outcome     one of the outcomes below: what the tail rule goes by
    spans       (shape, span_id, parent, start_tick, end_tick, status, values), the server span first

    shape       a number of `shapes`; or STAGES, for all stages of a decision in one: see `stage_run`
    span_id     8 bytes; None: derived from root_id and the span's place (`child_id`)
    parent      the place of the parent in `spans`; -1 for the first
    status      None: not set; a text: an error with this description, which may be empty
    values      in the order of the shape's attributes; None: no such attribute

A foreign record is a whole span made by someone else (a plug-in that uses the OpenTelemetry SDK); it begins with None:

    (None, trace_id, span_id, parent_id, parent_is_remote, tracestate, name, kind, start_ns, end_ns, attributes,
     attributes_dropped, events, events_dropped, links, links_dropped, status_code, status_message,
     scope_name, scope_version, scope_schema_url, scope_attributes)

with attributes as (key, value) pairs, events as (name, time_ns, attributes, attributes_dropped), links as (trace_id,
span_id, is_remote, attributes, attributes_dropped).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

# A call as any other: approved without a flaw, or one that decides nothing.
PLAIN = 0
# Kept whatever the tail rule thins.
COUNTER_OFFER, REFER, DECLINE, DEGRADED, ERROR = 1, 2, 3, 4, 5
OUTCOMES = ("plain", "counter_offer", "refer", "decline", "degraded", "error")

SpanRecord = tuple[int, bytes | None, int, int, int, str | None, tuple[Any, ...]]
TraceRecord = tuple[bytes, bytes, bytes | None, str | None, int, int, int, int, Sequence[SpanRecord]]
ForeignRecord = tuple[Any, ...]
AnyRecord = TraceRecord | ForeignRecord
Pairs = tuple[tuple[str, Any], ...]

UNSET, OK, FAILED = 0, 1, 2

# No number of a shape.
STAGES = 255

# An odd number: a root's children get ids that differ from one another and from the root's.
STRIDE = 0x9E3779B97F4A7C15
MASK = (1 << 64) - 1


def child_id(root_id: bytes, place: int) -> bytes:
    """The id of the span at a place of a record whose root has this id: 8 bytes, never all zero."""
    return ((int.from_bytes(root_id, "little") + place * STRIDE & MASK) or 1).to_bytes(8, "little")


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened during a span."""

    name: str
    time_ns: int
    attributes: Pairs = ()
    attributes_dropped: int = 0


@dataclass(frozen=True, slots=True)
class Link:
    """Another span that a span has to do with."""

    trace_id: bytes
    span_id: bytes
    is_remote: bool = False
    attributes: Pairs = ()
    attributes_dropped: int = 0


@dataclass(frozen=True, slots=True)
class Scope:
    """Who made a span. version: None and an empty one are two scopes to the SDK, and one to whoever reads them."""

    name: str
    version: str | None = None
    schema_url: str = ""
    attributes: Pairs = ()


@dataclass(frozen=True, slots=True)
class Span:
    """A span spelled out. status_code: UNSET, OK or FAILED; kind: by OTLP's numbers."""

    trace_id: bytes
    span_id: bytes
    parent_id: bytes | None
    parent_is_remote: bool
    tracestate: str
    name: str
    kind: int
    start_ns: int
    end_ns: int
    attributes: Pairs
    status_code: int = UNSET
    status_message: str = ""
    attributes_dropped: int = 0
    events: tuple[Event, ...] = ()
    events_dropped: int = 0
    links: tuple[Link, ...] = ()
    links_dropped: int = 0
    flags: int = field(default=1, compare=False)


def plain_value(kind: str, value: Any) -> Any:
    """A value as its attribute's type says: what compares equal (1, 1.0 and True) is one value to the encoder too."""
    if kind == "int":
        return int(value)
    if kind == "float":
        return float(value)
    if kind == "bool":
        return bool(value)
    if kind == "str":
        return str(value)
    return tuple(value) if kind == "strs" else value


def foreign_span(record: ForeignRecord) -> tuple[Span, Scope]:
    """The span of a foreign record, and who made it."""
    (_, trace_id, span_id, parent_id, remote, tracestate, name, kind, start_ns, end_ns, attributes, dropped) = record[
        :12
    ]
    events, events_dropped, links, links_dropped, code, message, *scope = record[12:]
    span = Span(
        trace_id,
        span_id,
        parent_id,
        remote,
        tracestate,
        name,
        kind,
        start_ns,
        end_ns,
        attributes,
        code,
        message,
        dropped,
        tuple(Event(*event) for event in events),
        events_dropped,
        tuple(Link(*link) for link in links),
        links_dropped,
    )
    return span, Scope(*scope)
