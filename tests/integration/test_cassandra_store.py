"""What the Cassandra store does beyond the protocol, on a real node."""

from __future__ import annotations

import os
import threading
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest

from engine.features.store import Row, StoreTimeout, StoreUnavailable, WriteResult, entity_prefix, parse_key, row_key
from engine.features.stores.cassandra import CassandraSettings, CassandraStore, _plain_time, migrate
from engine.features.stores.cassandra_driver import Call
from tests.support.cassandra import CassandraNode, shared_node
from tests.support.cassandra_places import settings_for
from tests.support.cassandra_rows import KEYSPACE, one_more, row, score_of, set_to, value
from tests.support.faulty import until

# The node may have to be started, and a Java machine is not quick on a busy one.
pytestmark = pytest.mark.timeout(600)


@pytest.fixture
def node() -> CassandraNode:
    return shared_node()


@pytest.fixture
def settings(node: CassandraNode) -> CassandraSettings:
    found = settings_for(node, KEYSPACE)
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


def test_a_row_that_was_updated_is_written_by_the_rule_of_all_stores(store: CassandraStore, subject: str) -> None:
    key = row(subject, 0, 0).key
    store.update([(key, partial(set_to, value(1.0, 200)))])
    assert store.write([row(subject, 2.0, 150)]) == WriteResult(ignored_older=1)
    assert store.write([row(subject, 1.0, 200)]) == WriteResult(ignored_older=1)
    assert store.write([row(subject, 3.0, 300)]) == WriteResult(written=1)
    assert store.read([key]) == [value(3.0, 300)]
    store.update([(key, one_more)])
    assert store.read([key]) == [value(4.0, 301)]


def test_a_row_that_was_written_is_updated_whatever_its_event_time(store: CassandraStore, subject: str) -> None:
    far = int(time.time() * 1e6) + 10**15  # some 30 years ahead of every clock
    one = row(subject, 1.0, far)
    store.write([one])
    assert store.update([(one.key, one_more)]) == [value(2.0, far + 1)]
    assert store.read([one.key]) == [value(2.0, far + 1)]


def test_event_times_at_both_ends_of_what_a_header_holds(store: CassandraStore, subject: str) -> None:
    times = [-(2**63) + 1, -(2**62), -(2**59), -(2**59) + 1, -1, 0, 2**59 - 1, 2**59, 2**62, 2**63 - 1]
    for n, event_time_us in enumerate(times):
        assert store.write([row(subject, n, event_time_us)]) == WriteResult(written=1)
        assert score_of(store.read([row(subject, 0, 0).key])[0]) == n
    for n, event_time_us in enumerate(times[:-1]):
        assert store.write([row(subject, n, event_time_us)]) == WriteResult(ignored_older=1)


def test_a_deleted_row_comes_back_with_any_event_time(store: CassandraStore, subject: str) -> None:
    new, old = row(subject, 1.0, 500), row(subject, 2.0, 100)
    store.write([new])
    assert store.delete([new.key]) == 1
    assert store.delete([new.key]) == 0
    assert store.write([old]) == WriteResult(written=1)
    assert store.read([old.key]) == [old.value]
    assert store.write([new]) == WriteResult(written=1)
    assert store.delete_entity("subject", subject) == 1
    assert store.update([(new.key, one_more)]) == [value(1.0, 1)]
    assert store.read([new.key]) == [value(1.0, 1)]


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_cassandra_itself_settles_what_two_writers_send_at_once(
    store: CassandraStore, subject: str, order: tuple[int, int]
) -> None:
    """Neither writer has seen the other's row, so neither leaves it out."""
    rows = [row(f"{subject}time", 1.0, 100), row(f"{subject}time", 0.0, 101)]
    ties = sorted((row(f"{subject}tie", score, 100) for score in (1.0, -1.0)), key=lambda r: r.value)
    for place in order:
        for writer in (rows, ties):
            store._write_plain([_plain(writer[place])])
    assert store.read([rows[0].key, ties[0].key]) == [rows[1].value, ties[1].value]


def _plain(one: Row) -> tuple[object, ...]:
    return (_plain_time(one.event_time_us), one.value, -1, *parse_key(one.key))


def test_rows_with_a_time_to_live_go_by_themselves(store: CassandraStore, subject: str) -> None:
    kept, gone = row(subject, 1.0, 100, view="kept"), row(subject, 2.0, 100, view="gone")
    store.update([(gone.key, partial(set_to, gone.value)), (kept.key, partial(set_to, kept.value))], ttl_s=5)
    store.update([(kept.key, one_more)])
    written = row(subject, 3.0, 100, view="written")
    begin_s = time.monotonic()
    assert store.write([written], ttl_s=3) == WriteResult(written=1)
    found = store.read([written.key])
    # Unless the machine stood still for as long as the row lives.
    assert found == [written.value] or time.monotonic() - begin_s > 2
    until(lambda: store.read([gone.key, written.key]) == [None, None])
    assert store.read([kept.key]) == [value(2.0, 101)]
    assert store.write([gone]) == WriteResult(written=1)
    assert store.read([gone.key]) == [gone.value]


def test_many_clients_change_one_row_and_lose_nothing(settings: CassandraSettings, subject: str) -> None:
    keys = [row_key("device", subject, view) for view in ("count_a", "count_b")]
    stores = [CassandraStore(settings) for _ in range(2)]

    def work(n: int) -> None:
        for _ in range(8):
            stores[n % 2].update([(key, one_more) for key in keys])

    with ThreadPoolExecutor(6) as pool:
        for future in [pool.submit(work, n) for n in range(6)]:
            future.result()
    assert [score_of(held) for held in stores[0].read(keys)] == [48.0, 48.0]
    for store in stores:
        store.close()


def test_an_update_that_finds_no_time_leaves_all_as_it_was(store: CassandraStore, subject: str) -> None:
    one = row(subject, 1.0, 100)
    store.write([one])
    with pytest.raises(StoreTimeout, match="no time left"):
        store.update([(one.key, one_more)], deadline_s=time.monotonic() - 0.001)
    assert store.read([one.key]) == [one.value]


def test_large_values_and_the_largest(store: CassandraStore, subject: str) -> None:
    def padded(entity_id: str, score: float, event_time_us: int, size: int) -> Row:
        plain = row(entity_id, score, event_time_us)
        return plain._replace(value=plain.value + bytes(size))

    large = [padded(f"{subject}{n}", n, 100, 1_000_000) for n in range(6)]
    assert store.write(large) == WriteResult(written=6)
    assert store.read([r.key for r in large]) == [r.value for r in large]
    changed = padded(f"{subject}0", 9.0, 101, 1_000_000)
    assert store.update([(changed.key, partial(set_to, changed.value))]) == [changed.value]
    with pytest.raises(StoreUnavailable, match="refused"):
        store.write([padded(subject, 1.0, 100, 9_000_000)])
    assert store.read([row(subject, 1.0, 100).key]) == [None]


def test_a_scan_goes_through_all_pages(store: CassandraStore) -> None:
    store.delete_entity("subject", "paged")
    rows = [row(f"paged{n:05d}", n, 1, view=f"v{n % 2}") for n in range(5_500)]
    views = [row("paged", n, 1, view=f"view_{n:03d}") for n in range(450)]
    store.write(rows + views)
    found = dict(store.scan(b"{subject/paged"))
    assert found == {r.key: r.value for r in rows + views}
    of_one = list(store.scan(entity_prefix("subject", "paged")))
    assert of_one == [(r.key, r.value) for r in views]
    assert [key for key, _ in store.scan(entity_prefix("subject", "paged") + b"view_01")] == [
        r.key for r in views[10:20]
    ]


def test_reads_of_one_entity_are_one_statement(store: CassandraStore, subject: str) -> None:
    rows = [row(subject, n, 1, view=f"v{n}") for n in range(12)]
    store.write(rows)
    sent: list[Call] = []
    each = store._link.each

    def listen(calls: list[Call], *rest: object, **options: object) -> object:
        sent.extend(calls)
        return each(calls, *rest, **options)  # type: ignore[arg-type]

    store._link.each = listen  # type: ignore[assignment,method-assign]
    assert store.read([r.key for r in rows]) == [r.value for r in rows]
    assert len(sent) == 1


@pytest.mark.parametrize("options", [{"hedge_after_ms": 0.01}, {"consistency": "ONE"}, {"local_dc": "datacenter1"}])
def test_further_settings(node: CassandraNode, settings: CassandraSettings, options: dict[str, object]) -> None:
    store = CassandraStore(settings_for(node, KEYSPACE, **options))
    rows = [row(f"further{n}", n, 1) for n in range(200)]
    store.write(rows)
    for _ in range(20):
        assert store.read([r.key for r in rows]) == [r.value for r in rows]
    store.close()


def test_a_forked_child_connects_anew(store: CassandraStore, subject: str) -> None:
    one = row(subject, 1.0, 1)
    store.write([one])
    child = os.fork()
    if child == 0:
        code = 1
        try:
            if store.read([one.key]) == [one.value]:
                store.write([row(subject, 2.0, 2)])
                store.close()
                code = 0
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert store.read([one.key]) == [value(2.0, 2)]
    store.write([row(subject, 3.0, 3)])
    assert store.read([one.key]) == [value(3.0, 3)]


def test_a_closed_store_leaves_no_thread_and_no_socket(settings: CassandraSettings) -> None:
    def sockets() -> set[str]:
        found = set()
        for fd in os.listdir("/proc/self/fd"):
            try:
                target = os.readlink(f"/proc/self/fd/{fd}")
            except OSError:
                continue
            if target.startswith("socket:"):
                found.add(target)
        return found

    before, threads = sockets(), set(threading.enumerate())
    for _ in range(5):
        store = CassandraStore(settings)
        store.ping()
        store.close()
    deadline_s = time.monotonic() + 60
    while time.monotonic() < deadline_s:
        # The driver has one thread of its own for the whole process, which ends when it has nothing to do.
        left = {t for t in set(threading.enumerate()) - threads if t.name != "event_loop"}
        if not left and sockets() <= before:
            break
        time.sleep(0.05)
    assert not left
    assert sockets() <= before
