"""The guard: what counts against a store, what does not, and what a call costs while the store is out of service."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from engine.domain.facts import UNREAD
from engine.errors import StoreError
from engine.features.encoding import RowCorrupt
from engine.features.store import StoreCorrupt, StoreTimeout, StoreUnavailable
from engine.features.stores.guarded import GuardedStore, GuardSettings, NotTried
from engine.features.stores.partial import PartialRead
from tests.support.faulty import WRITES, FaultyStore, until

KEYS = [b"{subject/1}bureau"]
FAST: dict[str, Any] = {"failures": 3, "probe_interval_ms": 20, "probe_interval_max_ms": 100, "probes_good": 2}
# So slow to be probed that a test sees nothing of it.
STILL: dict[str, Any] = {"failures": 3, "probe_interval_ms": 600_000, "probe_interval_max_ms": 600_000}

# Nothing is late, unless a test wants it.
PATIENT: dict[str, Any] = {"read_timeout_ms": 60_000, "update_timeout_ms": 60_000}


@pytest.fixture
def inner() -> FaultyStore:
    return FaultyStore()


@pytest.fixture
def guard(inner: FaultyStore) -> Iterator[Callable[..., GuardedStore]]:
    made: list[GuardedStore] = []

    def make(**settings: Any) -> GuardedStore:
        made.append(GuardedStore(inner, GuardSettings(**PATIENT | settings)))
        return made[-1]

    yield make
    for store in made:
        store.close()


def probes() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name.startswith("assay-probe-")]


def fails(store: GuardedStore, count: int, **kwargs: Any) -> None:
    for _ in range(count):
        with pytest.raises(StoreError):
            store.read(KEYS, **kwargs)


@pytest.mark.parametrize("error", [StoreTimeout("late"), StoreUnavailable("down"), StoreCorrupt("nonsense")])
def test_a_store_that_fails_is_soon_left_alone(
    inner: FaultyStore, guard: Callable[..., GuardedStore], error: Exception
) -> None:
    store = guard(**STILL)
    inner.fail(error)
    for _ in range(3):
        with pytest.raises(type(error)):
            store.read(KEYS)
    for call in (
        lambda: store.read(KEYS),
        lambda: store.get_schema(b"12345678"),
        store.ping,
        store.scan,
        store.schemas,
    ):
        with pytest.raises(NotTried, match=str(error)):
            call()
    assert inner.calls == {"read": 3}
    assert store.state == "open"


def test_it_comes_back_by_itself_through_probes_alone(
    inner: FaultyStore, guard: Callable[..., GuardedStore], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "assay.store")
    store = guard(**FAST)
    inner.fail()
    fails(store, 3)
    until(lambda: inner.calls["ping"] >= 3)
    assert store.state in {"open", "half_open"}
    assert len(probes()) == 1
    inner.heal()
    until(lambda: store.state == "closed")
    assert inner.calls["read"] == 3
    assert store.read(KEYS) == [None]
    until(lambda: not probes())
    assert [(r.levelname, r.getMessage()) for r in caplog.records] == [
        ("WARNING", "store out of service"),
        ("INFO", "store in service again"),
    ]
    assert caplog.records[0].__dict__["cause"] == "faulty is down"
    counts = store.counters()
    assert counts["reads_opened"] == counts["reads_closed"] == 1
    assert counts["reads_failed"] == 3
    assert counts["reads_probes"] >= 5
    assert counts["reads_in_flight"] == 0


def test_threads_that_fail_at_once_open_it_once(inner: FaultyStore, guard: Callable[..., GuardedStore]) -> None:
    store = guard(**STILL)
    inner.fail()
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda _: fails(store, 20), range(16)))
    assert store.counters()["reads_opened"] == 1
    assert len(probes()) == 1


def test_a_store_that_cannot_be_written_goes_on_being_read(
    inner: FaultyStore, guard: Callable[..., GuardedStore]
) -> None:
    store = guard(**STILL)
    inner.fail(StoreUnavailable("full"), WRITES)
    for _ in range(5):
        with pytest.raises(StoreUnavailable, match="full"):
            store.write([])
    assert inner.calls["write"] == 3
    assert (store.state, store.write_state) == ("closed", "open")
    for call in (
        lambda: store.update([]),
        lambda: store.delete(KEYS),
        lambda: store.delete_entity("subject", "1"),
        lambda: store.put_schema(b"12345678", b"{}"),
    ):
        with pytest.raises(NotTried):
            call()
    assert store.read(KEYS) == [None]
    store.ping()


def test_a_store_that_is_lost_to_readers_may_still_be_written(
    inner: FaultyStore, guard: Callable[..., GuardedStore]
) -> None:
    store = guard(**STILL)
    inner.fail(methods=["read"])
    fails(store, 5)
    store.write([])
    assert (store.state, store.write_state) == ("open", "closed")


def test_a_read_has_its_own_limit_whatever_the_caller_allows(
    inner: FaultyStore, guard: Callable[..., GuardedStore]
) -> None:
    store = guard(read_timeout_ms=300_000, update_timeout_ms=400_000, **STILL)
    now_s = time.monotonic()
    store.read(KEYS)
    store.read(KEYS, now_s + 600)
    store.read(KEYS, now_s + 200)
    store.update([])
    store.update([], deadline_s=now_s + 600)
    store.update([], deadline_s=now_s + 200)
    took_s = time.monotonic() - now_s
    limits_s = [d - now_s for d in inner.deadlines if d is not None]
    assert limits_s == pytest.approx([300, 300, 200, 400, 400, 200], rel=0, abs=took_s)
    assert limits_s[2] == limits_s[5] == pytest.approx(200)


def test_a_hanging_store_costs_its_limit(inner: FaultyStore, guard: Callable[..., GuardedStore]) -> None:
    store = guard(read_timeout_ms=30.0, **STILL)
    inner.gate = threading.Event()
    took = []
    for _ in range(5):
        begin_s = time.monotonic()
        fails(store, 1, deadline_s=begin_s + 60)
        took.append(time.monotonic() - begin_s)
    assert all(0.029 < t < 20 for t in took[:3])
    assert inner.calls["read"] == 3
    inner.gate.set()


def test_a_call_that_came_too_late_says_nothing_about_the_store(
    inner: FaultyStore, guard: Callable[..., GuardedStore]
) -> None:
    store = guard(timeout_min_ms=20.0, **STILL)
    fails(store, 10, deadline_s=time.monotonic() - 1)
    inner.gate = threading.Event()
    for _ in range(10):
        fails(store, 1, deadline_s=time.monotonic() + 0.001)
    assert store.state == "closed"
    assert store.counters()["reads_excused"] == 20
    inner.fail(StoreTimeout("late"), ["update"])
    for _ in range(10):
        with pytest.raises(StoreTimeout):
            store.update([], deadline_s=time.monotonic() + 0.001)
    assert store.write_state == "closed"
    inner.gate.set()


def test_a_limit_below_the_least_that_is_fair_counts_all_the_same(
    inner: FaultyStore, guard: Callable[..., GuardedStore]
) -> None:
    store = guard(read_timeout_ms=2.0, timeout_min_ms=20.0, **STILL)
    inner.gate = threading.Event()
    fails(store, 3, deadline_s=time.monotonic() + 60)
    assert store.state == "open"
    inner.gate.set()


def test_a_failure_of_one_row_or_one_part_is_none_of_the_store(
    inner: FaultyStore, guard: Callable[..., GuardedStore]
) -> None:
    store = guard(**STILL)
    inner.fail(PartialRead("one node is down", [UNREAD]), ["read"])
    fails(store, 10)
    inner.fail(RowCorrupt("a state makes no sense"), ["update"])
    for _ in range(10):
        with pytest.raises(RowCorrupt):
            store.update([])
    assert (store.state, store.write_state) == ("closed", "closed")


def test_only_so_many_calls_are_under_way(inner: FaultyStore, guard: Callable[..., GuardedStore]) -> None:
    store = guard(in_flight_max=3, read_timeout_ms=20_000, **STILL)
    inner.gate = threading.Event()
    with ThreadPoolExecutor(8) as pool:
        held = [pool.submit(store.read, KEYS) for _ in range(3)]
        until(lambda: inner.calls["read"] == 3)
        assert store.counters()["reads_in_flight"] == 3
        begin_s = time.monotonic()
        with pytest.raises(NotTried, match="3 reads under way"):
            store.read(KEYS)
        assert time.monotonic() - begin_s < 20
        store.write([])
        inner.gate.set()
        assert [h.result() for h in held] == [[None]] * 3
    assert store.state == "closed", "being busy is no failure"
    assert store.counters()["reads_refused_busy"] == 1
    assert store.read(KEYS) == [None]


def test_an_error_that_is_none_of_a_stores_gives_its_place_back(
    inner: FaultyStore, guard: Callable[..., GuardedStore]
) -> None:
    store = guard(in_flight_max=2, **STILL)
    inner.fail(RuntimeError("a driver's own"))
    for _ in range(10):
        with pytest.raises(RuntimeError):
            store.read(KEYS)
        with pytest.raises(RuntimeError):
            store.write([])
    assert store.counters()["reads_in_flight"] == store.counters()["writes_in_flight"] == 0


def test_closing_ends_the_probes_and_later_failures_start_none(
    inner: FaultyStore, guard: Callable[..., GuardedStore]
) -> None:
    store = guard(**STILL)
    inner.fail(methods=["read", *WRITES])
    fails(store, 3)
    for _ in range(3):
        with pytest.raises(StoreUnavailable):
            store.write([])
    assert len(probes()) == 2
    store.close()
    store.close()
    assert not probes()
    other = guard(**STILL)
    other.close()
    fails(other, 10)
    assert not probes()


def test_a_probe_outlives_whatever_a_driver_raises(inner: FaultyStore, guard: Callable[..., GuardedStore]) -> None:
    store = guard(**FAST)
    inner.fail()
    inner.fail(RuntimeError("a driver's own"), ["ping"])
    fails(store, 3)
    until(lambda: inner.calls["ping"] >= 2)
    inner.heal()
    until(lambda: store.state == "closed")


def test_a_store_that_answers_probes_and_fails_all_the_same_is_asked_less_and_less(
    inner: FaultyStore, guard: Callable[..., GuardedStore]
) -> None:
    store = guard(failures=1, probes_good=1, probe_interval_ms=10, probe_interval_max_ms=100_000)
    inner.fail(methods=["read"])
    breaker, waits = store._reads.breaker, list[float]()
    wait_s = breaker.wait_s

    def noted() -> float:
        waits.append(wait_s())
        return waits[-1]

    breaker.wait_s = noted  # type: ignore[method-assign]
    for _ in range(5):
        until(lambda: store.state == "closed")
        fails(store, 1)
    until(lambda: len(waits) == 5)
    assert waits[-1] > 2 * waits[0] > 0


def test_a_forked_child_starts_with_a_closed_breaker_and_probes_for_itself(
    inner: FaultyStore, guard: Callable[..., GuardedStore]
) -> None:
    store = guard(**STILL)
    inner.fail()
    fails(store, 3)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            inner.heal()
            if store.state == "closed" and store.read(KEYS) == [None]:
                inner.fail()
                fails(store, 3)
                code = 0 if store.state == "open" and len(probes()) == 1 else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert store.state == "open"
