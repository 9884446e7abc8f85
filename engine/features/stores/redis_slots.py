"""Who serves which slot of a Redis Cluster, as far as is known, and how more is found out."""

from __future__ import annotations

import contextlib
import random
import ssl
import threading
from binascii import crc_hqx
from collections.abc import Callable
from time import monotonic
from typing import Any, Final

from engine.errors import StoreError
from engine.features.store import StoreTimeout, StoreUnavailable
from engine.features.stores.redis_pool import Pool
from engine.features.stores.redis_protocol import ReplyError, is_list, nonsense, pack, refusal
from engine.features.stores.redis_settings import Address, RedisSettings, parse_address

SLOTS: Final = 16384
_CLUSTER_SLOTS: Final = pack((b"CLUSTER", b"SLOTS"))
# A change is asked after this often at most; every single slot's move is known at once, by its -MOVED.
_AGAIN_S = 0.1
# The most that one node may take to say what it knows, so that there is time left for another.
_NODE_S = 0.5


def slot_of(key: bytes) -> int:
    """The slot of a key: of what is between its first brace and the next closing one, if that is anything."""
    start = key.find(b"{")
    if start >= 0:
        end = key.find(b"}", start + 1)
        if end > start + 1:
            key = key[start + 1 : end]
    return crc_hqx(key, 0) & (SLOTS - 1)


class ClusterMap:
    """The servers of a cluster and their slots, a `Topology`. For every thread."""

    def __init__(self, settings: RedisSettings, tls: ssl.SSLContext | None, on_open: Callable[[], object]) -> None:
        self._settings = settings
        self._tls = tls
        self._on_open = on_open
        self._closed = False
        self._seeds = [parse_address(address) for address in settings.addresses]
        self._pools: dict[Address, Pool] = {}
        # By slot; None where nobody is known to serve it.
        self.owners: list[Pool | None] = [None] * SLOTS
        # Who was late. Before anything else is sent, somebody else is asked whether it still has its slots.
        self.suspect: Pool | None = None
        self._refreshed = 0
        # When it was last asked on account of whom.
        self._tried_s: dict[Pool | None, float] = {}
        self._failure: StoreError | None = None
        self._refreshing = threading.Lock()

    def owner(self, slot: int, deadline_s: float) -> Pool:
        """As `Topology` says."""
        if self.suspect is not None:
            with contextlib.suppress(StoreUnavailable):
                self.refresh(deadline_s, self.suspect)
        pool = self.owners[slot]
        if pool is None:
            self.refresh(deadline_s)
            pool = self.owners[slot]
            if pool is None:
                raise StoreUnavailable(f"redis cluster: no node serves slot {slot}")
        return pool

    def moved(self, slot: int, to: str, asked: Pool) -> Pool | None:
        """As `Topology` says."""
        pool = self.asked(to, asked)
        if pool is not None:
            self.owners[slot] = pool
        return pool

    def asked(self, to: str, asked: Pool) -> Pool | None:
        """As `Topology` says."""
        host, _, port = to.rpartition(":")
        return self._pool(_address(host, int(port), asked)) if port.isascii() and port.isdigit() else None

    def lost(self, slot: int, pool: Pool, deadline_s: float) -> bool:
        """As `Topology` says."""
        with contextlib.suppress(StoreUnavailable):
            self.refresh(deadline_s, pool)
        return self.owners[slot] is not pool

    def late(self, pool: Pool) -> None:
        """As `Topology` says."""
        self.suspect = pool

    def masters(self, deadline_s: float) -> list[Pool]:
        """Every server that has slots. Raises StoreUnavailable unless every slot has a server."""
        self.refresh(deadline_s)
        if None in self.owners:
            raise StoreUnavailable(f"redis cluster: no node serves slot {self.owners.index(None)}")
        return list(dict.fromkeys(pool for pool in self.owners if pool is not None))

    def pools(self) -> list[Pool]:
        """Every pool there is."""
        return list(self._pools.values())

    def close(self) -> None:
        """Ends all connections."""
        self._closed = True
        for pool in self.pools():
            pool.close()

    def forget(self) -> None:
        """Begins anew in a forked child."""
        self._refreshing = threading.Lock()
        for pool in self.pools():
            pool.forget()

    def refresh(self, deadline_s: float, suspect: Pool | None = None) -> None:
        """Asks a node who serves what; the suspect one last. Nothing when that was done a moment ago for its sake.

        Raises StoreTimeout, StoreUnavailable when no node says it.
        """
        seen = self._refreshed
        if not self._refreshing.acquire(timeout=max(0.0, deadline_s - monotonic())):
            raise StoreTimeout("redis cluster: nobody said in time who serves what")
        try:
            if self._closed:
                raise StoreUnavailable("the store is closed")
            if self._refreshed == seen and monotonic() - self._tried_s.get(suspect, -_AGAIN_S) > _AGAIN_S:
                self._refresh(deadline_s, suspect)
            elif self._failure is not None:
                raise StoreUnavailable(str(self._failure))
        finally:
            self._refreshing.release()

    def _refresh(self, deadline_s: float, suspect: Pool | None) -> None:
        known = list({pool for pool in self.owners if pool is not None})
        random.shuffle(known)
        asked = [pool for pool in dict.fromkeys([*known, *map(self._pool, self._seeds)]) if pool is not suspect]
        self._failure = StoreUnavailable("redis cluster: there is no node to ask")
        for pool in [*asked, *([suspect] if suspect else [])]:
            now_s = monotonic()
            try:
                until_s = min(deadline_s, now_s + min(_NODE_S, (deadline_s - now_s) / 2))
                reply = pool.ask(_CLUSTER_SLOTS, until_s, is_list)
                if isinstance(reply, ReplyError):
                    raise refusal(reply, pool.where)
                self._learn(reply, pool)
                self._failure = self.suspect = None
                break
            except StoreError as e:
                self._failure = e
        self._tried_s[suspect] = monotonic()
        self._refreshed += 1
        if self._failure is not None:
            if monotonic() >= deadline_s:
                raise StoreTimeout("redis cluster: nobody said in time who serves what")
            raise StoreUnavailable(str(self._failure))

    def _learn(self, reply: Any, told_by: Pool) -> None:
        owners: list[Pool | None] = [None] * SLOTS
        try:
            for low, high, master, *_ in reply:
                host = master[0].decode() if master[0] else ""
                owners[low : high + 1] = [self._pool(_address(host, master[1], told_by))] * (high + 1 - low)
        except (TypeError, ValueError, AttributeError, IndexError) as e:
            raise nonsense(reply, told_by.where) from e
        if len(owners) != SLOTS or not any(owners):
            raise nonsense(reply, told_by.where)
        self.owners = owners
        kept = {pool.address for pool in owners if pool is not None}.union(self._seeds)
        for address in [address for address in self._pools if address not in kept]:
            pool = self._pools.pop(address)
            pool.close()
            self._tried_s.pop(pool, None)

    def _pool(self, address: Address) -> Pool:
        pool = self._pools.get(address)
        if pool is None:
            made = Pool(address, self._settings, self._tls, self._on_open)
            pool = self._pools.setdefault(address, made)
            if self._closed:
                pool.close()
        return pool


def _address(host: str, port: int, told_by: Pool) -> Address:
    # A node that does not know its own name leaves it out: it is where it was asked.
    return Address(host if host not in ("", "?") else told_by.address.host, port)
