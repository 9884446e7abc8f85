"""A store behind a circuit breaker, a time limit and a bound on the calls under way.

    GuardedStore(store, GuardSettings(read_timeout_ms=20))

A store that hangs costs its time limit a few times and nothing from then on: calls fail at once until a background
thread has had good answers from it again. Reads and writes have a breaker each: a store that is full can be read, and
one whose writes fail goes on being read.
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeVar

from engine.errors import StoreError
from engine.features.encoding import RowError
from engine.features.store import Change, FeatureStore, StoreTimeout, WriteResult
from engine.features.stores.breaker import COUNTED, Breaker, BreakerSettings, NotTried
from engine.features.stores.partial import PartialRead

__all__ = ["GuardSettings", "GuardedStore", "NotTried"]

_T = TypeVar("_T")
# How long `close` waits for a probe that is under way.
_JOIN_S = 5.0


@dataclass(frozen=True, slots=True)
class GuardSettings(BreakerSettings):
    """What a guard allows, besides what its breakers do (`BreakerSettings`).

    read_timeout_ms, update_timeout_ms: the most that a read or an update may take, however late the caller's deadline
    is. timeout_min_ms: a call that had less time than this and was late says nothing about the store. in_flight_max:
    how many reads may be under way, and how many writes; more fail at once, so that a slow store cannot hold every
    thread of the process.
    """

    read_timeout_ms: float = 50.0
    update_timeout_ms: float = 1_000.0
    timeout_min_ms: float = 10.0
    in_flight_max: int = 256


class _Side:
    """Reads, or writes: a breaker, and a token for each call that may be under way."""

    __slots__ = ("breaker", "free", "name", "probe")

    def __init__(self, store: str, name: str, settings: GuardSettings) -> None:
        self.name = name
        self.breaker = Breaker(store, name, settings)
        # Taking the last of a deque is one step for all threads, and a tenth of a semaphore's price.
        self.free: deque[None] = deque([None] * settings.in_flight_max)
        self.probe: threading.Thread | None = None


class GuardedStore:
    """The store `inner`, which it closes with itself. It has the name of `inner`.

    StoreTimeout, StoreUnavailable and StoreCorrupt count as failures, of reads (`read`, `get_schema`) and of writes
    (`write`, `update`, `delete`, `delete_entity`, `put_schema`) apart. These do not count: a call that came too late or
    with less than `timeout_min_ms` and got a StoreTimeout; a read of which a part succeeded; a row that makes no sense
    while the store does. `scan`, `schemas` and `ping` are refused while reads are, and never counted.

    Both breakers are probed with `ping`. One that answers it and fails all the same is asked again and again, each
    time after a longer wait.
    """

    def __init__(self, inner: FeatureStore, settings: GuardSettings | None = None) -> None:
        self._inner = inner
        self._settings = settings or GuardSettings()
        self._read_timeout_s = self._settings.read_timeout_ms / 1000
        self._begin(closed=False)
        _forkable.add(self)

    def _begin(self, closed: bool) -> None:
        """Start anew: nothing under way, nothing known to be wrong."""
        self._closing = threading.Event()
        if closed:
            self._closing.set()
        self._reads = _Side(self._inner.name, "reads", self._settings)
        self._writes = _Side(self._inner.name, "writes", self._settings)

    @property
    def name(self) -> str:
        """The name of the store within."""
        return self._inner.name

    @property
    def state(self) -> str:
        """Of the reads' breaker: "closed" (all is well), "open" or "half_open"."""
        return self._reads.breaker.state.value

    @property
    def write_state(self) -> str:
        """Of the writes' breaker."""
        return self._writes.breaker.state.value

    def counters(self) -> dict[str, int]:
        """What happened since the start, under reads_ and writes_: failed, excused (failures that do not count),
        refused_open, refused_busy, opened, closed, probes, probes_failed; and in_flight, which is of now."""
        found: dict[str, int] = {}
        for side in (self._reads, self._writes):
            found |= {f"{side.name}_{what}": side.breaker.counts[what] for what in COUNTED}
            found[f"{side.name}_in_flight"] = self._settings.in_flight_max - len(side.free)
        return found

    def read(self, keys: Sequence[bytes], deadline_s: float | None = None) -> list[bytes | None]:
        """As the protocol says, within `read_timeout_ms`."""
        side = self._reads
        window = side.breaker.window
        if window is None:
            raise side.breaker.refuse()
        now_s = time.monotonic()
        end_s = now_s + self._read_timeout_s
        if deadline_s is not None and deadline_s < end_s:
            end_s = deadline_s
        free = side.free
        try:
            free.pop()
        except IndexError:
            raise self._busy(side) from None
        try:
            found = self._inner.read(keys, end_s)
        except StoreError as error:
            self._failed(side, window, error, end_s - now_s, self._settings.read_timeout_ms)
            raise
        finally:
            free.append(None)
        window.append(False)
        return found

    def write(self, rows: Iterable[tuple[bytes, bytes, int]], *, ttl_s: int | None = None) -> WriteResult:
        """As the protocol says."""
        return self._call(self._writes, lambda: self._inner.write(rows, ttl_s=ttl_s))

    def update(
        self, changes: Sequence[tuple[bytes, Change]], *, ttl_s: int | None = None, deadline_s: float | None = None
    ) -> list[bytes | None]:
        """As the protocol says, within `update_timeout_ms`."""
        now_s, limit_ms = time.monotonic(), self._settings.update_timeout_ms
        end_s = now_s + limit_ms / 1000
        if deadline_s is not None and deadline_s < end_s:
            end_s = deadline_s
        return self._call(
            self._writes,
            lambda: self._inner.update(changes, ttl_s=ttl_s, deadline_s=end_s),
            granted_s=end_s - now_s,
            limit_ms=limit_ms,
        )

    def delete(self, keys: Sequence[bytes]) -> int:
        """As the protocol says."""
        return self._call(self._writes, lambda: self._inner.delete(keys))

    def delete_entity(self, entity: str, entity_id: str) -> int:
        """As the protocol says."""
        return self._call(self._writes, lambda: self._inner.delete_entity(entity, entity_id))

    def scan(self, prefix: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        """As the protocol says."""
        self._check_reads()
        return self._inner.scan(prefix)

    def put_schema(self, fingerprint: bytes, canonical: bytes) -> None:
        """As the protocol says."""
        self._call(self._writes, lambda: self._inner.put_schema(fingerprint, canonical))

    def get_schema(self, fingerprint: bytes) -> bytes | None:
        """As the protocol says."""
        return self._call(self._reads, lambda: self._inner.get_schema(fingerprint))

    def schemas(self) -> Iterator[tuple[bytes, bytes]]:
        """As the protocol says."""
        self._check_reads()
        return self._inner.schemas()

    def ping(self) -> None:
        """As the protocol says: a store whose reads are refused cannot serve."""
        self._check_reads()
        self._inner.ping()

    def close(self) -> None:
        """Ends the probes and closes the store within."""
        self._closing.set()
        self._inner.close()
        end_s = time.monotonic() + _JOIN_S
        for side in (self._reads, self._writes):
            if side.probe is not None:
                side.probe.join(max(0.0, end_s - time.monotonic()))

    def _check_reads(self) -> None:
        if self._reads.breaker.window is None:
            raise self._reads.breaker.refuse()

    def _call(
        self, side: _Side, call: Callable[[], _T], granted_s: float = float("inf"), limit_ms: float = float("inf")
    ) -> _T:
        window = side.breaker.window
        if window is None:
            raise side.breaker.refuse()
        try:
            side.free.pop()
        except IndexError:
            raise self._busy(side) from None
        try:
            result = call()
        except StoreError as error:
            self._failed(side, window, error, granted_s, limit_ms)
            raise
        finally:
            side.free.append(None)
        window.append(False)
        return result

    def _busy(self, side: _Side) -> NotTried:
        side.breaker.count("refused_busy")
        return NotTried(f"{self.name} has {self._settings.in_flight_max} {side.name} under way, as many as it may")

    def _failed(self, side: _Side, window: deque[bool], error: StoreError, granted_s: float, limit_ms: float) -> None:
        """Holds a failure against the store where it is the store's."""
        if isinstance(error, (PartialRead, RowError)) or self._closing.is_set():
            return
        fair_s = min(self._settings.timeout_min_ms, limit_ms) / 1000
        # A hair less than the limit: the difference of two moments is not exact.
        if isinstance(error, StoreTimeout) and granted_s < fair_s - 1e-6:
            side.breaker.count("excused")
            return
        if not side.breaker.failed(window, error):
            return
        probe = threading.Thread(
            target=self._probe, args=(side.breaker,), name=f"assay-probe-{self.name}-{side.name}", daemon=True
        )
        try:
            probe.start()
        except RuntimeError:
            # No thread is to be had. Better a store that is asked in vain than one that is never asked again.
            side.breaker.give_up()
        else:
            side.probe = probe

    def _probe(self, breaker: Breaker) -> None:
        while not self._closing.wait(breaker.wait_s()):
            breaker.probe_begins()
            good = False
            # Whatever a driver raises, the probes go on.
            with suppress(Exception):
                self._inner.ping()
                good = True
            if breaker.probe_ended(good):
                return


_forkable: weakref.WeakSet[GuardedStore] = weakref.WeakSet()


def _after_fork() -> None:
    # The parent's calls and probes are not under way here.
    for store in list(_forkable):
        store._begin(store._closing.is_set())


os.register_at_fork(after_in_child=_after_fork)
