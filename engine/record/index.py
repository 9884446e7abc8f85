"""The index over the journal: from decision id, request id or digest to a place in a segment.

Everything in it follows from the journal, so it may be lost: it is not synced while it is used, and it is thrown away
and built again when the machine went down while it was open, when its files are damaged, or when somebody deleted it.
Several processes share it. A watermark for every worker says how far its segments are indexed; whoever moves it does
so in the transaction that writes the entries.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import struct
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import lmdb

from engine.errors import RecordError
from engine.record.segments import FrameKind, Position, worker_of

MAX_KEY_BYTES = 511  # LMDB's own bound
_MAP_BYTES = 64 << 30  # address space only; some hundred million decisions
_OFFSET = struct.Struct("<Q")
_REQUEST = struct.Struct("<QBB")
_CLEAN = "clean"


class Decided(NamedTuple):
    """What the index knows of a request that was decided."""

    payload_digest: bytes
    decision_id: str
    position: Position


class Declared(NamedTuple):
    """One catalogue or environment to index."""

    kind: FrameKind
    digest: str
    position: Position


class DecisionIndex:
    """An LMDB environment beside the segments. Safe to use from several threads."""

    def __init__(self, directory: Path) -> None:
        """Raises RecordError."""
        self._directory = directory
        self._lock_fd = -1
        self._env: lmdb.Environment | None = None
        try:
            directory.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            first = self._enter()
            if first and self._mark_path.exists() and self._mark_path.read_text() not in (_CLEAN, _boot_id()):
                shutil.rmtree(directory)
            try:
                self._open()
            except lmdb.Error:
                if not first:
                    raise
                shutil.rmtree(directory)
                self._open()
            if first:
                self._mark(_boot_id())
            fcntl.flock(self._lock_fd, fcntl.LOCK_SH)
        except (lmdb.Error, OSError) as e:
            self.close()
            raise RecordError(f"the index of the journal cannot be opened: {e}") from e

    @property
    def _mark_path(self) -> Path:
        return self._directory / "boot"

    def _enter(self) -> bool:
        """Join those who use the index; True: as the first, with everybody else kept out until the lock is shared."""
        path = self._directory.with_name(self._directory.name + ".lock")
        self._lock_fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            fcntl.flock(self._lock_fd, fcntl.LOCK_SH)
            return False
        return True

    def _open(self) -> None:
        self._directory.mkdir(mode=0o700, exist_ok=True)
        env = lmdb.open(
            str(self._directory),
            map_size=_MAP_BYTES,
            sync=False,
            mode=0o600,
            max_dbs=4,
            max_readers=1024,
            max_spare_txns=16,
        )
        try:
            env.reader_check()
            self._decisions = env.open_db(b"decisions")
            self._requests = env.open_db(b"requests")
            self._declared = env.open_db(b"declared")
            self._watermarks = env.open_db(b"watermarks")
        except BaseException:
            env.close()
            raise
        self._env = env

    def _mark(self, text: str) -> None:
        fd = os.open(self._mark_path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            os.write(fd, text.encode())
            os.fsync(fd)
        finally:
            os.close(fd)

    @property
    def _opened(self) -> lmdb.Environment:
        if self._env is None:
            raise RecordError("the index of the journal is closed")
        return self._env

    def find_request(self, request_key: bytes) -> Decided | None:
        """What is known of a request. Raises RecordError."""
        return self.find_requests((request_key,))[0]

    def find_requests(self, request_keys: Sequence[bytes]) -> list[Decided | None]:
        """What is known of requests, in their order. Raises RecordError."""
        try:
            with self._opened.begin(self._requests) as txn:
                found = [txn.get(request_key) for request_key in request_keys]
        except lmdb.Error as e:
            raise RecordError(f"the index of the journal cannot be read: {e}") from e
        return [None if raw is None else _unpack_decided(raw) for raw in found]

    def find_decision(self, decision_id: str) -> Position | None:
        """Where a decision is. Raises RecordError."""
        return self._find(self._decisions, decision_id.encode())

    def find_declared(self, kind: FrameKind, digest: str) -> Position | None:
        """Where a catalogue or environment is. Raises RecordError."""
        return self._find(self._declared, bytes((kind,)) + digest.encode())

    def watermark(self, worker: str) -> Position | None:
        """How far a worker's segments are indexed: the end of the last frame that is. Raises RecordError."""
        return self._find(self._watermarks, worker.encode())

    def _find(self, db: lmdb._Database, key: bytes) -> Position | None:
        if not 0 < len(key) <= MAX_KEY_BYTES:
            return None
        try:
            with self._opened.begin(db) as txn:
                raw = txn.get(key)
        except lmdb.Error as e:
            raise RecordError(f"the index of the journal cannot be read: {e}") from e
        return None if raw is None else _unpack_position(raw)

    def add(
        self, decisions: Iterable[tuple[bytes, Decided]], declared: Iterable[Declared], upto: Position | None
    ) -> None:
        """Index frames of one worker, up to (not with) the one at `upto`. Of two decisions under one request id the
        later stays. Harmless when repeated. Raises RecordError, and then nothing was indexed."""
        by_request: dict[bytes, bytes] = {}
        by_decision: dict[bytes, bytes] = {}
        for request_key, (digest, decision_id, (segment_name, offset)) in decisions:
            segment, raw_id = segment_name.encode(), decision_id.encode()
            by_request[request_key] = _REQUEST.pack(offset, len(digest), len(segment)) + digest + segment + raw_id
            by_decision[raw_id] = _OFFSET.pack(offset) + segment
        try:
            with self._opened.begin(write=True) as txn:
                # In the order of the keys, neighbours share a page.
                txn.cursor(self._requests).putmulti(sorted(by_request.items()))
                txn.cursor(self._decisions).putmulti(sorted(by_decision.items()))
                for kind, digest_text, position in declared:
                    txn.put(bytes((kind,)) + digest_text.encode(), _pack_position(position), db=self._declared)
                if upto is not None:
                    worker = worker_of(upto.segment).encode()
                    held = txn.get(worker, db=self._watermarks)
                    if held is None or _unpack_position(held) < upto:
                        txn.put(worker, _pack_position(upto), db=self._watermarks)
        except lmdb.Error as e:
            raise RecordError(f"the index of the journal cannot be written: {e}") from e

    def close(self) -> None:
        """Let go; the last of all processes leaves the index clean. Harmless when repeated."""
        if self._env is not None:
            with contextlib.suppress(lmdb.Error, OSError):
                fcntl.flock(self._lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self._env.sync(True)
                self._mark(_CLEAN)
            self._env.close()
            self._env = None
        if self._lock_fd >= 0:
            os.close(self._lock_fd)
            self._lock_fd = -1


def _unpack_decided(raw: bytes) -> Decided:
    offset, digest_bytes, segment_bytes = _REQUEST.unpack_from(raw)
    segment_at = _REQUEST.size + digest_bytes
    id_at = segment_at + segment_bytes
    position = Position(raw[segment_at:id_at].decode(), offset)
    return Decided(raw[_REQUEST.size : segment_at], raw[id_at:].decode(), position)


def _pack_position(position: Position) -> bytes:
    return _OFFSET.pack(position.offset) + position.segment.encode()


def _unpack_position(raw: bytes) -> Position:
    return Position(raw[_OFFSET.size :].decode(), _OFFSET.unpack_from(raw)[0])


def _boot_id() -> str:
    """What changes when the machine starts anew. Where the system does not say, an index is only good when clean."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return os.urandom(16).hex()
