"""How segments and frames are laid out, byte by byte, and how a frame is linked to the one before it.

    segment   header, header again, frame, frame, ...
    header    magic, layout, segment number, salt, created, worker, sequence and link before its first frame; CRC-32
    frame     magic, kind, flags, length, sequence, payload check, link; CRC-32 of these; payload

    link      SHA-256(link before, kind, flags, length, sequence, SHA-256(payload))

The frames of one worker are numbered from 1 through all its segments, and every link goes back to the worker's name.
A frame's header has its own check, so that a length can be believed before the payload is read. That check starts from
the segment's random salt, so that bytes of a frame inside a payload, or left over in a reused block, are never taken
for a frame. Layout 1, of earlier versions, has neither numbers nor links; it is read and no longer written. All
numbers are little-endian.
"""

from __future__ import annotations

import struct
from hashlib import sha256
from typing import NamedTuple
from zlib import crc32

from engine.errors import RecordError

LAYOUT = 2
MAX_PAYLOAD_BYTES = 64 << 20

_SEGMENT_MAGIC = b"AsJrnl\r\n"
_CHECK = struct.Struct("<I")
_HEADER_1 = struct.Struct("<8sII16sq32s")
_HEADER_2 = struct.Struct("<8sII16sq32sQ32s")
_HEADERS = {1: _HEADER_1, 2: _HEADER_2}
_FRAME_MAGIC = b"\xf4\xa7"
_FRAME_1 = struct.Struct("<2sBBI")
_CHECKS_1 = struct.Struct("<II")
_FRAME_2 = struct.Struct("<2sBBIQ8s32s")
_LINKED = struct.Struct("<BBIQ")
_HEAD_BYTES = {1: _FRAME_1.size + _CHECKS_1.size, 2: _FRAME_2.size + _CHECK.size}

FIRST_FRAME = 2 * (_HEADER_2.size + _CHECK.size)
FRAME_HEADER_BYTES = _HEAD_BYTES[LAYOUT]
HEADERS_BYTES_MAX = FIRST_FRAME


class Chain(NamedTuple):
    """A place in a worker's chain: the number of a frame and its link."""

    sequence: int
    link: bytes


class SegmentHead(NamedTuple):
    """What a segment's header says. chain: the frame before its first; None in a layout without a chain. is_whole: both
    copies say the same."""

    layout: int
    number: int
    seed: int
    created_us: int
    worker: str
    first_frame: int
    chain: Chain | None
    is_whole: bool


class FrameHead(NamedTuple):
    """What a frame's header says. sequence 0 and an empty link in a layout without a chain."""

    kind: int
    flags: int
    length: int
    sequence: int
    link: bytes
    check: bytes | int
    seed: int


def genesis(worker: str) -> Chain:
    """What a worker's first frame is linked to."""
    return Chain(0, sha256(b"assay journal\0" + worker.encode()).digest())


def seed_of(salt: bytes) -> int:
    """The number that all checks of a segment start from."""
    return crc32(salt)


def make_header(worker: str, number: int, salt: bytes, created_us: int, chain: Chain) -> bytes:
    """What a segment starts with: the header twice, so that one flipped byte does not cost the segment its salt."""
    fields = _HEADER_2.pack(_SEGMENT_MAGIC, LAYOUT, number, salt, created_us, worker.encode(), *chain)
    return 2 * (fields + _CHECK.pack(crc32(fields)))


def parse_header(raw: bytes) -> SegmentHead | None:
    """The header at the start of a file, from whichever copy checks out; None when neither does.

    Raises RecordError for a layout that is not known here.
    """
    for header in _HEADERS.values():
        step = header.size + _CHECK.size
        for start in (0, step):
            fields = raw[start : start + header.size]
            check = raw[start + header.size : start + step]
            if _CHECK.pack(crc32(fields)) != check or not fields.startswith(_SEGMENT_MAGIC):
                continue
            (layout,) = _CHECK.unpack_from(fields, len(_SEGMENT_MAGIC))
            if _HEADERS.get(layout) is not header:
                raise RecordError(f"a segment has layout {layout}, which this version does not know")
            _, _, number, salt, created_us, worker, *chain = header.unpack(fields)
            name = worker.rstrip(b"\0").decode("ascii", "replace")
            linked = Chain(*chain) if chain else None
            is_whole = raw[:step] == raw[step : 2 * step]
            return SegmentHead(layout, number, seed_of(salt), created_us, name, 2 * step, linked, is_whole)
    return None


def link_of(previous: bytes, kind: int, flags: int, length: int, sequence: int, digest: bytes) -> bytes:
    """The link of a frame whose payload has this SHA-256, to the frame before."""
    return sha256(previous + _LINKED.pack(kind, flags, length, sequence) + digest).digest()


def make_frame_header(
    kind: int, length: int, digest: bytes, sequence: int, previous: bytes, seed: int
) -> tuple[bytes, bytes]:
    """What goes before a payload of `length` bytes with this SHA-256; and the frame's link.

    previous: the link of the frame before.
    """
    linked = _LINKED.pack(kind, 0, length, sequence)
    link = sha256(previous + linked + digest).digest()
    # As `_FRAME_2` is laid out.
    head = _FRAME_MAGIC + linked + digest[:8] + link
    return head + _CHECK.pack(crc32(head, seed)), link


def head_bytes(layout: int) -> int:
    """How long a frame's header is."""
    return _HEAD_BYTES[layout]


def parse_frame_header(head: bytes, seed: int, layout: int) -> FrameHead | None:
    """What a frame's header says; None when it does not check out."""
    if len(head) < _HEAD_BYTES[layout]:
        return None
    if layout == 1:
        magic, kind, flags, length = _FRAME_1.unpack_from(head)
        head_check, check = _CHECKS_1.unpack_from(head, _FRAME_1.size)
        if crc32(head[: _FRAME_1.size], seed) != head_check:
            return None
        parsed = FrameHead(kind, flags, length, 0, b"", check, head_check)
    else:
        magic, kind, flags, length, sequence, check, link = _FRAME_2.unpack_from(head)
        if _CHECK.pack(crc32(head[: _FRAME_2.size], seed)) != head[_FRAME_2.size : FRAME_HEADER_BYTES]:
            return None
        parsed = FrameHead(kind, flags, length, sequence, link, check, 0)
    return parsed if magic == _FRAME_MAGIC and length <= MAX_PAYLOAD_BYTES else None


def check_payload(head: FrameHead, payload: bytes) -> bytes | None:
    """The payload's SHA-256 (empty in a layout that has no use for it); None when it does not check out."""
    if isinstance(head.check, int):
        return b"" if crc32(payload, head.seed) == head.check else None
    digest = sha256(payload).digest()
    return digest if digest[:8] == head.check else None


def next_frame(data: bytes, seed: int, layout: int) -> int | None:
    """Where in `data`, after its start, the next frame with a believable header starts."""
    size = _HEAD_BYTES[layout]
    at = data.find(_FRAME_MAGIC, 1)
    while at >= 0:
        if parse_frame_header(data[at : at + size], seed, layout) is not None:
            return at
        at = data.find(_FRAME_MAGIC, at + 1)
    return None
