"""Counts events behind the answers: a thread that adds to the store whatever waits, and knows what still does.

The journal is the outbox. What is lost here (a crash, a queue that is full while the store fails) stands in the
journal after the checkpoint, and `catch_up` counts it from there; an event that was counted already is known by its id.

Positions are the journal's own: anything that can be compared. Events are submitted in the order of their positions;
threads that overtake one another make the checkpoint run ahead of an event by as long as that takes, and no longer.
"""

from __future__ import annotations

import logging
import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from collections.abc import Set as AbstractSet
from itertools import islice
from typing import Any, Protocol

from engine.errors import StoreError
from engine.features.store import FeatureStore
from engine.features.velocity.changes import Definitions, outcomes_of
from engine.features.velocity.definition import Event
from engine.features.velocity.state import Outcome
from engine.features.velocity.updater import TTL_S, Batch, Stats, Updater

_log = logging.getLogger("assay.velocity")
_NONE: frozenset[bytes] = frozenset()


class Position(Protocol):
    """Where an event stands in the journal."""

    def __lt__(self, other: Any, /) -> bool:
        """Whether it stands before another."""


class Shared(Protocol):
    """Where other processes see what is under way here; see `engine.under_way`. Called under the applier's lock."""

    def add(self, keys: Iterable[bytes], /) -> None:
        """These keys are under way."""

    def take_away(self, keys: Iterable[bytes], /) -> None:
        """These are counted."""

    def lost(self, keys: Iterable[bytes], /) -> None:
        """These are left to the journal."""

    def caught_up(self) -> None:
        """All that was left to the journal is counted."""


class VelocityApplier:
    """Adds events to the states of a store. Threads may call it at once; its own thread starts with the first event.

    queue_max: events that may wait; beyond them events are left to the journal and `behind` becomes true. batch_max:
    events in one update of the store. retry_s: the first and the longest wait after a failure. update_timeout_s: how
    long one update may take. behind: whether the journal holds events that were never counted, as after a crash.
    on_applied: told the checkpoint whenever it has risen; called by one thread at a time, and never with an older one.
    shared: where other processes see what is under way; None: they need not.

    In a forked child it starts anew, empty: what waits is the parent's.
    """

    def __init__(
        self,
        store: FeatureStore,
        definitions: Definitions,
        *,
        queue_max: int = 100_000,
        batch_max: int = 256,
        ttl_s: int = TTL_S,
        retry_s: tuple[float, float] = (0.05, 5.0),
        update_timeout_s: float = 5.0,
        behind: bool = False,
        on_applied: Callable[[Any], None] | None = None,
        shared: Shared | None = None,
    ) -> None:
        self._shared = shared
        self._updater = Updater(store, definitions, ttl_s, update_timeout_s)
        self._queue_max, self._batch_max, self._retry_s = queue_max, batch_max, retry_s
        self._on_applied = on_applied
        self._begin(behind)
        _forkable.add(self)

    def _begin(self, behind: bool) -> None:
        self._lock = threading.Lock()
        self._wake, self._settled = threading.Condition(self._lock), threading.Condition(self._lock)
        self._reporting = threading.Lock()
        self._thread: threading.Thread | None = None
        self._idle = False
        self._stop_at_s: float | None = None
        # Events are numbered as they come; what waits, and for each key the number of the last event that changes it.
        self._queue: deque[tuple[Event, Position, list[bytes]]] = deque()
        self._in_flight = self._submitted = self._applied = 0
        self._pending: dict[bytes, int] = {}
        # Why the last update failed; empty once one succeeds.
        self.last_error = ""
        self._behind, self._catching_up = behind, False
        self._live: Any = None
        self._last_dropped: Any = None
        self._checkpoint: Any = None

    @property
    def behind(self) -> bool:
        """Whether the journal holds events that were not counted, so that `catch_up` is due."""
        return self._behind

    @property
    def depth(self) -> int:
        """Events that wait or are being added."""
        return len(self._queue) + self._in_flight

    @property
    def checkpoint(self) -> Any:
        """The position up to which every event is counted for good; None before the first."""
        return self._checkpoint

    @property
    def stats(self) -> Stats:
        """What became of events since the start."""
        return self._updater.stats

    def use(self, definitions: Definitions) -> None:
        """Count by other definitions from now on, as after a new bundle was put in service."""
        self._updater.definitions = definitions

    def submit(self, event: Event, position: Position) -> bool:
        """Count an event soon. False when it was left to the journal. Raises ValueError for an event that cannot be
        kept."""
        keys = self._updater.definitions.keys(event)
        with self._lock:
            if len(self._queue) + self._in_flight >= self._queue_max or self._stop_at_s is not None:
                self._updater.count(dropped=1)
                self._behind = True
                if self._shared is not None:
                    self._shared.lost(keys)
                if self._last_dropped is None or self._last_dropped < position:
                    self._last_dropped = position
                return False
            self._submitted += 1
            if self._shared is not None:
                self._shared.add(key for key in keys if key not in self._pending)
            for key in keys:
                self._pending[key] = self._submitted
            self._queue.append((event, position, keys))
            if self._idle:
                self._idle = False
                self._wake.notify()
            elif self._thread is None:
                self._thread = threading.Thread(target=self._run, name="assay-velocity", daemon=True)
                self._thread.start()
        return True

    def wait_applied(self, keys: Iterable[bytes | None], until_s: float) -> AbstractSet[bytes]:
        """Wait until every event submitted so far that changes one of these keys is in the store, or until a moment on
        `time.monotonic()`. Gives the keys whose events are not; at once while the store fails."""
        pending = self._pending
        if not pending:
            return _NONE
        late = [key for key in keys if key in pending]
        if not late:
            return _NONE
        with self._lock:
            targets = {key: number for key in late if (number := pending.get(key)) is not None}
            last = max(targets.values(), default=0)
            while self._applied < last and not self.last_error:
                left_s = until_s - time.monotonic()
                if left_s <= 0 or not self._settled.wait(left_s):
                    break
            return {key for key, number in targets.items() if number > self._applied}

    def apply_now(self, events: Sequence[Event], deadline_s: float | None = None) -> list[Outcome]:
        """Count events in this thread, and say what became of each. Raises StoreError, after which some may be counted
        and all may be sent again, and ValueError for an event that cannot be kept, with none counted."""
        batch = self._updater.batch(events)
        self._updater.update(batch, deadline_s)
        return outcomes_of(batch.changes, len(events))

    def catch_up(self, events: Iterable[tuple[Event, Position]]) -> bool:
        """Count all events that the journal holds after the checkpoint, in its order, while others are submitted.

        Waits for the store as long as it fails. The checkpoint rises with it. False when it was stopped, or when
        events were dropped meanwhile that it did not meet: then it is due again. What the iterable raises is passed on.
        """
        with self._lock:
            if self._catching_up:
                raise RuntimeError("a catch-up is under way")
            self._catching_up = self._behind = True
        last: Any = None
        todo = iter(events)
        try:
            while batch := list(islice(todo, self._batch_max)):
                if not self._settle(self._updater.lenient_batch([event for event, _ in batch])):
                    return False
                last = batch[-1][1]
                self._rise(last)
            with self._lock:
                dropped, live = self._last_dropped, self._live
                if dropped is not None and (last is None or last < dropped):
                    return False
                self._behind, self._last_dropped = False, None
                if self._shared is not None:
                    self._shared.caught_up()
            if live is not None:
                self._rise(live)
            return True
        finally:
            self._catching_up = False

    def stop(self, timeout_s: float) -> bool:
        """Add what waits, for so long at most, and end the thread. True when nothing is left. Harmless when repeated;
        events submitted from now on are left to the journal."""
        with self._lock:
            self._stop_at_s = time.monotonic() + timeout_s
            self._idle = False
            self._wake.notify_all()
            thread = self._thread
        if thread is not None:
            thread.join(timeout_s + 0.1)
        return self.depth == 0

    def _run(self) -> None:
        while batch := self._take():
            done = self._settle(self._updater.lenient_batch([event for event, _, _ in batch]))
            with self._lock:
                self._in_flight = 0
                if not done:
                    self._queue.extendleft(reversed(batch))
                    return
                self._applied += len(batch)
                done_keys = []
                for _, _, keys in batch:
                    for key in keys:
                        if self._pending.get(key, self._applied + 1) <= self._applied:
                            del self._pending[key]
                            done_keys.append(key)
                if self._shared is not None:
                    self._shared.take_away(done_keys)
                self._live = batch[-1][1]
                rise = not self._behind
                self._settled.notify_all()
            if rise:
                self._rise(batch[-1][1])

    def _take(self) -> list[tuple[Event, Position, list[bytes]]]:
        """What waits, as much of it as goes into one update; nothing when it is time to end."""
        with self._lock:
            while not self._queue:
                if self._stop_at_s is not None:
                    return []
                self._idle = True
                self._wake.wait()
            self._idle = False
            if self._stop_at_s is not None and time.monotonic() >= self._stop_at_s:
                return []
            batch = [self._queue.popleft() for _ in range(min(len(self._queue), self._batch_max))]
            self._in_flight = len(batch)
            return batch

    def _settle(self, batch: Batch) -> bool:
        """Update until it succeeds. False when it was stopped before."""
        wait_s, longest_s = self._retry_s
        while True:
            try:
                self._updater.update(batch)
                break
            except StoreError as e:
                error = str(e)
            except Exception as e:  # the thread must live: without it nothing is counted any more
                error = f"an update failed with {type(e).__name__}"
                _log.exception("counting events failed in an unforeseen way")
            with self._lock:
                if not self.last_error:
                    _log.error("events wait to be counted", extra={"cause": error})
                self.last_error = error
                self._settled.notify_all()
            self._updater.count(retries=1)
            batch.failed()
            if self._stopped_within(wait_s):
                return False
            wait_s = min(2 * wait_s, longest_s)
        if self.last_error:
            self.last_error = ""
            _log.info("events are counted again")
        return True

    def _stopped_within(self, wait_s: float) -> bool:
        """Wait, or less when it is time to end. True when that time has come."""
        end_s = time.monotonic() + wait_s
        while True:
            now_s = time.monotonic()
            if self._stop_at_s is not None and now_s >= self._stop_at_s:
                return True
            if now_s >= end_s:
                return False
            time.sleep(min(0.05, end_s - now_s))

    def _rise(self, position: Any) -> None:
        with self._reporting:
            if self._checkpoint is not None and not self._checkpoint < position:
                return
            self._checkpoint = position
            if self._on_applied is not None:
                try:
                    self._on_applied(position)
                except Exception:  # a checkpoint that is not kept means more to catch up, and nothing worse
                    _log.exception("the checkpoint of counted events could not be kept")


_forkable: weakref.WeakSet[VelocityApplier] = weakref.WeakSet()


def _after_fork() -> None:
    for applier in list(_forkable):
        applier._updater.forget()
        applier._begin(behind=False)


os.register_at_fork(after_in_child=_after_fork)
