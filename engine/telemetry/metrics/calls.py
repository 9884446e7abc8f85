"""Calls of the server and of the stores: a moment, an outcome, one append; folded like decisions are."""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from bisect import bisect_left
from collections import deque
from typing import Generic, NamedTuple, TypeVar

from engine.telemetry.metrics.catalogue import BATCH_BOUNDS, CALL_BOUNDS, OTHER, STORE_BOUNDS
from engine.telemetry.metrics.snapshot import Exemplar, Histogram, Snapshot

_NS_PER_S = 1e9
# A scrape or the folding thread empties them long before.
_NOTES_MAX = 100_000


class Spread:
    """A histogram that one thread at a time adds to."""

    __slots__ = ("_bounds", "_counts", "_exemplars", "_total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds, self._counts, self._total = bounds, [0] * (len(bounds) + 1), 0.0
        self._exemplars: dict[int, Exemplar] = {}

    def add(self, value: float, trace_id: str = "", time_s: float = 0.0) -> None:
        """Counts a value."""
        bucket = bisect_left(self._bounds, value)
        self._counts[bucket] += 1
        self._total += value
        if trace_id:
            self._exemplars[bucket] = Exemplar(trace_id, value, time_s)

    def histogram(self) -> Histogram:
        """All of it."""
        return Histogram(self._bounds, list(self._counts), self._total, dict(self._exemplars))


N = TypeVar("N")


class _Noted(ABC, Generic[N]):
    """Notes in a deque, and a fold of them. Exact for the reasons that `decisions` gives."""

    def __init__(self) -> None:
        self._notes: deque[N] = deque()
        self._folding, self._rare = threading.Lock(), threading.Lock()
        self._dropped = 0

    def _note(self, note: N) -> None:
        if len(self._notes) < _NOTES_MAX:
            self._notes.append(note)
        else:
            with self._rare:
                self._dropped += 1

    def fold(self) -> None:
        """Counts what was noted up to now."""
        with self._folding:
            for _ in range(len(self._notes)):
                self._count(self._notes.popleft())

    def put(self, snapshot: Snapshot) -> None:
        """Folds, and adds everything to a snapshot."""
        self.fold()
        with self._folding:
            self._put(snapshot)
        snapshot.put("assay.metrics.dropped", (), self._dropped)

    @abstractmethod
    def _count(self, note: N) -> None:
        """Counts one. With the lock."""

    @abstractmethod
    def _put(self, snapshot: Snapshot) -> None:
        """Adds everything to a snapshot. With the lock."""


class _Request(NamedTuple):
    method: str
    reason: str
    duration_ns: int
    trace_id: str
    now_s: float
    queue_ns: int | None
    items: int | None


class _Call(NamedTuple):
    operation: str
    outcome: str
    duration_ns: int
    keys: int


class RequestMetrics(_Noted[_Request]):
    """Calls of the server. Threads may note at once. methods, reasons: all there can be; others count as `other`."""

    def __init__(self, methods: tuple[str, ...], reasons: tuple[str, ...]) -> None:
        super().__init__()
        self._counts = {(m, r): 0 for m in (*methods, OTHER) for r in ("OK", *reasons, OTHER)}
        self._durations = {method: Spread(CALL_BOUNDS) for method in (*methods, OTHER)}
        self._reasons = frozenset(("OK", *reasons))
        self._queue = Spread(CALL_BOUNDS)
        self._batches = {method: Spread(BATCH_BOUNDS) for method in (*methods, OTHER)}

    def observe(
        self,
        method: str,
        reason: str,
        duration_ns: int,
        trace_id: str = "",
        now_s: float = 0.0,
        queue_ns: int | None = None,
        items: int | None = None,
    ) -> None:
        """Notes a call that ended. method: its short name; reason: "OK" or an ErrorReason; trace_id, now_s: for the
        exemplar (0: about now); queue_ns: how long it waited for a thread; items: of a batch."""
        self._note(_Request(method, reason, duration_ns, trace_id, now_s, queue_ns, items))

    def _count(self, note: _Request) -> None:
        method = note.method if note.method in self._durations else OTHER
        reason = note.reason if note.reason in self._reasons else OTHER
        self._counts[method, reason] += 1
        self._durations[method].add(note.duration_ns / _NS_PER_S, note.trace_id, note.now_s or time.time())
        if note.queue_ns is not None:
            self._queue.add(note.queue_ns / _NS_PER_S)
        if note.items is not None:
            self._batches[method].add(float(note.items))

    def _put(self, snapshot: Snapshot) -> None:
        seen = {"Decide", *(method for (method, _), count in self._counts.items() if count)}
        for (method, reason), count in self._counts.items():
            # Zeros as well: Prometheus sees no rise in a series that begins with 1.
            if count or (method in seen and reason != OTHER):
                snapshot.put("assay.requests", (method, reason), count)
        for name, spreads in (("assay.request.duration", self._durations), ("assay.batch.size", self._batches)):
            for method, spread in spreads.items():
                if (found := spread.histogram()).count:
                    snapshot.put_histogram(name, (method,), found)
        snapshot.put_histogram("assay.request.queue.duration", (), self._queue.histogram())


STORE_OPERATIONS = ("read", "write", "update", "delete")
STORE_OUTCOMES = ("ok", "partial", "timeout", "unavailable", "corrupt", "not_tried", OTHER)


class StoreMetrics(_Noted[_Call]):
    """Calls to one store. Threads may note at once."""

    def __init__(self, store: str) -> None:
        super().__init__()
        self._store = store
        self._counts = {
            (operation, outcome): 0 for operation in (*STORE_OPERATIONS, OTHER) for outcome in STORE_OUTCOMES
        }
        self._durations = {operation: Spread(STORE_BOUNDS) for operation in (*STORE_OPERATIONS, OTHER)}
        self._keys = 0

    def observe(self, operation: str, outcome: str, duration_ns: int, keys: int = 0) -> None:
        """Notes a call that ended: one of STORE_OPERATIONS and STORE_OUTCOMES; keys: that a read asked for."""
        self._note(_Call(operation, outcome, duration_ns, keys))

    def _count(self, note: _Call) -> None:
        operation = note.operation if note.operation in self._durations else OTHER
        outcome = note.outcome if note.outcome in STORE_OUTCOMES else OTHER
        self._counts[operation, outcome] += 1
        self._durations[operation].add(note.duration_ns / _NS_PER_S)
        self._keys += note.keys

    def _put(self, snapshot: Snapshot) -> None:
        for (operation, outcome), count in self._counts.items():
            if count:
                snapshot.put("assay.store.calls", (self._store, operation, outcome), count)
        for operation, spread in self._durations.items():
            if (found := spread.histogram()).count:
                snapshot.put_histogram("assay.store.call.duration", (self._store, operation), found)
        snapshot.put("assay.store.keys", (self._store,), self._keys)
