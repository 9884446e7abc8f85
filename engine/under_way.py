"""Which counts the workers of one host have under way: what one has recorded and not counted yet, the others see.

    header: who has which column | one row for each of many places that keys fall on, in it one byte for each worker

A byte says how many keys of its worker that fall on this place wait to be counted; it has one writer. It is set before
the answer leaves, and cleared when the store has the count. What a worker that died had under way stays marked until
one of its name has counted it from the journal. Two keys may fall on one place: then one is waited for in vain, for as
long as the other is under way.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import threading
import time
from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from zlib import crc32

from engine.errors import RecordError

FILE_NAME = "velocity.pending"
COLUMNS, _ROWS = 128, 32_768
_MAGIC = b"AsPend\x01\x00"
_NAME_BYTES = 32
_NAMES_AT = len(_MAGIC)
_TABLE_AT = 8192
FILE_BYTES = _TABLE_AT + _ROWS * COLUMNS
_NONE = bytes(COLUMNS)
_MOST = 255
_POLL_S, _POLL_MAX_S = 0.0003, 0.005


class UnderWay:
    """One worker's view of the table, and its column. Threads may call it at once."""

    def __init__(self, directory: Path, worker: str) -> None:
        """worker: a name that no other process has at the same time. Raises RecordError."""
        path = directory / FILE_NAME
        try:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX)
                if os.fstat(fd).st_size != FILE_BYTES or os.pread(fd, len(_MAGIC), 0) != _MAGIC:
                    os.ftruncate(fd, 0)
                    # Written and not left a hole: on a full disk, to write through a map is the end of the process.
                    os.posix_fallocate(fd, 0, FILE_BYTES)
                    os.pwrite(fd, _MAGIC, 0)
                self._column = _column(fd, worker)
                self._table = mmap.mmap(fd, FILE_BYTES)
            finally:
                # The map keeps the file open, and with it the lock.
                fcntl.flock(fd, fcntl.LOCK_UN)
                os.close(fd)
        except OSError as error:
            raise RecordError(f"{path} cannot be used: {error.strerror}") from error
        self._at = _TABLE_AT + self._column
        self._lock = threading.Lock()
        self._counts: dict[int, int] = {}
        # Until the journal is caught up with, marks are of what stands in it alone, and none is taken away.
        self._behind = True

    def add(self, keys: Iterable[bytes]) -> None:
        """These keys are under way from now on. Each is taken away once for each time that it was added."""
        counts, table, at = self._counts, self._table, self._at
        with self._lock:
            for key in keys:
                row = crc32(key) % _ROWS
                counts[row] = count = counts.get(row, 0) + 1
                place = at + row * COLUMNS
                if count > table[place]:
                    table[place] = count if count < _MOST else _MOST

    def take_away(self, keys: Iterable[bytes]) -> None:
        """These keys are counted."""
        counts, table, at = self._counts, self._table, self._at
        with self._lock:
            lowers = not self._behind
            for key in keys:
                row = crc32(key) % _ROWS
                count = counts.get(row, 0) - 1
                if count > 0:
                    counts[row] = count
                else:
                    counts.pop(row, None)
                    count = 0
                if lowers:
                    table[at + row * COLUMNS] = count if count < _MOST else _MOST

    def lost(self, keys: Iterable[bytes]) -> None:
        """These keys are left to the journal, and under way until all of it is counted (`caught_up`)."""
        with self._lock:
            self._behind = True
            for key in keys:
                self._table[self._at + crc32(key) % _ROWS * COLUMNS] = _MOST

    def caught_up(self) -> None:
        """All that the journal holds is counted, but for what was added and not taken away."""
        with self._lock:
            self._behind = False
            for row, byte in enumerate(self._table[self._at :: COLUMNS]):
                if byte:
                    self._table[self._at + row * COLUMNS] = min(self._counts.get(row, 0), _MOST)

    def others(self, keys: Sequence[bytes]) -> list[bytes]:
        """Those of the keys that another worker has under way."""
        table, found = self._table, []
        for key in keys:
            at = _TABLE_AT + crc32(key) % _ROWS * COLUMNS
            row = table[at : at + COLUMNS]
            if row != _NONE and any(row[: self._column] + row[self._column + 1 :]):
                found.append(key)
        return found

    def wait(self, keys: Sequence[bytes], until_s: float) -> Collection[bytes]:
        """Waits until no other worker has these keys under way, at most until a moment on `time.monotonic()`; gives
        those that one still has."""
        late = self.others(keys)
        pause_s = _POLL_S
        while late:
            left_s = until_s - time.monotonic()
            if left_s <= 0:
                break
            time.sleep(min(pause_s, left_s))
            pause_s = min(2 * pause_s, _POLL_MAX_S)
            late = self.others(late)
        return late

    def close(self) -> None:
        """Lets go of the table; what is marked stays marked."""
        self._table.close()


def forget_others(directory: Path, names: Collection[str]) -> None:
    """Takes away what names other than these had under way: nobody will count it. Only while no worker has the table.
    Raises OSError."""
    with suppress(FileNotFoundError), open(directory / FILE_NAME, "r+b") as file:
        if os.fstat(file.fileno()).st_size != FILE_BYTES:
            return
        held = os.pread(file.fileno(), COLUMNS * _NAME_BYTES, _NAMES_AT)
        with mmap.mmap(file.fileno(), FILE_BYTES) as table:
            for column in range(COLUMNS):
                name = held[column * _NAME_BYTES :][:_NAME_BYTES].rstrip(b"\0").decode("ascii", "replace")
                if name and name not in names:
                    table[_TABLE_AT + column :: COLUMNS] = bytes(_ROWS)


def _column(fd: int, worker: str) -> int:
    """The column of a name; the first time it is a new one. Called while nobody else looks."""
    name = worker.encode().ljust(_NAME_BYTES, b"\0")
    if len(name) > _NAME_BYTES:
        raise RecordError(f"the name {worker!r} of a worker is too long")
    names = os.pread(fd, COLUMNS * _NAME_BYTES, _NAMES_AT)
    held = [names[at : at + _NAME_BYTES] for at in range(0, len(names), _NAME_BYTES)]
    if name in held:
        return held.index(name)
    free = bytes(_NAME_BYTES)
    if free not in held:
        raise RecordError(f"{COLUMNS} names of workers have the table of counts under way, as many as it takes")
    column = held.index(free)
    os.pwrite(fd, name, _NAMES_AT + column * _NAME_BYTES)
    return column
