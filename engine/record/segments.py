"""The journal's files: their names, how they are read, and how damage is told from a torn tail.

A frame that is whole but for its end was torn by a crash; all else that does not check out is damage. `layouts` says
what the bytes mean.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from enum import IntEnum
from pathlib import Path
from typing import BinaryIO, NamedTuple

from engine.errors import RecordError
from engine.record.layouts import (
    FIRST_FRAME,
    FRAME_HEADER_BYTES,
    HEADERS_BYTES_MAX,
    MAX_PAYLOAD_BYTES,
    SegmentHead,
    check_payload,
    head_bytes,
    next_frame,
    parse_frame_header,
    parse_header,
)

__all__ = [
    "FIRST_FRAME",
    "FRAME_HEADER_BYTES",
    "MAX_PAYLOAD_BYTES",
    "Damage",
    "Frame",
    "FrameKind",
    "Position",
    "TornTail",
    "list_segments",
    "own_segments",
    "read_frame",
    "read_head",
    "scan",
    "segment_name",
    "segment_path",
    "worker_of",
]

SUFFIX = ".journal"
WORKER_NAME = re.compile(r"[a-z][a-z0-9_]{0,31}")
_BUFFER_BYTES = 256 << 10


class FrameKind(IntEnum):
    """What a frame's payload is."""

    DECISION = 1
    CATALOGUE = 2
    ENVIRONMENT = 3
    OUTCOME = 4
    CHANGE = 5
    # A challenger's decision on the same facts: never answered, never found by a request id.
    SHADOW = 6
    # A subject's key was deleted.
    ERASED = 7


class Position(NamedTuple):
    """Where a frame stands: its segment's name and the byte it starts at. Orders the frames of one worker."""

    segment: str
    offset: int


class Frame(NamedTuple):
    """One frame that checks out by itself. `end` is where the next one starts.

    sequence: its number among its worker's frames; link: what it is linked to the frame before by; digest: the
    payload's SHA-256. 0 and empty in a segment of the first layout.
    """

    position: Position
    kind: int
    payload: bytes
    end: int
    sequence: int = 0
    link: bytes = b""
    digest: bytes = b""
    flags: int = 0


class Damage(NamedTuple):
    """Bytes of a segment that do not check out and were not torn off by a crash: something changed them.

    sequence, link: of the frame that stood here, where its header is whole; else 0 and empty.
    """

    position: Position
    length: int
    why: str
    sequence: int = 0
    link: bytes = b""


class TornTail(NamedTuple):
    """An unfinished frame at the end of a segment: a crash, or a writer at work right now."""

    position: Position
    length: int


def segment_name(worker: str, number: int) -> str:
    """The name of a segment; names of one worker sort by age."""
    return f"{worker}-{number:08d}"


def worker_of(segment: str) -> str:
    """The worker that wrote a segment."""
    return segment.rpartition("-")[0]


def segment_path(directory: Path, segment: str) -> Path:
    """The file of a segment."""
    return directory / (segment + SUFFIX)


def list_segments(directory: Path) -> list[str]:
    """All segments of all workers, by worker and age."""
    return sorted(entry.name[: -len(SUFFIX)] for entry in os.scandir(directory) if entry.name.endswith(SUFFIX))


def own_segments(directory: Path, worker: str) -> list[str]:
    """The segments of one worker, by age."""
    return [name for name in list_segments(directory) if worker_of(name) == worker]


def read_head(directory: Path, segment: str) -> SegmentHead | Damage | TornTail:
    """What a segment's header says. Raises RecordError when it cannot be read at all."""
    try:
        with segment_path(directory, segment).open("rb") as file:
            return _read_head(file, segment)
    except OSError as e:
        raise RecordError(f"segment {segment} cannot be read: {e.strerror}") from e


def _read_head(file: BinaryIO, segment: str) -> SegmentHead | Damage | TornTail:
    raw = file.read(HEADERS_BYTES_MAX)
    try:
        head = parse_header(raw)
    except RecordError as e:
        raise RecordError(f"segment {segment}: {e}") from e
    if head is not None and len(raw) >= head.first_frame:
        return head
    size = os.fstat(file.fileno()).st_size
    if head is not None or size < FIRST_FRAME:
        return TornTail(Position(segment, 0), size)
    return Damage(Position(segment, 0), size, "neither copy of the segment's header checks out")


def scan(directory: Path, segment: str, offset: int = 0) -> Iterator[Frame | Damage | TornTail]:
    """All that a segment holds from `offset` (0, or where a frame starts) on, in order. A TornTail comes last.

    A segment may be scanned while it is written. Raises RecordError when it cannot be read at all.
    """
    try:
        with segment_path(directory, segment).open("rb", buffering=_BUFFER_BYTES) as file:
            head = _read_head(file, segment)
            if not isinstance(head, SegmentHead):
                yield head
                return
            file.seek(max(offset, head.first_frame))
            yield from _scan(file, segment, head.seed, head.layout)
    except OSError as e:
        raise RecordError(f"segment {segment} cannot be read: {e.strerror}") from e


def _scan(file: BinaryIO, segment: str, seed: int, layout: int) -> Iterator[Frame | Damage | TornTail]:
    size, offset = head_bytes(layout), file.tell()
    while True:
        at = Position(segment, offset)
        head = file.read(size)
        if not head:
            return
        parsed = parse_frame_header(head, seed, layout)
        if parsed is not None:
            kind, flags, length, sequence, link, _, _ = parsed
            payload = file.read(length)
            if len(payload) < length:
                yield TornTail(at, len(head) + len(payload))
                return
            digest = check_payload(parsed, payload)
            offset += size + length
            if digest is not None:
                yield Frame(at, kind, payload, offset, sequence, link, digest, flags)
            else:
                yield Damage(at, size + length, "a frame's payload does not check out", sequence, link)
            continue
        rest = head + file.read()
        skip = next_frame(rest, seed, layout)
        if skip is not None:
            yield Damage(at, skip, "bytes that are no frame")
            offset += skip
            file.seek(offset)
        elif len(rest) < size or not any(rest):
            # A file system may leave zeros behind where it lost power before the data came.
            yield TornTail(at, len(rest))
            return
        else:
            yield Damage(at, len(rest), "bytes after the last frame")
            return


def read_frame(directory: Path, position: Position) -> Frame:
    """The one frame at `position`. Raises RecordError when it is not there or does not check out."""
    for found in scan(directory, position.segment, position.offset):
        if isinstance(found, Frame) and found.position == position:
            return found
        break
    raise RecordError(f"the frame at {position.segment}:{position.offset} is damaged")
