"""A store that can be taken away, and what the tests of the applier share."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

from engine.features.store import Change, FeatureStore, StoreTimeout, StoreUnavailable
from engine.features.stores.memory import MemoryStore
from engine.features.velocity import Event
from tests.unit.velocity.brute import DEVICE, T0_US, counted, event, read, same


class SwitchedStore(MemoryStore):
    """A store in memory that can be taken away. under_way: how many updates were begun; seen: how many keys
    each of them had."""

    def __init__(self) -> None:
        super().__init__()
        self.up = threading.Event()
        self.up.set()
        self.error: Exception = StoreUnavailable("it is switched off")
        self.too_many = 10**9
        self.lose_answers = False
        self.seen: list[int] = []
        self.under_way = 0
        self.hold = threading.Event()
        self.hold.set()

    def update(
        self, changes: Sequence[tuple[bytes, Change]], *, ttl_s: int | None = None, deadline_s: float | None = None
    ) -> list[bytes | None]:
        """As the store does, when it is up and there are not too many."""
        self.under_way += 1
        self.hold.wait(60)
        if not self.up.is_set():
            raise self.error
        self.seen.append(len(changes))
        if len(changes) > self.too_many:
            raise StoreTimeout("too many at once")
        found = super().update(changes, ttl_s=ttl_s, deadline_s=deadline_s)
        if self.lose_answers:
            self.lose_answers = False
            raise StoreTimeout("the answer was lost")
        return found


def events_of(count: int) -> list[Event]:
    """Events of device d."""
    return [event(f"e{i}", T0_US + i, i, applicant=f"a{i % 7}", phone=f"p{i % 3}") for i in range(count)]


def until(condition: Callable[[], bool], within_s: float = 60.0) -> None:
    """Wait until it is so."""
    end_s = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < end_s
        time.sleep(0.002)


def holds(store: FeatureStore, events: Sequence[Event]) -> bool:
    """Whether these events of device d, and no others, are counted there."""
    now_us = max(e.time_us for e in events) + 1
    return same(read(store, DEVICE, "d", now_us), counted(events, DEVICE, "d", now_us))
