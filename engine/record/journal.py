"""The local journal: what a decision is in before its answer leaves. Append-only, in segments, one writer a worker."""

from __future__ import annotations

import contextlib
import fcntl
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal, NamedTuple

from engine.errors import RecordError
from engine.record.segments import (
    FRAME_HEADER_BYTES,
    MAX_PAYLOAD_BYTES,
    WORKER_NAME,
    FrameKind,
    Position,
    list_segments,
    make_frame_header,
    make_header,
    seed_of,
    segment_name,
    segment_path,
    worker_of,
)

Durability = Literal["process", "disk"]


class Declaration(NamedTuple):
    """What a catalogue or environment is kept under."""

    kind: FrameKind
    digest: str


# Told of every frame in the order of the journal, while the journal is locked, so it must be quick and not raise: the
# tag that `append` was given, or a Declaration; where the frame starts; where it ends; what `is_durable` asks for.
OnAppend = Callable[[object, Position, int, int], None]


# Who cuts a dead worker's torn tail holds its lock for a moment.
_LOCK_WAIT_S = 1.0
MIN_SEGMENT_BYTES, MAX_SEGMENT_BYTES = 64 << 10, 4 << 30


class WorkerLock:
    """Holds a worker's name in a directory for this process: two writers would spoil each other's segments.

    The lock goes with the process, however it ends.
    """

    def __init__(self, directory: Path, worker: str, wait_s: float = 0.0) -> None:
        """Raises BlockingIOError when another process (or Journal) still holds it after `wait_s`; other OSErrors as
        they come."""
        self._fd = os.open(directory / f"{worker}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        until = time.monotonic() + wait_s
        while True:
            try:
                fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except OSError as e:
                if not isinstance(e, BlockingIOError) or time.monotonic() >= until:
                    self.release()
                    raise
            time.sleep(0.01)

    def release(self) -> None:
        """Let the name go. Harmless when repeated."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class Journal:
    """Appends frames to the segments of one worker. Safe to use from several threads.

    durability: with "process", a frame survives the death of the process once `append` returns (the kernel has it);
    with "disk", the loss of power too: appends that wait together share one fdatasync.

    A failed append leaves nothing of itself behind, and the journal works again as soon as the disk does.
    """

    def __init__(
        self,
        directory: Path,
        worker: str,
        *,
        durability: Durability = "process",
        segment_bytes: int = 64 << 20,
    ) -> None:
        """The first segment is made by the first append. Raises RecordError, ValueError for settings out of range."""
        if not WORKER_NAME.fullmatch(worker):
            raise ValueError(f"{worker!r} is no name of a worker: {WORKER_NAME.pattern}")
        if not MIN_SEGMENT_BYTES <= segment_bytes <= MAX_SEGMENT_BYTES:
            raise ValueError(f"a segment has {MIN_SEGMENT_BYTES} to {MAX_SEGMENT_BYTES} bytes")
        if durability not in ("process", "disk"):
            raise ValueError(f'durability is "process" or "disk", not {durability!r}')
        self._directory, self._worker = directory, worker
        self._segment_bytes = segment_bytes
        self._to_disk = durability == "disk"
        # Told of every frame that carries a tag.
        self.on_append: OnAppend | None = None
        self._declared: dict[Declaration, bytes] = {}
        self._lock = threading.Lock()
        self._fd, self._segment, self._offset, self._seed = -1, "", 0, 0
        self._closed = False
        # Bytes appended and bytes made durable, counted over all segments; stretches that never became durable.
        self._written = self._synced = 0
        self._lost: list[tuple[int, int]] = []
        self._sync_turn = threading.Condition()
        self._syncing = False
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._worker_lock = WorkerLock(directory, worker, _LOCK_WAIT_S)
        except BlockingIOError as e:
            raise RecordError(f"another process writes to {directory} as {worker}") from e
        except OSError as e:
            raise RecordError(f"the journal's directory {directory} cannot be used: {e.strerror}") from e
        own = [name for name in list_segments(directory) if worker_of(name) == worker]
        self._sequence = int(own[-1].rpartition("-")[2]) if own else 0

    @property
    def end(self) -> Position | None:
        """Where the next frame of the segment being written will start; None before the first append."""
        with self._lock:
            return Position(self._segment, self._offset) if self._segment else None

    def append(self, kind: int, *parts: bytes, tag: object = None) -> Position:
        """Append one frame, its payload given in parts. It is durable when this returns.

        tag: handed on to `on_append`, which is not told of frames without one.

        Raises RecordError: the frame is not in the journal. (With "disk", after a failed fdatasync, it may be, but
        nobody was told so.)
        """
        length = 0
        for part in parts:
            length += len(part)
        if length > MAX_PAYLOAD_BYTES:
            raise RecordError(f"a record of {length} bytes is more than a journal takes")
        size = FRAME_HEADER_BYTES + length
        with self._lock:
            if self._fd < 0 or self._offset + size > self._segment_bytes:
                self._next_segment()
            offset = self._offset
            try:
                done = os.pwritev(self._fd, (make_frame_header(kind, parts, length, self._seed), *parts), offset)
            except OSError as e:
                raise self._undo(e.strerror) from e
            if done != size:
                raise self._undo("only a part could be written")
            self._offset = offset + size
            self._written = written = self._written + size
            position = Position(self._segment, offset)
            if tag is not None and self.on_append is not None:
                self.on_append(tag, position, offset + size, written)
        if self._to_disk:
            self._sync(written)
        return position

    def declare(self, kind: FrameKind, digest: str, payload: bytes) -> None:
        """Keep what records refer to by digest beside them: in this segment and every later one, before its records.

        Harmless when repeated. Raises RecordError.
        """
        with self._lock:
            if Declaration(kind, digest) not in self._declared:
                self._declared[Declaration(kind, digest)] = payload
                if self._fd >= 0:
                    # A segment begins with all that is declared.
                    self._next_segment()

    def is_durable(self, mark: int) -> bool | None:
        """Whether a frame is durable: None, not yet; False, it never will be, and whoever appended it was told."""
        if not self._to_disk:
            return True
        with self._sync_turn:
            if self._synced < mark:
                return None
            return not self._is_lost(mark)

    def declared(self, kind: FrameKind, digest: str) -> bytes | None:
        """What was declared under a digest in this process."""
        return self._declared.get(Declaration(kind, digest))

    def close(self) -> None:
        """Let go. Harmless when repeated; an append after it raises RecordError."""
        with self._lock:
            self._closed = True
            try:
                self._end_segment()
            finally:
                self._worker_lock.release()

    def _undo(self, why: str | None) -> RecordError:
        # Should this fail as well: the next frame is written over the rest of this one, and if none comes, it is a
        # torn tail, cut when the journal is opened.
        with contextlib.suppress(OSError):
            os.ftruncate(self._fd, self._offset)
        return RecordError(f"the journal cannot be written: {why}")

    def _end_segment(self) -> None:
        fd, self._fd = self._fd, -1
        if fd < 0:
            return
        try:
            if self._to_disk and self._synced < self._written:
                os.fdatasync(fd)
                with self._sync_turn:
                    self._synced = self._written
                    self._sync_turn.notify_all()
        except OSError as e:
            self._give_up()
            raise RecordError(f"the journal cannot be made durable: {e.strerror}") from e
        finally:
            os.close(fd)

    def _next_segment(self) -> None:
        if self._closed:
            raise RecordError("the journal is closed")
        self._end_segment()
        sequence = self._sequence + 1
        name = segment_name(self._worker, sequence)
        path = segment_path(self._directory, name)
        salt = os.urandom(16)
        seed = seed_of(salt)
        head = bytearray(make_header(self._worker, sequence, salt, time.time_ns() // 1000))
        places = []
        for declaration, payload in self._declared.items():
            parts = (pack_declared(declaration.digest), payload)
            at = Position(name, len(head))
            head += make_frame_header(declaration.kind, parts, sum(map(len, parts)), seed) + b"".join(parts)
            places.append((declaration, at, len(head)))
        fd = -1
        try:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            if os.pwrite(fd, head, 0) != len(head):
                raise OSError(0, "only a part could be written")
            if self._to_disk:
                os.fdatasync(fd)
                _sync_directory(self._directory)
        except OSError as e:
            if fd >= 0:
                os.close(fd)
                path.unlink(missing_ok=True)
            raise RecordError(f"the journal cannot begin a segment: {e.strerror}") from e
        self._fd, self._segment, self._offset, self._seed, self._sequence = fd, name, len(head), seed, sequence
        if self.on_append is not None:
            for declaration, at, end in places:
                self.on_append(declaration, at, end, self._written)

    def _sync(self, target: int) -> None:
        """Return when the first `target` bytes are durable: wait for the thread that is at it, or be the next."""
        turn = self._sync_turn
        with turn:
            while self._syncing and self._synced < target:
                turn.wait()
            if self._synced >= target:
                self._check_not_lost(target)
                return
            self._syncing = True
        try:
            with self._lock:
                # Earlier segments were made durable when they ended.
                goal, fd = self._written, os.dup(self._fd) if self._fd >= 0 else -1
            if fd >= 0:
                try:
                    os.fdatasync(fd)
                finally:
                    os.close(fd)
            with turn:
                self._synced = max(self._synced, goal)
        except OSError as e:
            with self._lock:
                # The kernel may have dropped the pages: never trust this segment with another frame.
                self._give_up()
                fd, self._fd = self._fd, -1
                if fd >= 0:
                    os.close(fd)
            raise RecordError(f"the journal cannot be made durable: {e.strerror}") from e
        finally:
            with turn:
                self._syncing = False
                turn.notify_all()
        self._check_not_lost(target)

    def _is_lost(self, mark: int) -> bool:
        return any(start < mark <= end for start, end in self._lost)

    def _check_not_lost(self, mark: int) -> None:
        if self._is_lost(mark):
            raise RecordError("the journal cannot be made durable")

    def _give_up(self) -> None:
        """Take all that is not durable for lost, and whoever waits for it out of its wait. Holds the lock."""
        with self._sync_turn:
            self._lost.append((self._synced, self._written))
            self._synced = self._written
            self._sync_turn.notify_all()


def pack_declared(digest: str) -> bytes:
    """What goes before the payload of a catalogue or environment: its digest."""
    raw = digest.encode()
    return bytes((len(raw),)) + raw


def unpack_declared(payload: bytes) -> tuple[str, bytes]:
    """Digest and payload of a catalogue or environment."""
    end = 1 + payload[0]
    return payload[1:end].decode(), payload[end:]


def _sync_directory(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
