"""What the Redis store does beyond the protocol: exact order, lives, restarts, full memory, huge values."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.features.store import StoreUnavailable, WriteResult
from engine.features.stores.memory import MemoryStore
from engine.features.stores.redis import RedisStore
from tests.support.plain_rows import row, value
from tests.support.redis_places import patient, plain_server
from tests.support.redis_servers import RedisServer


@pytest.fixture
def server() -> RedisServer:
    plain_server().admin().flushall()
    return plain_server()


@pytest.fixture
def store(server: RedisServer) -> Iterator[RedisStore]:
    opened = RedisStore(patient((server.address,)))
    yield opened
    opened.close()


def test_event_times_are_compared_as_the_integers_they_are(store: RedisStore) -> None:
    times = [-(2**63), -(2**53) - 1, -(2**53), -256, -1, 0, 1, 255, 256, 2**31, 2**32 - 1, 2**32, 2**53, 2**53 + 1]
    times += [2**62, 2**63 - 2, 2**63 - 1]
    for older, newer in pairwise(times):
        one, two = row(f"{older}", older, b"\xff"), row(f"{older}", newer)
        assert store.write([one, two]) == WriteResult(2), (older, newer)
        assert store.write([one]) == WriteResult(0, 1), (older, newer)
        assert store.read([one.key]) == [two.value]


_bytes = st.binary(max_size=3) | st.sampled_from([b"", b"\0", b"\x7f", b"\x80", b"\xff", b"a", b"B", b"\xc3\xa4", b"z"])


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(-2, 2) | st.just(2**60), _bytes), max_size=30))
def test_it_keeps_what_the_store_in_memory_keeps(store: RedisStore, writes: list[tuple[str, int, bytes]]) -> None:
    memory = MemoryStore()
    keys = [row(entity_id, 0).key for entity_id in "abc"]
    store.delete(keys)
    rows = [row(*write) for write in writes]
    assert store.write(rows) == memory.write(rows)
    assert store.read(keys) == memory.read(keys)


def test_rows_live_as_long_as_they_are_told(store: RedisStore, server: RedisServer) -> None:
    store.write([row("1", 1), row("2", 1)], ttl_s=100)
    store.update([(row("3", 1).key, lambda held: value(5))], ttl_s=200)
    store.write([row("2", 2)])
    lives = [server.command("TTL", row(entity_id, 1).key) for entity_id in "123"]
    assert 90 < lives[0] <= 100
    assert lives[1] == -1
    assert 190 < lives[2] <= 200
    store.write([row("4", 1)], ttl_s=10**12)
    assert server.command("TTL", row("4", 1).key) > 10**9
    with pytest.raises(ValueError, match="no time"):
        store.write([row("4", 2)], ttl_s=0)


# Servers that come, go and fill up.


@pytest.mark.parametrize("persistent", [True, False])
def test_a_server_that_restarts_between_calls_is_found_again(persistent: bool) -> None:
    with RedisServer(persistent=persistent) as server:
        store = RedisStore(patient((server.address,)))
        with ThreadPoolExecutor(4) as pool:  # so that several connections wait
            list(pool.map(lambda i: store.write([row(str(i), 1)]), range(40)))
        kept = [row("1", 1).value if persistent else None]
        calls: list[Callable[[], object]] = [
            lambda: store.read([row("1", 1).key], time.monotonic() + 30),
            lambda: store.write([row("new", 1)]),
            lambda: store.update([(row("new", 1).key, lambda held: value(2))]),
            lambda: store.delete([row("other", 1).key]),
            lambda: list(store.scan()),
            lambda: store.get_schema(b"12345678"),
            store.ping,
        ]
        for call in calls:
            server.restart()
            call()
        server.restart()
        assert store.read([row("1", 1).key]) == kept
        store.close()


def test_a_server_that_is_gone_is_said_so_at_once_and_found_when_it_is_back() -> None:
    with RedisServer(persistent=True) as server:
        store = RedisStore(patient((server.address,)))
        store.write([row("1", 1)])
        server.kill()
        for _ in range(3):
            begin_s = time.monotonic()
            with pytest.raises(StoreUnavailable, match=server.address):
                store.read([row("1", 1).key], time.monotonic() + 30)
            assert time.monotonic() - begin_s < 10
        server.start()
        assert store.read([row("1", 1).key]) == [row("1", 1).value]
        store.close()


def test_an_emptied_server_learns_the_views_again() -> None:
    """Otherwise nobody would know what to delete of an entity."""
    with RedisServer() as server:
        store = RedisStore(patient((server.address,)))
        store.write([row("1", 1, view="one")])
        server.restart()
        store.write([row("1", 1, view="one")])
        other = RedisStore(patient((server.address,)))
        assert other.delete_entity("subject", "1") == 1
        assert other.read([row("1", 1, view="one").key]) == [None]
        store.close()
        other.close()


def test_scripts_that_the_server_forgot_are_sent_again(store: RedisStore, server: RedisServer) -> None:
    for i in range(3):
        server.command("SCRIPT", "FLUSH")
        assert store.write([row(str(j), i) for j in range(250)]) == WriteResult(250)
        server.command("SCRIPT", "FLUSH")
        assert store.update([(row("x", 1).key, lambda held, i=i: value(i))]) == [value(i)]  # type: ignore[misc]


def test_full_memory_refuses_rows_and_still_gives_them() -> None:
    with RedisServer(maxmemory_bytes=4 << 20) as server:
        store = RedisStore(patient((server.address,)))
        store.write([row("kept", 1)])
        with pytest.raises(StoreUnavailable, match="memory is full"):
            for i in range(2_000):
                store.write([row(str(i), 1, b"x" * 10_000)])
        server.command("CONFIG", "SET", "maxmemory", 1 << 20)
        with pytest.raises(StoreUnavailable, match="OOM"):
            store.update([(row("y", 1).key, lambda held: value(1))])
        assert store.read([row("kept", 1).key]) == [row("kept", 1).value]
        server.command("CONFIG", "SET", "maxmemory", 4 << 20)
        assert store.delete([row(str(i), 1).key for i in range(2_000)]) > 100
        store.update([(row("y", 1).key, lambda held: value(1))])
        store.close()


def test_a_replica_refuses_rows_and_a_master_again_takes_them() -> None:
    one, two = row("1", 1), row("1", 2)
    with RedisServer() as server, RedisServer() as master:
        store = RedisStore(patient((server.address,)))
        store.write([one])
        server.command("REPLICAOF", master.host, master.port)
        with pytest.raises(StoreUnavailable, match="READONLY"):
            store.write([two])
        server.command("REPLICAOF", "NO", "ONE")
        assert store.write([two]).written == 1
        store.close()


def test_values_of_many_megabytes(store: RedisStore) -> None:
    huge = [row(str(i), 1, os.urandom(15_000_000)) for i in range(2)]
    assert store.write(huge) == WriteResult(2)
    assert store.write(huge) == WriteResult(0, 2)
    assert store.read([r.key for r in huge]) == [r.value for r in huge]
    assert store.update([(huge[0].key, lambda held: (held or b"") + b"!")]) == [huge[0].value + b"!"]


def test_what_is_no_row_gives_way_to_one(store: RedisStore, server: RedisServer) -> None:
    for number in ("1", "3"):
        server.admin().lpush(row(number, 1).key, "x")
    server.admin().set(row("2", 1).key, "short")
    assert store.read([row("1", 1).key]) == [None]
    assert store.write([row("1", 1)]) == WriteResult(1)
    # One such key must not hold up every other update for ever.
    seen: list[bytes | None] = []

    def change(held: bytes | None) -> bytes:
        seen.append(held)
        return value(1)

    assert store.update([(row("3", 1).key, change)]) == [value(1)]
    assert seen == [None]
    assert store.read([row("1", 1).key, row("3", 1).key]) == [row("1", 1).value, value(1)]
    assert store.read([row("2", 1).key]) == [b"short"]
    assert store.write([row("2", -5)]) == WriteResult(1)  # anything is newer than what has no time
