"""What is noted of a call while it runs, and the record that it becomes.

    call = CallTrace(from_metadata(context.invocation_metadata()), tick())
    current.call = call                          # stores and readers, which know nothing of calls, note into it
    call.add(shapes.VALIDATE, begun, ended, (0,))
    ...
    recorder.record(call.end(shapes.DECIDE, tick(), values, outcome))

Ticks are those of `time.perf_counter_ns`. Spans are noted when they have ended, and in any order: the encoder is told
each one's parent.
"""

from __future__ import annotations

import threading
import time
from typing import Any

from engine.telemetry.tracing.context import CallContext
from engine.telemetry.tracing.shapes import SHAPES
from engine.telemetry.tracing.trace_record import PLAIN, SpanRecord, TraceRecord, child_id

_now_ns, _tick_ns = time.time_ns, time.perf_counter_ns


class CallTrace:
    """One call's trace so far. Belongs to one thread at a time."""

    __slots__ = (
        "_base_tick",
        "_wall_ns",
        "breaker",
        "context",
        "decided",
        "outcome",
        "retries",
        "sharing",
        "spans",
        "start_tick",
    )

    def __init__(self, context: CallContext, start_tick: int) -> None:
        """start_tick: when the call began."""
        self.context, self.start_tick = context, start_tick
        # What the stages found out, for the server span: times that a store was asked again, applications that share
        # the reads, the state of a breaker that was not closed, the kind of call (`trace_record`), and the attributes
        # of its decision.
        self.retries = 0
        self.sharing: int | None = None
        self.breaker: str | None = None
        self.outcome = PLAIN
        self.decided: tuple[Any, ...] | None = None
        self._wall_ns, self._base_tick = _now_ns(), _tick_ns()
        # The server span's own place is kept for it: it is known last, and stands first.
        self.spans: list[SpanRecord] = [_SERVER_SPAN]

    def add(
        self,
        shape: int,
        start_tick: int,
        end_tick: int,
        values: tuple[Any, ...],
        status: str | None = None,
        parent: int = 0,
    ) -> int:
        """Notes a span; gives its place, for spans within it. status: None when all went well, else what went wrong,
        in words that hold no personal data."""
        self.spans.append((shape, None, parent, start_tick, end_tick, status, values))
        return len(self.spans) - 1

    def noted(self) -> int:
        """How many spans are noted so far, for `take_over`."""
        return len(self.spans)

    def take_over(self, other: CallTrace, since: int) -> None:
        """Notes what another call noted from there on of a read that both shared."""
        self.spans += other.spans[since:]
        self.sharing, self.breaker = other.sharing, other.breaker
        self.retries = max(self.retries, other.retries)

    def open(self, shape: int, start_tick: int, parent: int = 0) -> int:
        """Notes a span that has spans within it before it ends; gives its place. One that is never closed (its stage
        raised) is a failed span without attributes."""
        self.spans.append((shape, None, parent, start_tick, start_tick, "did not end", _NOTHING[shape]))
        return len(self.spans) - 1

    def close(self, place: int, end_tick: int, values: tuple[Any, ...], status: str | None = None) -> None:
        """Says the rest of a span that `open` noted."""
        shape, own_id, parent, start_tick, _, _, _ = self.spans[place]
        self.spans[place] = (shape, own_id, parent, start_tick, end_tick, status, values)

    def id_at(self, place: int) -> bytes:
        """The id of the span at a place, for `context.publish`."""
        return child_id(self.context.span_id, place) if place else self.context.span_id

    def end(
        self,
        shape: int,
        end_tick: int,
        values: tuple[Any, ...],
        outcome: int = PLAIN,
        status: str | None = None,
    ) -> TraceRecord:
        """The record of the whole call, its server span filled in. Nothing may be noted after it."""
        spans, context = self.spans, self.context
        spans[0] = (shape, None, -1, self.start_tick, end_tick, status, values)
        return (
            context.trace_id,
            context.span_id,
            context.parent_id,
            context.tracestate,
            context.flags,
            self._wall_ns,
            self._base_tick,
            outcome,
            spans,
        )


_NOTHING = tuple((None,) * len(shape.attributes) for shape in SHAPES)
_SERVER_SPAN: SpanRecord = (0, None, -1, 0, 0, None, _NOTHING[0])


class _Current(threading.local):
    """The call that this thread works for, None when it works for none."""

    call: CallTrace | None = None


current = _Current()
