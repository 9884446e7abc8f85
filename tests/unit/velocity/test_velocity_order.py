"""The order of arrival, and arriving twice, change nothing."""

from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from engine.features.store import event_time_of
from engine.features.stores.memory import MemoryStore
from engine.features.velocity import EXACT_MAX, Definitions, Event, Outcome
from engine.features.velocity.buckets import KEEP_US
from tests.unit.velocity.brute import (
    DAY_US,
    DEVICE,
    PHONE,
    T0_US,
    apply,
    batches,
    counted,
    event,
    read,
    same,
    state_of,
)

_EVENTS = st.lists(
    st.builds(
        lambda name, ago, amount, device, applicant, phone: Event(
            f"e{name}",
            T0_US - ago,
            {k: v for k, v in (("device", device), ("applicant", applicant), ("phone", phone)) if v},
            {"amount": amount, "fee": -amount},
        ),
        st.integers(0, 10**6),
        st.one_of(st.integers(0, 45 * DAY_US), st.sampled_from([0, 1, 60_000_000, 3_600_000_000, 30 * DAY_US])),
        st.integers(-(10**12), 10**12),
        st.sampled_from(["", "d", "e"]),
        st.sampled_from(["", "a", "b", "c"]),
        st.sampled_from(["", "p", "q"]),
    ),
    max_size=40,
    unique_by=lambda e: e.id,
)


@settings(max_examples=150, deadline=None)
@given(_EVENTS, st.randoms(use_true_random=False), st.integers(0, DAY_US), st.booleans())
def test_any_order_any_batches_any_duplicates(
    events: list[Event], order: random.Random, off_us: int, after: bool
) -> None:
    views = [DEVICE, PHONE]
    definitions, store = Definitions(views), MemoryStore()
    sent = events + [e for e in events if order.random() < 0.4]
    order.shuffle(sent)
    for batch in batches(sent, order, 7):
        apply(store, definitions, batch)
    newest_us = max((e.time_us for e in events), default=T0_US)
    # A reader may be ahead of the newest event by any time, and a day behind it.
    now_us = newest_us + off_us * 12 if after else newest_us - off_us
    for view, ids in ((DEVICE, "de"), (PHONE, "pq")):
        for entity_id in ids:
            assert same(read(store, view, entity_id, now_us), counted(events, view, entity_id, now_us))


def test_an_event_counts_once_for_each_entity_that_it_names() -> None:
    definitions, store = Definitions([DEVICE, PHONE]), MemoryStore()
    first = event("e", T0_US, phone="p")
    # The same id with other entities: one more entity learns of it.
    for again in (first, first, first._replace(entities={"device": "d", "phone": "q"})):
        apply(store, definitions, [again, again])
    now_us = T0_US + 1
    assert read(store, DEVICE, "d", now_us)[0] == 1
    assert [read(store, PHONE, p, now_us)[0] for p in "pq"] == [1, 1]


def test_nothing_changes_when_nothing_is_new() -> None:
    ((_, change),) = Definitions([DEVICE]).changes([event("e", T0_US), event("f", T0_US - 5)])
    state = change(None)
    assert state is not None
    assert change(state) is None
    assert change.outcomes == [Outcome.DUPLICATE] * 2


def test_the_stamp_rises_with_every_change_and_is_never_before_the_newest_event() -> None:
    held: bytes | None = None
    stamps = []
    for i, at_us in enumerate([T0_US, T0_US - 5, T0_US - 9, T0_US + 1, T0_US + 7, T0_US + 3]):
        ((_, change),) = Definitions([DEVICE]).changes([event(str(i), at_us)])
        held = change(held)
        assert held is not None
        stamps.append(event_time_of(held))
    assert stamps == sorted(set(stamps))
    assert stamps[0] == T0_US
    assert stamps[-1] >= T0_US + 7


def test_what_no_window_reaches_is_dropped_and_refused() -> None:
    old, new = event("old", T0_US - KEEP_US - 1), event("new", T0_US)
    assert len(state_of(DEVICE, [old, new], batch=1)) == len(state_of(DEVICE, [new]))
    ((_, change),) = Definitions([DEVICE]).changes([old, new, event("edge", T0_US - KEEP_US)])
    change(None)
    assert change.outcomes == [Outcome.TOO_LATE, Outcome.NEW, Outcome.NEW]


def test_late_events_go_to_their_own_time() -> None:
    """Also in front of a thousand others that have been counted, as long as they are kept one by one."""
    draw = random.Random(4)
    events = [event(str(i), T0_US + i * 60_000_000, applicant=str(i)) for i in range(EXACT_MAX)]
    draw.shuffle(events)
    store, definitions = MemoryStore(), Definitions([DEVICE])
    for batch in batches(events, draw, 40):
        apply(store, definitions, batch)
    for now_us in (T0_US + EXACT_MAX * 60_000_000, T0_US + 100 * 60_000_000):
        assert same(read(store, DEVICE, "d", now_us), counted(events, DEVICE, "d", now_us))
