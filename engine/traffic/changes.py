"""The changes made on this host, at hand for who asks. The journal has them all, and for good."""

from __future__ import annotations

import contextlib
import os
from collections import deque
from pathlib import Path

from google.protobuf.json_format import MessageToJson, Parse, ParseError

from assay.admin.v1 import traffic_pb2 as pb
from engine.traffic.files import replace_file

KEPT = 1_000


class ChangeList:
    """A file with one change a line, the latest last. Written by who holds the lock of changes, read by all."""

    def __init__(self, directory: Path, kept: int = KEPT) -> None:
        self._path, self._kept = directory / "changes.jsonl", kept

    def add(self, record: pb.ChangeRecord) -> None:
        """Adds a change, unless it is there. Raises OSError."""
        lines = self._lines()
        if any(record.change_id in line for line in lines):
            return
        line = MessageToJson(record, indent=None) + "\n"
        if len(lines) >= 2 * self._kept:
            replace_file(self._path, "".join([*lines[-self._kept + 1 :], line]).encode())
            return
        torn = bool(lines) and not lines[-1].endswith("\n")
        with self._path.open("a", encoding="utf-8") as stream:
            stream.write("\n" + line if torn else line)
            stream.flush()
            os.fsync(stream.fileno())

    def latest(self, limit: int) -> list[pb.ChangeRecord]:
        """The latest changes, the last first. A line that a crash tore is left out."""
        found: deque[pb.ChangeRecord] = deque(maxlen=min(limit, self._kept))
        for line in self._lines():
            with contextlib.suppress(ParseError):
                found.append(Parse(line, pb.ChangeRecord(), ignore_unknown_fields=True))
        return list(reversed(found))

    def _lines(self) -> list[str]:
        try:
            return self._path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
        except FileNotFoundError:
            return []
