"""Claims on request ids: of concurrent duplicates of one request, one decides and the others wait for its answer."""

from __future__ import annotations

import threading
from dataclasses import dataclass

from engine.record.segments import Position


@dataclass(frozen=True, slots=True)
class Claimed:
    """The request is the caller's to decide; it must commit or abandon."""


@dataclass(frozen=True, slots=True)
class Existing:
    """The request was decided before, with the same payload."""

    decision_id: str
    position: Position


@dataclass(frozen=True, slots=True)
class Conflict:
    """The request id was used before with another payload. decision_id is "" while that one is being decided."""

    decision_id: str


@dataclass(frozen=True, slots=True)
class InProgress:
    """The same request is being decided right now: wait for it."""


Claim = Claimed | Existing | Conflict | InProgress

CLAIMED, IN_PROGRESS = Claimed(), InProgress()


class _Held:
    __slots__ = ("done", "over", "payload_digest")

    def __init__(self, payload_digest: bytes) -> None:
        self.payload_digest = payload_digest
        self.over = False
        self.done: threading.Event | None = None  # made by the first who waits


class Claims:
    """The requests that this process is deciding right now. Safe to use from several threads."""

    def __init__(self) -> None:
        self._held: dict[bytes, _Held] = {}
        self._wait_turn = threading.Lock()

    def __contains__(self, request_key: bytes) -> bool:
        return request_key in self._held

    def take(self, request_key: bytes, payload_digest: bytes) -> Claimed | InProgress | Conflict:
        """Take a request id if nobody here holds it."""
        mine = _Held(payload_digest)
        held = self._held.setdefault(request_key, mine)
        if held is mine:
            return CLAIMED
        return IN_PROGRESS if held.payload_digest == payload_digest else Conflict("")

    def release(self, request_key: bytes) -> None:
        """Give a request id back and let those who wait for it go on. Harmless when it is not held."""
        held = self._held.pop(request_key, None)
        if held is not None:
            held.over = True
            if held.done is not None:
                held.done.set()

    def wait(self, request_key: bytes, timeout_s: float) -> bool:
        """Wait until a request id is given back. False: timed out."""
        held = self._held.get(request_key)
        if held is None:
            return True
        with self._wait_turn:
            done = held.done = held.done or threading.Event()
        # Whoever releases says `over` first and looks for the event then, so one of the two is seen.
        return held.over or done.wait(timeout_s)
