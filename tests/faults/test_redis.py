"""Redis alone: whatever happens to it, decisions come in time, say what they lacked, and it comes back by itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from engine.features.store import StoreUnavailable
from tests.faults import stores
from tests.faults.desk import OpenDesk, Reference, loaded
from tests.faults.trial import Fault, Matrix, in_background, run
from tests.support.faulty import until
from tests.support.proxy import Proxy
from tests.support.redis_servers import RedisServer


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with RedisServer(persistent=True) as made:
        yield made


@pytest.fixture
def proxy(server: RedisServer) -> Iterator[Proxy]:
    with Proxy(server.port) as made:
        yield made


@pytest.mark.parametrize("name", ["SIGSTOP", "kill -9", "restart"])
def test_the_process(name: str, server: RedisServer, open_desk: OpenDesk, reference: Reference, matrix: Matrix) -> None:
    faults = {
        "SIGSTOP": Fault(name, server.pause, server.resume),
        "kill -9": Fault(name, server.kill, server.start),
        "restart": in_background(server.restart, name),
    }
    desk = open_desk(stores.guarded(stores.redis(server.address)))
    loaded(desk)
    run(desk, faults[name], reference, matrix)


@pytest.mark.parametrize("name", ["slow", "trickle", "silent", "refused", "reset", "cut", "garbage", "flipped bits"])
def test_the_network(name: str, proxy: Proxy, open_desk: OpenDesk, reference: Reference, matrix: Matrix) -> None:
    begins: dict[str, Callable[[], object]] = {
        "slow": lambda: proxy.slow(stores.SLOW_MS),
        "trickle": lambda: proxy.trickle(1, every_ms=5),
        "silent": proxy.silent,
        "refused": proxy.refuse,
        "reset": proxy.reset,
        "cut": proxy.cut,
        "garbage": proxy.garbage,
        "flipped bits": lambda: proxy.flip(0.0005),
    }
    fault = Fault(name, begins[name], proxy.well, "some" if name == "flipped bits" else "all")
    desk = open_desk(stores.guarded(stores.redis(proxy.address)))
    loaded(desk)
    run(desk, fault, reference, matrix)


def test_a_network_that_is_slow_within_the_budget(
    proxy: Proxy, open_desk: OpenDesk, reference: Reference, matrix: Matrix
) -> None:
    store = stores.guarded(stores.redis(proxy.address, patient=True), patient=True)
    desk = open_desk(store, patient=True)
    desk.load()
    fault = Fault(
        "slow within budget", lambda: proxy.slow(stores.DELAY_MS), proxy.well, "none", delay_ms=stores.DELAY_MS
    )
    run(desk, fault, reference, matrix)
    assert store.counters()["reads_failed"] == 0


def test_one_that_is_full_goes_on_being_read(open_desk: OpenDesk, reference: Reference, matrix: Matrix) -> None:
    with RedisServer(maxmemory_bytes=4 << 20) as server:
        store = stores.guarded(stores.redis(server.address, patient=True), patient=True)
        desk = open_desk(store, patient=True)
        desk.load()

        def fill() -> None:
            stores.fill(server)
            for _ in range(10):
                with pytest.raises(StoreUnavailable):
                    desk.load()
            assert store.write_state != "closed"

        run(desk, Fault("full", fill, lambda: stores.make_room(server), "none"), reference, matrix)
        assert store.counters()["reads_failed"] == 0
        loaded(desk)
        until(lambda: store.write_state == "closed")
