"""What the desk of outcomes needs of the rest of the engine."""

from __future__ import annotations

from typing import Protocol

from engine.record.entries import StoredDecision
from engine.record.segments import FrameKind, Position


class OutcomeLog(Protocol):
    """Where outcomes are appended. `engine.record.log.DecisionLog` is one."""

    @property
    def end(self) -> Position | None:
        """Up to where this worker has written."""

    def append(self, kind: FrameKind, payload: bytes) -> Position:
        """Appends a frame; it is durable when this returns. Raises RecordError."""


class Decisions(Protocol):
    """Where decisions are looked up: `engine.record.log.DecisionLog`, or what looks in Cassandra as well. Most outcomes
    are about decisions whose segments were let go long ago."""

    def get_by_decision_id(self, decision_id: str) -> StoredDecision | None:
        """A decision by its id. Raises RecordError, StoreError."""

    def get_by_request_key(self, request_key: bytes) -> StoredDecision | None:
        """A decision by its request's key. Raises RecordError, StoreError."""


class NoteSealer(Protocol):
    """Encrypts notes under the key of the subject that they may be about. `engine.record.subject_keys.SubjectKeys` is
    one."""

    def seal(self, decision_id: str, subject: str, personal: bytes) -> bytes:
        """Something about a subject, sealed. decision_id: what it belongs to; needed to open it. Raises RecordError."""

    def unseal(self, decision_id: str, sealed: bytes) -> bytes | None:
        """The same, opened; None when the key was erased. Raises RecordError when it does not open."""
