"""Two stores as one: a fast one that is asked first, over a durable one that holds everything.

    TieredStore(GuardedStore(redis), GuardedStore(cassandra), TieredSettings(fast_timeout_ms=10))

Reads ask the fast store, and the durable one for what the fast one lacks, all within one deadline (`TierReader`).
Either can fail: what the other has is still read, and nothing is called missing that could not be looked for. Writes go
to the durable store first; it decides whether they succeed. What that means for the fast store, also where several
processes share it:

- A row that could not be written to the fast store, or that the durable store took for older than its own, is deleted
  there, at once or as soon as it answers (`TierKeeper`). Until then this process does not read it from there; others
  may read the older row. A process that is killed in that state leaves the older row until the fast store forgets it,
  after `refill_ttl_s` at the latest. It keeps its true event time throughout, so it is never called fresher than it is.
- A row that was found in neither store may be taken for missing by this process for `missing_ttl_s` more, unless it
  comes into the fast store meanwhile, as every row does that is written while the fast store is well.
- After an erasure another process may put a row that it had just read into the fast store; it is deleted there again
  within seconds.
- The fast store should start empty: one that comes back with an old snapshot gives old rows.
"""

from __future__ import annotations

import os
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice

from engine.errors import StoreError
from engine.features.store import (
    Change,
    FeatureStore,
    StoreTimeout,
    StoreUnavailable,
    WriteResult,
    check_event_time,
    entity_prefix,
    event_time_of,
)
from engine.features.stores.breaker import NotTried
from engine.features.stores.missing import MissingKeys
from engine.features.stores.tier_keeper import SETTLE_S, TierKeeper
from engine.features.stores.tier_reader import TierReader

_BATCH = 1000


@dataclass(frozen=True, slots=True)
class TieredSettings:
    """fast_timeout_ms: the most that the fast store may take of a read, and half of what the caller allows at most.
    refill_ttl_s: how long the fast store keeps a row (None: for ever, if it can); refill_waiting_max: rows that may
    wait to be copied into it. missing_ttl_s: how long the durable store is not asked again for a row that neither had;
    missing_rows_max: how many such are remembered. marks_max: rows that may be known to be out of date in the fast
    store; beyond it nothing is read from there until all of it was deleted. settle_s: between the two deletions of such
    a row."""

    fast_timeout_ms: float = 10.0
    refill_ttl_s: int | None = 7 * 86_400
    refill_waiting_max: int = 10_000
    missing_ttl_s: float = 5.0
    missing_rows_max: int = 100_000
    marks_max: int = 100_000
    settle_s: float = SETTLE_S


class TieredStore:
    """A fast store over a durable one. It closes both with itself.

    Put a `GuardedStore` around each of them, so that one that hangs does not cost its share of every read.
    """

    name = "tiered"

    def __init__(self, fast: FeatureStore, durable: FeatureStore, settings: TieredSettings | None = None) -> None:
        self._fast, self._durable = fast, durable
        self._settings = settings = settings or TieredSettings()
        self._missing = MissingKeys(settings.missing_ttl_s, settings.missing_rows_max)
        self._keeper = TierKeeper(
            fast,
            durable,
            self._missing,
            waiting_max=settings.refill_waiting_max,
            marks_max=settings.marks_max,
            ttl_s=settings.refill_ttl_s,
            settle_s=settings.settle_s,
        )
        self._reader = TierReader(fast, durable, self._keeper, self._missing, settings.fast_timeout_ms)
        _forkable.add(self)

    def counters(self) -> dict[str, int]:
        """Rows since the start: asked_durable, corrupt_in_fast, known_missing, refilled, refill_dropped, mended;
        distrusted: how often all of the fast store was. As of now: marked, is_distrusted, refill_waiting, missing."""
        return self._keeper.gauges() | {"missing": len(self._missing)}

    def read(self, keys: Sequence[bytes], deadline_s: float | None = None) -> list[bytes | None]:
        """As the protocol says, of both stores. Raises PartialRead when a part could be read, and never gives None for
        a row that the durable store could not be asked for."""
        return self._reader.read(keys, deadline_s)

    def write(self, rows: Iterable[tuple[bytes, bytes, int]], *, ttl_s: int | None = None) -> WriteResult:
        """As the protocol says, into both stores. The counts are the durable store's, which decides: what the fast
        store would not take is deleted there later, and the call succeeds."""
        written = ignored = 0
        todo = iter(rows)
        while batch := list(islice(todo, _BATCH)):
            for _, value, event_time_us in batch:
                check_event_time(value, event_time_us)
            keys = [key for key, _, _ in batch]
            try:
                result = self._durable.write(batch, ttl_s=ttl_s)
            except NotTried:
                raise
            except StoreError:
                self._keeper.suspect(keys)
                raise
            self._missing.forget(keys)
            written += result.written
            ignored += result.ignored_older
            try:
                if result.ignored_older:
                    # Which of them is not known, and the fast store must not get one that is older than the durable's.
                    self._fast.delete(keys)
                else:
                    self._fast.write(batch, ttl_s=self._fast_ttl_s(ttl_s))
            except BaseException as error:
                self._keeper.mark(keys)
                if not isinstance(error, StoreError):
                    raise
        return WriteResult(written, ignored)

    def update(
        self, changes: Sequence[tuple[bytes, Change]], *, ttl_s: int | None = None, deadline_s: float | None = None
    ) -> list[bytes | None]:
        """As the protocol says, in the durable store; the fast one gets the outcome, where the newer wins."""
        try:
            held = self._durable.update(changes, ttl_s=ttl_s, deadline_s=deadline_s)
        except NotTried:
            raise
        except StoreError:
            self._keeper.suspect({key for key, _ in changes})
            raise
        outcome = {key: value for (key, _), value in zip(changes, held, strict=True) if value is not None}
        self._missing.forget(outcome)
        try:
            if deadline_s is not None and time.monotonic() >= deadline_s:
                raise StoreTimeout("no time left to tell the fast store")
            copies = [(key, _newer(value)) for key, value in outcome.items()]
            self._fast.update(copies, ttl_s=self._fast_ttl_s(ttl_s), deadline_s=deadline_s)
        except BaseException as error:
            self._keeper.mark(outcome)
            if not isinstance(error, StoreError):
                raise
        return held

    def delete(self, keys: Sequence[bytes]) -> int:
        """As the protocol says. Both stores must do it; StoreUnavailable says where it is done already."""
        return self._delete(keys, lambda store: store.delete(keys))

    def delete_entity(self, entity: str, entity_id: str) -> int:
        """As `delete`."""
        prefix = entity_prefix(entity, entity_id)
        self._missing.forget_prefix(prefix)
        return self._delete([prefix], lambda store: store.delete_entity(entity, entity_id))

    def _delete(self, marks: Sequence[bytes], delete: Callable[[FeatureStore], int]) -> int:
        failed: dict[str, StoreError] = {}
        counts = [0]
        for tier, store in (("durable", self._durable), ("fast", self._fast)):
            try:
                counts.append(delete(store))
            except StoreError as error:
                failed[tier] = error
        self._missing.forget(marks)
        if "durable" not in failed:
            # Also when the fast store has done it: another process may be copying what it has just read.
            self._keeper.mark(marks)
        if failed:
            done = "erased in the fast store, not in the durable one" if "fast" not in failed else "not erased anywhere"
            if "durable" not in failed:
                done = "erased in the durable store, not yet in the fast one"
            causes = "; ".join(f"{tier}: {error}" for tier, error in failed.items())
            raise StoreUnavailable(f"{done}; call again ({causes})") from next(iter(failed.values()))
        return max(counts)

    def scan(self, prefix: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        """As the protocol says, of the durable store."""
        return self._durable.scan(prefix)

    def put_schema(self, fingerprint: bytes, canonical: bytes) -> None:
        """As the protocol says, into both stores; the fast one gets it later if it cannot take it now."""
        self._durable.put_schema(fingerprint, canonical)
        try:
            self._fast.put_schema(fingerprint, canonical)
        except StoreError:
            self._keeper.put_schema_later(fingerprint, canonical)

    def get_schema(self, fingerprint: bytes) -> bytes | None:
        """As the protocol says, of the durable store, or of the fast one while that fails: a fingerprint stands for
        one form, whoever holds it."""
        try:
            return self._durable.get_schema(fingerprint)
        except StoreError as error:
            with suppress(StoreError):
                canonical = self._fast.get_schema(fingerprint)
                if canonical is not None:
                    return canonical
            raise error

    def schemas(self) -> Iterator[tuple[bytes, bytes]]:
        """As the protocol says, of the durable store."""
        return self._durable.schemas()

    def ping(self) -> None:
        """As the protocol says. Decisions can be made while either store serves; writing needs the durable one."""
        try:
            self._durable.ping()
        except StoreError as error:
            try:
                self._fast.ping()
            except StoreError:
                raise error from None

    def close(self) -> None:
        """As the protocol says. Deletes what is out of date in the fast store first, if that answers."""
        self._keeper.close()
        try:
            self._fast.close()
        finally:
            self._durable.close()

    def _fast_ttl_s(self, ttl_s: int | None) -> int | None:
        limits = [limit for limit in (ttl_s, self._settings.refill_ttl_s) if limit is not None]
        return min(limits) if limits else None


def _newer(value: bytes) -> Change:
    """Puts a value where there is none or an older one."""

    def change(held: bytes | None) -> bytes | None:
        if held is None or (event_time_of(held), held) < (event_time_of(value), value):
            return value
        return None

    return change


_forkable: weakref.WeakSet[TieredStore] = weakref.WeakSet()


def _after_fork() -> None:
    for store in list(_forkable):
        store._missing.begin()
        store._keeper.begin()


os.register_at_fork(after_in_child=_after_fork)
