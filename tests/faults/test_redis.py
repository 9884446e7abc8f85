"""Redis alone: whatever happens to it, decisions come in time, say what they lacked, and it comes back by itself."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import pytest

from engine.features.store import FeatureStore, StoreUnavailable
from tests.faults import stores
from tests.faults.desk import Desk, Reference
from tests.faults.trial import Fault, Matrix, in_background, run
from tests.support.faulty import until
from tests.support.proxy import Proxy
from tests.support.redis_servers import RedisServer

OpenDesk = Callable[[FeatureStore], Desk]


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
    desk.load()
    run(desk, faults[name], reference, matrix)


@pytest.mark.parametrize(
    "name", ["slow", "slow within budget", "trickle", "silent", "refused", "reset", "cut", "garbage", "flipped bits"]
)
def test_the_network(name: str, proxy: Proxy, open_desk: OpenDesk, reference: Reference, matrix: Matrix) -> None:
    begins: dict[str, Callable[[], object]] = {
        "slow": lambda: proxy.slow(2 * stores.READ_TIMEOUT_MS),
        "slow within budget": lambda: proxy.slow(5),
        "trickle": lambda: proxy.trickle(1, every_ms=5),
        "silent": proxy.silent,
        "refused": proxy.refuse,
        "reset": proxy.reset,
        "cut": proxy.cut,
        "garbage": proxy.garbage,
        "flipped bits": lambda: proxy.flip(0.0005),
    }
    effects = {"slow within budget": "none", "flipped bits": "some"}
    fault = Fault(name, begins[name], proxy.well, effects.get(name, "all"))  # type: ignore[arg-type]
    desk = open_desk(stores.guarded(stores.redis(proxy.address)))
    desk.load()
    run(desk, fault, reference, matrix)


def test_one_that_is_full_goes_on_being_read(open_desk: OpenDesk, reference: Reference, matrix: Matrix) -> None:
    with RedisServer(maxmemory_bytes=4 << 20) as server:
        store = stores.guarded(stores.redis(server.address))
        desk = open_desk(store)
        desk.load()

        def fill() -> None:
            stores.fill(server)
            for _ in range(10):
                with pytest.raises(StoreUnavailable):
                    desk.load()
            assert store.write_state != "closed"

        run(desk, Fault("full", fill, lambda: stores.make_room(server), "none"), reference, matrix)
        assert store.counters()["reads_failed"] == 0
        until(lambda: _written(desk), 15)
        until(lambda: store.write_state == "closed", 15)


def _written(desk: Desk) -> bool:
    with contextlib.suppress(StoreUnavailable):
        desk.load()
        return True
    return False
