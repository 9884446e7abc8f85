"""How the fast store is brought in line: copies, marks, emptying, closing, forks."""

from __future__ import annotations

import os
import threading
import time

import pytest

from engine.errors import StoreError
from engine.features.store import StoreUnavailable
from engine.features.stores.tiered import TieredSettings, TieredStore
from tests.support.faulty import WRITES, FaultyStore, until
from tests.unit.features.tiers.rows import NEW, OLD, Make, keepers, row


def test_too_many_marks_and_nothing_is_read_from_the_fast_store_until_it_is_empty(
    tiered: Make, fast: FaultyStore, durable: FaultyStore
) -> None:
    store = tiered(marks_max=50)
    rows = [row(str(i), 1.0, 100) for i in range(200)]
    store.write([*rows, OLD])
    fast.fail(methods=WRITES)
    newer = [row(str(i), 2.0, 200) for i in range(100)]
    store.write(newer)
    assert store.counters()["is_distrusted"] == 1
    before = fast.calls["read"]
    assert store.read([r.key for r in rows]) == [r.value for r in newer] + [r.value for r in rows[100:]]
    assert fast.calls["read"] == before
    store.write([row("0", 3.0, 300)])
    fast.heal()
    until(lambda: not store.counters()["is_distrusted"])
    assert store.counters()["distrusted"] == 1
    assert not list(fast.scan())
    until(lambda: not store.counters()["marked"])
    assert store.read([rows[0].key, rows[150].key]) == [row("0", 3.0, 300).value, rows[150].value]
    until(lambda: fast.read([rows[0].key]) == [row("0", 3.0, 300).value])


def test_only_so_many_rows_wait_to_be_copied(tiered: Make, fast: FaultyStore, durable: FaultyStore) -> None:
    store = tiered(refill_waiting_max=10)
    rows = [row(str(i), 1.0, 100) for i in range(8)]
    durable.write(rows)
    held = threading.Event()

    def hold(method: str) -> None:
        if method == "write":
            held.wait(60)

    fast.before = hold
    took = []
    for _ in range(4):
        begin_s = time.monotonic()
        assert store.read([r.key for r in rows]) == [r.value for r in rows]
        took.append(time.monotonic() - begin_s)
    assert max(took) < 30, "no read waits for a copy"
    until(lambda: store.counters()["refill_dropped"] >= 8)
    assert store.counters()["refill_waiting"] <= 10
    held.set()


def test_copies_that_the_fast_store_will_not_take_are_dropped(
    tiered: Make, fast: FaultyStore, durable: FaultyStore
) -> None:
    store = tiered()
    durable.write([OLD])
    fast.fail(methods=WRITES)
    assert store.read([OLD.key]) == [OLD.value]
    until(lambda: store.counters()["refill_dropped"] == 1)
    assert store.counters()["marked"] == 0


def test_schemas_come_from_either_and_reach_both(tiered: Make, fast: FaultyStore, durable: FaultyStore) -> None:
    store = tiered()
    fast.fail()
    store.put_schema(b"12345678", b"{}")
    assert store.get_schema(b"12345678") == b"{}"
    fast.heal()
    until(lambda: fast.get_schema(b"12345678") == b"{}")
    durable.fail()
    assert store.get_schema(b"12345678") == b"{}"
    with pytest.raises(StoreUnavailable, match="durable is down"):
        store.get_schema(b"87654321")


def test_it_serves_while_either_store_does(tiered: Make, fast: FaultyStore, durable: FaultyStore) -> None:
    store = tiered()
    fast.fail()
    store.ping()
    durable.fail()
    with pytest.raises(StoreError, match="durable is down"):
        store.ping()
    fast.heal()
    store.ping()


def test_closing_deletes_what_is_out_of_date(
    fast: FaultyStore, durable: FaultyStore, caplog: pytest.LogCaptureFixture
) -> None:
    store = TieredStore(fast, durable, TieredSettings(settle_s=60))
    store.write([OLD])
    fast.fail(methods=WRITES)
    store.write([NEW])
    deleted: list[bool] = []

    def note(method: str) -> None:
        if method == "delete":
            deleted.append(OLD.key in fast._rows)

    fast.heal()
    fast.before = note
    store.close()
    assert deleted
    assert not any("older rows" in r.getMessage() for r in caplog.records)
    assert not keepers()


def test_closing_says_what_it_leaves_behind(
    fast: FaultyStore, durable: FaultyStore, caplog: pytest.LogCaptureFixture
) -> None:
    store = TieredStore(fast, durable)
    fast.fail(methods=WRITES)
    store.write([OLD])
    store.close()
    store.close()
    left = [r for r in caplog.records if "older rows" in r.getMessage()]
    assert len(left) == 1
    assert left[0].__dict__["rows"] == 1


def test_a_forked_child_goes_on_mending(tiered: Make, fast: FaultyStore, durable: FaultyStore) -> None:
    store = tiered()
    store.write([OLD])
    fast.fail(methods=WRITES)
    store.write([NEW])
    child = os.fork()
    if child == 0:
        code = 1
        try:
            if store.read([OLD.key]) == [NEW.value]:
                fast.heal()
                until(lambda: not store.counters()["marked"])
                code = 0 if store.read([OLD.key]) == [NEW.value] else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
