"""The worker processes of a host, as they see one another: each holds a lock while it lives and says how it stands."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from engine.errors import ConfigError, Problem
from engine.traffic.files import FileLock, is_held, replace_file

_JOIN_WAIT_S = 2.0


@dataclass(slots=True)
class Standing:
    """How a worker stands. generation: what it serves; trouble: what keeps it from a later one; proposal: the change
    that it looked at last, and problem: why it cannot follow that one, "" when it is ready; cut_outs and shadows: what
    its cut-outs and shadows have seen, as plain data."""

    generation: int = 0
    trouble: str = ""
    proposal: str = ""
    problem: str = ""
    cut_outs: list[dict[str, Any]] = field(default_factory=list)
    shadows: dict[str, Any] = field(default_factory=dict)


class Members:
    """One worker among them. Join while no change is under way, that is, under the lock of changes."""

    def __init__(self, directory: Path, worker: str) -> None:
        """Raises OSError."""
        directory.mkdir(parents=True, exist_ok=True)
        self._directory, self.worker = directory, worker
        self._lock = FileLock(directory / f"{worker}.lock")

    def join(self, standing: Standing) -> None:
        """Becomes one of them. Raises ConfigError when the name is taken, OSError."""
        # Who looks whether a worker lives holds its lock for a moment.
        if not self._lock.acquire(_JOIN_WAIT_S):
            message = f"another process serves as worker {self.worker!r} with the same directory"
            raise ConfigError(
                [Problem(str(self._directory), "", message, "End it, or give this one a directory of its own.")]
            )
        self.tell(standing)

    def leave(self) -> None:
        """Is none of them any more. Harmless when repeated."""
        self._lock.release()

    def tell(self, standing: Standing) -> None:
        """Says how this worker stands. Raises OSError."""
        content = json.dumps(asdict(standing)).encode()
        replace_file(self._directory / f"{self.worker}.json", content, durable=False)

    def others(self) -> Mapping[str, Standing]:
        """How all other living workers stand."""
        found = {}
        for lock in self._directory.glob("*.lock"):
            worker = lock.stem
            if worker != self.worker and is_held(lock):
                found[worker] = self._standing(worker)
        return found

    def latest_generation(self) -> int:
        """The latest generation that any worker has told of, living or not; 0 for none."""
        return max((self._standing(told.stem).generation for told in self._directory.glob("*.json")), default=0)

    def _standing(self, worker: str) -> Standing:
        with contextlib.suppress(OSError, ValueError, TypeError):
            return Standing(**json.loads((self._directory / f"{worker}.json").read_text(encoding="utf-8")))
        return Standing()
