"""When a store is no longer asked, and when it is asked again. Pure but for the clock and the dice, which it is given.

    closed --(failures in a row, or too many among the last calls)--> open
    open --(interval over)--> half open: one probe
    half open --(probe failed)--> open, for longer
    half open --(enough good probes in a row)--> closed

While it is open or half open no call gets through: the probes are the guard's own, never a customer's request.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from engine.features.store import StoreUnavailable

_log = logging.getLogger("assay.store")

COUNTED = ("failed", "excused", "refused_open", "refused_busy", "opened", "closed", "probes", "probes_failed")


class NotTried(StoreUnavailable):
    """The store was not touched: its breaker is open, or as many calls as it may have are under way."""


class State(Enum):
    """Where a breaker stands."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


@dataclass(frozen=True, slots=True)
class BreakerSettings:
    """failures: as many in a row open it; failure_ratio: so does this share of failures among the last window_calls.
    probe_interval_ms: before the first probe, doubled after each bad one up to probe_interval_max_ms; each wait is cut
    by up to half at random, so that many processes do not probe in step. probes_good: as many in a row close it.
    """

    failures: int = 5
    window_calls: int = 100
    failure_ratio: float = 0.5
    probes_good: int = 2
    probe_interval_ms: float = 250.0
    probe_interval_max_ms: float = 5_000.0


class Breaker:
    """One breaker.

    window: the last outcomes (True: failed), None while no call may pass. A call takes it when it begins and appends
    False when it ended well: that is all that a good call costs. One that ends after the breaker has changed has an
    old window in hand, and so says nothing about the new state. counts: what happened (`COUNTED`), for metrics.
    """

    def __init__(
        self,
        store: str,
        side: str,
        settings: BreakerSettings,
        clock: Callable[[], float] = time.monotonic,
        dice: Callable[[], float] = random.random,
    ) -> None:
        """store, side: for logs and messages. clock: seconds; dice: from 0 to 1."""
        self._store, self._side, self._settings = store, side, settings
        self._clock, self._dice = clock, dice
        self._lock = threading.Lock()
        self.counts: Counter[str] = Counter()
        self.state = State.CLOSED
        self.window: deque[bool] | None = self._new_window()
        self._good = 0
        self._attempt = 0
        self._closed_at_s = -float("inf")
        self._refusal = ""

    def _new_window(self) -> deque[bool]:
        return deque(maxlen=max(self._settings.window_calls, self._settings.failures))

    def count(self, what: str) -> None:
        """Adds one to a count."""
        with self._lock:
            self.counts[what] += 1

    def refuse(self) -> NotTried:
        """The error of a call that comes while the breaker is not closed."""
        self.count("refused_open")
        return NotTried(self._refusal)

    def failed(self, window: deque[bool], cause: BaseException) -> bool:
        """Notes a call that failed. True when this opened the breaker: the caller is to start the probes."""
        settings = self._settings
        with self._lock:
            self.counts["failed"] += 1
            if window is not self.window:
                return False
            window.append(True)
            # A copy is made in one go; other threads append meanwhile.
            outcomes = list(window.copy())
            run = settings.failures
            in_a_row = len(outcomes) >= run and all(outcomes[-run:])
            whole = len(outcomes) >= settings.window_calls
            if not in_a_row and not (whole and sum(outcomes) >= settings.failure_ratio * len(outcomes)):
                return False
            # Soon after it was closed it waits as long as it did then, and longer: good probes proved little.
            if self._clock() - self._closed_at_s > 2 * settings.probe_interval_max_ms / 1000:
                self._attempt = 0
            self._refusal = f"{self._store} is not asked for {self._side} since it failed: {cause}"
            self.window, self.state, self._good = None, State.OPEN, 0
            self.counts["opened"] += 1
        _log.warning(
            "store out of service", extra={"store": self._store, "side": self._side, "cause": str(cause) or repr(cause)}
        )
        return True

    def wait_s(self) -> float:
        """How long to wait before the next probe."""
        with self._lock:
            settings = self._settings
            if self._good:
                longest_ms = settings.probe_interval_ms
            else:
                # 2.0 ** 64 is beyond any bound; more would overflow some day.
                longest_ms = min(
                    settings.probe_interval_ms * 2.0 ** min(self._attempt, 64), settings.probe_interval_max_ms
                )
            return longest_ms * (1 - self._dice() / 2) / 1000

    def probe_begins(self) -> None:
        """Notes that a probe is under way."""
        with self._lock:
            if self.state is State.OPEN:
                self.state = State.HALF_OPEN
            self.counts["probes"] += 1

    def probe_ended(self, good: bool) -> bool:
        """Notes what a probe gave. True when it closed the breaker: there is nothing more to probe."""
        with self._lock:
            if not good:
                self.counts["probes_failed"] += 1
                self.state, self._good = State.OPEN, 0
                self._attempt += 1
                return False
            self._good += 1
            if self._good < self._settings.probes_good:
                return False
            self._close()
        _log.info("store in service again", extra={"store": self._store, "side": self._side})
        return True

    def give_up(self) -> None:
        """Closes it without a probe, because none can be made; the next failures open it again."""
        with self._lock:
            self._close()

    def _close(self) -> None:
        self.state, self.window = State.CLOSED, self._new_window()
        self._closed_at_s = self._clock()
        # Should it open again soon.
        self._attempt += 1
        self.counts["closed"] += 1
