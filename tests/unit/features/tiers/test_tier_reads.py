"""Reads of two stores: what is asked where, for how long, and what a failure leaves."""

from __future__ import annotations

import threading
import time

import pytest

from engine.domain.facts import UNREAD
from engine.features.store import StoreTimeout, StoreUnavailable
from engine.features.stores.partial import PartialRead
from engine.features.stores.tiered import TieredStore
from tests.support.faulty import FaultyStore, until
from tests.unit.features.tiers.rows import KEYS, NEW, OLD, OTHER, THIRD, Make, keepers


def test_what_the_fast_store_has_is_not_asked_of_the_durable_one(
    tiered: Make, fast: FaultyStore, durable: FaultyStore
) -> None:
    store = tiered()
    store.write([OLD, OTHER])
    assert store.read(KEYS) == [OLD.value, OTHER.value]
    assert not durable.asked
    assert not keepers(), "nothing to do, so no thread"


def test_what_it_lacks_is_read_from_the_durable_one_and_copied(
    tiered: Make, fast: FaultyStore, durable: FaultyStore
) -> None:
    store = tiered()
    durable.write([OLD, OTHER])
    fast.write([OTHER])
    assert store.read([OLD.key, OTHER.key, THIRD.key]) == [OLD.value, OTHER.value, None]
    assert durable.asked == [(OLD.key, THIRD.key)]
    until(lambda: fast.read([OLD.key]) == [OLD.value])
    assert store.read(KEYS) == [OLD.value, OTHER.value]
    assert len(durable.asked) == 1
    assert store.counters()["refilled"] == 1


def test_a_row_found_nowhere_is_not_looked_for_again_for_a_while(
    tiered: Make, fast: FaultyStore, durable: FaultyStore
) -> None:
    store = tiered(missing_ttl_s=0.5)
    begin_s = time.monotonic()
    assert store.read(KEYS) == [None, None]
    assert store.read(KEYS) == [None, None]
    # Unless the machine stood still for that while.
    assert durable.asked == [tuple(KEYS)] or time.monotonic() - begin_s > 0.5
    asked = len(durable.asked)
    until(lambda: store.read(KEYS) == [None, None] and len(durable.asked) > asked)
    assert time.monotonic() - begin_s > 0.5


def test_one_that_another_process_writes_is_seen_at_once(tiered: Make, fast: FaultyStore, durable: FaultyStore) -> None:
    store = tiered(missing_ttl_s=600)
    assert store.read([OLD.key]) == [None]
    other = TieredStore(fast, durable)
    other.write([OLD])
    assert store.read([OLD.key]) == [OLD.value]


@pytest.mark.parametrize("error", [StoreTimeout("late"), StoreUnavailable("down")])
def test_without_the_fast_store_all_comes_from_the_durable_one(
    tiered: Make, fast: FaultyStore, durable: FaultyStore, error: Exception
) -> None:
    store = tiered(missing_ttl_s=600)
    store.write([OLD])
    store.read(KEYS)
    durable.write([OTHER])
    fast.fail(error)
    assert store.read(KEYS) == [OLD.value, OTHER.value], (
        "what was missing is looked for again: the fast one says nothing"
    )


def test_without_the_durable_store_nothing_is_called_missing(
    tiered: Make, fast: FaultyStore, durable: FaultyStore
) -> None:
    store = tiered()
    store.write([OLD])
    durable.fail()
    with pytest.raises(PartialRead, match="durable is down") as caught:
        store.read(KEYS)
    assert caught.value.rows == [OLD.value, UNREAD]
    with pytest.raises(StoreUnavailable) as whole:
        store.read([OTHER.key])
    assert not isinstance(whole.value, PartialRead)
    assert store.read([OLD.key]) == [OLD.value]


def test_what_was_missing_a_moment_ago_need_not_be_looked_for(
    tiered: Make, fast: FaultyStore, durable: FaultyStore
) -> None:
    store = tiered(missing_ttl_s=600)
    store.write([OLD])
    assert store.read(KEYS) == [OLD.value, None]
    durable.fail()
    assert store.read(KEYS) == [OLD.value, None]


def test_without_either_the_error_is_the_durable_ones(tiered: Make, fast: FaultyStore, durable: FaultyStore) -> None:
    store = tiered()
    fast.fail()
    durable.fail(StoreTimeout("late"))
    with pytest.raises(StoreTimeout):
        store.read(KEYS)


def test_parts_of_both_stores_make_a_whole(tiered: Make, fast: FaultyStore, durable: FaultyStore) -> None:
    store = tiered()
    durable.write([OTHER])
    fast.fail(PartialRead("a node is down", [OLD.value, UNREAD]), ["read"])
    assert store.read(KEYS) == [OLD.value, OTHER.value]
    durable.fail(PartialRead("a node is down", [UNREAD]), ["read"])
    with pytest.raises(PartialRead) as caught:
        store.read(KEYS)
    assert caught.value.rows == [OLD.value, UNREAD]


def test_the_fast_store_takes_its_share_of_the_time_and_half_at_most(
    tiered: Make, fast: FaultyStore, durable: FaultyStore
) -> None:
    store = tiered(fast_timeout_ms=300_000)
    durable.write([OTHER])
    for allowed_s, share_s in ((1000.0, 300.0), (400.0, 200.0)):
        begin_s = time.monotonic()
        assert store.read([THIRD.key], begin_s + allowed_s) == [None]
        took_s = time.monotonic() - begin_s
        assert fast.deadlines[-1] == pytest.approx(begin_s + share_s, rel=0, abs=took_s)
        assert durable.deadlines[0] == begin_s + allowed_s
        durable.deadlines.clear()
        store._missing.forget([THIRD.key])


def test_a_fast_store_that_hangs_leaves_the_rest_of_the_time_to_the_durable_one(
    tiered: Make, fast: FaultyStore, durable: FaultyStore
) -> None:
    store = tiered(fast_timeout_ms=30.0)
    fast.gate = threading.Event()
    durable.write([OLD])
    begin_s = time.monotonic()
    assert store.read([OLD.key], begin_s + 60) == [OLD.value]
    assert 0.03 <= time.monotonic() - begin_s < 30
    assert durable.deadlines[-1] == begin_s + 60
    store.read([OLD.key])
    assert durable.deadlines[-1] is None
    fast.gate.set()


def test_a_row_that_makes_no_sense_in_the_fast_store_is_replaced(
    tiered: Make, fast: FaultyStore, durable: FaultyStore
) -> None:
    store = tiered()
    store.write([NEW, OTHER])
    spoilt = bytearray(NEW.value)
    spoilt[30] ^= 4
    fast._rows[NEW.key] = (NEW.event_time_us, bytes(spoilt))
    assert store.read(KEYS) == [NEW.value, OTHER.value]
    until(lambda: fast.read([NEW.key]) == [None])
    until(lambda: store.read(KEYS) == [NEW.value, OTHER.value] and fast.read(KEYS) == [NEW.value, OTHER.value])
    assert store.counters()["corrupt_in_fast"] >= 1
