"""Writes and erasures of two stores: who decides, and what the fast one may hold afterwards."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest

from engine.features.store import StoreTimeout, StoreUnavailable, WriteResult
from engine.features.stores.guarded import NotTried
from tests.support.faulty import WRITES, FaultyStore, until
from tests.unit.features.tiers.rows import KEYS, NEW, OLD, OTHER, THIRD, Make, keepers


def test_the_durable_store_decides_whether_a_write_succeeds(
    tiered: Make, fast: FaultyStore, durable: FaultyStore
) -> None:
    store = tiered()
    durable.fail(methods=WRITES)
    for call in (lambda: store.write([OLD]), lambda: store.update([(OLD.key, lambda _: OLD.value)])):
        with pytest.raises(StoreUnavailable):
            call()
    assert fast.read([OLD.key]) == [None]
    durable.heal()
    fast.fail(methods=WRITES)
    assert store.write([OLD]) == WriteResult(written=1)
    assert store.update([(OTHER.key, lambda _: OTHER.value)]) == [OTHER.value]
    assert durable.read(KEYS) == [OLD.value, OTHER.value]


@pytest.mark.parametrize("how", ["write", "update"])
def test_a_row_that_the_fast_store_missed_is_not_read_from_it_until_it_is_gone_there(
    tiered: Make, fast: FaultyStore, durable: FaultyStore, how: str
) -> None:
    store = tiered()
    store.write([OLD, OTHER])
    fast.fail(methods=WRITES)
    if how == "write":
        assert store.write([NEW]) == WriteResult(written=1)
    else:
        assert store.update([(NEW.key, lambda _: NEW.value)]) == [NEW.value]
    assert fast.read([OLD.key]) == [OLD.value], "it still has the old one"
    for _ in range(3):
        assert store.read(KEYS) == [NEW.value, OTHER.value]
    assert fast.asked[-1] == (OTHER.key,)
    assert store.counters()["marked"] == 1
    until(lambda: fast.calls["delete"] >= 2)
    fast.heal()
    until(lambda: not store.counters()["marked"])
    assert fast.read([OLD.key]) in ([None], [NEW.value])
    assert store.read(KEYS) == [NEW.value, OTHER.value]
    until(lambda: fast.read(KEYS) == [NEW.value, OTHER.value])
    store.close()
    assert not keepers()


def test_a_copy_of_what_was_read_before_a_write_does_not_come_after_it(
    tiered: Make, fast: FaultyStore, durable: FaultyStore
) -> None:
    """The copy waits while the fast store is held up, misses the write, and must not bring the old row back."""
    store = tiered()
    durable.write([OLD])
    held = threading.Event()
    keeper: list[str] = []

    def hold(method: str) -> None:
        if threading.current_thread().name == "assay-tier-keeper":
            keeper.append(method)
            held.wait(60)

    durable.write([THIRD])
    fast.before = hold
    assert store.read([THIRD.key]) == [THIRD.value]  # the keeper is held up with the copy of this
    until(lambda: keeper)
    assert store.read([OLD.key]) == [OLD.value]  # the copy of this waits behind it
    fast.fail(methods=["write"])
    store.write([NEW])
    fast.heal()
    held.set()
    until(lambda: not store.counters()["marked"])
    assert fast.read([OLD.key]) == [None]
    assert store.read([OLD.key]) == [NEW.value]


def test_of_rows_that_the_durable_store_finds_too_old_the_fast_store_keeps_none(
    tiered: Make, fast: FaultyStore, durable: FaultyStore
) -> None:
    store = tiered()
    durable.write([NEW])
    assert store.write([OLD, OTHER]) == WriteResult(written=1, ignored_older=1)
    assert store.read(KEYS) == [NEW.value, OTHER.value]


def test_the_newer_outcome_of_two_updates_stays_in_the_fast_store(
    tiered: Make, fast: FaultyStore, durable: FaultyStore
) -> None:
    store = tiered()
    fast.write([NEW])
    assert store.update([(OLD.key, lambda _: OLD.value)]) == [OLD.value]
    assert fast.read([OLD.key]) == [NEW.value]
    assert store.update([(OTHER.key, lambda held: None)]) == [None]
    assert fast.read([OTHER.key]) == [None]


def test_an_update_without_time_left_does_not_wait_for_the_fast_store(
    tiered: Make, fast: FaultyStore, durable: FaultyStore
) -> None:
    store = tiered()
    store.write([OLD])
    end_s = time.monotonic() + 0.05
    durable.before = lambda method: time.sleep(0.06) if method == "update" else None
    assert store.update([(NEW.key, lambda _: NEW.value)], deadline_s=end_s) == [NEW.value]
    assert fast.calls["update"] == 0
    assert store.read([NEW.key]) == [NEW.value]


def test_what_a_failed_write_may_have_changed_is_looked_up_when_the_durable_store_is_back(
    tiered: Make, fast: FaultyStore, durable: FaultyStore
) -> None:
    store = tiered()
    store.write([OLD])

    def lost_answer(method: str) -> None:
        if method == "write":
            durable.before = None
            durable.write([NEW])
            durable.fail()
            raise StoreTimeout("the answer was lost")

    durable.before = lost_answer
    with pytest.raises(StoreTimeout):
        store.write([NEW])
    assert store.read([OLD.key]) == [OLD.value], "better than nothing while the durable store is down"
    durable.heal()
    until(lambda: store.read([OLD.key]) == [NEW.value])


def test_a_write_that_was_not_tried_leaves_the_fast_store_alone(
    tiered: Make, fast: FaultyStore, durable: FaultyStore
) -> None:
    store = tiered()
    store.write([OLD])
    durable.fail(NotTried("out of service"), WRITES)
    for _ in range(3):
        with pytest.raises(NotTried):
            store.write([NEW])
    assert not keepers()
    assert fast.read([OLD.key]) == [OLD.value]


def test_an_erasure_takes_both_stores(tiered: Make, fast: FaultyStore, durable: FaultyStore) -> None:
    store = tiered()
    erasures: list[Callable[[], int]] = [
        lambda: store.delete([OLD.key]),
        lambda: store.delete_entity("subject", "1"),
    ]
    for failing, done in (
        (durable, "erased in the fast store, not in the durable one"),
        (fast, "erased in the durable store, not yet in the fast one"),
    ):
        for erase in erasures:
            store.write([OLD])
            assert erase() == 1
            store.write([OLD])
            failing.fail()
            with pytest.raises(StoreUnavailable, match=f"{done}; call again"):
                erase()
            failing.heal()
            erase()
            assert store.read([OLD.key]) == [None]
            assert not list(durable.scan())
            assert not list(fast.scan())
    for both in (fast, durable):
        both.fail()
    with pytest.raises(StoreUnavailable, match="not erased anywhere"):
        store.delete([OLD.key])


def test_what_was_erased_in_one_store_alone_is_not_read_from_the_other(
    tiered: Make, fast: FaultyStore, durable: FaultyStore
) -> None:
    store = tiered()
    store.write([OLD])
    fast.fail(methods=WRITES)
    with pytest.raises(StoreUnavailable):
        store.delete_entity("subject", "1")
    assert fast.read([OLD.key]) == [OLD.value]
    assert store.read([OLD.key]) == [None]
    fast.heal()
    until(lambda: fast.read([OLD.key]) == [None])


def test_an_erased_row_that_another_process_copies_a_moment_later_goes_again(
    tiered: Make, fast: FaultyStore, durable: FaultyStore
) -> None:
    store = tiered(settle_s=2.0)
    store.write([OLD])
    assert store.delete_entity("subject", "1") == 1
    until(lambda: fast.calls["delete_entity"] >= 2)
    fast.write([OLD])
    assert store.read([OLD.key]) == [None]
    until(lambda: not store.counters()["marked"])
    assert fast.read([OLD.key]) == [None]


def test_an_erasure_leaves_no_id_in_memory(tiered: Make, fast: FaultyStore, durable: FaultyStore) -> None:
    store = tiered(missing_ttl_s=600)
    store.read([OLD.key, OTHER.key])
    store.delete_entity("subject", "1")
    assert OLD.key not in store._missing
    assert store.counters()["missing"] == 1
    store.delete([OTHER.key])
    assert store.counters()["missing"] == 0
    until(lambda: not store.counters()["marked"])
    assert not store._keeper.marks
