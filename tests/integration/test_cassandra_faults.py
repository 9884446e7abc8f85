"""The Cassandra store while the node is stopped, killed, started again, or not there yet."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from engine.errors import StoreError
from engine.features.store import StoreTimeout, StoreUnavailable
from engine.features.stores.cassandra import CassandraSettings, CassandraStore, migrate
from tests.support.cassandra import CassandraNode, shared_node
from tests.support.cassandra_places import settings_for
from tests.support.cassandra_rows import KEYSPACE, eventually, one_more, row, score_of
from tests.support.faulty import until

# The driver notices a silent connection within three seconds, and then tries every second.
RECOVERED_S = 90.0
# What a machine that stands still for a while adds to a call. Without its deadline a call would take far longer.
GRACE_S = 5.0

# The node may have to be started, and a Java machine is not quick on a busy one.
pytestmark = pytest.mark.timeout(600)


@pytest.fixture
def node() -> Iterator[CassandraNode]:
    found = shared_node()
    yield found
    shared_node()  # up again for the next one


@pytest.fixture
def settings(node: CassandraNode) -> CassandraSettings:
    found = settings_for(node, KEYSPACE, connect_timeout_ms=1000)
    migrate(found)
    return found


@pytest.fixture
def store(settings: CassandraSettings) -> Iterator[CassandraStore]:
    opened = CassandraStore(settings)
    yield opened
    opened.close()


@pytest.fixture
def subject() -> str:
    """An id that no other test has."""
    return uuid.uuid4().hex


def test_a_stopped_node_costs_the_deadline_and_nothing_more(
    node: CassandraNode, store: CassandraStore, subject: str
) -> None:
    rows = [row(f"{subject}{n}", n, 1) for n in range(9)]
    store.write(rows)
    keys = [r.key for r in rows]
    node.suspend()
    try:
        late = []
        for limit_s in (0.02, 0.1, 0.3):
            deadline_s = time.monotonic() + limit_s
            with pytest.raises(StoreTimeout, match=node.address):
                store.read(keys, deadline_s)
            late.append(time.monotonic() - deadline_s)
        assert max(late) < GRACE_S
        deadline_s = time.monotonic() + 0.2
        with pytest.raises(StoreTimeout):
            store.update([(keys[0], one_more)], deadline_s=deadline_s)
        assert time.monotonic() - deadline_s < GRACE_S
        began = time.monotonic()
        with pytest.raises(StoreError):
            store.ping()
        assert time.monotonic() - began < 1 + GRACE_S
        # Once the silence is noticed, calls fail at once.
        until(lambda: _cannot_be_reached(store, keys))
        began = time.monotonic()
        with pytest.raises(StoreUnavailable, match="cannot be reached"):
            store.read(keys, began + 20)
        assert time.monotonic() - began < GRACE_S
    finally:
        node.resume()
    eventually(store.ping, RECOVERED_S)
    assert store.read(keys) == [r.value for r in rows]


def _cannot_be_reached(store: CassandraStore, keys: list[bytes]) -> bool:
    try:
        store.read(keys, time.monotonic() + 0.1)
    except StoreUnavailable as error:
        return "cannot be reached" in str(error)
    except StoreTimeout:
        return False
    raise AssertionError("a node that is stopped does not answer")


def test_a_short_stop_breaks_nothing(node: CassandraNode, store: CassandraStore, subject: str) -> None:
    one = row(subject, 1.0, 1)
    store.write([one])
    node.suspend()
    try:
        with pytest.raises(StoreTimeout):
            store.read([one.key], time.monotonic() + 0.2)
    finally:
        node.resume()
    assert store.read([one.key]) == [one.value]


@pytest.mark.slow
def test_a_killed_node_fails_calls_soon_leaves_nothing_behind_and_is_found_again(
    node: CassandraNode, settings: CassandraSettings, store: CassandraStore, subject: str
) -> None:
    """All in one outage: a node takes its time to start."""
    rows = [row(f"{subject}{n}", n, 1) for n in range(300)]
    store.write(rows)
    counted = store.update([(rows[0].key, one_more)])
    node.kill()
    began = time.monotonic()
    for _ in range(20):
        with pytest.raises(StoreError):
            store.read([rows[0].key], time.monotonic() + 0.5)
    assert time.monotonic() - began < 20 * 0.5 + GRACE_S
    with pytest.raises(StoreError):
        store.write([row(subject, 1.0, 1)])
    threads = threading.active_count()
    for _ in range(1000):
        with pytest.raises(StoreError):
            store.read([rows[0].key], time.monotonic() + 0.5)
    assert threading.active_count() <= threads + 2
    lazy = opened_before_cassandra_is_there(node, settings, rows[0].key)
    node.start()
    for opened in (store, lazy):
        eventually(opened.ping, RECOVERED_S)
        assert opened.read([r.key for r in rows]) == counted + [r.value for r in rows[1:]]
    store.write([row(f"{subject}0", 7.0, 10**6)])
    assert lazy.read([rows[0].key]) == [row(subject, 7.0, 10**6).value]
    one = row(subject, 1.0, 1)
    lazy.write([one])
    assert lazy.read([one.key]) == [one.value]
    lazy.close()


def opened_before_cassandra_is_there(node: CassandraNode, settings: CassandraSettings, key: bytes) -> CassandraStore:
    """A store that was opened without a node, and fails soon until there is one."""
    began = time.monotonic()
    with pytest.raises(StoreUnavailable, match="cannot be reached"):
        CassandraStore(settings)
    store = CassandraStore(settings, lazy=True)
    assert time.monotonic() - began < 15
    for _ in range(3):
        began = time.monotonic()
        with pytest.raises(StoreUnavailable, match=node.address):
            store.read([key], began + 1)
        assert time.monotonic() - began < 1 + GRACE_S
    return store


@pytest.mark.slow
def test_what_was_cut_off_can_be_done_again(node: CassandraNode, store: CassandraStore, subject: str) -> None:
    """Counters of many threads through a kill: each change that was reported is in, and no change is in twice that was
    made again until it was reported."""
    keys = [row(f"{subject}{n}", 0, 0).key for n in range(3)]
    stop = threading.Event()
    seen: set[tuple[bytes, int]] = set()
    failures: list[StoreError] = []

    def work(n: int) -> int:
        done = 0
        while not stop.is_set():
            try:
                held = store.update([(keys[n], one_more)], deadline_s=time.monotonic() + 2)
            except StoreError as e:
                failures.append(e)
                time.sleep(0.1)
            else:
                done += 1
                assert held[0] is not None
                assert (keys[n], hash(held[0])) not in seen
                seen.add((keys[n], hash(held[0])))
        return done

    with ThreadPoolExecutor(3) as pool:
        futures = [pool.submit(work, n) for n in range(3)]
        until(lambda: len(seen) >= 3)
        node.kill()
        node.start()
        eventually(store.ping, RECOVERED_S)
        so_far = len(seen)
        until(lambda: len(seen) > so_far)
        stop.set()
        reported = [future.result() for future in futures]
    assert failures
    for key, count in zip(keys, reported, strict=True):
        held = store.read([key])[0]
        # A change that failed may have been made: one for each failure at most.
        assert count <= score_of(held) <= count + len(failures)


def test_a_store_that_never_connected_closes_at_once(node: CassandraNode, settings: CassandraSettings) -> None:
    node.suspend()
    try:
        threads = set(threading.enumerate())
        store = CassandraStore(settings, lazy=True)
        with pytest.raises(StoreError):
            store.read([row("x", 0, 0).key], time.monotonic() + 0.1)
        began = time.monotonic()
        store.close()
        assert time.monotonic() - began < 30
        assert not {t.name for t in set(threading.enumerate()) - threads} - {"event_loop"}
    finally:
        node.resume()
