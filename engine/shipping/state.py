"""What the shipper keeps beside a journal, in the directory `shipping`: a lock, checkpoints, a name, a status.

leader.lock      held by the process that ships
source           the random name of this journal directory among all that ship to one keyspace
shipped-w0.json  up to where the segments of worker w0 are in Cassandra
status.json      what the shipper last said of itself
"""

from __future__ import annotations

import contextlib
import json
import os
import uuid
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from engine.errors import RecordError
from engine.record.journal import WorkerLock
from engine.record.segments import WORKER_NAME, Position

_FOLDER = "shipping"
_STATUS_FILE = "status"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """All frames of a worker before this place are in Cassandra. complete: the segment ended there."""

    segment: str
    offset: int
    complete: bool = False

    @property
    def position(self) -> Position:
        """The place itself."""
        return Position(self.segment, self.offset)


@dataclass(frozen=True, slots=True)
class ShipperStatus:
    """How it goes.

    leading: this process ships (another one may); waiting_bytes, waiting_segments: what is still to be shipped;
    oldest_waiting_s: how long its oldest frame has waited, 0 with none; shipped_frames, shipped_decisions,
    shipped_bytes: since the shipper started; expired: frames whose retention was over before they were shipped;
    damage: stretches that did not check out, shipped as they are; dropped_segments: let go after shipping; failures: in
    all; last_error: the latest failure, also when it is over; failing_since: seconds since 1970, None while all is
    well; updated_at: seconds since 1970.
    """

    leading: bool = False
    waiting_bytes: int = 0
    waiting_segments: int = 0
    oldest_waiting_s: float = 0.0
    shipped_frames: int = 0
    shipped_decisions: int = 0
    shipped_bytes: int = 0
    expired: int = 0
    damage: int = 0
    dropped_segments: int = 0
    failures: int = 0
    last_error: str = ""
    failing_since: float | None = None
    updated_at: float = 0.0


class ShippingState:
    """The directory beside a journal. Any process may read; who holds the lock writes."""

    def __init__(self, journal: Path) -> None:
        self._journal = journal
        self._directory = journal / _FOLDER

    def lead(self) -> WorkerLock | None:
        """The lock that makes this process the one that ships, None while another holds it. It goes with the process.
        Raises RecordError when the directory cannot be used."""
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            return WorkerLock(self._directory, "leader")
        except BlockingIOError:
            return None
        except OSError as e:
            raise RecordError(f"the shipper's directory {self._directory} cannot be used: {e.strerror}") from e

    def source(self) -> str:
        """The name of this journal directory; made on first use, by who holds the lock. Raises RecordError.

        Workers of several hosts go by the same names, so what is shipped carries this one as well.
        """
        path = self._directory / "source"
        try:
            name = path.read_text(encoding="ascii").strip()
        except FileNotFoundError:
            name = uuid.uuid4().hex
            self._write(path, name + "\n")
        except (OSError, ValueError) as e:
            raise RecordError(f"the name of the journal, {path}, cannot be read: {type(e).__name__}") from e
        if len(name) != 32 or not name.isalnum():
            raise RecordError(f"{path} does not hold the name of a journal: restore it, or remove it to ship all anew")
        return name

    def rename(self) -> str:
        """Give the journal directory another name: its segments are not those that were shipped under the old one.
        Raises RecordError."""
        self._write(self._directory / "source", uuid.uuid4().hex + "\n")
        return self.source()

    def checkpoint(self, worker: str) -> Checkpoint | None:
        """Up to where a worker's segments were shipped. None: nothing was, or the file cannot be read and all is
        shipped again, which is harmless."""
        try:
            content = json.loads((self._directory / f"shipped-{worker}.json").read_text(encoding="utf-8"))
            return Checkpoint(str(content["segment"]), int(content["offset"]), bool(content["complete"]))
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def shipped_through(self) -> dict[str, Position]:
        """Up to where each worker's segments are in Cassandra, of those that anything was shipped of."""
        found: dict[str, Position] = {}
        for path in self._directory.glob("shipped-*.json"):
            worker = path.stem.partition("-")[2]
            checkpoint = self.checkpoint(worker)
            if checkpoint is not None:
                found[worker] = checkpoint.position
        return found

    def keep_checkpoint(self, worker: str, checkpoint: Checkpoint) -> None:
        """Move a worker's checkpoint. Raises RecordError: it stands where it was."""
        if WORKER_NAME.fullmatch(worker) is None:
            raise RecordError(f"{worker!r} is no name of a worker")
        self._write(self._directory / f"shipped-{worker}.json", json.dumps(asdict(checkpoint)))

    def status(self) -> ShipperStatus | None:
        """What the shipper last said of itself; None when it never did."""
        try:
            content: dict[str, Any] = json.loads((self._directory / f"{_STATUS_FILE}.json").read_text("utf-8"))
            return ShipperStatus(**content)
        except (OSError, ValueError, TypeError):
            return None

    def keep_status(self, status: ShipperStatus) -> None:
        """Leave a status for others to read. Never fails: it is for people alone."""
        with contextlib.suppress(RecordError):
            self._write(self._directory / f"{_STATUS_FILE}.json", json.dumps(asdict(status)), durable=False)

    def _write(self, path: Path, content: str, *, durable: bool = True) -> None:
        temporary = path.with_name(path.name + ".tmp")
        try:
            fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            with open(fd, "w", encoding="utf-8") as file:
                file.write(content)
                file.flush()
                if durable:
                    os.fdatasync(fd)
            os.replace(temporary, path)
        except OSError as e:
            raise RecordError(f"{path} cannot be written: {e.strerror}") from e
