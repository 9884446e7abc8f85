"""A run of stages as OTLP's bytes: the very bytes that `encode` gives for the spans of `stage_run.spell_stages`, at a
third of the price.

All that goes before a span's ids and after its times is kept by its values, so a span is one struct between two pieces
that are ready. Only for runs without a flaw and calls without a tracestate: the few others are spelled out.
"""

from __future__ import annotations

from collections.abc import Callable
from struct import Struct
from typing import Any

from engine.telemetry.tracing import shapes
from engine.telemetry.tracing.encode import FLAGS_LOCAL, STATUS_UNSET, attributes_of
from engine.telemetry.tracing.shapes import SHAPES
from engine.telemetry.tracing.stage_run import COUNTS, FAILED_STATUS, STEP, VERDICTS, layout
from engine.telemetry.tracing.trace_record import MASK, STRIDE
from engine.telemetry.tracing.wire import text_field
from engine.wire import varint

# The trace and the tag of the span's id; the span's id; the tag of the parent's id and the parent; start and end (ns
# since 1970); the values. Adds to the list that is given first.
_Write = Callable[[list[bytes], bytes, int, bytes, int, int, tuple[Any, ...]], None]

_KEPT_MAX = 4096
_END = 0x41


def _writer(number: int) -> _Write:
    """What writes spans of a shape."""
    shape = SHAPES[number]
    head = text_field(b"\x2a", shape.name) + b"\x30" + varint(shape.kind) + b"\x39"
    struct = Struct(f"<18sQ10s{len(head)}sQBQ")
    pack = struct.pack
    kept: dict[tuple[Any, ...], tuple[bytes, bytes]] = {}

    def make(values: tuple[Any, ...]) -> tuple[bytes, bytes]:
        after = attributes_of(shape, values) + STATUS_UNSET + FLAGS_LOCAL
        made = b"\x12" + varint(2 + struct.size + len(after)) + b"\x0a\x10", after
        if len(kept) >= _KEPT_MAX:
            kept.clear()
        kept[values] = made
        return made

    def write(
        parts: list[bytes], trace: bytes, own: int, above: bytes, start: int, end: int, values: tuple[Any, ...]
    ) -> None:
        before, after = kept.get(values) or make(values)
        parts += (before, pack(trace, own & MASK or 1, above, head, start, _END, end), after)

    return write


class RunEncoder:
    """Belongs to one thread."""

    def __init__(self) -> None:
        self._writers = tuple(
            map(
                _writer,
                (shapes.VALIDATE, shapes.FEATURES, shapes.MODEL, shapes.POLICY, shapes.REASONS, shapes.RECORD),
            )
        )

    def write(
        self,
        parts: list[bytes],
        trace_id: bytes,
        root: int,
        place: int,
        parent_id: bytes,
        offset: int,
        values: tuple[Any, ...],
    ) -> None:
        """Adds the spans of a run without a status. root: the id of the record's first span, as a whole number; offset:
        from ticks to nanoseconds since 1970. Raises what `encode_span` and `spell_stages` raise."""
        (durability, derived, models), packed, statuses, rules = values
        numbers = layout(len(models)).unpack(packed)
        started, validated, read, gathered, scored, judged, ranked = numbers[:7]
        rows, size_bytes, substituted, stale, lost, reasons, verdict, asked = numbers[-COUNTS:]
        validation, features, model, policy, ranking, record = self._writers
        trace, above = trace_id + b"\x12\x08", b"\x22\x08" + parent_id
        own = root + place * STRIDE
        validation(parts, trace, own, above, started + offset, validated + offset, (0,))
        own += STEP
        features(parts, trace, own, above, read + offset, gathered + offset, (derived, substituted, stale, lost))
        begun = numbers[7] + offset
        for (id_, version), one, tick in zip(models, statuses, numbers[8 : 8 + len(models)], strict=True):
            own += STEP
            ended = tick + offset
            model(parts, trace, own, above, begun, ended, (id_, version, one, rows))
            begun = ended
        own += STEP
        judged += offset
        asked_one = (VERDICTS[verdict], rules, asked == 1)
        policy(parts, trace, own, above, scored + offset, judged, asked_one)
        own += STEP
        ranking(parts, trace, own, above, judged, ranked + offset, (reasons,))
        own += STEP
        began, written = numbers[-COUNTS - 2] + offset, numbers[-COUNTS - 1] + offset
        record(parts, trace, own, above, began, written, (size_bytes, durability))


def is_plain(status: str | None, values: tuple[Any, ...]) -> bool:
    """Whether a run has no flaw."""
    return status is None and FAILED_STATUS not in values[2]
