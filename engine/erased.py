"""Which entities were erased, so that the journal does not bring their counters back.

Kept as hashes with the moment of the erasure, for as long as any counter reaches back: a file beside the journal, one
line an erasure.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from hashlib import blake2b
from pathlib import Path

from engine.features.velocity.updater import TTL_S

_log = logging.getLogger("assay.velocity")


class Erased:
    """Erasures of the last 31 days. Threads may call it at once."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._moments: dict[bytes, int] = {}
        self._lock = threading.Lock()

    def load(self) -> None:
        """Reads what earlier processes noted, and lets go of what is too old to matter."""
        try:
            lines = self._file.read_text(encoding="ascii").splitlines()
        except FileNotFoundError:
            return
        except (OSError, ValueError) as error:
            _log.error("the list of erasures cannot be read", extra={"error": str(error)})
            return
        since_us = time.time_ns() // 1000 - TTL_S * 1_000_000
        for line in lines:
            mark, _, moment = line.partition(" ")
            try:
                if int(moment) >= since_us:
                    self._moments[bytes.fromhex(mark)] = int(moment)
            except ValueError:
                continue  # a line that a crash cut short
        self._write()

    def add(self, prefix: bytes, now_us: int) -> None:
        """An entity, by the prefix of its keys, was erased at this moment. Raises OSError when it cannot be noted."""
        with self._lock:
            self._moments[_mark(prefix)] = now_us
            descriptor = os.open(self._file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            try:
                os.write(descriptor, f"{_mark(prefix).hex()} {now_us}\n".encode())
                os.fsync(descriptor)
            finally:
                os.close(descriptor)

    def covers(self, prefix: bytes, moment_us: int) -> bool:
        """Whether an entity was erased after something happened at a moment."""
        return bool(self._moments) and self._moments.get(_mark(prefix), -1) >= moment_us

    def _write(self) -> None:
        temporary = self._file.with_suffix(".tmp")
        lines = [f"{mark.hex()} {moment}\n" for mark, moment in self._moments.items()]
        try:
            temporary.write_text("".join(lines), encoding="ascii")
            temporary.chmod(0o600)
            os.replace(temporary, self._file)
        except OSError as error:
            _log.error("the list of erasures cannot be kept", extra={"error": str(error)})


def _mark(prefix: bytes) -> bytes:
    return blake2b(prefix, digest_size=16).digest()
