"""Claims shared with the other workers of this host first, and with other hosts then."""

from __future__ import annotations

from collections.abc import Sequence

from engine.claims.shared import Answered, Decided, Mine, SharedClaims, Taken
from engine.errors import Refusal


class LayeredClaims:
    """`near` over `far`: duplicates on one host never reach the store, and while the store fails its workers still
    know of one another. It closes both."""

    def __init__(self, near: SharedClaims, far: SharedClaims) -> None:
        self._near, self._far = near, far

    def take(self, request_key: bytes, payload_digest: bytes, lease_s: float, deadline_s: float | None = None) -> Taken:
        """See `SharedClaims.take`."""
        (taken,) = self.take_many([(request_key, payload_digest)], lease_s, deadline_s)
        if isinstance(taken, Refusal):
            raise taken
        return taken

    def take_many(
        self, requests: Sequence[tuple[bytes, bytes]], lease_s: float, deadline_s: float | None = None
    ) -> list[Taken | Refusal]:
        """See `SharedClaims.take_many`."""
        found = self._near.take_many(requests, lease_s, deadline_s)
        mine = {place: near for place, near in enumerate(found) if isinstance(near, Mine)}
        if not mine:
            return found
        try:
            taken = self._far.take_many([requests[place] for place in mine], lease_s, deadline_s)
        except BaseException:
            for place in mine:
                self._near.release(requests[place][0])
            raise
        for (place, near), far in zip(mine.items(), taken, strict=True):
            found[place] = far
            if isinstance(far, Mine):
                found[place] = Mine(near.look or far.look, min(near.until_s, far.until_s), far.is_shared)
            else:
                self._near.release(requests[place][0])
        return found

    def check(self, request_key: bytes, deadline_s: float | None = None) -> Answered | None:
        """See `SharedClaims.check`."""
        return self._far.check(request_key, deadline_s)

    def settle(self, decided: Decided, deadline_s: float | None = None) -> Answered | None:
        """See `SharedClaims.settle`."""
        (other,) = self.settle_many([decided], deadline_s)
        if isinstance(other, Refusal):
            raise other
        return other

    def settle_many(self, many: Sequence[Decided], deadline_s: float | None = None) -> list[Answered | Refusal | None]:
        """See `SharedClaims.settle_many`. The host is told of what stands everywhere alone."""
        try:
            found = self._far.settle_many(many, deadline_s)
        except BaseException:
            for decided in many:
                self._near.release(decided.request_key)
            raise
        stand = []
        for decided, other in zip(many, found, strict=True):
            if other is None:
                stand.append(decided)
            else:
                self._near.release(decided.request_key)
        self._near.settle_many(stand, deadline_s)
        return found

    def release(self, request_key: bytes) -> None:
        """See `SharedClaims.release`."""
        self._far.release(request_key)
        self._near.release(request_key)

    def wait(self, request_key: bytes, until_s: float) -> bool:
        """See `SharedClaims.wait`."""
        return self._near.wait(request_key, until_s) and self._far.wait(request_key, until_s)

    def counters(self) -> dict[str, int]:
        """Of both, under host_ and store_."""
        near = {f"host_{name}": count for name, count in self._near.counters().items()}
        return near | {f"store_{name}": count for name, count in self._far.counters().items()}

    def close(self) -> None:
        """See `SharedClaims.close`."""
        self._near.close()
        self._far.close()
