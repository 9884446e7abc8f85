"""The log of decisions: journal and index behind one door.

    claim(request key) -> decide -> commit(record) -> answer

A claim makes a request id this caller's own until it commits or abandons, so that of concurrent duplicates one
decides and the others get its answer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

# (skeleton: moves to engine/record/segments.py and journal.py)


class Position(NamedTuple):
    """Where a frame stands: the segment's name and the byte it starts at. Orders frames of one worker."""

    segment: str
    offset: int


class Claimed(NamedTuple):
    """The request is the caller's to decide; it must commit or abandon."""


class Existing(NamedTuple):
    """The request was decided before, with the same payload."""

    decision_id: str
    position: Position


class Conflict(NamedTuple):
    """The request id was used before with another payload. decision_id is "" while that one is being decided."""

    decision_id: str


class InProgress(NamedTuple):
    """The same request is being decided right now: `wait` for it."""


@dataclass(frozen=True, slots=True)
class StoredDecision:
    """One record as committed: `record` is the serialised DecisionRecord."""

    position: Position
    decision_id: str
    request_key: bytes
    payload_digest: bytes
    record: bytes


class DecisionLog:
    """Safe to use from several threads."""

    @classmethod
    def open(
        cls,
        directory: Path,
        *,
        worker: str = "w0",
        durability: Literal["process", "disk"] = "process",
        segment_bytes: int = 64 << 20,
    ) -> DecisionLog:
        """Open or create; cut torn tails, index what a crash left unindexed. Raises RecordError."""
        raise NotImplementedError

    def claim(self, request_key: bytes, payload_digest: bytes) -> Claimed | Existing | Conflict | InProgress:
        """Ask for a request id. Never waits."""
        raise NotImplementedError

    def wait(self, request_key: bytes, timeout_s: float) -> bool:
        """Wait until a request in progress is committed or abandoned, then `claim` again. False: timed out."""
        raise NotImplementedError

    def commit(self, request_key: bytes, decision_id: str, payload_digest: bytes, record: bytes) -> Position:
        """Append the record; it survives kill -9 (or power loss, with durability "disk") when this returns.

        Raises RecordError: nothing was recorded, the claim stands (commit again or abandon).
        """
        raise NotImplementedError

    def abandon(self, request_key: bytes) -> None:
        """Give a claim back undecided. Harmless when there is none."""
        raise NotImplementedError

    def declare_catalogue(self, digest: str, payload: bytes) -> None:
        """Keep a slot list beside the records: now, and at the head of every segment to come. Harmless when repeated."""
        raise NotImplementedError

    def declare_environment(self, digest: str, payload: bytes) -> None:
        """The same for a description of the pinned environment."""
        raise NotImplementedError

    def get_catalogue(self, digest: str) -> bytes | None:
        """A slot list by its digest."""
        raise NotImplementedError

    def get_environment(self, digest: str) -> bytes | None:
        """An environment by its digest."""
        raise NotImplementedError

    def get_by_decision_id(self, decision_id: str) -> StoredDecision | None:
        """Look a decision up. Raises RecordError when its bytes are damaged."""
        raise NotImplementedError

    def get_by_request_key(self, request_key: bytes) -> StoredDecision | None:
        """Look a decision up. Raises RecordError when its bytes are damaged."""
        raise NotImplementedError

    def iterate(self, from_position: Position | None = None) -> Iterator[StoredDecision]:
        """All decisions of all workers. Raises RecordError at damage."""
        raise NotImplementedError

    def close(self) -> None:
        """Write the index out and let go. Harmless when repeated."""
        raise NotImplementedError
