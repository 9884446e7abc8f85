"""Claims shared with the other workers of this host first, and with other hosts then."""

from __future__ import annotations

from engine.claims.shared import Answered, Decided, Mine, SharedClaims, Taken


class LayeredClaims:
    """`near` over `far`: duplicates on one host never reach the store, and while the store fails its workers still
    know of one another. It closes both."""

    def __init__(self, near: SharedClaims, far: SharedClaims) -> None:
        self._near, self._far = near, far

    def take(self, request_key: bytes, payload_digest: bytes, lease_s: float, deadline_s: float | None = None) -> Taken:
        """See `SharedClaims.take`."""
        near = self._near.take(request_key, payload_digest, lease_s, deadline_s)
        if not isinstance(near, Mine):
            return near
        try:
            far = self._far.take(request_key, payload_digest, lease_s, deadline_s)
        except BaseException:
            self._near.release(request_key)
            raise
        if not isinstance(far, Mine):
            self._near.release(request_key)
            return far
        return Mine(near.look or far.look, min(near.until_s, far.until_s), far.is_shared)

    def check(self, request_key: bytes, deadline_s: float | None = None) -> Answered | None:
        """See `SharedClaims.check`."""
        return self._far.check(request_key, deadline_s)

    def settle(self, decided: Decided, deadline_s: float | None = None) -> Answered | None:
        """See `SharedClaims.settle`. The host is told of what stands everywhere alone."""
        try:
            other = self._far.settle(decided, deadline_s)
        except BaseException:
            self._near.release(decided.request_key)
            raise
        if other is None:
            return self._near.settle(decided, deadline_s)
        self._near.release(decided.request_key)
        return other

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
