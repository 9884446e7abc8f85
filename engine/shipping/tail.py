"""Reads what a worker's segments hold beyond a checkpoint, a batch at a time, while they may be written.

Bytes that do not check out are handed on as they are, so that a segment with damage can be let go like every other.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from google.protobuf.message import DecodeError

from assay.decision.v1 import decision_record_pb2 as record_pb
from engine.errors import RecordError
from engine.record.entries import unpack_decision
from engine.record.segments import (
    Damage,
    Frame,
    FrameKind,
    TornTail,
    list_segments,
    scan,
    segment_path,
    worker_of,
)
from engine.shipping.state import Checkpoint

# The kind that damaged bytes are shipped as. The journal knows no such frame.
DAMAGED = 0
# Damage at the very end of a segment may be a frame on its way to the disk, for as long as the file is this fresh.
_SETTLED_S = 60.0
_LOOKED_AT = 8


class Batch(NamedTuple):
    """Frames of one worker in the order of its journal; damaged bytes are frames of kind 0.

    upto: the checkpoint once they are shipped; passed: segments that were read to their end meanwhile, with their
    length in bytes; damage: stretches that did not check out.
    """

    frames: list[Frame]
    upto: Checkpoint
    passed: list[Checkpoint]
    damage: int


def segments_of(directory: Path, worker: str) -> list[str]:
    """A worker's segments by age. Raises RecordError."""
    return [segment for segment in _segments(directory) if worker_of(segment) == worker]


def workers_of(directory: Path) -> list[str]:
    """The workers that have segments. Raises RecordError."""
    return sorted({worker_of(segment) for segment in _segments(directory)})


def _segments(directory: Path) -> list[str]:
    try:
        return list_segments(directory)
    except OSError as e:
        raise RecordError(f"the journal {directory} cannot be read: {e.strerror}") from e


def read_batch(
    directory: Path, worker: str, checkpoint: Checkpoint | None, rows: int, size: int, now_s: float | None = None
) -> Batch | None:
    """What comes next after a checkpoint: up to `rows` frames, and up to `size` bytes of payload but for the last.

    None: there is nothing. Raises RecordError for a segment that cannot be read.
    """
    # Listed first: a segment with a later one after it is whole, and a torn end in it stays so.
    segments = segments_of(directory, worker)
    if checkpoint is not None:
        segments = [
            s for s in segments if s > checkpoint.segment or (s == checkpoint.segment and not checkpoint.complete)
        ]
    frames: list[Frame] = []
    passed: list[Checkpoint] = []
    upto, held, damage = checkpoint, 0, 0
    for segment in segments:
        last = segment == segments[-1]
        at = checkpoint.offset if checkpoint is not None and checkpoint.segment == segment else 0
        for item in scan(directory, segment, at):
            if isinstance(item, TornTail):
                break
            if isinstance(item, Damage):
                if last and _unsettled(directory, item, time.time() if now_s is None else now_s):
                    break
                damage += 1
                pieces = _pieces(directory, item, at, size)
            else:
                pieces = iter((item,))
            for frame in pieces:
                frames.append(frame)
                held += len(frame.payload)
                at = frame.end
                if len(frames) >= rows or held >= size:
                    return Batch(frames, Checkpoint(segment, at), passed, damage)
        upto = Checkpoint(segment, at, complete=not last)
        if upto.complete:
            passed.append(upto)
    return None if upto is None or upto == checkpoint else Batch(frames, upto, passed, damage)


def _unsettled(directory: Path, damage: Damage, now_s: float) -> bool:
    try:
        found = os.stat(segment_path(directory, damage.position.segment))
    except OSError as e:
        raise RecordError(f"segment {damage.position.segment} cannot be read: {e.strerror}") from e
    return damage.position.offset + damage.length >= found.st_size and now_s - found.st_mtime < _SETTLED_S


def _pieces(directory: Path, damage: Damage, since: int, size: int) -> Iterator[Frame]:
    """Damaged bytes from the offset `since` on, as frames that hold at most `size` of them."""
    segment = damage.position.segment
    at, end = max(damage.position.offset, since), damage.position.offset + damage.length
    try:
        with segment_path(directory, segment).open("rb") as file:
            file.seek(at)
            while at < end:
                content = file.read(min(size, end - at))
                if not content:
                    return
                yield Frame(damage.position._replace(offset=at), DAMAGED, content, at + len(content))
                at += len(content)
    except OSError as e:
        raise RecordError(f"segment {segment} cannot be read: {e.strerror}") from e


def waiting(directory: Path, worker: str, checkpoint: Checkpoint | None) -> tuple[int, int, str]:
    """Bytes and segments of a worker beyond its checkpoint, and the first of these segments ("" for none). Quick: by
    the sizes of the files. Raises RecordError."""
    total = count = 0
    first = ""
    for segment in segments_of(directory, worker):
        done = 0
        if checkpoint is not None and segment <= checkpoint.segment:
            if segment < checkpoint.segment or checkpoint.complete:
                continue
            done = checkpoint.offset
        try:
            left = segment_path(directory, segment).stat().st_size - done
        except FileNotFoundError:
            continue
        if left > 0:
            total, count, first = total + left, count + 1, first or segment
    return total, count, first


def oldest_moment_us(directory: Path, segment: str, offset: int) -> int | None:
    """When the first decision from a place on was made, since 1970; None when none of the next frames is one."""
    for item in islice(scan(directory, segment, offset), _LOOKED_AT):
        if isinstance(item, Frame) and item.kind == FrameKind.DECISION:
            with suppress(RecordError, DecodeError):
                record = record_pb.DecisionRecord.FromString(unpack_decision(item).record)
                return record.decision.decided_at.ToMicroseconds() or None
    return None
