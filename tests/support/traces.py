"""Trace records as the request path makes them."""

from __future__ import annotations

import time

from engine.telemetry.tracing import context, shapes
from engine.telemetry.tracing.stage_run import layout
from engine.telemetry.tracing.trace_record import PLAIN, STAGES, ForeignRecord, TraceRecord

# What one whole decision gives.
SPANS = 9


def decision(
    n: int = 0,
    *,
    outcome: int = PLAIN,
    traceparent: str | None = None,
    tracestate: str | None = None,
    duration_ms: float = 2.0,
    status: str | None = None,
) -> TraceRecord:
    """The record of one decision: a server span and eight stages, some 50 attributes."""
    call = context.begin(traceparent, tracestate)
    tick, step = time.perf_counter_ns(), int(duration_ms * 1e6) // 10
    at = [tick + step * place for place in range(11)]
    root = (
        "OK", None, "127.0.0.1", 50051, 180 + n % 50, 48.25 + n % 7,
        "consumer_loan.application", "sha256:0f1e2d3c4b5a", ("credit@3.1.0", "fraud@2.0.4"),
        f"0199aaaa-bbbb-7ccc-8ddd-{n:012x}", "APPROVE", ("C01", "C07", "F02"), 2, ("income", "device_age"),
        False, False, "JOURNALED", 0, "closed", f"{n:016x}", f"{n * 7:016x}",
    )  # fmt: skip
    store = ("redis", "MGET", "features", None, "online", 9, 8, 0, False, 1, "closed")
    spans = [
        (shapes.DECIDE, None, -1, at[0], at[10], status, root),
        (shapes.VALIDATE, None, 0, at[0], at[1], None, (0,)),
        (shapes.STORE_READ, None, 0, at[1], at[3], None, store),
        (shapes.FEATURES, None, 0, at[3], at[4], None, (11, 2, 1, 0)),
        (shapes.MODEL, None, 0, at[4], at[5], None, ("credit", "3.1.0", "ok", 1)),
        (shapes.MODEL, None, 0, at[5], at[6], None, ("fraud", "2.0.4", "ok", 1)),
        (shapes.POLICY, None, 0, at[6], at[7], None, ("APPROVE", ("income_ok", "cutoff_620"), False)),
        (shapes.REASONS, None, 0, at[7], at[8], None, (3,)),
        (shapes.RECORD, None, 0, at[8], at[9], None, (1834 + n % 100, "process")),
    ]
    wall_ns = time.time_ns()
    return (call.trace_id, call.span_id, call.parent_id, call.tracestate, call.flags, wall_ns, tick, outcome, spans)


_WORDS = ("process", 11, (("credit", "3.1.0"), ("fraud", "2.0.4")))
_STATUSES, _RULES = ("OK", "OK"), ("income_ok", "cutoff_620")


def served(n: int = 0) -> TraceRecord:
    """The same as a server makes it: its stages in one run."""
    record = decision(n)
    spans = record[8]
    moments = [spans[1][3], spans[1][4], *(spans[place][4] for place in (2, 3, 5, 6, 7))]
    ticks = [spans[4][3], spans[4][4], spans[5][4]]
    packed = layout(2).pack(*moments, *ticks, *spans[8][3:5], 1, spans[8][6][0], 2, 1, 0, 3, 1, 0)
    run = (STAGES, None, 0, spans[1][3], spans[8][4], None, (_WORDS, packed, _STATUSES, _RULES))
    return (*record[:8], [spans[0], spans[2], run])


def foreign(trace_id: bytes, name: str = "bureau", parent_id: bytes = b"p" * 8) -> ForeignRecord:
    """The record of a plug-in's span."""
    head = (None, trace_id, context.new_span_id(), parent_id, False, "", name, 1, 5, 7, (("a", 1),), 0)
    return (*head, (), 0, (), 0, 0, "", "plugin", "", "", ())
