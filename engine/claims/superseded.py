"""Decisions of this host's journals that were never given, because another host's stood: a file beside the journals.

One line each, `{"decision_id": ..., "stands": ..., "at_us": ...}`, appended by any worker and read by all. The journal
keeps the record itself; this says that nobody was told of it.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

FILE_NAME = "superseded.jsonl"
_log = logging.getLogger("assay.claims")
# Lines this short are appended whole, whoever else appends.
_MAX_ID_CHARACTERS = 100


class Superseded:
    """Safe to use from several threads and processes."""

    def __init__(self, path: Path) -> None:
        """path: made when the first decision is noted. Raises OSError when it is there and cannot be read."""
        self._path = path
        self._read_to = 0
        self._stands: dict[str, str] = {}
        self._turn = threading.Lock()
        self._follow()

    def note(self, decision_id: str, stands: str) -> None:
        """A decision was recorded and another stands. Never fails: what cannot be written is in the log."""
        _log.warning(
            "a recorded decision was not given, because another host's stands under its request id",
            extra={"decision_id": decision_id, "stands": stands},
        )
        if self.stands_for(decision_id) is not None or max(len(decision_id), len(stands)) > _MAX_ID_CHARACTERS:
            return
        line = {"decision_id": decision_id, "stands": stands, "at_us": time.time_ns() // 1000}
        with self._turn:
            self._stands[decision_id] = stands
        try:
            fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            try:
                os.write(fd, json.dumps(line).encode() + b"\n")
            finally:
                os.close(fd)
        except OSError as error:
            _log.error("a decision that was not given cannot be noted", extra={"error": str(error.strerror)})

    def stands_for(self, decision_id: str) -> str | None:
        """The id of the decision that stands instead of this one; None when this one does."""
        found = self._stands.get(decision_id)
        if found is None:
            try:
                self._follow()
            except OSError as error:
                _log.error("the decisions that were not given cannot be read", extra={"error": str(error.strerror)})
            found = self._stands.get(decision_id)
        return found

    def __iter__(self) -> Iterator[str]:
        """The ids of all decisions that were recorded and never given."""
        self._follow()
        return iter(list(self._stands))

    def __len__(self) -> int:
        return len(self._stands)

    def _follow(self) -> None:
        """Read what others appended meanwhile."""
        with self._turn:
            try:
                if self._path.stat().st_size <= self._read_to:
                    return
                with self._path.open("rb") as file:
                    file.seek(self._read_to)
                    fresh = file.read()
            except FileNotFoundError:
                return
            whole = fresh[: fresh.rfind(b"\n") + 1]
            self._read_to += len(whole)
            for line in whole.splitlines():
                try:
                    entry = json.loads(line)
                    self._stands[str(entry["decision_id"])] = str(entry["stands"])
                except (ValueError, KeyError, TypeError):
                    _log.error("a line of %s makes no sense", self._path.name)
