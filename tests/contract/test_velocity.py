"""Counters give the same answers from every store: every event once, whoever counts it, and however many at a time."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Sequence

import pytest

from engine.features.store import FeatureStore, event_time_of
from engine.features.velocity import (
    EXACT_MAX,
    Definitions,
    Event,
    Outcome,
    VelocityApplier,
    VelocityReader,
    VelocityView,
    is_state,
    max_bytes,
)
from tests.unit.velocity.brute import DAY_US, DEVICE, PHONE, T0_US, counted, event, one, read, same

VIEWS = (DEVICE, PHONE)
STOP_S = 60.0


def _events(rng: random.Random, count: int, devices: int, phones: int) -> list[Event]:
    """Events of the last thirty days; one in five names no phone, one in five no device."""
    return [
        event(
            f"e{i}",
            T0_US - rng.randrange(30 * DAY_US) // rng.choice((1, 30, 1_000)),
            rng.randrange(-(10**9), 10**9),
            device=rng.choice(("-", *(f"d{rng.randrange(devices)}" for _ in range(4)))),
            phone=rng.choice(("-", *(f"p{rng.randrange(phones)}" for _ in range(4)))),
            applicant=f"a{rng.randrange(30)}",
        )
        for i in range(count)
    ]


def _check(store: FeatureStore, events: Sequence[Event], moments_us: Sequence[int]) -> None:
    """Every counter of every entity that these events name, by its definition."""
    for view in VIEWS:
        for entity_id in sorted({e.entities[view.entity] for e in events if view.entity in e.entities}):
            for now_us in moments_us:
                found = read(store, view, entity_id, now_us)
                assert same(found, counted(events, view, entity_id, now_us)), (view.view, entity_id)


def _applier(store: FeatureStore, **options: object) -> VelocityApplier:
    return VelocityApplier(store, Definitions(VIEWS), update_timeout_s=STOP_S, **options)  # type: ignore[arg-type]


def test_appliers_at_once_count_every_event_once(store: FeatureStore) -> None:
    """Three of them share one store; each event reaches two, in another order, some a second time."""
    rng = random.Random(1)
    events = _events(rng, 240, devices=4, phones=9)
    appliers = [_applier(store, batch_max=batch_max) for batch_max in (1, 8, 64)]
    shares = [events[:160], events[80:], events[:80] + events[160:]]

    def work(applier: VelocityApplier, share: Sequence[Event]) -> None:
        mine = random.Random(len(share)).sample(share, len(share))
        for position, item in enumerate([*mine, *mine[:40]]):
            assert applier.submit(item, position)

    threads = [threading.Thread(target=work, args=pair) for pair in zip(appliers, shares, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all([applier.stop(STOP_S) for applier in appliers])
    _check(store, events, (T0_US, T0_US + DAY_US))
    named = sum(len(set(e.entities) & {"device", "phone"}) for e in events)
    newest = [applier.stats.new for applier in appliers]
    assert sum(newest) == named
    assert sum(a.stats.duplicates + a.stats.too_late for a in appliers) >= named
    assert [a.stats.unreadable for a in appliers] == [0, 0, 0]


def test_outcomes_are_told_and_nothing_is_written_when_nothing_is_new(store: FeatureStore) -> None:
    applier = _applier(store)
    first, second = event("1", T0_US, phone="p"), event("2", T0_US - 5, device="-", phone="p")
    none = event("3", T0_US, device="-")
    assert applier.apply_now([first, second, none, first]) == [
        Outcome.NEW, Outcome.NEW, Outcome.UNCOUNTED, Outcome.DUPLICATE,
    ]  # fmt: skip
    held = dict(store.scan())
    assert len(held) == 2
    assert all(is_state(value) for value in held.values())
    assert applier.apply_now([second, first]) == [Outcome.DUPLICATE] * 2
    assert dict(store.scan()) == held
    assert dict(store.schemas()) == {view.fingerprint: view.canonical for view in VIEWS}


def test_many_entities_at_once(store: FeatureStore) -> None:
    rng = random.Random(3)
    events = _events(rng, 400, devices=150, phones=150)
    applier = _applier(store)
    for position, item in enumerate(events):
        applier.submit(item, position)
    assert applier.stop(STOP_S)
    assert applier.checkpoint == 399
    _check(store, events, (T0_US,))


def test_a_busy_entity_stays_within_its_bounds(store: FeatureStore) -> None:
    """More events than are kept one by one, in a few large updates, by two appliers that know the same ones."""
    count = EXACT_MAX + 700
    events = [event(f"e{i}", T0_US + i * 20_000_000, 1_0000, applicant=f"a{i % 900}") for i in range(count)]
    one_, other = _applier(store), _applier(store)
    for at in range(0, count, 250):
        one_.apply_now(events[at : at + 250])
        other.apply_now(events[max(0, at - 50) : at + 250])
    now_us = events[-1].time_us + 1
    (key,) = Definitions([DEVICE]).keys(events[0])
    state = store.read([key])[0]
    assert state is not None
    assert len(state) <= max_bytes(DEVICE.layout)
    assert event_time_of(state) >= events[-1].time_us
    assert same(read(store, DEVICE, "d", now_us), counted(events, DEVICE, "d", now_us))
    assert one_.stats.new + other.stats.new == count


def test_the_counts_of_one_decision_are_there_for_the_next(store: FeatureStore) -> None:
    applier = _applier(store)
    reader = VelocityReader(PHONE)
    (key,) = Definitions([PHONE]).keys(event("", T0_US, phone="p"))
    for i in range(12):
        now_us = T0_US + i * 1_000
        assert applier.wait_applied([key], time.monotonic() + STOP_S) == set()
        state = store.read([key])[0]
        assert (reader.nothing if state is None else reader.evaluate(state, now_us)) == [i, min(i, 3)]
        applier.submit(event(str(i), now_us, device=f"d{i % 3}", phone="p"), i)
    assert applier.stop(STOP_S)


def test_counts_are_there_after_reopening_and_are_gone_with_their_entity(
    open_store: Callable[[], FeatureStore], durable: bool
) -> None:
    if not durable:
        pytest.skip("this store keeps nothing, and says so")
    events = _events(random.Random(5), 60, devices=2, phones=3)
    first = open_store()
    _applier(first).apply_now(events)
    first.close()
    second = open_store()
    _check(second, events, (T0_US,))
    assert second.delete_entity("device", "d1") == 1
    now_us = T0_US + DAY_US
    assert same(read(second, DEVICE, "d1", now_us), counted([], DEVICE, "d1", now_us))
    # What comes later is counted from nothing.
    later = event("later", now_us + 60_000_000, device="d1")
    assert _applier(second).apply_now([later]) == [Outcome.NEW]
    assert read(second, DEVICE, "d1", now_us + 61_000_000)[4] == 1
    second.close()


def test_counters_may_change_while_their_states_stay(store: FeatureStore) -> None:
    old, new = one("count", "7d"), one("distinct", "7d", "applicant")
    events = [event(str(i), T0_US + i, applicant=f"a{i % 2}") for i in range(6)]

    def count(view: VelocityView, some: Sequence[Event]) -> list[Outcome]:
        return VelocityApplier(store, Definitions([view]), update_timeout_s=STOP_S).apply_now(some)

    assert count(old, events[:3]) == [Outcome.NEW] * 3
    assert count(new, events[2:]) == [Outcome.DUPLICATE, *[Outcome.NEW] * 3]
    assert read(store, new, "d", T0_US + 9) == [2]
    assert count(old, events) == [Outcome.DUPLICATE] * 6
    reader = VelocityReader(old)
    assert reader.learn(new.canonical)
    (key,) = Definitions([old]).keys(events[0])
    assert reader.evaluate(store.read([key])[0] or b"", T0_US + 9) == [6]
