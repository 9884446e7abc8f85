"""A table that the worker processes of one host share: which request ids were just decided, and which are being.

    header | tags: one row a bucket, in it every worker's ways | bodies: one block a worker

A request that is held has its tag here, one that was decided a body besides. Every cell has one writer: the worker
whose column it is in. So nobody locks the table. What a reader must not see half of is behind the lock of the request's
own key (`host_locks`), which its writer holds; for a cell that its writer is just reusing for another request, the key
and a checksum in the body tell.

The file belongs to those who have it open. The first of them begins it anew, because by then every journal is indexed.
"""

from __future__ import annotations

import mmap
import os
import struct
from pathlib import Path
from typing import NamedTuple
from zlib import crc32

from engine.claims.shared import Answered
from engine.errors import RecordError
from engine.record.segments import Position

WORKERS_MAX = 64
_BUCKETS, _WAYS = 2048, 4
_MAGIC = b"AsClaim\x01"
_HEADER_BYTES = 4096
_IN_USE_AT, _LOSSY_AT = 64, 1024
_TAG_BYTES = 8
_COLUMN_BYTES = _WAYS * _TAG_BYTES
_ROW_BYTES = WORKERS_MAX * _COLUMN_BYTES
_BODIES_AT = _HEADER_BYTES + _BUCKETS * _ROW_BYTES
# Lengths of digest, decision id and segment; key; offset; digest, decision id, segment. Then a checksum.
_BODY = struct.Struct("<BBBx16sQ32s40s44s")
_CHECK_BYTES = 4
_CELL_BYTES = _BODY.size + _CHECK_BYTES
_BLOCK_BYTES = -(-_BUCKETS * _WAYS * _CELL_BYTES // 4096) * 4096
FILE_BYTES = _BODIES_AT + WORKERS_MAX * _BLOCK_BYTES
_DIGEST_BYTES, _ID_BYTES, _SEGMENT_BYTES = 32, 40, 44
_NO_TAG = bytes(_TAG_BYTES)
# What a cell of this worker is used for, besides the position of a decision.
_HELD = Position("", -1)


class Found(NamedTuple):
    """What the table says of a request. doubtful: its holder died, or the table knew more once than it does, so the
    journals must be looked at."""

    answered: Answered | None
    doubtful: bool


_NOTHING, _DOUBT = Found(None, False), Found(None, True)


class HostTable:
    """The table as one worker sees it. Not safe to use from several threads at once, but for `find`."""

    def __init__(self, path: Path, column: int) -> None:
        """column: this worker's, 0 to WORKERS_MAX - 1, which no other has, and whose last worker's journal is indexed:
        what that wrote is forgotten. Raises OSError."""
        # Opened anew: a map keeps a duplicate of its descriptor, and with one that has locks a forked child would keep
        # them after the parent's death.
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            self._map = mmap.mmap(fd, FILE_BYTES)
        finally:
            os.close(fd)
        self._column = column
        self._tags_at = _HEADER_BYTES + column * _COLUMN_BYTES
        self._bodies_at = _BODIES_AT + column * _BLOCK_BYTES
        # What stands in the cells of this worker, which nobody else writes.
        self._cells: list[Position | None] = [None] * (_BUCKETS * _WAYS)
        for bucket in range(_BUCKETS):
            at = self._tags_at + bucket * _ROW_BYTES
            self._map[at : at + _COLUMN_BYTES] = bytes(_COLUMN_BYTES)
        self.set_lossy(False)
        in_use = max(int.from_bytes(self._map[_IN_USE_AT : _IN_USE_AT + 4], "little"), column + 1)
        self._map[_IN_USE_AT : _IN_USE_AT + 4] = in_use.to_bytes(4, "little")

    def set_lossy(self, lossy: bool) -> None:
        """Say whether this worker had to forget a decision that the index does not know yet."""
        self._map[_LOSSY_AT + self._column] = int(lossy)

    def find(self, key: bytes) -> Found:
        """What any worker wrote of a request. Only for who holds the lock of the key; look into the index afterwards,
        not before: what is forgotten here is there by then."""
        view, tag = self._map, key[:_TAG_BYTES]
        in_use = view[_IN_USE_AT]
        doubtful = view.find(b"\1", _LOSSY_AT, _LOSSY_AT + in_use) >= 0
        bucket = _bucket_of(key)
        row = _HEADER_BYTES + bucket * _ROW_BYTES
        end = row + in_use * _COLUMN_BYTES
        at = view.find(tag, row, end)
        while at >= 0:
            place, off = divmod(at - row, _TAG_BYTES)
            if not off:
                column, way = divmod(place, _WAYS)
                answered = self._read(key, column, bucket * _WAYS + way)
                if answered is not None:
                    return Found(answered, False)
                # Whoever holds it died; unless its writer has just made room there.
                doubtful = doubtful or view[at : at + _TAG_BYTES] == tag
            at = view.find(tag, at + 1, end)
        return _DOUBT if doubtful else _NOTHING

    def room(self, key: bytes) -> tuple[int, Position | None] | None:
        """A cell for a key, and the decision that goes from there, if one does: the oldest. None: all are held."""
        first = _bucket_of(key) * _WAYS
        cells = self._cells
        oldest = -1
        for cell in range(first, first + _WAYS):
            held = cells[cell]
            if held is None:
                return cell, None
            if held is not _HELD and (oldest < 0 or held < cells[oldest]):  # type: ignore[operator]
                oldest = cell
        return None if oldest < 0 else (oldest, cells[oldest])

    def hold(self, cell: int, key: bytes) -> None:
        """Say that a request is held. cell: which `room` gave."""
        self._cells[cell] = _HELD
        self._tag(cell, key[:_TAG_BYTES])

    def answer(self, cell: int, key: bytes, digest: bytes, decision_id: str, position: Position) -> None:
        """Say that a held request was decided. What does not fit leaves it doubtful, and the journals know."""
        self._cells[cell] = position
        raw_id, segment = decision_id.encode(), position.segment.encode()
        if len(digest) > _DIGEST_BYTES or len(raw_id) > _ID_BYTES or len(segment) > _SEGMENT_BYTES:
            return
        body = _BODY.pack(len(digest), len(raw_id), len(segment), key, position.offset, digest, raw_id, segment)
        at = self._bodies_at + cell * _CELL_BYTES
        self._map[at : at + _CELL_BYTES] = body + crc32(body).to_bytes(_CHECK_BYTES, "little")

    def drop(self, cell: int) -> None:
        """Say nothing more of a request that was held."""
        self._cells[cell] = None
        self._tag(cell, _NO_TAG)

    def close(self) -> None:
        """Let go of the file."""
        self._map.close()

    def _tag(self, cell: int, tag: bytes) -> None:
        at = self._tags_at + cell // _WAYS * _ROW_BYTES + cell % _WAYS * _TAG_BYTES
        self._map[at : at + _TAG_BYTES] = tag

    def _read(self, key: bytes, column: int, cell: int) -> Answered | None:
        at = _BODIES_AT + column * _BLOCK_BYTES + cell * _CELL_BYTES
        raw = self._map[at : at + _CELL_BYTES]
        digest_bytes, id_bytes, segment_bytes, found, offset, digest, raw_id, segment = _BODY.unpack_from(raw)
        if found != key or crc32(raw[:-_CHECK_BYTES]).to_bytes(_CHECK_BYTES, "little") != raw[-_CHECK_BYTES:]:
            return None
        position = Position(segment[:segment_bytes].decode(), offset)
        return Answered(raw_id[:id_bytes].decode(), digest[:digest_bytes], b"", position)


def begin(fd: int) -> None:
    """Make the file anew. Only while nobody else has it open. Raises OSError."""
    os.ftruncate(fd, 0)
    os.ftruncate(fd, FILE_BYTES)
    # A page that the disk has no room for would end the process when it is written.
    os.posix_fallocate(fd, 0, _BODIES_AT)
    os.pwrite(fd, _MAGIC, 0)


def join(fd: int, column: int) -> None:
    """Make room for a worker in the file that others have begun. Raises RecordError, OSError."""
    if os.pread(fd, len(_MAGIC), 0) != _MAGIC or os.fstat(fd).st_size != FILE_BYTES:
        raise RecordError("the table of claims was begun by another version: stop its workers first")
    os.posix_fallocate(fd, _BODIES_AT + column * _BLOCK_BYTES, _BLOCK_BYTES)


def _bucket_of(key: bytes) -> int:
    return int.from_bytes(key[_TAG_BYTES : _TAG_BYTES + 2], "little") % _BUCKETS
