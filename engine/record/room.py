"""How much a journal's directory may hold."""

from __future__ import annotations

import os
import time
from pathlib import Path

from engine.errors import RecordError

_EVERY_S = 1.0
_AGAIN_S = 0.1


class Room:
    """The bytes left in a directory under a bound on all its files: segments, keys and index.

    Several processes may write the directory: each measures it once a second, so together they may go beyond the bound
    by what the others write in that time.
    """

    def __init__(self, directory: Path, bytes_max: int) -> None:
        """bytes_max: 0 for no bound. Raises ValueError for one below zero."""
        if bytes_max < 0:
            raise ValueError("a journal's bound is 0 bytes (none) or more")
        self._directory, self._bytes_max = directory, bytes_max
        self._left = 0
        self._next_s = 0.0

    def take(self, size: int) -> None:
        """Claim room for some bytes that are about to be written. Raises RecordError when there is none."""
        if not self._bytes_max:
            return
        if self._left < size and time.monotonic() >= self._next_s:
            self._measure(_AGAIN_S)
        if self._left < size:
            raise RecordError(
                f"the journal has reached its bound of {self._bytes_max} bytes (record.bytes_max): "
                "let what was shipped go, or raise the bound"
            )
        self._left -= size

    def measure(self, *, now: bool = False) -> None:
        """Look again at what is left, when it was not looked at for a while, or now. Never fails."""
        if self._bytes_max and (now or time.monotonic() >= self._next_s):
            self._measure(_EVERY_S)

    def _measure(self, again_s: float) -> None:
        self._left = self._bytes_max - bytes_in(self._directory)
        self._next_s = time.monotonic() + again_s


def bytes_in(directory: Path) -> int:
    """What all files in a directory and its own directories take. What goes meanwhile is not counted."""
    total = 0
    try:
        with os.scandir(directory) as entries:
            for entry in entries:
                try:
                    if entry.is_dir(follow_symlinks=False):
                        total += bytes_in(Path(entry.path))
                    elif entry.is_file(follow_symlinks=False):
                        found = entry.stat()
                        # The table of claims is sparse: of tens of megabytes it takes a few.
                        total += min(found.st_size, found.st_blocks * 512)
                except FileNotFoundError:
                    continue
    except FileNotFoundError:
        pass
    return total
