"""The Redis store among threads and processes: no more connections than needed, none shared, none leaked."""

from __future__ import annotations

import os
import struct
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from engine.errors import StoreError
from engine.features.store import EVENT_TIME_OFFSET, StoreUnavailable
from engine.features.stores.redis import RedisStore
from tests.support.plain_rows import closed_down_to, row, sockets, value
from tests.support.redis_places import guarded_server, guarded_settings, patient, plain_server
from tests.support.redis_servers import RedisServer


@pytest.fixture
def server() -> RedisServer:
    plain_server().admin().flushall()
    return plain_server()


def test_connections_do_not_outnumber_the_threads_that_use_them(server: RedisServer) -> None:
    before, before_server = sockets(), server.connections()
    store = RedisStore(patient((server.address,)))
    one = row("1", 1)
    for _ in range(30):
        threads = [threading.Thread(target=lambda: [store.read([one.key]) for _ in range(5)]) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sockets() - before <= 8 + 4  # those that were being opened when another came back first
    store.close()
    assert closed_down_to(before)
    deadline_s = time.monotonic() + 30
    while server.connections() > before_server and time.monotonic() < deadline_s:
        time.sleep(0.01)
    assert server.connections() <= before_server


def test_closing_while_threads_read_leaves_nothing_open(server: RedisServer) -> None:
    before = sockets()
    store = RedisStore(patient((server.address,)))
    one = row("1", 1)
    store.write([one])
    wrong: list[object] = []

    def read() -> None:
        while True:
            try:
                found = store.read([one.key])
                if found != [one.value]:
                    wrong.append(found)
            except StoreUnavailable:
                return
            except BaseException as e:
                wrong.append(e)
                return

    threads = [threading.Thread(target=read) for _ in range(8)]
    for thread in threads:
        thread.start()
    time.sleep(0.1)
    store.close()
    for thread in threads:
        thread.join(60)
    assert not wrong
    assert closed_down_to(before)


def test_a_thousand_failures_leak_nothing() -> None:
    with RedisServer() as server:
        store = RedisStore(patient((server.address,)))
        store.ping()
        before = sockets()
        server.kill()
        for _ in range(1000):
            with pytest.raises(StoreUnavailable):
                store.read([row("1", 1).key], time.monotonic() + 30)
        server.start()
        server.pause()
        for _ in range(100):
            with pytest.raises(StoreError):
                store.read([row("1", 1).key], time.monotonic() + 0.002)
        server.resume()
        store.ping()
        assert closed_down_to(before)
        assert threading.active_count() < 50
        store.close()


@pytest.mark.parametrize("guarded", [False, True])
def test_a_forked_child_has_connections_of_its_own(guarded: bool) -> None:
    server = guarded_server() if guarded else plain_server()
    server.admin().flushall()
    store = RedisStore(guarded_settings(server) if guarded else patient((server.address,)))
    rows = [row(str(i), 1, os.urandom(50)) for i in range(20)]
    store.write(rows)
    children = []
    for n in range(3):
        child = os.fork()
        if child == 0:
            code = 1
            try:
                if all(store.read([r.key]) == [r.value] for r in rows * 20):
                    store.write([row(f"child{n}", 1)])
                    store.close()
                    code = 0
            finally:
                os._exit(code)
        children.append(child)
    assert all(store.read([r.key]) == [r.value] for r in rows * 20)
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0, 0, 0]
    assert store.read([row(f"child{n}", 1).key for n in range(3)]) == [value(1)] * 3
    store.close()


def test_stores_of_several_threads_lose_no_update_to_one_another(server: RedisServer) -> None:
    """Each with a store of its own, as several processes would have."""
    key = row("1", 1).key

    def one_more(held: bytes | None) -> bytes:
        count = 0 if held is None else struct.unpack_from("<q", held, EVENT_TIME_OFFSET)[0]
        return value(count + 1)

    def work(_: int) -> None:
        store = RedisStore(patient((server.address,)))
        for _ in range(50):
            store.update([(key, one_more)])
        store.close()

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(work, range(6)))
    store = RedisStore(patient((server.address,)))
    assert store.read([key]) == [value(300)]
    store.close()
