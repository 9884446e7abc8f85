"""Cassandra alone, and behind Redis: the node halted, killed, started again; the network before it; a full disk."""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from engine.errors import StoreError
from engine.features.store import Row, row_key
from engine.features.stores.cassandra import CassandraSettings, CassandraStore, migrate
from engine.features.stores.guarded import GuardedStore
from tests.faults import stores
from tests.faults.desk import Desk, OpenDesk, Reference, loaded, recovered
from tests.faults.held import own_threads, resident_mib, sockets
from tests.faults.trial import Fault, Matrix, in_background, run
from tests.support.cassandra import CassandraNode, own_node, shared_node
from tests.support.faulty import until
from tests.support.proxy import Proxy
from tests.support.redis_servers import RedisServer

KEYSPACE = "faults"
LAYOUT = "over cassandra"
# A read that the machine's other work holds up is no fault yet.
READ_TIMEOUT_MS = 300.0
# Its driver notices a silent connection within seconds, and then tries every second.
RECOVERY_S = 90.0
pytestmark = pytest.mark.slow


@pytest.fixture
def node() -> Iterator[CassandraNode]:
    found = shared_node()
    migrate(settings(found.address, connect_timeout_ms=10_000, write_timeout_ms=60_000))
    yield found
    shared_node()  # up again for the next one


def settings(address: str, **limits: float) -> CassandraSettings:
    """The time limits of a service, unless others are given."""
    usual: dict[str, Any] = {
        "read_timeout_ms": READ_TIMEOUT_MS,
        "connect_timeout_ms": 1000.0,
        "write_timeout_ms": 3000.0,
    }
    return CassandraSettings((address,), KEYSPACE, **usual | limits)


def cassandra(address: str, *, patient: bool = False) -> GuardedStore:
    """Cassandra with its guard; it also opens while the node is not there."""
    limits = dict.fromkeys(("read_timeout_ms", "connect_timeout_ms", "write_timeout_ms"), stores.PATIENT_MS)
    store = CassandraStore(settings(address, **limits if patient else {}), lazy=True)
    return stores.guarded(store, read_timeout_ms=stores.PATIENT_MS if patient else READ_TIMEOUT_MS)


def load(desk: Desk) -> None:
    """Loads the rows as soon as the store takes them: its driver connects in the background."""
    loaded(desk, RECOVERY_S)
    recovered(desk, RECOVERY_S)


@pytest.mark.timeout(400)
@pytest.mark.parametrize("name", ["SIGSTOP", "kill -9", "restart"])
def test_the_process(name: str, node: CassandraNode, open_desk: OpenDesk, reference: Reference, matrix: Matrix) -> None:
    """Alone, and behind a Redis that has the rows, during one outage: a node takes its time to start."""
    faults = {
        "SIGSTOP": Fault(name, node.suspend, node.resume),
        "kill -9": Fault(name, node.kill, node.start),
        "restart": in_background(node.restart, name),
    }
    fault = faults[name]
    with RedisServer() as server:
        alone = open_desk(cassandra(node.address))
        fast = stores.redis(server.address, patient=True)
        behind = open_desk(stores.tiered(fast, cassandra(node.address), "fast"), patient=True)
        load(alone)
        load(behind)

        def go_on_and_end() -> None:
            try:
                still = Fault(f"durable {name}", lambda: None, lambda: None, "none")
                run(behind, still, reference, matrix, LAYOUT, "redis")
            finally:
                fault.end()

        run(alone, replace(fault, end=go_on_and_end), reference, matrix, recovery_s=RECOVERY_S)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", ["SIGSTOP", "kill -9", "emptied"])
def test_redis_before_it(
    name: str, node: CassandraNode, open_desk: OpenDesk, reference: Reference, matrix: Matrix
) -> None:
    with RedisServer() as server:
        faults = {
            "SIGSTOP": Fault(name, server.pause, server.resume, "none"),
            "kill -9": Fault(name, server.kill, server.start, "none"),
            "emptied": Fault(name, server.admin().flushall, lambda: None, "none"),
        }
        desk = open_desk(
            stores.tiered(stores.redis(server.address), cassandra(node.address, patient=True)), patient=True
        )
        load(desk)
        run(desk, faults[name], reference, matrix, LAYOUT, "redis")
        keys = [key for key, _ in desk.store.scan() if desk.subject.encode() in key]

        def refilled() -> bool:
            desk.decide()
            return None not in stores.held_by(server, keys)

        until(refilled)


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "name", ["slow", "slow within budget", "silent", "refused", "reset", "cut", "garbage", "values", "bits"]
)
def test_the_network(name: str, node: CassandraNode, open_desk: OpenDesk, reference: Reference, matrix: Matrix) -> None:
    with Proxy(node.port) as proxy:
        begins: dict[str, Callable[[], object]] = {
            "slow": lambda: proxy.slow(stores.SLOW_MS),
            "slow within budget": lambda: proxy.slow(stores.DELAY_MS),
            "silent": proxy.silent,
            "refused": proxy.refuse,
            "reset": proxy.reset,
            "cut": proxy.cut,
            "garbage": proxy.garbage,
            "values": lambda: proxy.change(spoil_values),
            "bits": lambda: proxy.flip(0.0005),
        }
        effects = {"slow within budget": "none", "values": "some", "bits": "some"}
        patient = name == "slow within budget"
        desk = open_desk(cassandra(proxy.address, patient=patient), patient=patient)
        load(desk)
        title = {"values": "flipped bits in values", "bits": "flipped bits"}.get(name, name)
        delay_ms = stores.DELAY_MS if patient else 0.0
        fault = Fault(title, begins[name], proxy.well, effects.get(name, "all"), delay_ms)  # type: ignore[arg-type]
        run(desk, fault, reference, matrix, recovery_s=RECOVERY_S)
        desk.close()


@pytest.mark.timeout(300)
def test_nothing_is_left_of_hundreds_of_failures(node: CassandraNode, reference: Reference, tmp_path: Path) -> None:
    modes = (Proxy.silent, Proxy.reset, Proxy.cut, Proxy.garbage, Proxy.refuse)
    first = Desk(cassandra(node.address), tmp_path)  # the driver starts what it never ends
    load(first)
    first.close()
    base_sockets, base_threads = sockets(), own_threads()
    with Proxy(node.port) as proxy:
        desk = Desk(cassandra(proxy.address), tmp_path)
        load(desk)
        in_between: list[float] = []
        for _ in range(3):
            for mode in modes:
                mode(proxy)
                end_s = time.monotonic() + 0.5
                while time.monotonic() < end_s:
                    reference.check(desk.decide() for _ in range(20))
                # Both ends of a proxied connection are in this process, and its other side has a third. The proxy may
                # need a moment to see that they were closed.
                until(lambda: sockets() - base_sockets <= 3 * 8)
                until(lambda: own_threads() - base_threads <= 16)
            proxy.well()
            recovered(desk, RECOVERY_S)
            in_between.append(resident_mib())
        assert in_between[-1] - in_between[0] < 16, in_between
        desk.close()
    until(lambda: sockets() <= base_sockets and own_threads() <= base_threads)


@pytest.mark.timeout(400)
def test_one_on_a_full_disk(open_desk: OpenDesk, reference: Reference, matrix: Matrix, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256m", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("SKIPPED: a full disk needs the right to mount one")
    try:
        with own_node(disk) as node:
            migrate(settings(node.address, connect_timeout_ms=10_000, write_timeout_ms=60_000))
            store = cassandra(node.address)
            desk = open_desk(store)
            load(desk)

            def fill() -> None:
                with (disk / "filler").open("wb", buffering=0) as file, contextlib.suppress(OSError):
                    while file.write(bytes(1 << 20)):
                        pass
                with pytest.raises(StoreError):
                    for i in range(200):
                        store.write(rubbish(i))
                time.sleep(2)  # it may take its time to go down

            def make_room() -> None:
                (disk / "filler").unlink()
                if node.pid is None:
                    node.start()

            run(desk, Fault("full (disk)", fill, make_room, "some"), reference, matrix, recovery_s=RECOVERY_S)
            desk.close()
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def spoil_values(answer: bytes) -> bytes:
    """Turns a bit in every row's value."""
    spoilt, at = bytearray(answer), answer.find(b"AsR\x01")
    while at >= 0:
        spoilt[min(at + 40, len(spoilt) - 1)] ^= 8
        at = answer.find(b"AsR\x01", at + 1)
    return bytes(spoilt)


def rubbish(start: int) -> list[Row]:
    """Half a megabyte of it."""
    value = b"AsR\x01" + bytes(12) + (1).to_bytes(8, "little") + b"x" * 10_000
    return [Row(row_key("filler", f"{start}-{i}", "rubbish"), value, 1) for i in range(50)]
