"""Where an interrupted load goes on: a small file beside the data, which says how far all rows are durable."""

from __future__ import annotations

import hashlib
import json
import os
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

_HEAD_BYTES = 1024 * 1024
_VERSION = 1


@dataclass(slots=True)
class Progress:
    """How far a load came. position: rows gone through; the counts are of these; rejects_bytes: how much of the report
    of rejected rows belongs to them; faults: (field, reason, count); repairs: (feature, rule, count)."""

    position: int = 0
    rows: int = 0
    written: int = 0
    ignored_older: int = 0
    rejected: int = 0
    rejects_bytes: int = 0
    faults: list[tuple[str, int, int]] = field(default_factory=list)
    repairs: list[tuple[str, int, int]] = field(default_factory=list)


def identity_of(path: Path, *more: str) -> str:
    """What tells this file, loaded in this way, from any other: its size, the time of its last change, its first
    megabyte, and whatever else decides how its rows come out. Raises OSError."""
    stat = path.stat()
    with path.open("rb") as stream:
        head = hashlib.sha256(stream.read(_HEAD_BYTES)).hexdigest()
    parts = [str(stat.st_size), str(stat.st_mtime_ns), head, *more]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


class StateFile:
    """The progress of loading one file into one view. A state file that is lost or cannot be written costs time, never
    rows: the load begins again, and what is in the store already is left as it is."""

    def __init__(self, data: Path, view: str, identity: str) -> None:
        self.path = data.with_name(f".{data.name}.{view}.load-state")
        self._identity = identity
        self.writable = True

    def read(self) -> Progress | None:
        """How far this very load came before; None when nothing is known, or only of another file or other options."""
        try:
            kept = json.loads(self.path.read_bytes())
            if kept["version"] != _VERSION or kept["identity"] != self._identity:
                return None
            found = Progress(**kept["progress"])
            found.faults = [(str(a), int(b), int(c)) for a, b, c in found.faults]
            found.repairs = [(str(a), int(b), int(c)) for a, b, c in found.repairs]
            return found
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def write(self, progress: Progress) -> None:
        """Keeps the progress. Where the folder cannot be written to, `writable` becomes false, and no harm is done."""
        if not self.writable:
            return
        content = {"version": _VERSION, "identity": self._identity, "progress": asdict(progress)}
        scratch = self.path.with_name(self.path.name + ".new")
        try:
            with open(os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as stream:
                json.dump(content, stream)
            os.replace(scratch, self.path)
        except OSError:
            self.writable = False

    def remove(self) -> None:
        """Forgets the progress: the load is complete."""
        with suppress(OSError):
            self.path.unlink(missing_ok=True)
