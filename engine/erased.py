"""Which entities were erased, so that nothing that a worker still has brings back what was.

The journal does not bring their counters back, and rows that a worker keeps to lend are not lent any more. Kept as
hashes with the moment of the erasure, for as long as any counter reaches back: a file beside the journal, one line an
erasure, which all workers of a host share. Each sees at once what another has added.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path

from engine.features.velocity.updater import TTL_S

_log = logging.getLogger("assay.velocity")
FILE_NAME = "velocity.erased"
_FOLLOW_EVERY_S = 1.0


class Erased:
    """Erasures of the last 31 days. Threads may call it at once."""

    def __init__(self, file: Path, former: Path | None = None) -> None:
        """former: a file of one worker's own, which earlier versions kept: read, and left."""
        self._file, self._former = file, former
        self._moments: dict[bytes, int] = {}
        self._seen: tuple[int, int, int] | None = None
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def load(self) -> None:
        """Reads what was noted, and lets go of what is too old to matter."""
        try:
            with self._lock, self._alone():
                if self._former is not None:
                    with suppress(FileNotFoundError):
                        self._moments.update(_parsed(self._former))
                with suppress(FileNotFoundError):
                    self._moments.update(_parsed(self._file))
                self._write()
        except (OSError, ValueError) as error:
            _log.error("the list of erasures cannot be read", extra={"error": str(error)})

    def add(self, prefix: bytes, now_us: int) -> None:
        """An entity, by the prefix of its keys, was erased at this moment. Raises OSError when it cannot be noted."""
        with self._lock, self._alone():
            self._moments[_mark(prefix)] = now_us
            descriptor = os.open(self._file, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                os.write(descriptor, f"{_mark(prefix).hex()} {now_us}\n".encode())
                os.fsync(descriptor)
            finally:
                os.close(descriptor)

    def covers(self, prefix: bytes, moment_us: int) -> bool:
        """Whether an entity was erased, by any worker of the host, after something happened at a moment."""
        self._refresh()
        return bool(self._moments) and self._moments.get(_mark(prefix), -1) >= moment_us

    def follow(self, on_new: Callable[[], None]) -> None:
        """From now on `on_new` is called soon after another worker has added something, in a thread."""

        def run() -> None:
            while not self._stop.wait(_FOLLOW_EVERY_S):
                if self._refresh():
                    try:
                        on_new()
                    except Exception:
                        _log.exception("what was erased elsewhere could not be let go of; it is not used all the same")

        self._thread = threading.Thread(target=run, name="erased", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Follows no more. Harmless when repeated."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(5.0)

    def _refresh(self) -> bool:
        """Reads the file again if it is another than it was. Whether it was."""
        try:
            found = os.stat(self._file)
            seen = (found.st_ino, found.st_size, found.st_mtime_ns)
            if seen == self._seen:
                return False
            with self._lock:
                self._moments.update(_parsed(self._file))
                self._seen = seen
        except FileNotFoundError:
            return False
        except (OSError, ValueError) as error:
            _log.error("the list of erasures cannot be read", extra={"error": str(error)})
            return False
        return True

    def _write(self) -> None:
        temporary = self._file.with_name(self._file.name + ".tmp")
        since_us = time.time_ns() // 1000 - TTL_S * 1_000_000
        self._moments = {mark: moment for mark, moment in self._moments.items() if moment >= since_us}
        temporary.write_text("".join(f"{mark.hex()} {us}\n" for mark, us in self._moments.items()), encoding="ascii")
        temporary.chmod(0o600)
        os.replace(temporary, self._file)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Keeps other processes from writing: what one adds must not be lost while another writes all anew."""
        fd = os.open(self._file.with_name(self._file.name + ".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)


def _parsed(file: Path) -> dict[bytes, int]:
    moments: dict[bytes, int] = {}
    for line in file.read_text(encoding="ascii").splitlines():
        mark, _, moment = line.partition(" ")
        with suppress(ValueError):  # a line that a crash cut short
            moments[bytes.fromhex(mark)] = int(moment)
    return moments


def _mark(prefix: bytes) -> bytes:
    return blake2b(prefix, digest_size=16).digest()
