"""Redis over a durable store: while either has the rows, decisions are what they are without a fault."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from engine.features.stores.tiered import TieredStore
from tests.faults import stores
from tests.faults.desk import Desk, OpenDesk, Reference, loaded
from tests.faults.trial import Fault, Matrix, in_background, run
from tests.support.faulty import FaultyStore, until
from tests.support.proxy import Proxy
from tests.support.redis_cluster import RedisCluster
from tests.support.redis_servers import RedisServer

LAYOUT = "over embedded"


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with RedisServer() as made:
        yield made


@pytest.fixture
def proxy(server: RedisServer) -> Iterator[Proxy]:
    with Proxy(server.port) as made:
        yield made


@pytest.mark.parametrize("name", ["SIGSTOP", "kill -9", "restart", "emptied"])
def test_the_fast_stores_process(
    name: str, server: RedisServer, open_desk: OpenDesk, reference: Reference, matrix: Matrix, tmp_path: Path
) -> None:
    faults = {
        "SIGSTOP": Fault(name, server.pause, server.resume, "none"),
        "kill -9": Fault(name, server.kill, server.start, "none"),
        "restart": in_background(server.restart, name, "none"),
        "emptied": Fault(name, server.admin().flushall, lambda: None, "none"),
    }
    desk = open_desk(stores.tiered(stores.redis(server.address), stores.embedded(tmp_path)), patient=True)
    desk.load()
    run(desk, faults[name], reference, matrix, LAYOUT, "redis")
    # It is not only well again, it is used again.
    keys = [key for key, _ in desk.store.scan()]

    def refilled() -> bool:
        desk.decide()
        return None not in stores.held_by(server, keys)

    until(refilled)


@pytest.mark.parametrize(
    "name", ["slow", "slow within budget", "silent", "refused", "reset", "cut", "garbage", "flipped bits"]
)
def test_the_fast_stores_network(
    name: str, proxy: Proxy, open_desk: OpenDesk, reference: Reference, matrix: Matrix, tmp_path: Path
) -> None:
    begins: dict[str, Callable[[], object]] = {
        "slow": lambda: proxy.slow(stores.SLOW_MS),
        "slow within budget": lambda: proxy.slow(5),
        "silent": proxy.silent,
        "refused": proxy.refuse,
        "reset": proxy.reset,
        "cut": proxy.cut,
        "garbage": proxy.garbage,
        "flipped bits": lambda: proxy.flip(0.0005),
    }
    desk = open_desk(stores.tiered(stores.redis(proxy.address), stores.embedded(tmp_path)), patient=True)
    desk.load()
    run(desk, Fault(name, begins[name], proxy.well, "none"), reference, matrix, LAYOUT, "redis")


def test_a_full_fast_store_gives_no_row_that_was_replaced(
    open_desk: OpenDesk, reference: Reference, matrix: Matrix, tmp_path: Path
) -> None:
    with RedisServer(maxmemory_bytes=4 << 20) as server:
        store = stores.tiered(stores.redis(server.address), stores.embedded(tmp_path))
        desk = open_desk(store, patient=True)
        desk.load()
        old = stores.held_by(server, [key for key, _ in store.scan()])

        def fill() -> None:
            stores.fill(server)
            desk.load()  # the same values with newer event times: the durable store takes them

        run(desk, Fault("full", fill, lambda: stores.make_room(server), "none"), reference, matrix, LAYOUT, "redis")
        keys = [key for key, _ in store.scan()]
        until(lambda: store.counters()["marked"] == 0)
        held = stores.held_by(server, keys)
        assert not set(old) & {row for row in held if row is not None}
        assert store.read(keys, time.monotonic() + 30) == [row for _, row in store.scan()]


@pytest.mark.parametrize("name", ["SIGSTOP all", "kill -9 one", "restart one"])
def test_a_cluster_as_the_fast_store(
    name: str, open_desk: OpenDesk, reference: Reference, matrix: Matrix, tmp_path: Path
) -> None:
    with RedisCluster() as cluster:
        one = cluster.nodes[0]
        faults = {
            "SIGSTOP all": Fault(
                name,
                lambda: list(map(RedisServer.pause, cluster.nodes)),
                lambda: list(map(RedisServer.resume, cluster.nodes)),
                "none",
            ),
            "kill -9 one": Fault(name, one.kill, one.start, "none"),
            "restart one": in_background(one.restart, name, "none"),
        }
        fast = stores.redis(*cluster.addresses, cluster=True)
        desk = open_desk(stores.tiered(fast, stores.embedded(tmp_path)), patient=True)
        desk.load()
        run(desk, faults[name], reference, matrix, LAYOUT, "redis_cluster")


@pytest.fixture
def half_loaded(server: RedisServer, open_desk: OpenDesk) -> tuple[Desk, FaultyStore]:
    """A desk whose fast store has every row, and whose durable store fails when it is told to."""
    server.admin().flushall()
    durable = FaultyStore("durable")
    desk = open_desk(stores.tiered(stores.redis(server.address, patient=True), durable, "fast"), patient=True)
    desk.load()
    return desk, durable


def test_without_the_durable_store_the_fast_ones_rows_decide(
    half_loaded: tuple[Desk, FaultyStore], reference: Reference, matrix: Matrix
) -> None:
    desk, durable = half_loaded
    run(desk, Fault("durable down", durable.fail, durable.heal, "none"), reference, matrix, "tiered", "redis")


def test_rows_that_only_the_lost_store_has_are_unavailable_and_the_others_count(
    half_loaded: tuple[Desk, FaultyStore], server: RedisServer, reference: Reference, matrix: Matrix
) -> None:
    desk, durable = half_loaded
    evicted = [key for key, _ in durable.scan() if key.endswith((b"}credit_file", b"}ip_profile"))]
    assert len(evicted) == 2

    def begin() -> None:
        durable.fail()
        server.admin().delete(*evicted)

    fault = Fault("durable down, rows evicted", begin, durable.heal, "some")
    answers = run(desk, fault, reference, matrix, "tiered", "redis")
    assert {answer.lost for answer in answers} == {frozenset({"credit_file", "ip_profile"})}
    assert {answer.verdict for answer in answers} == {"REFER"}


def test_without_either_nothing_is_known(
    open_desk: OpenDesk, server: RedisServer, reference: Reference, matrix: Matrix
) -> None:
    durable = FaultyStore("durable")
    desk = open_desk(stores.tiered(stores.redis(server.address), durable, "neither"))
    loaded(desk)

    def begin() -> None:
        durable.fail()
        server.pause()

    def end() -> None:
        server.resume()
        durable.heal()

    run(desk, Fault("both down", begin, end), reference, matrix, "tiered", "redis")
    assert isinstance(desk.store, TieredStore)
