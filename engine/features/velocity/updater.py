"""One update of a store for many events: the columns recorded first, states of other columns read by name."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from engine.features.store import FeatureStore, StoreTimeout
from engine.features.velocity.changes import Definitions, VelocityChange, tally_of
from engine.features.velocity.definition import Event

TTL_S = 31 * 86_400
# Keys in one update: as many as waited, fewer where the store was too slow for so many, and after so many batches that
# were held to fewer and went well, more again.
_KEYS_LEAST, _KEYS_MOST = 16, 4_096
_CALM = 32


@dataclass(slots=True)
class Stats:
    """What became of events since the start.

    new, duplicates, too_late, unreadable: as in `changes.Tally`; retries: updates that failed and were made again;
    dropped: events left to the journal because too many waited; invalid: events that cannot be kept (`check_event`).
    """

    new: int = 0
    duplicates: int = 0
    too_late: int = 0
    unreadable: int = 0
    retries: int = 0
    dropped: int = 0
    invalid: int = 0


@dataclass(slots=True)
class Batch:
    """The changes that some events make, and the definitions that they come from. made: how many of them are made."""

    definitions: Definitions
    changes: Sequence[tuple[bytes, VelocityChange]]
    made: int = 0

    def failed(self) -> None:
        """An update failed, and will go on where it was."""
        for _, change in self.changes[self.made :]:
            change.failed()


class Updater:
    """Makes updates. Threads may call it at once. ttl_s: how long a store need keep a state that does not change;
    timeout_s: how long one update may take."""

    def __init__(self, store: FeatureStore, definitions: Definitions, ttl_s: int, timeout_s: float) -> None:
        self.definitions = definitions
        self._store, self._ttl_s, self._timeout_s = store, ttl_s, timeout_s
        self._keys_max, self._calm = _KEYS_MOST, 0
        self.forget()

    def forget(self) -> None:
        """Start anew, as in a forked child: with a lock that nobody holds, and nothing counted."""
        self._lock = threading.Lock()
        self._stats = Stats()
        self._recorded: Definitions | None = None

    @property
    def stats(self) -> Stats:
        """What became of events since the start, now."""
        with self._lock:
            return replace(self._stats)

    def count(self, *, retries: int = 0, dropped: int = 0) -> None:
        """Note what happened besides."""
        with self._lock:
            self._stats.retries += retries
            self._stats.dropped += dropped

    def batch(self, events: Sequence[Event]) -> Batch:
        """The changes that these events make. Raises ValueError for an event that cannot be kept."""
        definitions = self.definitions
        return Batch(definitions, definitions.changes(events))

    def lenient_batch(self, events: Sequence[Event]) -> Batch:
        """The same without the events that cannot be kept, which are counted."""
        try:
            return self.batch(events)
        except ValueError:
            fit = [event for event in events if self._fits(event)]
            with self._lock:
                self._stats.invalid += len(events) - len(fit)
            return self.batch(fit)

    def _fits(self, event: Event) -> bool:
        try:
            self.batch([event])
        except ValueError:
            return False
        return True

    def update(self, batch: Batch, deadline_s: float | None = None) -> None:
        """Make the changes, and count what became of the events. Raises StoreError; then some may have been made, and
        after `Batch.failed` it may be called again."""
        definitions, changes, store = batch.definitions, batch.changes, self._store
        if self._recorded is not definitions:
            # Before the first state with these columns is written.
            for fingerprint, canonical in definitions.schemas:
                store.put_schema(fingerprint, canonical)
            for _, canonical in store.schemas():
                definitions.learn(canonical)
            self._recorded = definitions
        if not changes:
            return
        limited = len(changes) - batch.made > self._keys_max
        while batch.made < len(changes):
            part = changes[batch.made : batch.made + self._keys_max]
            self._make(part, deadline_s)
            batch.made += len(part)
        self._calm += limited
        if self._calm > _CALM:
            self._keys_max, self._calm = min(_KEYS_MOST, 2 * self._keys_max), 0
        unknown = {change.unknown for _, change in changes if change.unknown is not None}
        if unknown:
            found = [store.get_schema(fingerprint) for fingerprint in unknown]
            if any([canonical is not None and definitions.learn(canonical) for canonical in found]):
                again = [(key, change) for key, change in changes if change.unknown is not None]
                self._make(again, deadline_s)
        tally = tally_of(changes)
        with self._lock:
            self._stats.new += tally.new
            self._stats.duplicates += tally.duplicates
            self._stats.too_late += tally.too_late
            self._stats.unreadable += tally.unreadable

    def _make(self, changes: Sequence[tuple[bytes, VelocityChange]], deadline_s: float | None) -> None:
        end_s = time.monotonic() + self._timeout_s
        end_s = end_s if deadline_s is None else min(end_s, deadline_s)
        try:
            self._store.update(changes, ttl_s=self._ttl_s, deadline_s=end_s)
        except StoreTimeout:
            self._keys_max, self._calm = max(_KEYS_LEAST, len(changes) // 2), 0
            raise
