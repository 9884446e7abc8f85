"""The places of a group: one for each worker that is to serve, whichever process does its work at the moment."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engine.supervisor.backoff import Backoff
from engine.supervisor.names import first_name, is_left, other_name
from engine.supervisor.process import Phase, WorkerProcess


@dataclass(frozen=True, slots=True)
class GroupSettings:
    """workers: how many are to serve; journal: the directory that they share; counted: whether applications are counted
    (`velocity.enabled`); pinned: the cores to spread them over, one each; none: they go where the system lets them."""

    workers: int
    journal: Path
    counted: bool = True
    pinned: Sequence[int] = ()
    connection_age_s: float = 30.0
    drain_grace_s: float = 20.0
    start_timeout_s: float = 180.0

    @property
    def end_s(self) -> float:
        """How long a worker may take to drain and end."""
        return self.drain_grace_s + 25.0

    @property
    def leave_s(self) -> float:
        """How long it may take until its callers have gone elsewhere, and it has ended."""
        return 1.1 * self.connection_age_s + self.drain_grace_s + self.end_s


@dataclass(slots=True)
class Slot:
    """One place. current: who serves, or is about to; successor: who is to follow it; start_at_s: when another is to be
    started, None when none is; error: why the last one failed, "" when it did not."""

    number: int
    settings: GroupSettings
    facts: Mapping[str, Any]
    name: str = ""
    current: WorkerProcess | None = None
    successor: WorkerProcess | None = None
    start_at_s: float | None = None
    error: str = ""
    backoff: Backoff = field(default_factory=Backoff)

    def start(self) -> WorkerProcess:
        """Starts a process for this place. Raises OSError."""
        if not self.name:
            self.name = first_name(self.settings.journal, self.number, self.settings.counted)
        self.start_at_s = None
        self.current = self._start(self.name)
        return self.current

    def start_successor(self) -> WorkerProcess:
        """Starts one that is to follow the one that serves: under the other name, for both write for a while. Raises
        OSError."""
        self.successor = self._start(other_name(self.number, self.name))
        return self.successor

    def follow(self) -> WorkerProcess | None:
        """The successor takes the place. Gives who had it."""
        before, self.current, self.successor = self.current, self.successor, None
        assert self.current is not None
        self.name, self.start_at_s = self.current.name, None
        return before

    def has_left(self) -> bool:
        """Whether something was left under the other name of this place, so that a process should take it up."""
        settings = self.settings
        return settings.counted and is_left(settings.journal, other_name(self.number, self.name))

    def _start(self, name: str) -> WorkerProcess:
        pinned = self.settings.pinned
        cores = [pinned[self.number % len(pinned)]] if pinned else []
        return WorkerProcess(self.number, name, self.facts, cores)

    @property
    def serves(self) -> bool:
        """Whether calls are answered here."""
        return self.current is not None and self.current.phase is Phase.SERVING

    def status(self) -> dict[str, Any]:
        """For a person to read."""
        one = self.current
        waits_s = 0.0 if self.start_at_s is None else max(0.0, self.start_at_s - time.monotonic())
        return {
            "number": self.number,
            "name": self.name,
            "pid": None if one is None else one.pid,
            "phase": "waiting" if one is None else one.phase.value,
            "served_s": 0.0 if one is None else round(one.served_s, 1),
            "leads": one is not None and one.leads,
            "failures": self.backoff.failures,
            "starts_in_s": round(waits_s, 1),
            "error": self.error,
        }
