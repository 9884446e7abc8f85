"""What it means to share claims on request ids, and the way of a server that shares them with nobody.

    take -> Mine      decide, commit to the journal, settle; or release
         -> Answered  give that answer, or refuse another payload
         -> Held      wait, and take again

What decides which of two decisions stands is one step that only one of them can take: the first to be settled. All else
(locks, leases, clocks) only keeps work from being done twice.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

from engine.errors import Refusal
from engine.record.segments import Position


@dataclass(frozen=True, slots=True)
class Mine:
    """The request is the caller's to decide; it settles or releases.

    look: its last holder died, so the journals are to be looked at before it is decided again. until_s: when others may
    take it, on `time.monotonic()`; infinite where they never do while this process lives. is_shared: False when the
    others could not be told.
    """

    look: bool = False
    until_s: float = float("inf")
    is_shared: bool = True


@dataclass(frozen=True, slots=True)
class Answered:
    """The request was decided, and this is the decision that stands.

    answer: the serialised Decision; b"" where it is to be looked up by its id, or at `position` in this host's journal.
    """

    decision_id: str
    payload_digest: bytes
    answer: bytes = b""
    position: Position | None = None


@dataclass(frozen=True, slots=True)
class Held:
    """Somebody else is deciding it. payload_digest: b"" where that is not known. until_us: when the claim lapses, in
    microseconds since 1970 UTC by its holder's clock; 0 where it goes with its holder's process."""

    payload_digest: bytes = b""
    until_us: int = 0


Taken = Mine | Answered | Held

MINE = Mine()


class Decided(NamedTuple):
    """A decision that is in this host's journal. answer: its serialised Decision."""

    request_key: bytes
    payload_digest: bytes
    decision_id: str
    answer: bytes
    position: Position | None = None


@runtime_checkable
class SharedClaims(Protocol):
    """Claims on request ids. Every method may be called from several threads at once."""

    def take(self, request_key: bytes, payload_digest: bytes, lease_s: float, deadline_s: float | None = None) -> Taken:
        """Ask for a request id. Waits for no other holder.

        request_key: see `engine.record.keys`. lease_s: how long the claim stands if its holder is not heard of again.
        deadline_s: the caller's, on `time.monotonic()`. Raises Refusal when it cannot be told whose the id is.
        """

    def take_many(
        self, requests: Sequence[tuple[bytes, bytes]], lease_s: float, deadline_s: float | None = None
    ) -> list[Taken | Refusal]:
        """`take` for (request key, payload digest) pairs, in one round trip where that can be; in their order, with
        what `take` would raise in its place."""

    def check(self, request_key: bytes, deadline_s: float | None = None) -> Answered | None:
        """Before a decision is committed: what stands already, because the claim had lapsed meanwhile. Free while it
        has not. Raises as `take`."""

    def settle(self, decided: Decided, deadline_s: float | None = None) -> Answered | None:
        """A decision was committed to the journal: None, it stands, and may be given; else what stands instead, which
        must be given in its place. The claim is over either way. Harmless when repeated, and allowed without a claim.

        Raises Refusal: it is not known whether it stands, and nothing may be given.
        """

    def settle_many(self, many: Sequence[Decided], deadline_s: float | None = None) -> list[Answered | Refusal | None]:
        """`settle` likewise."""

    def release(self, request_key: bytes) -> None:
        """Give a claim back undecided. Harmless when there is none; never fails."""

    def wait(self, request_key: bytes, until_s: float) -> bool:
        """Wait for another holder, at most until a moment on `time.monotonic()`. False: the time is up. True: take
        again, which may well find it held still."""

    def counters(self) -> dict[str, int]:
        """What happened since the start."""

    def close(self) -> None:
        """Let go of everything. Harmless when repeated."""


class OneByOne(ABC):
    """Does many as one after the other, for claims where that costs nothing."""

    @abstractmethod
    def take(self, request_key: bytes, payload_digest: bytes, lease_s: float, deadline_s: float | None = None) -> Taken:
        """See `SharedClaims.take`."""

    @abstractmethod
    def settle(self, decided: Decided, deadline_s: float | None = None) -> Answered | None:
        """See `SharedClaims.settle`."""

    def take_many(
        self, requests: Sequence[tuple[bytes, bytes]], lease_s: float, deadline_s: float | None = None
    ) -> list[Taken | Refusal]:
        """See `SharedClaims.take_many`."""
        found: list[Taken | Refusal] = []
        for request_key, payload_digest in requests:
            try:
                found.append(self.take(request_key, payload_digest, lease_s, deadline_s))
            except Refusal as refusal:
                found.append(refusal)
        return found

    def settle_many(self, many: Sequence[Decided], deadline_s: float | None = None) -> list[Answered | Refusal | None]:
        """See `SharedClaims.settle_many`."""
        found: list[Answered | Refusal | None] = []
        for decided in many:
            try:
                found.append(self.settle(decided, deadline_s))
            except Refusal as refusal:
                found.append(refusal)
        return found


class NoSharedClaims(OneByOne):
    """For one process on a journal and a store of its own: its log alone knows."""

    def take(self, request_key: bytes, payload_digest: bytes, lease_s: float, deadline_s: float | None = None) -> Taken:
        """See `SharedClaims.take`."""
        return MINE

    def check(self, request_key: bytes, deadline_s: float | None = None) -> Answered | None:
        """See `SharedClaims.check`."""
        return None

    def settle(self, decided: Decided, deadline_s: float | None = None) -> Answered | None:
        """See `SharedClaims.settle`."""
        return None

    def release(self, request_key: bytes) -> None:
        """See `SharedClaims.release`."""

    def wait(self, request_key: bytes, until_s: float) -> bool:
        """See `SharedClaims.wait`."""
        return True

    def counters(self) -> dict[str, int]:
        """See `SharedClaims.counters`."""
        return {}

    def close(self) -> None:
        """See `SharedClaims.close`."""
