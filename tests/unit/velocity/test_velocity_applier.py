"""The thread behind the answers: everything counted once, a store that fails, a queue that is full, ends and forks."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence

import pytest

from engine.features.store import Change, FeatureStore, StoreTimeout, StoreUnavailable
from engine.features.stores.memory import MemoryStore
from engine.features.velocity import Definitions, Event, Outcome, VelocityApplier
from tests.unit.velocity.brute import DEVICE, PHONE, T0_US, counted, event, one, read, same

RETRY_S = (0.002, 0.02)


class SwitchedStore(MemoryStore):
    """A store in memory that can be taken away. seen: how many keys each update had."""

    def __init__(self) -> None:
        super().__init__()
        self.up = threading.Event()
        self.up.set()
        self.error: Exception = StoreUnavailable("it is switched off")
        self.too_many = 10**9
        self.lose_answers = False
        self.seen: list[int] = []
        self.hold = threading.Event()
        self.hold.set()

    def update(
        self, changes: Sequence[tuple[bytes, Change]], *, ttl_s: int | None = None, deadline_s: float | None = None
    ) -> list[bytes | None]:
        """As the store does, when it is up and there are not too many."""
        self.hold.wait(10)
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


@pytest.fixture
def store() -> SwitchedStore:
    return SwitchedStore()


@pytest.fixture
def make(store: SwitchedStore) -> Iterator[Callable[..., VelocityApplier]]:
    made: list[VelocityApplier] = []

    def build(**options: object) -> VelocityApplier:
        options = {"retry_s": RETRY_S, **options}
        made.append(VelocityApplier(store, Definitions([DEVICE, PHONE]), **options))  # type: ignore[arg-type]
        return made[-1]

    yield build
    store.up.set()
    store.hold.set()
    for applier in made:
        applier.stop(1.0)


def _events(count: int, start: int = 0) -> list[Event]:
    return [event(f"e{i}", T0_US + i, i, applicant=f"a{i % 7}", phone=f"p{i % 3}") for i in range(start, start + count)]


def _until(condition: Callable[[], bool], within_s: float = 5.0) -> None:
    end_s = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < end_s
        time.sleep(0.002)


def _holds(store: FeatureStore, events: Sequence[Event]) -> bool:
    now_us = max(e.time_us for e in events) + 1
    return same(read(store, DEVICE, "d", now_us), counted(events, DEVICE, "d", now_us))


def test_what_is_submitted_is_counted_once_and_the_checkpoint_rises(
    store: SwitchedStore, make: Callable[..., VelocityApplier]
) -> None:
    positions: list[int] = []
    applier, events = make(on_applied=positions.append, batch_max=50), _events(400)
    for position, item in enumerate(events):
        assert applier.submit(item, position)
    assert applier.stop(5.0)
    assert _holds(store, events)
    assert positions == sorted(set(positions))
    assert positions[-1] == applier.checkpoint == 399
    assert (applier.depth, applier.behind, applier.stats.new) == (0, False, 800)
    assert dict(store.schemas()) == {v.fingerprint: v.canonical for v in (DEVICE, PHONE)}


def test_whatever_waits_goes_into_one_update(store: SwitchedStore, make: Callable[..., VelocityApplier]) -> None:
    applier, events = make(), _events(100)
    store.hold.clear()
    applier.submit(events[0], 0)
    _until(lambda: applier.depth == 1)
    time.sleep(0.05)  # the first is under way
    for position, item in enumerate(events[1:], 1):
        applier.submit(item, position)
    store.hold.set()
    assert applier.stop(5.0)
    assert store.seen == [2, 4]
    assert _holds(store, events)


def test_a_later_decision_waits_for_the_counts_of_its_entities_and_no_others(
    store: SwitchedStore, make: Callable[..., VelocityApplier]
) -> None:
    applier = make()
    definitions = Definitions([DEVICE, PHONE])
    item = event("e", T0_US, phone="p")
    mine, others = definitions.keys(item), definitions.keys(event("x", T0_US, device="other", phone="other"))
    assert applier.wait_applied(mine, time.monotonic() + 9) == set()
    store.hold.clear()
    applier.submit(item, 1)
    begin_s = time.monotonic()
    assert applier.wait_applied([*others, None], begin_s + 9) == set()
    assert applier.wait_applied([*others, mine[0]], begin_s + 0.05) == {mine[0]}
    assert 0.04 < time.monotonic() - begin_s < 5
    threading.Timer(0.05, store.hold.set).start()
    assert applier.wait_applied(mine, time.monotonic() + 9) == set()
    assert read(store, DEVICE, "d", T0_US + 1)[0] == 1


def test_nobody_waits_for_a_store_that_fails(store: SwitchedStore, make: Callable[..., VelocityApplier]) -> None:
    applier = make(retry_s=(0.02, 5.0))
    store.up.clear()
    applier.submit(event("e", T0_US), 1)
    _until(lambda: bool(applier.last_error))
    begin_s = time.monotonic()
    keys = Definitions([DEVICE]).keys(event("f", T0_US))
    assert applier.wait_applied(keys, begin_s + 9) == set(keys)
    assert time.monotonic() - begin_s < 1
    assert applier.last_error == "it is switched off"


def test_events_stay_while_the_store_fails_and_are_counted_when_it_is_back(
    store: SwitchedStore, make: Callable[..., VelocityApplier]
) -> None:
    positions: list[int] = []
    applier, events = make(on_applied=positions.append), _events(50)
    store.up.clear()
    for position, item in enumerate(events):
        assert applier.submit(item, position)
    _until(lambda: applier.stats.retries >= 3)
    assert (positions, applier.depth, applier.behind) == ([], 50, False)
    store.error = RuntimeError("not foreseen")
    retries = applier.stats.retries
    _until(lambda: applier.stats.retries > retries + 1)
    store.up.set()
    _until(lambda: applier.depth == 0)
    assert _holds(store, events)
    assert (applier.last_error, applier.stats.new, applier.stats.duplicates) == ("", 100, 0)
    _until(lambda: positions[-1:] == [49])


def test_an_update_that_was_made_although_its_answer_was_lost_counts_as_made(
    store: SwitchedStore, make: Callable[..., VelocityApplier]
) -> None:
    applier = make()
    store.lose_answers = True
    applier.submit(event("e", T0_US), 1)
    assert applier.stop(5.0)
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
    _until(lambda: applier.depth == 0)
    assert applier.stats.new == 200
    # What was made before is not made again.
    assert applier.stats.retries <= 4
    assert sum(keys for keys in store.seen if keys <= 40) == 200
    assert read(store, DEVICE, "d199", T0_US + 1)[0] == 1


def test_a_full_queue_leaves_events_to_the_journal_and_a_catch_up_counts_them(
    store: SwitchedStore, make: Callable[..., VelocityApplier]
) -> None:
    """The checkpoint never passes an event that was not counted."""
    positions: list[int] = []
    applier, journal = make(queue_max=10, on_applied=positions.append), _events(60)
    applier.submit(journal[0], 0)
    _until(lambda: positions == [0])
    store.up.clear()
    taken = [applier.submit(item, position) for position, item in enumerate(journal[1:], 1)]
    assert taken == [True] * 10 + [False] * 49
    assert (applier.behind, applier.stats.dropped) == (True, 49)
    store.up.set()
    _until(lambda: applier.depth == 0)
    assert positions == [0]
    # A catch-up that ends before the last that was dropped is not enough.
    assert not applier.catch_up(zip(journal[:50], range(50), strict=True))
    assert (applier.behind, applier.checkpoint) == (True, 49)
    extra = event("extra", T0_US + 99)
    assert applier.submit(extra, 60)
    _until(lambda: applier.depth == 0)
    assert applier.checkpoint == 49
    assert applier.catch_up(zip(journal, range(60), strict=True))
    assert (applier.behind, applier.checkpoint) == (False, 60)
    assert _holds(store, [*journal, extra])
    applier.submit(event("last", T0_US + 100), 61)
    _until(lambda: positions[-1] == 61)
    assert positions == sorted(positions)


def test_after_a_crash_the_journal_is_counted_from_the_checkpoint(
    store: SwitchedStore, make: Callable[..., VelocityApplier]
) -> None:
    """Some of it had been counted; live events come meanwhile and do not move the checkpoint past it."""
    journal = _events(300)
    make().apply_now(journal[:120])
    positions: list[int] = []
    applier = make(behind=True, on_applied=positions.append, batch_max=40)
    met: list[bool] = []

    def replay() -> Iterable[tuple[Event, int]]:
        for position, item in enumerate(journal):
            if position == 150:
                applier.submit(event("live", T0_US + 10**6), 300)
                _until(lambda: applier.depth == 0)
                met.append(applier.behind and positions[-1] < 150)
            yield item, position

    assert applier.catch_up(replay())
    assert met == [True]
    assert (applier.behind, applier.checkpoint) == (False, 300)
    assert (applier.stats.duplicates, applier.stats.new) == (240, 361)
    assert _holds(store, [*journal, event("live", T0_US + 10**6)])


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
    assert applier.stop(1.0)
    assert not applier.submit(event("e", T0_US), 1)
    assert applier.behind
    late = make()
    store.up.clear()
    late.submit(event("e", T0_US), 1)
    begin_s = time.monotonic()
    assert not late.stop(0.2)
    assert time.monotonic() - begin_s < 3
    assert late.depth == 1
    assert not late.stop(0.0)


def test_the_checkpoint_may_fail_to_be_kept(make: Callable[..., VelocityApplier]) -> None:
    def refuse(position: int) -> None:
        raise OSError("no room")

    applier = make(on_applied=refuse)
    applier.submit(event("1", T0_US), 1)
    applier.submit(event("2", T0_US), 2)
    assert applier.stop(5.0)
    assert applier.checkpoint == 2


def test_many_threads_submit_and_every_event_counts_once(
    store: SwitchedStore, make: Callable[..., VelocityApplier]
) -> None:
    applier, events = make(batch_max=16), _events(480)
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
    assert applier.stop(5.0)
    assert _holds(store, events)
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
        good = good and applier.stop(5.0) and applier.stats.new == 1
        os._exit(0 if good else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    store.hold.set()
    assert applier.stop(5.0)
    assert read(store, DEVICE, "d", T0_US + 1)[0] == 1
