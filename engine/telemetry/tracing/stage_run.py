"""The stages of one decision as a single entry of a trace record: a run.

Half of a trace are the spans of the stages, and they are the same in number, order and names for all decisions of a
flow. So the calls' threads pack what they noted into one struct, and the exporter spells it out. A run stands in the
list of spans like a span:

    (STAGES, None, parent, start_tick, end_tick, status, (words, packed, statuses, rules))

    parent      the place of the span that all its spans are within
    status      of the span of the record, see `trace_record`
    words       (durability of the journal, number of derived features, ((id, version) of each model))
    packed      whole numbers of 64 bits, `layout` of the number of models: the seven moments of a decision; when the
                models began and when each was done; when the record was begun and when it was written; then COUNTS
    statuses    the name of each model's status
    rules       the ids of the rules that fired

Its spans are those of validation, features, each model, policy, reasons and record. Nothing nests within them.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from struct import Struct
from typing import Any

from engine.domain.enums import Verdict
from engine.telemetry.tracing import shapes
from engine.telemetry.tracing.shapes import SpanShape
from engine.telemetry.tracing.trace_record import (
    FAILED,
    MASK,
    STAGES,
    STRIDE,
    UNSET,
    Span,
    SpanRecord,
    TraceRecord,
    child_id,
    plain_value,
)

# After the moments: applications that the models ran on together, the record's size in bytes, features that something
# stood in for, those of them that were stale and unavailable, reasons, the verdict's number, and whether a
# counter-offer was judged.
COUNTS = 8
_MARKS = 7
# A run's spans get their ids as if they stood at places that no record comes to.
STEP_PLACES = 1 << 20
STEP = STEP_PLACES * STRIDE & MASK
FAILED_STATUS = "FAILED"
FAILED_MODEL = "the model failed"
VERDICTS = ("", *(verdict.name for verdict in Verdict))

Words = tuple[str, int, tuple[tuple[str, str], ...]]
# Shape, start and end (ticks), status, values.
Stage = tuple[int, int, int, str | None, tuple[Any, ...]]


@cache
def layout(models: int) -> Struct:
    """Of what is packed, for a flow of so many models."""
    return Struct(f"<{_MARKS + models + 3 + COUNTS}q")


def stages_in(models: int) -> int:
    """The number of spans in a run."""
    return models + 5


def spans_in(spans: Sequence[SpanRecord]) -> int:
    """The number of spans in a record, those of its runs included."""
    count = len(spans)
    for span in spans:
        if span[0] == STAGES:
            count += stages_in(len(span[6][0][2])) - 1
    return count


def spell_stages(status: str | None, values: tuple[Any, ...]) -> list[Stage]:
    """The spans of a run in order. Raises ValueError, TypeError, IndexError or struct.error for what is no run."""
    (durability, derived, models), packed, statuses, rules = values
    numbers = layout(len(models)).unpack(packed)
    started, validated, read, gathered, scored, judged, ranked = numbers[:_MARKS]
    ticks = numbers[_MARKS : _MARKS + len(models) + 1]
    began, ended = numbers[_MARKS + len(models) + 1 : -COUNTS]
    rows, size_bytes, substituted, stale, lost, reasons, verdict, asked = numbers[-COUNTS:]
    found: list[Stage] = [
        (shapes.VALIDATE, started, validated, None, (0,)),
        (shapes.FEATURES, read, gathered, None, (derived, substituted, stale, lost)),
    ]
    for (id_, version), one, start, end in zip(models, statuses, ticks[:-1], ticks[1:], strict=True):
        failed = FAILED_MODEL if one == FAILED_STATUS else None
        found.append((shapes.MODEL, start, end, failed, (id_, version, one, rows)))
    found.append((shapes.POLICY, scored, judged, None, (VERDICTS[verdict], rules, bool(asked))))
    found.append((shapes.REASONS, judged, ranked, None, (reasons,)))
    found.append((shapes.RECORD, began, ended, status, (size_bytes, durability)))
    return found


def plain_spans(root_id: bytes, spans: Sequence[SpanRecord]) -> Sequence[SpanRecord]:
    """The spans of a record with its runs spelled out. Raises what `spell_stages` raises."""
    if all(span[0] != STAGES for span in spans):
        return spans
    plain: list[SpanRecord] = []
    # By place in the record: the place among the plain ones.
    places: list[int] = []
    for place, (number, own_id, parent, start, end, status, values) in enumerate(spans):
        above = places[parent] if place else -1
        if number == STAGES:
            places.append(above)
            for step, (shape, begun, done, failed, own) in enumerate(spell_stages(status, values)):
                id_ = child_id(root_id, place + step * STEP_PLACES)
                plain.append((shape, id_, above, begun, done, failed, own))
            continue
        places.append(len(plain))
        id_or_none = own_id or (child_id(root_id, place) if place else None)
        plain.append((number, id_or_none, above, start, end, status, values))
    return plain


def spell_out(record: TraceRecord, known: Sequence[SpanShape]) -> list[Span]:
    """The spans of a trace record with all their names."""
    trace_id, root_id, caller_id, tracestate, flags, wall_ns, base_tick, _, noted = record
    spans = plain_spans(root_id, noted)
    ids = [span[1] or (child_id(root_id, place) if place else root_id) for place, span in enumerate(spans)]
    offset = wall_ns - base_tick
    whole = []
    for place, (number, _id, parent, start, end, status, values) in enumerate(spans):
        shape = known[number]
        pairs = shape.constants + tuple(
            (a.key, plain_value(a.type, v)) for a, v in zip(shape.attributes, values, strict=True) if v is not None
        )
        whole.append(
            Span(
                trace_id,
                ids[place],
                caller_id if place == 0 else ids[parent],
                place == 0,
                tracestate or "",
                shape.name,
                shape.kind,
                start + offset,
                end + offset,
                pairs,
                UNSET if status is None else FAILED,
                status or "",
                flags=flags,
            )
        )
    return whole
