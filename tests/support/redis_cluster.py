"""A real Redis Cluster on loopback for tests.

    with RedisCluster() as cluster:                     # three masters, every slot served, all nodes agree
        cluster.addresses                               # ("127.0.0.1:21034", ...)
        cluster.nodes[0].kill(); cluster.nodes[0].start(); cluster.wait_ok()
        cluster.move_slot(slot, to=1)                   # resharding with the data of the slot
        cluster.begin_move(slot, to=1); cluster.move_keys(slot, 1, count=3); cluster.end_move(slot, 1)

The nodes are `RedisServer`s and can all that those can.
"""

from __future__ import annotations

import time
from types import TracebackType
from typing import Any

from tests.support.redis_servers import START_TIMEOUT_S, RedisServer

SLOTS = 16384


class RedisCluster:
    """Masters without replicas that share the slots evenly. Options as for `RedisServer`.

    full_coverage: whether all keys are refused (-CLUSTERDOWN) while any slot is not served, as Redis does by itself.
    """

    def __init__(self, nodes: int = 3, *, full_coverage: bool = True, **options: Any) -> None:
        further = {"cluster-require-full-coverage": "yes" if full_coverage else "no", **options.pop("options", {})}
        self.nodes: list[RedisServer] = []
        try:
            for _ in range(nodes):
                self.nodes.append(RedisServer(cluster=True, options=further, **options))
            first = self.nodes[0]
            for i, node in enumerate(self.nodes):
                low, high = SLOTS * i // nodes, SLOTS * (i + 1) // nodes - 1
                node.command("CLUSTER", "ADDSLOTSRANGE", low, high)
                node.command("CLUSTER", "SET-CONFIG-EPOCH", i + 1)
            for node in self.nodes[1:]:
                first.command("CLUSTER", "MEET", node.host, node.port, node.bus_port)
            self.wait_ok()
        except BaseException:
            self.close()
            raise

    @property
    def addresses(self) -> tuple[str, ...]:
        """All nodes as host:port."""
        return tuple(node.address for node in self.nodes)

    def wait_ok(self, timeout_s: float = START_TIMEOUT_S) -> None:
        """Waits until every node serves, knows all others and knows who has which slot."""
        deadline = time.monotonic() + timeout_s
        while not all(self._agrees(node) for node in self.nodes):
            if time.monotonic() > deadline:
                raise AssertionError(f"the cluster is not well: {self.nodes[0].command('CLUSTER', 'NODES')}")
            time.sleep(0.05)

    def _agrees(self, node: RedisServer) -> bool:
        info = node.command("CLUSTER", "INFO").decode()
        views = {self._owners(other) for other in self.nodes}
        return "cluster_state:ok" in info and f"cluster_known_nodes:{len(self.nodes)}" in info and len(views) == 1

    @staticmethod
    def _owners(node: RedisServer) -> tuple[tuple[int, int, int], ...]:
        return tuple(sorted((low, high, master[1]) for low, high, master, *_ in node.command("CLUSTER", "SLOTS")))

    def owner(self, slot: int) -> int:
        """The index of the node that serves a slot."""
        for low, high, port in self._owners(self.nodes[0]):
            if low <= slot <= high:
                return [node.port for node in self.nodes].index(port)
        raise AssertionError(f"nobody serves slot {slot}")

    def begin_move(self, slot: int, to: int) -> None:
        """Marks a slot as moving: its node answers -ASK for keys that have left it."""
        source, target = self.nodes[self.owner(slot)], self.nodes[to]
        target.command("CLUSTER", "SETSLOT", slot, "IMPORTING", node_id(source))
        source.command("CLUSTER", "SETSLOT", slot, "MIGRATING", node_id(target))

    def move_keys(self, slot: int, to: int, count: int = 10_000) -> int:
        """Moves up to `count` keys of a slot that is marked as moving. Gives how many it moved."""
        source, target = self.nodes[self.owner(slot)], self.nodes[to]
        keys = source.command("CLUSTER", "GETKEYSINSLOT", slot, count)
        login: list[str] = []
        if target.password:
            login = ["AUTH2", target.admin_user, target.admin_password]
        if keys:
            source.command("MIGRATE", target.host, target.port, "", 0, 10_000, *login, "KEYS", *keys)
        return len(keys)

    def end_move(self, slot: int, to: int) -> None:
        """Gives the slot to its new node and tells all."""
        identity = node_id(self.nodes[to])
        for node in sorted(self.nodes, key=lambda node: node is not self.nodes[to]):
            node.command("CLUSTER", "SETSLOT", slot, "NODE", identity)

    def move_slot(self, slot: int, to: int) -> None:
        """Moves a slot with its keys to another node. Nothing if it is there."""
        if self.owner(slot) == to:
            return
        self.begin_move(slot, to)
        while self.move_keys(slot, to):
            pass
        self.end_move(slot, to)

    def flush(self) -> None:
        """Removes every key from every node."""
        for node in self.nodes:
            node.admin().flushall()

    def close(self) -> None:
        """Ends all nodes. Harmless when repeated."""
        for node in self.nodes:
            node.close()

    def __enter__(self) -> RedisCluster:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def node_id(node: RedisServer) -> str:
    """The name that a node has in its cluster."""
    return str(node.command("CLUSTER", "MYID").decode())
