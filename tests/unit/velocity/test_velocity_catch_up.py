"""What the applier could not keep stands in the journal, and is counted from there."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator

import pytest

from engine.features.velocity import Event, VelocityApplier
from tests.unit.velocity.brute import DEVICE, T0_US, event, read
from tests.unit.velocity.switched import SwitchedStore, events_of, holds, until


def test_a_full_queue_leaves_events_to_the_journal_and_a_catch_up_counts_them(
    store: SwitchedStore, make: Callable[..., VelocityApplier]
) -> None:
    """The checkpoint never passes an event that was not counted."""
    positions: list[int] = []
    applier, journal = make(queue_max=10, on_applied=positions.append), events_of(60)
    applier.submit(journal[0], 0)
    until(lambda: positions == [0])
    store.up.clear()
    taken = [applier.submit(item, position) for position, item in enumerate(journal[1:], 1)]
    assert taken == [True] * 10 + [False] * 49
    assert (applier.behind, applier.stats.dropped) == (True, 49)
    store.up.set()
    until(lambda: applier.depth == 0)
    assert positions == [0]
    # A catch-up that ends before the last that was dropped is not enough.
    assert not applier.catch_up(zip(journal[:50], range(50), strict=True))
    assert (applier.behind, applier.checkpoint) == (True, 49)
    extra = event("extra", T0_US + 99)
    assert applier.submit(extra, 60)
    until(lambda: applier.depth == 0)
    assert applier.checkpoint == 49
    assert applier.catch_up(zip(journal, range(60), strict=True))
    assert (applier.behind, applier.checkpoint) == (False, 60)
    assert holds(store, [*journal, extra])
    applier.submit(event("last", T0_US + 100), 61)
    until(lambda: positions[-1] == 61)
    assert positions == sorted(positions)


def test_after_a_crash_the_journal_is_counted_from_the_checkpoint(
    store: SwitchedStore, make: Callable[..., VelocityApplier]
) -> None:
    """Some of it had been counted; live events come meanwhile and do not move the checkpoint past it."""
    journal = events_of(300)
    make().apply_now(journal[:120])
    positions: list[int] = []
    applier = make(behind=True, on_applied=positions.append, batch_max=40)
    met: list[bool] = []

    def replay() -> Iterable[tuple[Event, int]]:
        for position, item in enumerate(journal):
            if position == 150:
                applier.submit(event("live", T0_US + 10**6), 300)
                until(lambda: applier.depth == 0)
                met.append(applier.behind and positions[-1] < 150)
            yield item, position

    assert applier.catch_up(replay())
    assert met == [True]
    assert (applier.behind, applier.checkpoint) == (False, 300)
    assert (applier.stats.duplicates, applier.stats.new) == (240, 361)
    assert holds(store, [*journal, event("live", T0_US + 10**6)])


def test_a_catch_up_waits_for_the_store_and_can_be_stopped(
    store: SwitchedStore, make: Callable[..., VelocityApplier]
) -> None:
    applier = make(behind=True)
    store.up.clear()
    threading.Timer(0.1, store.up.set).start()
    assert applier.catch_up([(event("e", T0_US), 1)])
    store.up.clear()
    threading.Timer(0.1, lambda: applier.stop(0.05)).start()
    assert not applier.catch_up([(event("f", T0_US), 2)])
    assert (applier.behind, applier.checkpoint) == (True, 1)


def test_a_journal_that_cannot_be_read_leaves_the_catch_up_due(make: Callable[..., VelocityApplier]) -> None:
    applier = make()

    def broken() -> Iterator[tuple[Event, int]]:
        yield event("e", T0_US), 1
        raise OSError("the journal cannot be read")

    with pytest.raises(OSError, match="journal"):
        applier.catch_up(broken())
    assert applier.behind
    assert applier.catch_up([(event("e", T0_US), 1)])
    assert not applier.behind
    assert applier.catch_up([])


def test_events_that_cannot_be_kept_hold_nothing_up(store: SwitchedStore, make: Callable[..., VelocityApplier]) -> None:
    applier = make(behind=True)
    bad = event("bad", T0_US, device="x" * 300)
    with pytest.raises(ValueError, match="device"):
        applier.submit(bad, 1)
    with pytest.raises(ValueError, match="device"):
        applier.apply_now([bad])
    assert applier.catch_up([(event("1", T0_US), 1), (bad, 2), (event("2", T0_US + 1), 3)])
    assert (applier.stats.invalid, applier.checkpoint) == (1, 3)
    assert read(store, DEVICE, "d", T0_US + 2)[0] == 2
