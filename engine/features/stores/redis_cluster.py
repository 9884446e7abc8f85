"""The Redis Cluster store: every read one MGET for each slot, all of them under way at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from time import monotonic

from engine.features.store import StoreTimeout, StoreUnavailable
from engine.features.stores.redis_calls import Call, Topology, run
from engine.features.stores.redis_connection import Connection, shortest_wait_s
from engine.features.stores.redis_pool import Pool
from engine.features.stores.redis_protocol import ReplyError, is_rows, nonsense, pack
from engine.features.stores.redis_rows import RedisRows
from engine.features.stores.redis_scripts import pack_keys
from engine.features.stores.redis_settings import RedisSettings
from engine.features.stores.redis_slots import ClusterMap, slot_of

_BRACE = ord("{")


class RedisClusterStore(RedisRows):
    """Rows in the masters of a Redis Cluster. All rows of one entity are on one of them: `entity_prefix` says why.

    What is read from one slot is of one moment; what lies in several is not. A read whose keys lie on a node that is
    down fails as a whole, and none of its rows is called absent.
    """

    name = "redis_cluster"

    def __init__(self, settings: RedisSettings) -> None:
        """Raises ValueError for the settings of a single server, StoreUnavailable for files of TLS that cannot be
        used."""
        if not settings.cluster:
            raise ValueError("these settings are of a single Redis")
        super().__init__(settings)
        shortest_wait_s()  # measured now, so that no read waits for it
        self._map = ClusterMap(settings, self._tls, self._announce_anew)
        self._made()

    def read(self, keys: Sequence[bytes], deadline_s: float | None = None) -> list[bytes | None]:
        """As the protocol says: to every node at once, then from every node."""
        now_s = monotonic()
        if deadline_s is None:
            deadline_s = now_s + self._read_s
        elif deadline_s <= now_s:
            raise StoreTimeout("no time left to read")
        self._check_open()
        found = None
        if keys and _share_tag(keys):
            found = self._read_slot(slot_of(keys[0]), keys, deadline_s)
        elif self._hedge is None:
            found = self._read_slots(keys, deadline_s)
        if found is not None:
            return found
        rows: list[bytes | None] = [None] * len(keys)
        packer = partial(pack_keys, b"MGET", keys)
        calls = [Call(slot, items, packer, is_rows) for slot, items in self._grouped(keys, len(keys))]
        for call, reply in run(self._map, calls, deadline_s, self._hedge):
            for i, row in zip(call.items, reply, strict=True):
                rows[i] = row
        return rows

    def _read_slot(self, slot: int, keys: Sequence[bytes], deadline_s: float) -> list[bytes | None] | None:
        """The rows, or None when the server of the slot must be found out first."""
        pool = self._map.owners[slot]
        if pool is None or self._map.suspect is not None:
            return None
        command = pack((b"MGET", *keys))
        try:
            hedge = self._hedge
            if hedge is None:
                reply = pool.ask(command, deadline_s, is_rows, len(keys))
            else:
                reply = hedge.ask(pool, command, deadline_s, is_rows, len(keys))
        except StoreUnavailable:
            return None
        except StoreTimeout:
            self._map.late(pool)
            raise
        return reply if type(reply) is list else None

    def _read_slots(self, keys: Sequence[bytes], deadline_s: float) -> list[bytes | None] | None:
        """The rows when all goes well, else None: `run` knows what to do, and costs twice as much."""
        if self._map.suspect is not None:
            return None
        owners = self._map.owners
        by_pool: dict[Pool, dict[int, list[int]]] = {}
        for i, key in enumerate(keys):
            slot = slot_of(key)
            owner = owners[slot]
            if owner is None:
                return None
            by_pool.setdefault(owner, {}).setdefault(slot, []).append(i)
        rows: list[bytes | None] = [None] * len(keys)
        sent: list[tuple[Pool, Connection]] = []
        moved = False
        try:
            for pool, groups in by_pool.items():
                connection = pool.take(deadline_s)
                sent.append((pool, connection))
                commands = [pack((b"MGET", *[keys[i] for i in items])) for items in groups.values()]
                connection.send(b"".join(commands), deadline_s)
            while sent:
                pool, connection = sent[-1]
                groups = by_pool[pool]
                replies = connection.receive(len(groups), deadline_s)
                for items, reply in zip(groups.values(), replies, strict=True):
                    if isinstance(reply, ReplyError):
                        moved = True  # with the others' answers taken in all the same
                        continue
                    if not is_rows(reply, len(items)):
                        raise nonsense(reply, pool.where)
                    for i, row in zip(items, reply, strict=True):
                        rows[i] = row
                sent.pop()
                connection.used = True
                pool.give(connection)
        except StoreUnavailable:
            return None
        except StoreTimeout:
            self._map.late(pool)
            raise
        finally:
            for pool, connection in sent:
                pool.drop(connection)
        return None if moved else rows

    @property
    def _topology(self) -> Topology:
        return self._map

    def _grouped(self, keys: Sequence[bytes], most: int) -> Iterator[tuple[int, list[int]]]:
        groups: dict[int, list[int]] = {}
        for i, key in enumerate(keys):
            groups.setdefault(slot_of(key), []).append(i)
        for slot, items in groups.items():
            for start in range(0, len(items), most):
                yield slot, items[start : start + most]

    def _masters(self, deadline_s: float) -> list[Pool]:
        return self._map.masters(deadline_s)

    def _close(self) -> None:
        self._map.close()

    def _forget(self) -> None:
        self._map.forget()


def _share_tag(keys: Sequence[bytes]) -> bool:
    """Whether all keys are of one entity, as far as is seen at once, and so of one slot."""
    first = keys[0]
    end = first.find(b"}") + 1
    tag = first[:end]
    if end < 3 or first[0] != _BRACE:
        return False
    return all(key[:end] == tag for key in keys)
