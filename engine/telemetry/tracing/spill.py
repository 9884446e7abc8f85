"""Batches on disk, for when the collector is away and memory is full: a bounded directory with a file for each batch.

The oldest go first when there is no room. What a former process left is sent by the next one.
"""

from __future__ import annotations

import fcntl
import os
import time
from contextlib import suppress
from pathlib import Path

_SUFFIX = ".otlp"


class SpillBusy(OSError):
    """Another process uses the directory."""


class Spill:
    """One directory. Used from one thread at a time.

    A file's name is the moment it was written and the number of its spans; its content the ExportTraceServiceRequest.
    """

    def __init__(self, path: Path, bytes_max: int) -> None:
        """Raises OSError when the directory cannot be used; SpillBusy when another process uses it."""
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._path, self._bytes_max = path, bytes_max
        self._lock = os.open(path / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._lock)
            raise SpillBusy(f"{path} is used by another process") from error
        for draft in path.glob("*.draft"):
            draft.unlink()
        # By age, the oldest first. Sizes in bytes.
        self._files = {file: file.stat().st_size for file in sorted(path.glob(f"*{_SUFFIX}"))}
        self.bytes = sum(self._files.values())

    def __len__(self) -> int:
        return len(self._files)

    def put(self, body: bytes, spans: int) -> int:
        """Writes a batch; gives how many spans had to go for it (its own, when it cannot be written at all)."""
        if len(body) > self._bytes_max:
            return spans
        gone = 0
        while self._files and self.bytes + len(body) > self._bytes_max:
            gone += self.drop(next(iter(self._files)))
        file = self._path / f"{time.time_ns():020d}-{spans}{_SUFFIX}"
        draft = file.with_suffix(".draft")
        try:
            handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(handle, "wb") as stream:
                stream.write(body)
            draft.rename(file)
        except OSError:
            with suppress(OSError):
                draft.unlink(missing_ok=True)
            return gone + spans
        self._files[file] = len(body)
        self.bytes += len(body)
        return gone

    def oldest(self) -> tuple[Path, bytes, int] | None:
        """The batch that waits longest: its file, its content, its spans. None when there is none."""
        while self._files:
            file = next(iter(self._files))
            try:
                return file, file.read_bytes(), _spans(file)
            except OSError:
                self.drop(file)
        return None

    def holds(self, file: Path) -> bool:
        """Whether a batch is still there."""
        return file in self._files

    def drop(self, file: Path) -> int:
        """Removes a batch; gives how many spans it held."""
        self.bytes -= self._files.pop(file)
        with suppress(OSError):
            file.unlink(missing_ok=True)
        return _spans(file)

    def close(self) -> None:
        """Lets another process use the directory. Harmless when repeated."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


def _spans(file: Path) -> int:
    count = file.stem.rpartition("-")[2]
    return int(count) if count.isdigit() else 0
