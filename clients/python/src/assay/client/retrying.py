"""What is asked again, when, and how often: the table, the waits, and the budget.

The table is docs/client.md's; a test holds the two together.
"""

from __future__ import annotations

import random
import threading
import time
from dataclasses import dataclass
from enum import Enum

import grpc

from assay.client.errors import AssayError


class Then(Enum):
    """What the client does about an error."""

    RAISE = "raise"  # a repeat fails again, or nobody knows that it does no harm
    ELSEWHERE = "another host"  # this host cannot; another may, and is asked at once
    LATER = "later"  # all hosts would say the same now


_BY_CODE = {
    grpc.StatusCode.UNAVAILABLE: Then.ELSEWHERE,
    # The attempt's time is over, not the call's. Every call of this client is safe to repeat.
    grpc.StatusCode.DEADLINE_EXCEEDED: Then.ELSEWHERE,
    grpc.StatusCode.ABORTED: Then.LATER,
}
_BY_REASON = {"STORE_UNAVAILABLE": Then.LATER}


def then(error: AssayError) -> Then:
    """What the client does about an error, as long as attempts, time and budget are left."""
    if error.code is grpc.StatusCode.RESOURCE_EXHAUSTED:
        # Without a word of when, it is a limit that a repeat meets again: a message too large, gRPC's own bound.
        return Then.LATER if error.retry_after_s is not None else Then.RAISE
    return _BY_REASON.get(error.reason) or _BY_CODE.get(error.code, Then.RAISE)


@dataclass(frozen=True)
class Retry:
    """How often and how soon.

    attempts_max: all attempts of a call, the first among them; hedges are not counted. base_s, wait_max_s: the wait
    before attempt n + 1 is drawn evenly from 0 to min(wait_max_s, base_s * 2^(n-1)) ("full jitter", M. Brooker,
    Exponential Backoff And Jitter, 2015), on top of what the server's RetryInfo says.
    """

    attempts_max: int = 5
    base_s: float = 0.05
    wait_max_s: float = 1.0

    def wait_s(self, attempts: int, retry_after_s: float | None) -> float:
        """How long to wait after that many attempts."""
        # 2^30 waits are beyond any bound; a float must not overflow before it is cut.
        return (retry_after_s or 0.0) + random.uniform(
            0.0, min(self.wait_max_s, self.base_s * 2.0 ** min(attempts - 1, 30))
        )


class Budget:
    """Retries and hedges that a client may make: a bucket of tokens (as Finagle's RetryBudget, and gRPC's throttle).

    Every call puts `ratio` of a token in, time puts `per_s` in, every retry and every hedge takes one out. So in any
    time of T seconds with N calls, attempts are at most N * (1 + ratio) + reserve + per_s * T: when all hosts fail,
    the client asks little more than if it never repeated. reserve: what the bucket holds at most, and at first. It
    covers the calls under way when a host dies. Share one object between clients that call the same servers. Safe to
    use from several threads.
    """

    def __init__(self, ratio: float = 0.1, reserve: float = 100.0, per_s: float = 1.0) -> None:
        if not (ratio >= 0 and reserve >= 0 and per_s >= 0):
            raise ValueError("a Budget's ratio, reserve and per_s must be 0 or more")
        self._ratio, self._reserve, self._per_s = ratio, reserve, per_s
        self._tokens, self._at_s = reserve, time.monotonic()
        self._lock = threading.Lock()

    def call(self) -> None:
        """A call is made."""
        with self._lock:
            self._tokens = min(self._reserve, self._tokens + self._ratio)

    def take(self) -> bool:
        """Whether another attempt may be made. If so, it is paid for."""
        with self._lock:
            now_s = time.monotonic()
            self._tokens = min(self._reserve, self._tokens + (now_s - self._at_s) * self._per_s)
            self._at_s = now_s
            if self._tokens < 1.0:
                return False
            self._tokens -= 1.0
            return True
