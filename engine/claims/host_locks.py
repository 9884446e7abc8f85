"""Locks that the kernel keeps for one process in one file, and gives back when the process ends, however it ends.

Open-file-description locks on single bytes (fcntl(2), F_OFD_SETLK), far beyond the end of the file where no byte need
be. Unlike POSIX locks they do not go when the process closes another descriptor of the file, or forks. Linux only.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
import time
from pathlib import Path

from engine.errors import RecordError

# Of the 63 bits that an offset has, keys take the lower half.
KEYS = 1 << 62
_COLUMNS_AT = KEYS + (1 << 61)
_DOOR_AT = _COLUMNS_AT - 1
_DOOR_WAIT_S = 30.0
# type, whence, start, length, pid (must be 0)
_FLOCK = struct.Struct("hhqqi4x")
_WRITE, _NONE, _FROM_START = fcntl.F_WRLCK, fcntl.F_UNLCK, os.SEEK_SET
_SET: int | None = getattr(fcntl, "F_OFD_SETLK", None)
_GET: int | None = getattr(fcntl, "F_OFD_GETLK", None)
_BUSY = (errno.EAGAIN, errno.EACCES)


class HostLocks:
    """The locks of this process in one file. A lock is the process's: its threads must be held apart otherwise."""

    def __init__(self, path: Path) -> None:
        """Raises RecordError, OSError."""
        if _SET is None or _GET is None:
            raise RecordError("claims are shared by the workers of a host on Linux only: run one worker")
        self._set, self._get = _SET, _GET
        self.fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def take(self, place: int) -> bool:
        """Take the lock of a key (below KEYS) unless another process has it."""
        try:
            fcntl.fcntl(self.fd, self._set, _FLOCK.pack(_WRITE, _FROM_START, place, 1, 0))
        except OSError as error:
            if error.errno in _BUSY:
                return False
            raise
        return True

    def give(self, place: int) -> None:
        """Give a lock back."""
        fcntl.fcntl(self.fd, self._set, _FLOCK.pack(_NONE, _FROM_START, place, 1, 0))

    def is_free(self, place: int, length: int = 1) -> bool:
        """Whether no other process has a lock here."""
        asked = _FLOCK.pack(_WRITE, _FROM_START, place, length, 0)
        answer = fcntl.fcntl(self.fd, self._get, asked)
        return bool(_FLOCK.unpack(answer)[0] == _NONE)

    def enter(self) -> None:
        """Keep all others out while the file is begun or joined. Raises RecordError when that takes too long."""
        end_s = time.monotonic() + _DOOR_WAIT_S
        while not self.take(_DOOR_AT):
            if time.monotonic() >= end_s:
                raise RecordError("another worker has been opening the table of claims for seconds: is it stopped?")
            time.sleep(0.01)

    def leave(self) -> None:
        """Let others in again."""
        self.give(_DOOR_AT)

    def column(self, most: int) -> tuple[int, bool]:
        """Take a column of the table that nobody has, the first of all; and whether nobody had any. Only after `enter`.
        Raises RecordError when all are taken."""
        alone = self.is_free(_COLUMNS_AT, most)
        for column in range(most):
            if self.take(_COLUMNS_AT + column):
                return column, alone
        raise RecordError(f"{most} workers have the table of claims open already, as many as it takes")

    def close(self) -> None:
        """Give all locks back. Harmless when repeated."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)
