"""Calls of the server and of the stores: a moment, an outcome, one append; folded like decisions are."""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections import Counter, deque
from collections.abc import Iterable, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from engine.telemetry.metrics.catalogue import BATCH_BOUNDS, CALL_BOUNDS, OTHER, STORE_BOUNDS
from engine.telemetry.metrics.snapshot import Exemplar, Histogram, Snapshot

_NS_PER_S = 1e9
# A scrape or the folding thread empties them long before.
_NOTES_MAX = 100_000
# Folded at a time: half a millisecond.
_CHUNK = 1024
# A plain tuple is made several times as fast.
_new = tuple.__new__


class Spread:
    """A histogram that one thread at a time adds to."""

    __slots__ = ("_bounds", "_counts", "_edges", "_exemplars", "_total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds, self._edges, self._total = bounds, np.array(bounds), 0.0
        self._counts = np.zeros(len(bounds) + 1, dtype=np.int64)
        self._exemplars: dict[int, Exemplar] = {}

    def add(self, values: NDArray[np.float64]) -> NDArray[np.intp]:
        """Counts values. Gives the bucket of each."""
        buckets = self._edges.searchsorted(values)
        self._counts += np.bincount(buckets, minlength=len(self._counts))
        self._total += float(values.sum())
        return buckets

    def exemplify(
        self, buckets: NDArray[np.intp], values: NDArray[np.float64], traces: Sequence[tuple[str, float]]
    ) -> None:
        """Keeps the latest of each bucket. traces: the trace and the moment (s since 1970) of each value, "" and any
        for one without."""
        traced = [(bucket, place) for place, bucket in enumerate(buckets.tolist()) if traces[place][0]]
        for bucket, place in dict(traced).items():
            trace_id, time_s = traces[place]
            self._exemplars[bucket] = Exemplar(trace_id, float(values[place]), time_s or time.time())

    def histogram(self) -> Histogram:
        """All of it."""
        return Histogram(self._bounds, self._counts.tolist(), self._total, dict(self._exemplars))


N = TypeVar("N", bound=tuple[Any, ...])


class _Noted(ABC, Generic[N]):
    """Notes in a deque, and a fold of them. Exact for the reasons that `decisions` gives."""

    def __init__(self) -> None:
        self._notes: deque[N] = deque()
        self._folding, self._rare = threading.Lock(), threading.Lock()
        self._dropped = 0

    def _drop(self) -> None:
        with self._rare:
            self._dropped += 1

    def fold(self) -> None:
        """Counts what was noted up to now."""
        popleft = self._notes.popleft
        with self._folding:
            left = len(self._notes)
            while left > 0:
                taken = [popleft() for _ in range(min(left, _CHUNK))]
                left -= len(taken)
                self._count(taken)

    def put(self, snapshot: Snapshot) -> None:
        """Folds, and adds everything to a snapshot."""
        self.fold()
        with self._folding:
            self._put(snapshot)
        snapshot.put("assay.metrics.dropped", (), self._dropped)

    @abstractmethod
    def _count(self, notes: Sequence[N]) -> None:
        """Counts some. With the lock."""

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
        if len(self._notes) < _NOTES_MAX:
            self._notes.append(_new(_Request, (method, reason, duration_ns, trace_id, now_s, queue_ns, items)))
        else:
            self._drop()

    def _count(self, notes: Sequence[_Request]) -> None:
        for named, same in _by_first(notes):
            method = named if named in self._durations else OTHER
            for reason, count in Counter([note[1] for note in same]).items():
                self._counts[method, reason if reason in self._reasons else OTHER] += count
            _, _, durations_ns, trace_ids, moments_s, _, items = zip(*same, strict=True)
            values = _seconds(durations_ns)
            spread = self._durations[method]
            spread.exemplify(spread.add(values), values, list(zip(trace_ids, moments_s, strict=True)))
            sizes = [float(one) for one in items if one is not None]
            if sizes:
                self._batches[method].add(np.array(sizes))
        waits_ns = [note[5] for note in notes if note[5] is not None]
        if waits_ns:
            self._queue.add(_seconds(waits_ns))

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
        if len(self._notes) < _NOTES_MAX:
            self._notes.append(_new(_Call, (operation, outcome, duration_ns, keys)))
        else:
            self._drop()

    def _count(self, notes: Sequence[_Call]) -> None:
        for named, same in _by_first(notes):
            known = named if named in self._durations else OTHER
            for outcome, count in Counter([note[1] for note in same]).items():
                self._counts[known, outcome if outcome in STORE_OUTCOMES else OTHER] += count
            self._durations[known].add(_seconds([note[2] for note in same]))
            self._keys += sum([note[3] for note in same])

    def _put(self, snapshot: Snapshot) -> None:
        for (operation, outcome), count in self._counts.items():
            if count:
                snapshot.put("assay.store.calls", (self._store, operation, outcome), count)
        for operation, spread in self._durations.items():
            if (found := spread.histogram()).count:
                snapshot.put_histogram("assay.store.call.duration", (self._store, operation), found)
        snapshot.put("assay.store.keys", (self._store,), self._keys)


def _by_first(notes: Sequence[N]) -> Iterable[tuple[str, list[N]]]:
    """Notes by what stands first in them, each group in the order that they were noted."""
    found: dict[str, list[N]] = {}
    for note in notes:
        if (mine := found.get(note[0])) is None:
            mine = found[note[0]] = []
        mine.append(note)
    return found.items()


def _seconds(durations_ns: Sequence[int]) -> NDArray[np.float64]:
    return np.array(durations_ns, dtype=np.float64) / _NS_PER_S
