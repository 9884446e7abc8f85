"""The local journal: what a decision is in before its answer leaves. Append-only, in segments, one writer a worker."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Literal, NamedTuple

from engine.errors import RecordError
from engine.record.entries import pack_declared, unpack_declared
from engine.record.heads import HeadFile, head_now
from engine.record.layouts import Chain, make_frame_header, make_header, seed_of
from engine.record.resume import last_number, resume
from engine.record.room import Room
from engine.record.segments import (
    FIRST_FRAME,
    FRAME_HEADER_BYTES,
    MAX_PAYLOAD_BYTES,
    WORKER_NAME,
    FrameKind,
    Position,
    segment_name,
    segment_path,
)
from engine.record.worker_lock import WorkerLock

__all__ = [
    "MIN_SEGMENT_BYTES",
    "Declaration",
    "Durability",
    "Journal",
    "WorkerLock",
    "pack_declared",
    "unpack_declared",
]

Durability = Literal["process", "disk"]


class Declaration(NamedTuple):
    """What a catalogue or environment is kept under."""

    kind: FrameKind
    digest: str


# Told of every frame in the order of the journal, while the journal is locked, so it must be quick and not raise: the
# tag that `append` was given, or a Declaration; where the frame starts; where it ends; what `is_durable` asks for.
OnAppend = Callable[[object, Position, int, int], None]


# A frame to be written: its kind, its payload in parts, the payload's length and SHA-256, its tag.
_Hashed = tuple[int, Sequence[bytes], int, bytes, object]
# Where a frame is, what `is_durable` asks for, where it ends, its tag.
_Placed = tuple[Position, int, int, object]
# A plain tuple is made twice as fast.
_new = tuple.__new__

# Frames of one write: the kernel takes 1024 pieces, and a decision has up to four.
_TOGETHER_MAX = 250
# Who cuts a dead worker's torn tail holds its lock for a moment.
_LOCK_WAIT_S = 1.0
MIN_SEGMENT_BYTES, MAX_SEGMENT_BYTES = 64 << 10, 4 << 30
# How often it is noted where the chain stands.
HEAD_EVERY_S = 1.0


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
        bytes_max: int = 0,
        head_key: bytes | None = None,
    ) -> None:
        """The first segment is made by the first append.

        bytes_max: what all files in the directory may hold together, 0 for no bound; see `Room`. head_key: signs where
        the chain stands. Raises RecordError, ValueError for settings out of range.
        """
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
        # Where the chain stands; None before the first segment was begun.
        self._chain: Chain | None = None
        self._room = Room(directory, bytes_max)
        self._heads = HeadFile(directory, worker, head_key)
        self._head_at_s, self._noted = 0.0, -1
        # What else must be durable before a frame may be called so.
        self.before_sync: Callable[[], None] | None = None
        self._closed = False
        # Bytes appended and bytes made durable, counted over all segments; stretches that never became durable.
        self._written = self._synced = 0
        self._lost: list[tuple[int, int]] = []
        self._sync_turn = threading.Condition()
        self._syncing = False
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            if self._to_disk:
                _sync_directory(directory.parent)
            self._worker_lock = WorkerLock(directory, worker, _LOCK_WAIT_S)
        except BlockingIOError as e:
            raise RecordError(f"another process writes to {directory} as {worker}") from e
        except OSError as e:
            raise RecordError(f"the journal's directory {directory} cannot be used: {e.strerror}") from e
        try:
            self._number = last_number(directory, worker, self._heads)
        except BaseException:
            self._worker_lock.release()
            raise
        # Where the chain stood, and the segment's end, when all was durable last.
        self._durable_end: tuple[Chain, int] | None = None

    @property
    def end(self) -> Position | None:
        """Where the next frame of the segment being written will start; None before the first append."""
        with self._lock:
            return Position(self._segment, self._offset) if self._segment else None

    def append(self, kind: int, *parts: bytes, tag: object = None, bounded: bool = True) -> Position:
        """Append one frame, its payload given in parts. It is durable when this returns.

        tag: handed on to `on_append`, which is not told of frames without one. bounded: False for what must be written
        although the directory's bound is reached.

        Raises RecordError: the frame is not in the journal. (With "disk", after a failed fdatasync, it may be, but
        nobody was told so.)
        """
        frame = _hashed(kind, parts, tag)
        size = FRAME_HEADER_BYTES + frame[2]
        with self._lock:
            if bounded:
                self._room.take(size)
            if self._fd < 0 or self._offset + size > self._segment_bytes:
                self._next_segment()
            position, written, _, _ = self._write((frame,))[0]
        if self._to_disk:
            self._sync(written)
        return position

    def append_many(self, kind: int, many: Sequence[tuple[Sequence[bytes], object]]) -> list[Position | RecordError]:
        """`append` for payloads (in at most three parts) and tags, with one write and one fdatasync for as many as can
        be; in order, with what `append` would raise in its place. One that cannot be written harms no other."""
        hashed: list[_Hashed | RecordError] = []
        for parts, tag in many:
            try:
                hashed.append(_hashed(kind, parts, tag))
            except RecordError as error:
                hashed.append(error)
        found: list[_Placed | RecordError] = []
        with self._lock:
            run: list[_Hashed] = []
            run_bytes = 0
            for frame in hashed:
                try:
                    if isinstance(frame, RecordError):
                        raise frame
                    size = FRAME_HEADER_BYTES + frame[2]
                    self._room.take(size)
                    if self._offset + run_bytes + size > self._segment_bytes or len(run) == _TOGETHER_MAX:
                        found += self._write_run(run)
                        run, run_bytes = [], 0
                    if self._fd < 0 or self._offset + run_bytes + size > self._segment_bytes:
                        self._next_segment()
                except RecordError as error:
                    found += self._write_run(run)
                    run, run_bytes = [], 0
                    found.append(error)
                    continue
                run.append(frame)
                run_bytes += size
            found += self._write_run(run)
        if self._to_disk:
            return self._sync_each(found)
        return [one if isinstance(one, RecordError) else one[0] for one in found]

    def _write_run(self, run: Sequence[_Hashed]) -> list[_Placed | RecordError]:
        """Write frames together, or one by one where that fails: of what does not fit, a part may. Holds the lock."""
        if not run:
            return []
        try:
            return [*self._write(run)]
        except RecordError as error:
            return [error] if len(run) == 1 else [self._write_run((frame,))[0] for frame in run]

    def _write(self, frames: Sequence[_Hashed]) -> list[_Placed]:
        """Write frames that fit into the segment in one go: all of them, or none. Holds the lock. Raises
        RecordError."""
        assert self._chain is not None
        sequence, link = self._chain
        begin = end = self._offset
        before, segment, seed = self._written - begin, self._segment, self._seed
        pieces: list[bytes] = []
        placed: list[_Placed] = []
        for kind, parts, length, digest, tag in frames:
            sequence += 1
            head, link = make_frame_header(kind, length, digest, sequence, link, seed)
            pieces.append(head)
            pieces += parts
            position = _new(Position, (segment, end))
            end += FRAME_HEADER_BYTES + length
            placed.append((position, before + end, end, tag))
        try:
            done = os.pwritev(self._fd, pieces, begin)
        except OSError as e:
            raise self._undo(e.strerror) from e
        if done != end - begin:
            raise self._undo("only a part could be written")
        self._offset, self._written = end, before + end
        self._chain = Chain(sequence, link)
        on_append = self.on_append
        if on_append is not None:
            for position, mark, end, tag in placed:
                if tag is not None:
                    on_append(tag, position, end, mark)
        return placed

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

    def tend(self) -> None:
        """To be called now and then, behind the answers: notes where the chain stands, and measures what room is left.
        Never fails: what cannot be noted now is noted later."""
        self._room.measure()
        now_s = time.monotonic()
        if now_s < self._head_at_s:
            return
        self._head_at_s = now_s + HEAD_EVERY_S
        with self._lock:
            chain, segment, offset = self._chain, self._segment, self._offset
            if self._to_disk:
                chain, offset = self._durable_end or (None, 0)
        self._note(chain, segment, offset)

    def measure(self) -> None:
        """Look at what room is left: something was let go."""
        self._room.measure(now=True)

    def head(self) -> Chain | None:
        """Where the chain stands; None before the first append."""
        with self._lock:
            return self._chain

    def close(self) -> None:
        """Let go. Harmless when repeated; an append after it raises RecordError."""
        with self._lock:
            self._closed = True
            try:
                self._end_segment()
            finally:
                self._worker_lock.release()

    def _note(self, chain: Chain | None, segment: str, offset: int) -> None:
        if chain is None or not segment or chain.sequence <= self._noted:
            return
        with contextlib.suppress(OSError, RecordError):
            self._heads.add([head_now(chain, segment, offset)], durable=self._to_disk)
            self._noted = chain.sequence

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
                if self.before_sync is not None:
                    self.before_sync()
                os.fdatasync(fd)
                with self._sync_turn:
                    self._synced = self._written
                    self._sync_turn.notify_all()
            self._note(self._chain, self._segment, self._offset)
        except OSError as e:
            self._give_up(fd)
            raise RecordError(f"the journal cannot be made durable: {e.strerror}") from e
        finally:
            os.close(fd)

    def _next_segment(self) -> None:
        if self._closed:
            raise RecordError("the journal is closed")
        self._end_segment()
        if self._chain is None:
            self._chain = resume(self._directory, self._worker, self._heads)
        number = self._number + 1
        name = segment_name(self._worker, number)
        path = segment_path(self._directory, name)
        salt, chain = os.urandom(16), self._chain
        seed = seed_of(salt)
        head = bytearray(make_header(self._worker, number, salt, time.time_ns() // 1000, chain))
        places = []
        for declaration, payload in self._declared.items():
            at, content = Position(name, len(head)), pack_declared(declaration.digest) + payload
            frame_head, link = make_frame_header(
                declaration.kind, len(content), sha256(content).digest(), chain.sequence + 1, chain.link, seed
            )
            chain = Chain(chain.sequence + 1, link)
            head += frame_head + content
            places.append((declaration, at, len(head)))
        fd = -1
        # Before there is a segment there is a head, so that a journal without heads is not as it was written.
        self._note(self._chain, name, FIRST_FRAME)
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
        self._fd, self._segment, self._offset, self._seed, self._number = fd, name, len(head), seed, number
        self._chain, self._durable_end = chain, (chain, len(head))
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
                segment, chain, end = self._segment, self._chain, self._offset
            if fd >= 0:
                try:
                    if self.before_sync is not None:
                        self.before_sync()
                    os.fdatasync(fd)
                finally:
                    os.close(fd)
            with turn:
                self._synced = max(self._synced, goal)
            with self._lock:
                if segment == self._segment and chain is not None:
                    self._durable_end = (chain, end)
        except OSError as e:
            with self._lock:
                # The kernel may have dropped the pages: never trust this segment with another frame.
                fd, self._fd = self._fd, -1
                self._give_up(fd)
                if fd >= 0:
                    os.close(fd)
            raise RecordError(f"the journal cannot be made durable: {e.strerror}") from e
        finally:
            with turn:
                self._syncing = False
                turn.notify_all()
        self._check_not_lost(target)

    def _sync_each(self, found: Sequence[_Placed | RecordError]) -> list[Position | RecordError]:
        """Make frames durable together. Gives where each is, or that it is not durable."""
        error = RecordError("the journal cannot be made durable")
        marks = [one[1] for one in found if not isinstance(one, RecordError)]
        if marks:
            try:
                self._sync(marks[-1])
            except RecordError as e:
                error = e
        # Those of a segment that ended meanwhile may be durable where later ones are not.
        return [one if isinstance(one, RecordError) else one[0] if self.is_durable(one[1]) else error for one in found]

    def _is_lost(self, mark: int) -> bool:
        return any(start < mark <= end for start, end in self._lost)

    def _check_not_lost(self, mark: int) -> None:
        if self._is_lost(mark):
            raise RecordError("the journal cannot be made durable")

    def _give_up(self, fd: int) -> None:
        """Take all that is not durable for lost, and whoever waits for it out of its wait: the chain goes on from what
        is durable. Holds the lock."""
        if fd >= 0 and self._durable_end is not None:
            self._chain, self._offset = self._durable_end
            with contextlib.suppress(OSError):
                os.ftruncate(fd, self._offset)
        with self._sync_turn:
            self._lost.append((self._synced, self._written))
            self._synced = self._written
            self._sync_turn.notify_all()


def _hashed(kind: int, parts: Sequence[bytes], tag: object) -> _Hashed:
    """What is known of a frame before the journal is locked. Raises RecordError for one that is too large."""
    # A part of 2,048 bytes or more lets go of the interpreter while it is hashed.
    content = sha256(parts[0]) if parts else sha256()
    length = len(parts[0]) if parts else 0
    for part in parts[1:]:
        content.update(part)
        length += len(part)
    if length > MAX_PAYLOAD_BYTES:
        raise RecordError(f"a record of {length} bytes is more than a journal takes")
    return kind, parts, length, content.digest(), tag


def _sync_directory(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
