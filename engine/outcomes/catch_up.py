"""Brings the index of outcomes up to the journal: what a crash left out, or everything after the index was lost."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from pathlib import Path

from google.protobuf.message import DecodeError

from assay.outcome.v1 import outcome_pb2 as pb
from engine.outcomes.index import OutcomeIndex
from engine.record.reader import JournalReader
from engine.record.segments import Damage, Frame, FrameKind, Position

_BATCH = 2_000
_log = logging.getLogger("assay.outcomes")


@dataclass(slots=True)
class CaughtUp:
    """What was found: outcomes noted, frames that are no outcome, damage. Both are left as they are."""

    indexed: int = 0
    unreadable: list[Position] = field(default_factory=list)
    damage: list[Damage] = field(default_factory=list)


def parse_outcome(payload: bytes) -> pb.OutcomeRecord | None:
    """The record in a frame; None when it is none."""
    try:
        return pb.OutcomeRecord.FromString(payload)
    except DecodeError:
        return None


def note(index: OutcomeIndex, record: pb.OutcomeRecord, payload: bytes) -> None:
    """Notes a record; to be called while the index is `writing`."""
    index.add(
        record.tenant,
        record.outcome.outcome_id,
        record.decision_id,
        record.request_id,
        record.recorded_at.ToMicroseconds(),
        payload,
    )


def catch_up(directory: Path, index: OutcomeIndex) -> CaughtUp:
    """Notes what the journal holds beyond the index's watermarks, of all workers. They may be at work: then the same is
    noted twice, which is harmless. Raises RecordError."""
    found, reader = CaughtUp(), JournalReader(directory)
    for worker in reader.workers():
        _catch_up_worker(reader, index, worker, found)
    if found.unreadable or found.damage:
        _log.warning(
            "outcomes in the journal that cannot be read",
            extra={"frames": len(found.unreadable), "damage": [str(one) for one in found.damage[:20]]},
        )
    return found


def _catch_up_worker(reader: JournalReader, index: OutcomeIndex, worker: str, found: CaughtUp) -> None:
    batch: list[tuple[pb.OutcomeRecord, bytes]] = []
    upto: Position | None = None

    def flush() -> None:
        if upto is not None:
            with index.writing():
                for record, payload in batch:
                    note(index, record, payload)
                index.move_watermark(worker, upto)
            found.indexed += len(batch)
            batch.clear()

    for item in reader.frames(worker, index.watermark(worker)):
        if isinstance(item, Frame):
            upto = Position(item.position.segment, item.end)
            if item.kind == FrameKind.OUTCOME:
                record = parse_outcome(item.payload)
                if record is None:
                    found.unreadable.append(item.position)
                else:
                    batch.append((record, item.payload))
            if len(batch) >= _BATCH:
                flush()
        elif isinstance(item, Damage):
            found.damage.append(item)
    flush()
