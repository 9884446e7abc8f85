"""The thread behind the answers: everything counted once, a store that fails or is slow, ends and forks."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable

import pytest

from engine.features.store import StoreUnavailable
from engine.features.velocity import Definitions, Outcome, VelocityApplier
from tests.unit.velocity.brute import DEVICE, PHONE, T0_US, event, one, read
from tests.unit.velocity.switched import SwitchedStore, events_of, holds, until


def test_what_is_submitted_is_counted_once_and_the_checkpoint_rises(
    store: SwitchedStore, make: Callable[..., VelocityApplier]
) -> None:
    positions: list[int] = []
    applier, events = make(on_applied=positions.append, batch_max=50), events_of(400)
    for position, item in enumerate(events):
        assert applier.submit(item, position)
    assert applier.stop(60.0)
    assert holds(store, events)
    assert positions == sorted(set(positions))
    assert positions[-1] == applier.checkpoint == 399
    assert (applier.depth, applier.behind, applier.stats.new) == (0, False, 800)
    assert dict(store.schemas()) == {v.fingerprint: v.canonical for v in (DEVICE, PHONE)}


def test_whatever_waits_goes_into_one_update(store: SwitchedStore, make: Callable[..., VelocityApplier]) -> None:
    applier, events = make(), events_of(100)
    store.hold.clear()
    applier.submit(events[0], 0)
    until(lambda: store.under_way == 1)
    for position, item in enumerate(events[1:], 1):
        applier.submit(item, position)
    store.hold.set()
    assert applier.stop(60.0)
    assert store.seen == [2, 4]
    assert holds(store, events)


def test_a_later_decision_waits_for_the_counts_of_its_entities_and_no_others(
    store: SwitchedStore, make: Callable[..., VelocityApplier]
) -> None:
    applier = make()
    definitions = Definitions([DEVICE, PHONE])
    item = event("e", T0_US, phone="p")
    mine, others = definitions.keys(item), definitions.keys(event("x", T0_US, device="other", phone="other"))
    assert applier.wait_applied(mine, time.monotonic() + 60) == set()
    store.hold.clear()
    applier.submit(item, 1)
    begin_s = time.monotonic()
    assert applier.wait_applied([*others, None], begin_s + 60) == set()
    assert applier.wait_applied([*others, mine[0]], begin_s + 0.05) == {mine[0]}
    assert 0.04 < time.monotonic() - begin_s < 30
    threading.Timer(0.05, store.hold.set).start()
    assert applier.wait_applied(mine, time.monotonic() + 60) == set()
    assert read(store, DEVICE, "d", T0_US + 1)[0] == 1


def test_nobody_waits_for_a_store_that_fails(store: SwitchedStore, make: Callable[..., VelocityApplier]) -> None:
    applier = make(retry_s=(0.02, 5.0))
    store.up.clear()
    applier.submit(event("e", T0_US), 1)
    until(lambda: bool(applier.last_error))
    begin_s = time.monotonic()
    keys = Definitions([DEVICE]).keys(event("f", T0_US))
    assert applier.wait_applied(keys, begin_s + 60) == set(keys)
    assert time.monotonic() - begin_s < 30
    assert applier.last_error == "it is switched off"


def test_events_stay_while_the_store_fails_and_are_counted_when_it_is_back(
    store: SwitchedStore, make: Callable[..., VelocityApplier]
) -> None:
    positions: list[int] = []
    applier, events = make(on_applied=positions.append), events_of(50)
    store.up.clear()
    for position, item in enumerate(events):
        assert applier.submit(item, position)
    until(lambda: applier.stats.retries >= 3)
    assert (positions, applier.depth, applier.behind) == ([], 50, False)
    store.error = RuntimeError("not foreseen")
    retries = applier.stats.retries
    until(lambda: applier.stats.retries > retries + 1)
    store.up.set()
    until(lambda: applier.depth == 0)
    assert holds(store, events)
    assert (applier.last_error, applier.stats.new, applier.stats.duplicates) == ("", 100, 0)
    until(lambda: positions[-1:] == [49])


def test_an_update_that_was_made_although_its_answer_was_lost_counts_as_made(
    store: SwitchedStore, make: Callable[..., VelocityApplier]
) -> None:
    applier = make()
    store.lose_answers = True
    applier.submit(event("e", T0_US), 1)
    assert applier.stop(60.0)
    assert (applier.stats.new, applier.stats.duplicates, applier.stats.retries) == (1, 0, 1)
    assert read(store, DEVICE, "d", T0_US + 1)[0] == 1


def test_a_store_that_is_too_slow_for_many_keys_is_given_fewer(
    store: SwitchedStore, make: Callable[..., VelocityApplier]
) -> None:
    applier = make()
    store.too_many = 40
    events = [event(f"e{i}", T0_US, device=f"d{i}") for i in range(200)]
    store.hold.clear()
    for position, item in enumerate(events):
        applier.submit(item, position)
    store.hold.set()
    until(lambda: applier.depth == 0)
    assert applier.stats.new == 200
    # What was made before is not made again.
    assert applier.stats.retries <= 4
    assert sum(keys for keys in store.seen if keys <= 40) == 200
    assert read(store, DEVICE, "d199", T0_US + 1)[0] == 1


def test_events_can_be_counted_at_once(store: SwitchedStore, make: Callable[..., VelocityApplier]) -> None:
    applier = make()
    first, second = event("1", T0_US, phone="p"), event("2", T0_US, device="-", applicant="a")
    assert applier.apply_now([first, second, first]) == [Outcome.NEW, Outcome.UNCOUNTED, Outcome.DUPLICATE]
    assert applier.apply_now([first]) == [Outcome.DUPLICATE]
    assert applier.apply_now([]) == []
    store.up.clear()
    with pytest.raises(StoreUnavailable):
        applier.apply_now([event("3", T0_US)])
    assert applier.stats.new == 2


def test_states_of_earlier_counters_are_followed_through_what_the_store_recorded(store: SwitchedStore) -> None:
    """Also when they are recorded after this applier began."""
    old, newer = one("count", "1h"), one("distinct", "30d", "applicant")
    first = VelocityApplier(store, Definitions([newer]))
    first.apply_now([event("0", T0_US, device="other")])
    VelocityApplier(store, Definitions([old])).apply_now([event("1", T0_US)])
    assert first.apply_now([event("1", T0_US), event("2", T0_US, applicant="a")]) == [Outcome.DUPLICATE, Outcome.NEW]
    assert read(store, newer, "d", T0_US + 1) == [1]
    first.use(Definitions([DEVICE]))
    assert first.apply_now([event("3", T0_US)]) == [Outcome.NEW]
    assert read(store, DEVICE, "d", T0_US + 1)[:2] == [3, 3]


def test_after_the_end_events_are_left_to_the_journal(
    store: SwitchedStore, make: Callable[..., VelocityApplier]
) -> None:
    applier = make()
    assert applier.stop(60.0)
    assert not applier.submit(event("e", T0_US), 1)
    assert applier.behind
    late = make()
    store.up.clear()
    late.submit(event("e", T0_US), 1)
    begin_s = time.monotonic()
    assert not late.stop(0.2)
    assert time.monotonic() - begin_s < 30
    assert late.depth == 1
    assert not late.stop(0.0)


def test_the_checkpoint_may_fail_to_be_kept(make: Callable[..., VelocityApplier]) -> None:
    def refuse(position: int) -> None:
        raise OSError("no room")

    applier = make(on_applied=refuse)
    applier.submit(event("1", T0_US), 1)
    applier.submit(event("2", T0_US), 2)
    assert applier.stop(60.0)
    assert applier.checkpoint == 2


def test_many_threads_submit_and_every_event_counts_once(
    store: SwitchedStore, make: Callable[..., VelocityApplier]
) -> None:
    applier, events = make(batch_max=16), events_of(480)
    turn = threading.Lock()
    todo = iter(enumerate(events))

    def work() -> None:
        while True:
            with turn:
                found = next(todo, None)
                if found is None:
                    return
                applier.submit(found[1], found[0])
            applier.wait_applied(Definitions([DEVICE]).keys(found[1]), time.monotonic() + 0.001)

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert applier.stop(60.0)
    assert holds(store, events)
    assert applier.checkpoint == 479


def test_a_forked_child_starts_anew_and_the_parent_goes_on(
    store: SwitchedStore, make: Callable[..., VelocityApplier]
) -> None:
    applier = make()
    store.hold.clear()
    applier.submit(event("parent", T0_US), 1)
    child = os.fork()
    if child == 0:  # pragma: no cover - in the child
        good = applier.depth == 0 and not applier.wait_applied(Definitions([DEVICE]).keys(event("x", T0_US)), 0.0)
        store.hold.set()
        store._write_lock = threading.Lock()
        applier.submit(event("child", T0_US), 1)
        good = good and applier.stop(60.0) and applier.stats.new == 1
        os._exit(0 if good else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    store.hold.set()
    assert applier.stop(60.0)
    assert read(store, DEVICE, "d", T0_US + 1)[0] == 1
