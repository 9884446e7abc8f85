"""What keeps a fast store in line with the durable one behind it: one thread, and the memory of what is wrong.

Rows that reads found in the durable store alone are copied into the fast one (refill). A key whose row in the fast
store may be older than the one in the durable store is marked; nobody reads it from the fast store until it was
deleted there. It is deleted twice, some time apart: what other connections and other processes had under way when it
was deleted first, for example a refill that a halted server carries out when it goes on, has come in by then.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Iterable, Sequence
from itertools import islice

from engine.errors import StoreError
from engine.features.store import FeatureStore, event_time_of, parse_key
from engine.features.stores.missing import MissingKeys

_log = logging.getLogger("assay.store")

# A row that was read longer ago is not copied any more: it may have been changed or erased since.
REFILL_AGE_S = 1.0
# Between the two deletions of a marked key. Longer than any process takes to copy what it has read.
SETTLE_S = 2.0
_BATCH = 500
_RETRY_S, _RETRY_MAX_S = 0.1, 5.0
_JOIN_S = 10.0
_COUNTED = (
    "asked_durable",
    "corrupt_in_fast",
    "known_missing",
    "refilled",
    "refill_dropped",
    "mended",
    "distrusted",
)
# A marked key that was not deleted yet.
_NEW = 0.0


def entity_part(key: bytes) -> bytes:
    """What the keys of all rows of the key's entity start with: `{entity/id}`."""
    return key[: key.rfind(b"}") + 1]


class TierKeeper:
    """The keeper of one pair of stores. Its thread starts with its first work and ends with `close`.

    waiting_max: rows that may wait to be copied; more are not copied. marks_max: marked keys; beyond it nothing in the
    fast store is trusted until all of it was deleted. ttl_s: how long the fast store keeps what is copied into it.
    """

    def __init__(
        self,
        fast: FeatureStore,
        durable: FeatureStore,
        missing: MissingKeys,
        *,
        waiting_max: int,
        marks_max: int,
        ttl_s: int | None,
        settle_s: float = SETTLE_S,
    ) -> None:
        self._fast, self._durable, self._missing = fast, durable, missing
        self._waiting_max, self._marks_max, self._ttl_s, self._settle_s = waiting_max, marks_max, ttl_s, settle_s
        self.counts: Counter[str] = Counter()
        # Whether any key may have to be kept from the fast store: the one thing that a good read looks at.
        self.alert = False
        self.distrusted = False
        # Marked keys, and entities as `{entity/id}`: the moment from which on they may be deleted for good.
        self.marks: dict[bytes, float] = {}
        # Keys that the durable store may or may not have changed: it failed while it was told to.
        self._suspects: dict[bytes, None] = {}
        self._suspects_lost = False
        self._schemas: dict[bytes, bytes] = {}
        self.epoch = 0
        self._closing = False
        self.begin()

    def begin(self) -> None:
        """Start without a thread: at first, and in a forked child."""
        self._lock = threading.Lock()
        self._wake = threading.Condition(self._lock)
        self._refills: deque[tuple[int, float, list[tuple[bytes, bytes]]]] = deque()
        self._waiting = 0
        self._thread: threading.Thread | None = None
        self._retry_s, self._next_s = _RETRY_S, 0.0

    def marked(self, key: bytes) -> bool:
        """Whether this key must not be read from the fast store."""
        return self.distrusted or key in self.marks or entity_part(key) in self.marks

    def refill(self, epoch: int, began_s: float, rows: list[tuple[bytes, bytes]]) -> None:
        """Copies rows into the fast store soon, unless something is marked meanwhile. epoch, began_s: from before they
        were read, the latter on `time.monotonic()`."""
        with self._wake:
            if self._closing or self._waiting + len(rows) > self._waiting_max:
                self.counts["refill_dropped"] += len(rows)
                return
            self._waiting += len(rows)
            self._refills.append((epoch, began_s, rows))
            self._work()

    def mark(self, keys: Iterable[bytes]) -> None:
        """The fast store may hold something older than the durable one under these keys or entities (`{entity/id}`)."""
        with self._wake:
            self._mark(keys)
            self._work()

    def _mark(self, keys: Iterable[bytes]) -> None:
        # Rows read before now are not to be copied: they may be what has just been replaced.
        self.epoch += 1
        self.marks |= dict.fromkeys(keys, _NEW)
        if len(self.marks) > self._marks_max:
            if not self.distrusted:
                _log.warning("fast store distrusted until it is emptied", extra={"marked": len(self.marks)})
            self.marks, self.distrusted = {}, True
            self.counts["distrusted"] += 1
        self.alert = True

    def suspect(self, keys: Iterable[bytes]) -> None:
        """The durable store failed while it was told to change these: they are marked when it answers again, and read
        as they are until then."""
        with self._wake:
            self.epoch += 1
            if not self._suspects_lost:
                self._suspects |= dict.fromkeys(keys)
            if len(self._suspects) > self._marks_max:
                self._suspects, self._suspects_lost = {}, True
            self._work()

    def resume(self) -> None:
        """Goes on with what is marked, in a forked child that has no thread yet."""
        if self._thread is None:
            with self._wake:
                self._work()

    def put_schema_later(self, fingerprint: bytes, canonical: bytes) -> None:
        """The fast store would not take a schema: it gets it when it can."""
        with self._wake:
            self._schemas[fingerprint] = canonical
            self._work()

    def gauges(self) -> dict[str, int]:
        """Counts since the start, and what is waiting right now."""
        now = {"marked": len(self.marks), "is_distrusted": int(self.distrusted), "refill_waiting": self._waiting}
        return {what: self.counts[what] for what in _COUNTED} | now

    def close(self) -> None:
        """Ends the thread, after one more attempt to delete what is marked. Harmless when repeated."""
        with self._wake:
            first, self._closing = not self._closing, True
            self._wake.notify_all()
            thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(_JOIN_S)
        if not first or not (self.alert or self._suspects or self._suspects_lost):
            return
        for key in list(self._suspects):
            self.marks[key] = _NEW
        try:
            self._delete(list(islice(self.marks, 10 * _BATCH)))
            left = max(0, len(self.marks) - 10 * _BATCH)
        except StoreError:
            left = len(self.marks)
        if left or self.distrusted or self._suspects_lost:
            _log.warning(
                "the fast store may hold older rows than the durable one until they run out there",
                extra={"rows": left, "all": self.distrusted or self._suspects_lost, "ttl_s": self._ttl_s},
            )

    def _work(self) -> None:
        """There is something to do. Called with the lock held."""
        if self._closing:
            return
        if self._thread is None:
            thread = threading.Thread(target=self._run, name="assay-tier-keeper", daemon=True)
            try:
                thread.start()
            except RuntimeError:
                return  # none to be had: marked keys stay marked, and the next work tries again
            self._thread = thread
        else:
            self._wake.notify()

    def _run(self) -> None:
        while True:
            with self._wake:
                while not self._closing and not self._refills:
                    wait_s = self._wait_s()
                    if wait_s is not None and wait_s <= 0:
                        break
                    self._wake.wait(wait_s)
                if self._closing:
                    return
                refills, self._refills, self._waiting = self._refills, deque(), 0
            try:
                self._copy(refills)
                if time.monotonic() >= self._next_s:
                    self._mend()
                    self._retry_s = _RETRY_S
            except StoreError:
                self._next_s = time.monotonic() + self._retry_s
                self._retry_s = min(2 * self._retry_s, _RETRY_MAX_S)
            except Exception:
                # A driver's own error is a mistake of its store; marked keys must be mended all the same.
                _log.exception("the keeper of the tiers failed")
                self._next_s = time.monotonic() + _RETRY_MAX_S

    def _wait_s(self) -> float | None:
        """How long until there is something to mend; None: nothing is wrong. Called with the lock held."""
        due_s = []
        if self._suspects or self._suspects_lost or self._schemas or self.distrusted:
            due_s.append(_NEW)
        elif self.marks:
            due_s.append(min(self.marks.values()))
        return max(min(due_s), self._next_s) - time.monotonic() if due_s else None

    def _copy(self, refills: Iterable[tuple[int, float, list[tuple[bytes, bytes]]]]) -> None:
        oldest_s = time.monotonic() - REFILL_AGE_S
        rows: dict[bytes, bytes] = {}
        for epoch, began_s, some in refills:
            if epoch != self.epoch or began_s < oldest_s or self.distrusted:
                self.count("refill_dropped", len(some))
                continue
            for key, row in some:
                if key not in rows or event_time_of(rows[key]) < event_time_of(row):
                    rows[key] = row
        todo = iter(rows.items())
        while batch := list(islice(todo, _BATCH)):
            try:
                self._fast.write([(key, row, event_time_of(row)) for key, row in batch], ttl_s=self._ttl_s)
            except StoreError:
                self.count("refill_dropped", len(batch))
                return
            self.count("refilled", len(batch))

    def count(self, what: str, amount: int) -> None:
        with self._lock:
            self.counts[what] += amount

    def _mend(self) -> None:
        """One step towards a fast store that can be trusted. Raises StoreError when it has to wait."""
        if self._suspects or self._suspects_lost:
            self._durable.ping()
            with self._lock:
                self._mark(self._suspects)
                if self._suspects_lost:
                    self.distrusted, self._suspects_lost = True, False
                self._suspects = {}
        if self.distrusted:
            self._empty()
        self._mend_marks()
        for fingerprint, canonical in list(self._schemas.items()):
            self._fast.put_schema(fingerprint, canonical)
            self._schemas.pop(fingerprint, None)

    def _mend_marks(self) -> None:
        now_s = time.monotonic()
        with self._lock:
            due = [(key, at_s) for key, at_s in self.marks.items() if at_s <= now_s]
        for start in range(0, len(due), _BATCH):
            batch = due[start : start + _BATCH]
            self._delete([key for key, _ in batch])
            for key, _ in batch:
                # Whoever read before the mark may have noted that there is no such row.
                self._missing.forget_prefix(key) if key.endswith(b"}") else self._missing.forget((key,))
            again_s = time.monotonic() + self._settle_s
            with self._lock:
                for key, at_s in batch:
                    if self.marks.get(key) != at_s:
                        continue  # marked anew meanwhile
                    if at_s == _NEW:
                        self.marks[key] = again_s
                    else:
                        del self.marks[key]
                        self.counts["mended"] += 1
                self.alert = bool(self.marks) or self.distrusted

    def _delete(self, keys: Sequence[bytes]) -> None:
        if rows := [key for key in keys if not key.endswith(b"}")]:
            self._fast.delete(rows)
        for key in keys:
            if key.endswith(b"}"):
                parts = parse_key(key + b"x")
                self._fast.delete_entity(parts.entity, parts.entity_id)

    def _empty(self) -> None:
        """Deletes all of the fast store, twice; its rows are trusted again unless too much was marked meanwhile."""
        began = self.counts["distrusted"]
        for again in (True, False):
            todo = self._fast.scan()
            while batch := [key for key, _ in islice(todo, _BATCH)]:
                self._fast.delete(batch)
                if self._closing:
                    return
            if again:
                with self._wake:
                    self._wake.wait_for(lambda: self._closing, self._settle_s)
        with self._lock:
            if self.counts["distrusted"] == began:
                self.distrusted, self.alert = False, bool(self.marks)
                _log.info("fast store emptied and trusted again")
