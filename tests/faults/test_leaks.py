"""A store that fails over and over costs no sockets, no threads and no memory, and closing it leaves nothing behind."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from engine.features.store import FeatureStore
from tests.faults import stores
from tests.faults.desk import Desk, Reference, loaded, recovered
from tests.faults.held import own_threads, resident_mib, sockets
from tests.support.faulty import until
from tests.support.proxy import Proxy
from tests.support.redis_cluster import RedisCluster
from tests.support.redis_servers import RedisServer

THREADS, ROUNDS, EACH = 4, 3, 20
MODES: tuple[Callable[[Proxy], object], ...] = (
    Proxy.silent,
    Proxy.reset,
    Proxy.cut,
    Proxy.garbage,
    Proxy.refuse,
    lambda proxy: proxy.flip(0.001),
    lambda proxy: proxy.slow(200),
)


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with RedisServer() as made:
        yield made


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["single", "tiered"])
@pytest.mark.parametrize("breaker", ["breaker", "no breaker"])
def test_nothing_is_left_of_hundreds_of_failures(
    layout: str, breaker: str, server: RedisServer, reference: Reference, tmp_path: Path
) -> None:
    """Without a breaker every call meets the fault."""
    failures = 3 if breaker == "breaker" else 10**9
    settings: dict[str, Any] = {"failures": failures, "window_calls": failures, "probe_interval_max_ms": 60.0}
    settings["read_timeout_ms"] = 15.0
    reference.decision(frozenset())  # what is opened once for all, is
    base_sockets, base_threads = sockets(), own_threads()
    with Proxy(server.port) as proxy:
        store: FeatureStore = stores.guarded(stores.redis(proxy.address), **settings)
        if layout == "tiered":
            store = stores.tiered(store, stores.embedded(tmp_path))
        desk = Desk(store, tmp_path)
        loaded(desk)
        in_between: list[float] = []
        with ThreadPoolExecutor(THREADS) as pool:
            for _ in range(ROUNDS):
                for mode in MODES:
                    mode(proxy)
                    many = [pool.submit(lambda: [desk.decide() for _ in range(EACH)]) for _ in range(THREADS)]
                    reference.check(answer for one in many for answer in one.result())
                    # Both ends of a proxied connection are in this process, and its other side has a third. The proxy
                    # may need a moment to see that they were closed.
                    until(lambda: sockets() - base_sockets <= 3 * (3 * THREADS) + 8)
                    until(lambda: own_threads() - base_threads <= THREADS + 8)
                proxy.well()
                recovered(desk)
                in_between.append(resident_mib())
        # The first round filled what is filled once; a tenth of a row's bytes kept of every failure would be seen.
        assert in_between[-1] - in_between[0] < 16, in_between
        desk.close()
    until(lambda: sockets() <= base_sockets and own_threads() <= base_threads)


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["halted", "killed"])
def test_nothing_is_left_of_a_cluster_that_fails(fault: str, reference: Reference, tmp_path: Path) -> None:
    reference.decision(frozenset())
    with RedisCluster(persistent=True) as cluster:
        base_sockets, base_threads = sockets(), own_threads()
        desk = Desk(stores.guarded(stores.redis(*cluster.addresses, cluster=True)), tmp_path)
        loaded(desk)
        peaks = []
        for node in cluster.nodes:
            if fault == "halted":
                node.pause()
            else:
                node.kill()
            end_s = time.monotonic() + 0.7
            while time.monotonic() < end_s:
                with ThreadPoolExecutor(THREADS) as pool:
                    list(pool.map(lambda _: desk.decide(), range(50)))
                peaks.append(sockets() - base_sockets)
            if fault == "halted":
                node.resume()
            else:
                node.start()
            cluster.wait_ok()
            recovered(desk)
        assert max(peaks) <= 3 * (2 * THREADS + 2)
        desk.close()
        until(lambda: sockets() <= base_sockets and own_threads() <= base_threads)


def test_a_desk_closed_in_the_middle_of_a_fault_leaves_nothing(
    server: RedisServer, reference: Reference, tmp_path: Path
) -> None:
    reference.decision(frozenset())
    base_sockets, base_threads = sockets(), own_threads()
    with Proxy(server.port) as proxy:
        desk = Desk(stores.tiered(stores.redis(proxy.address), stores.embedded(tmp_path)), tmp_path)
        desk.load()
        proxy.silent()
        for _ in range(10):
            desk.decide()
        desk.load()
        begin_s = time.monotonic()
        desk.close()
        assert time.monotonic() - begin_s < 30
    until(lambda: sockets() <= base_sockets and own_threads() <= base_threads)
