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
from engine.record.worker_lock import WorkerLock

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


def recover(directory: Path, index: DecisionIndex, worker: str) -> Recovery:
    """Index what all workers left unindexed, and cut the torn tails of `worker`, whose lock is held, and of the dead.
    Raises RecordError."""
    found = Recovery()
    for one in sorted({*map(worker_of, list_segments(directory)), worker}):
        of_one = catch_up(directory, index, one)
        found.indexed += of_one.indexed
        found.damage += of_one.damage
        found.torn += [tail for tail in of_one.torn if _cut_unless_alive(directory, one, tail, own=one == worker)]
    return found


def _cut_unless_alive(directory: Path, worker: str, tail: TornTail, *, own: bool) -> bool:
    """Cut a torn tail unless another process is alive as its worker: then it is a frame being written."""
    if own:
        return cut(directory, tail)
    try:
        # Held for a moment only: the worker may be about to start, and waits for it.
        lock = WorkerLock(directory, worker)
    except BlockingIOError:
        return False
    except OSError as e:
        raise RecordError(f"the journal's directory {directory} cannot be used: {e.strerror}") from e
    try:
        return cut(directory, tail)
    finally:
        lock.release()


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
