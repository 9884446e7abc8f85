"""The journal's files: how a segment is laid out, how it is read, and how damage is told from a torn tail.

    segment   header, header again, frame, frame, ...
    header    magic, layout version, sequence, salt, created, worker, CRC-32
    frame     magic, kind, flags, length, check of these, check of all; payload

A frame's header has its own check, so that a length can be believed before the payload is read: a frame that is
whole but for its end was torn by a crash, all else that does not check out is damage. All checks start from the
segment's random salt, so that bytes of a frame inside a payload, or left over in a reused block, are never taken for
a frame. All numbers are little-endian.
"""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Iterator
from enum import IntEnum
from pathlib import Path
from typing import BinaryIO, NamedTuple
from zlib import crc32

from engine.errors import RecordError

SUFFIX = ".journal"
MAX_PAYLOAD_BYTES = 64 << 20
WORKER_NAME = re.compile(r"[a-z][a-z0-9_]{0,31}")

_SEGMENT_MAGIC = b"AsJrnl\r\n"
_LAYOUT = 1
_HEADER = struct.Struct("<8sII16sq32s")
_CHECK = struct.Struct("<I")
_HEADER_BYTES = _HEADER.size + _CHECK.size
FIRST_FRAME = 2 * _HEADER_BYTES

_FRAME_MAGIC = b"\xf4\xa7"
_FRAME = struct.Struct("<2sBBI")
_CHECKS = struct.Struct("<II")
FRAME_HEADER_BYTES = _FRAME.size + _CHECKS.size


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
    """One frame that checks out. `end` is where the next one starts."""

    position: Position
    kind: int
    payload: bytes
    end: int


class Damage(NamedTuple):
    """Bytes of a segment that do not check out and were not torn off by a crash: something changed them."""

    position: Position
    length: int
    why: str


class TornTail(NamedTuple):
    """An unfinished frame at the end of a segment: a crash, or a writer at work right now."""

    position: Position
    length: int


def segment_name(worker: str, sequence: int) -> str:
    """The name of a segment; names of one worker sort by age."""
    return f"{worker}-{sequence:08d}"


def worker_of(segment: str) -> str:
    """The worker that wrote a segment."""
    return segment.rpartition("-")[0]


def segment_path(directory: Path, segment: str) -> Path:
    """The file of a segment."""
    return directory / (segment + SUFFIX)


def list_segments(directory: Path) -> list[str]:
    """All segments of all workers, by worker and age."""
    return sorted(entry.name[: -len(SUFFIX)] for entry in os.scandir(directory) if entry.name.endswith(SUFFIX))


def make_header(worker: str, sequence: int, salt: bytes, created_us: int) -> bytes:
    """What a segment starts with: the header twice, so that one flipped byte does not cost the segment its salt."""
    fields = _HEADER.pack(_SEGMENT_MAGIC, _LAYOUT, sequence, salt, created_us, worker.encode())
    return 2 * (fields + _CHECK.pack(crc32(fields)))


def seed_of(salt: bytes) -> int:
    """The number that all checks of a segment start from."""
    return crc32(salt)


def make_frame_header(kind: int, parts: tuple[bytes, ...], length: int, seed: int) -> bytes:
    """What goes before a payload of `length` bytes, given in parts."""
    head = _FRAME.pack(_FRAME_MAGIC, kind, 0, length)
    check = head_check = crc32(head, seed)
    for part in parts:
        check = crc32(part, check)
    return head + _CHECKS.pack(head_check, check)


def read_seed(file: BinaryIO, segment: str) -> int | Damage | TornTail:
    """Read a segment's header, and go to its first frame."""
    raw = file.read(FIRST_FRAME)
    for start in (0, _HEADER_BYTES):
        fields = raw[start : start + _HEADER.size]
        check = raw[start + _HEADER.size : start + _HEADER_BYTES]
        if len(check) == _CHECK.size and _CHECK.pack(crc32(fields)) == check and fields.startswith(_SEGMENT_MAGIC):
            layout, salt = _HEADER.unpack(fields)[1], _HEADER.unpack(fields)[3]
            if layout != _LAYOUT:
                raise RecordError(f"segment {segment} has layout {layout}, which this version does not know")
            if len(raw) < FIRST_FRAME:
                break
            return seed_of(salt)
    size = os.fstat(file.fileno()).st_size
    if size < FIRST_FRAME:
        return TornTail(Position(segment, 0), size)
    return Damage(Position(segment, 0), size, "neither copy of the segment's header checks out")


def scan(directory: Path, segment: str, offset: int = 0) -> Iterator[Frame | Damage | TornTail]:
    """All that a segment holds from `offset` (0, or where a frame starts) on, in order. A TornTail comes last.

    A segment may be scanned while it is written. Raises RecordError when it cannot be read at all.
    """
    try:
        with segment_path(directory, segment).open("rb") as file:
            seed = read_seed(file, segment)
            if not isinstance(seed, int):
                yield seed
                return
            file.seek(max(offset, FIRST_FRAME))
            yield from _scan(file, segment, seed)
    except OSError as e:
        raise RecordError(f"segment {segment} cannot be read: {e.strerror}") from e


def _scan(file: BinaryIO, segment: str, seed: int) -> Iterator[Frame | Damage | TornTail]:
    while True:
        at = Position(segment, file.tell())
        head = file.read(FRAME_HEADER_BYTES)
        if not head:
            return
        parsed = _parse_head(head, seed)
        if parsed is not None:
            kind, length, head_check, check = parsed
            payload = file.read(length)
            if len(payload) < length:
                yield TornTail(at, len(head) + len(payload))
                return
            if crc32(payload, head_check) == check:
                yield Frame(at, kind, payload, file.tell())
            else:
                yield Damage(at, len(head) + length, "a frame's payload does not check out")
            continue
        rest = head + file.read()
        skip = _next_frame(rest, seed)
        if skip is not None:
            yield Damage(at, skip, "bytes between frames")
            file.seek(at.offset + skip)
        elif len(rest) < FRAME_HEADER_BYTES or not any(rest):
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


def _parse_head(head: bytes, seed: int) -> tuple[int, int, int, int] | None:
    if len(head) < FRAME_HEADER_BYTES:
        return None
    magic, kind, _, length = _FRAME.unpack_from(head)
    head_check, check = _CHECKS.unpack_from(head, _FRAME.size)
    if magic != _FRAME_MAGIC or crc32(head[: _FRAME.size], seed) != head_check or length > MAX_PAYLOAD_BYTES:
        return None
    return kind, length, head_check, check


def _next_frame(data: bytes, seed: int) -> int | None:
    """Where in `data`, after its start, the next frame with a believable header starts."""
    at = data.find(_FRAME_MAGIC, 1)
    while at >= 0:
        if _parse_head(data[at : at + FRAME_HEADER_BYTES], seed) is not None:
            return at
        at = data.find(_FRAME_MAGIC, at + 1)
    return None
