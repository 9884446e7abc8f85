"""A Redis Cluster alone: one node of three or all of them, and the network before every one of them."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

import pytest

from tests.faults import stores
from tests.faults.desk import OpenDesk, Reference, loaded
from tests.faults.trial import Fault, Matrix, in_background, run
from tests.support.proxy import Proxy
from tests.support.redis_cluster import RedisCluster


@pytest.fixture(scope="module")
def cluster() -> Iterator[RedisCluster]:
    with RedisCluster(persistent=True) as made:
        yield made


@pytest.mark.parametrize("name", ["SIGSTOP one", "SIGSTOP all", "kill -9 one", "kill -9 all", "restart one"])
def test_the_processes(
    name: str, cluster: RedisCluster, open_desk: OpenDesk, reference: Reference, matrix: Matrix
) -> None:
    def each(what: str, count: int) -> Callable[[], object]:
        return lambda: [getattr(node, what)() for node in cluster.nodes[:count]]

    faults = {
        "SIGSTOP one": Fault(name, each("pause", 1), each("resume", 1), "some"),
        "SIGSTOP all": Fault(name, each("pause", 3), each("resume", 3)),
        "kill -9 one": Fault(name, each("kill", 1), each("start", 1), "some"),
        "kill -9 all": Fault(name, each("kill", 3), each("start", 3)),
        "restart one": in_background(cluster.nodes[1].restart, name),
    }
    cluster.wait_ok()
    desk = open_desk(stores.guarded(stores.redis(*cluster.addresses, cluster=True)))
    loaded(desk)
    run(desk, faults[name], reference, matrix)


@pytest.fixture
def proxies(cluster: RedisCluster) -> Iterator[list[Proxy]]:
    """One before every node; the nodes tell clients to come through them."""
    with contextlib.ExitStack() as stack:
        made = [stack.enter_context(Proxy(node.port)) for node in cluster.nodes]
        for node, proxy in zip(cluster.nodes, made, strict=True):
            node.command("CONFIG", "SET", "cluster-announce-bus-port", node.bus_port)
            node.command("CONFIG", "SET", "cluster-announce-port", proxy.port)
        _wait_for({proxy.port for proxy in made}, cluster)
        yield made
        for node in cluster.nodes:
            node.command("CONFIG", "SET", "cluster-announce-port", 0)
        _wait_for({node.port for node in cluster.nodes}, cluster)


def _wait_for(ports: set[int], cluster: RedisCluster) -> None:
    """Until every node names just these ports."""
    end_s = time.monotonic() + 60
    while any({slots[2][1] for slots in node.command("CLUSTER", "SLOTS")} != ports for node in cluster.nodes):
        assert time.monotonic() < end_s, "the nodes do not tell one another their ports"
        time.sleep(0.05)


@pytest.mark.parametrize("name", ["slow", "silent", "refused", "cut", "garbage", "flipped bits"])
def test_the_network(
    name: str, cluster: RedisCluster, proxies: list[Proxy], open_desk: OpenDesk, reference: Reference, matrix: Matrix
) -> None:
    def each(change: Callable[[Proxy], object]) -> Callable[[], object]:
        return lambda: [change(proxy) for proxy in proxies]

    begins = {
        "slow": each(lambda proxy: proxy.slow(stores.SLOW_MS)),
        "silent": each(Proxy.silent),
        "refused": each(Proxy.refuse),
        "cut": each(Proxy.cut),
        "garbage": each(Proxy.garbage),
        "flipped bits": each(lambda proxy: proxy.flip(0.0005)),
    }
    fault = Fault(name, begins[name], each(Proxy.well), "some" if name == "flipped bits" else "all")
    desk = open_desk(stores.guarded(stores.redis(*(proxy.address for proxy in proxies), cluster=True)))
    loaded(desk)
    run(desk, fault, reference, matrix)
    assert sum(proxy.opened for proxy in proxies) > 3, "all went through the proxies"


def test_a_network_that_is_slow_within_the_budget(
    proxies: list[Proxy], open_desk: OpenDesk, reference: Reference, matrix: Matrix
) -> None:
    addresses = [proxy.address for proxy in proxies]
    store = stores.guarded(stores.redis(*addresses, cluster=True, patient=True), patient=True)
    desk = open_desk(store, patient=True)
    desk.load()

    def slow() -> None:
        for proxy in proxies:
            proxy.slow(stores.DELAY_MS)

    def well() -> None:
        for proxy in proxies:
            proxy.well()

    run(desk, Fault("slow within budget", slow, well, "none", delay_ms=stores.DELAY_MS), reference, matrix)
    assert store.counters()["reads_failed"] == 0
