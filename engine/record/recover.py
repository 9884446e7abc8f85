"""Brings the index up to the journal, and cuts what a crash left half-written."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from engine.errors import RecordError
from engine.record.entries import unpack_decision, unpack_declared
from engine.record.index import Decided, DecisionIndex, Declared
from engine.record.segments import (
    FIRST_FRAME,
    Damage,
    Frame,
    FrameKind,
    Position,
    TornTail,
    list_segments,
    scan,
    segment_path,
    worker_of,
)

_BATCH = 2000


@dataclass(slots=True)
class Recovery:
    """What was found when a log was opened. Damage is left as it is, for a person to look at."""

    indexed: int = 0
    torn: list[TornTail] = field(default_factory=list)
    damage: list[Damage] = field(default_factory=list)


def catch_up(directory: Path, index: DecisionIndex, worker: str) -> Recovery:
    """Index what a worker's segments hold beyond its watermark. The worker may be at work. Raises RecordError."""
    found = Recovery()
    entries: list[tuple[bytes, Decided]] = []
    declared: list[Declared] = []
    upto: Position | None = None
    for item in _beyond(directory, worker, index.watermark(worker)):
        if isinstance(item, Frame):
            upto = Position(item.position.segment, item.end)
            if item.kind == FrameKind.DECISION:
                stored = unpack_decision(item)
                decided = Decided(stored.payload_digest, stored.decision_id, stored.position)
                entries.append((stored.request_key, decided))
            elif item.kind in (FrameKind.CATALOGUE, FrameKind.ENVIRONMENT):
                declared.append(Declared(FrameKind(item.kind), unpack_declared(item.payload)[0], item.position))
            if len(entries) >= _BATCH:
                index.add(entries, declared, upto)
                found.indexed += len(entries)
                entries, declared = [], []
        elif isinstance(item, Damage):
            found.damage.append(item)
        else:
            found.torn.append(item)
    if upto is not None:
        index.add(entries, declared, upto)
        found.indexed += len(entries)
    return found


def cut(directory: Path, tail: TornTail) -> bool:
    """Cut a torn tail, if it is still as it was found. Only for who holds the worker's lock. Raises RecordError."""
    segment, offset = tail.position
    if next(scan(directory, segment, offset), None) != tail:
        return False
    path = segment_path(directory, segment)
    try:
        if offset <= FIRST_FRAME:
            path.unlink()
        else:
            os.truncate(path, offset)
    except OSError as e:
        raise RecordError(f"the torn tail of segment {segment} cannot be cut: {e.strerror}") from e
    return True


def _beyond(directory: Path, worker: str, start: Position | None) -> Iterator[Frame | Damage | TornTail]:
    for segment in list_segments(directory):
        if worker_of(segment) == worker and (start is None or segment >= start.segment):
            yield from scan(directory, segment, start.offset if start is not None and segment == start.segment else 0)
