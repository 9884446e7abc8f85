"""The report of rejected rows: a CSV file with one line a fault. It holds ids as given, and is for its owner alone."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Sequence
from pathlib import Path

from engine.features.writing.outcome import Fault

_HEADER = ("row", "id", "field", "reason", "message")


class RejectsFile:
    """Writes the report, or goes on with one that an interrupted load began."""

    def __init__(self, path: Path, keep_bytes: int = 0) -> None:
        """keep_bytes: how much of a report that is there already is to stay; what comes after it was told of rows that
        are gone through again. Raises OSError."""
        self._file = open(os.open(path, os.O_RDWR | os.O_CREAT, 0o600), "r+b", buffering=0)  # noqa: SIM115
        keep_bytes = min(keep_bytes, self._file.seek(0, os.SEEK_END))
        self._file.truncate(keep_bytes)
        self._file.seek(keep_bytes)
        self._text = io.StringIO(newline="")
        self._lines = csv.writer(self._text, lineterminator="\n")
        if not keep_bytes:
            self._lines.writerow(_HEADER)

    def add(self, row: int, entity_id: str | None, faults: Sequence[Fault]) -> None:
        """Notes what is wrong with one row."""
        for fault in faults:
            self._lines.writerow((row, entity_id or "", fault.field, fault.reason.name, fault.message))

    def flush(self) -> int:
        """Writes out what was noted. Gives the length of the report so far. Raises OSError."""
        self._file.write(self._text.getvalue().encode())
        self._text.seek(0)
        self._text.truncate()
        return self._file.tell()

    def close(self) -> None:
        """Lets go of the file; what was not flushed is lost."""
        self._file.close()
