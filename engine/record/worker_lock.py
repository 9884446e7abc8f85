"""Who writes under a worker's name."""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path


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
