"""The Redis store: one server, every read one MGET over a lean connection."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from time import monotonic

from engine.features.store import StoreTimeout
from engine.features.stores.redis_calls import Topology
from engine.features.stores.redis_connection import shortest_wait_s
from engine.features.stores.redis_pool import Pool
from engine.features.stores.redis_protocol import is_rows, pack, refusal
from engine.features.stores.redis_rows import RedisRows
from engine.features.stores.redis_settings import RedisSettings, parse_address


class RedisStore(RedisRows):
    """Rows in one Redis server (or whatever speaks its protocol behind one address).

    A key that holds something else than a string reads as if it were not there: that is what MGET says of it.
    """

    name = "redis"

    def __init__(self, settings: RedisSettings) -> None:
        """Raises ValueError for the settings of a cluster, StoreUnavailable for files of TLS that cannot be used."""
        if settings.cluster:
            raise ValueError("these settings are of a Redis Cluster")
        super().__init__(settings)
        shortest_wait_s()  # measured now, so that no read waits for it
        self._pool = Pool(parse_address(settings.addresses[0]), settings, self._tls, self._announce_anew)
        self._one = _OneServer(self._pool)
        self._made()

    def read(self, keys: Sequence[bytes], deadline_s: float | None = None) -> list[bytes | None]:
        """As the protocol says: one MGET."""
        now_s = monotonic()
        if deadline_s is None:
            deadline_s = now_s + self._read_s
        elif deadline_s <= now_s:
            raise StoreTimeout("no time left to read")
        if not keys:
            self._check_open()
            return []
        command = pack((b"MGET", *keys))
        if self._hedge is None:
            reply = self._pool.ask(command, deadline_s, is_rows, len(keys))
        else:
            reply = self._hedge.ask(self._pool, command, deadline_s, is_rows, len(keys))
        if type(reply) is list:
            return reply
        raise refusal(reply, self._pool.where)

    @property
    def _topology(self) -> Topology:
        return self._one

    def _grouped(self, keys: Sequence[bytes], most: int) -> Iterator[tuple[int, list[int]]]:
        numbers = range(len(keys))
        for start in range(0, len(keys), most):
            yield 0, list(numbers[start : start + most])

    def _masters(self, deadline_s: float) -> list[Pool]:
        return [self._pool]

    def _close(self) -> None:
        self._pool.close()

    def _forget(self) -> None:
        self._pool.forget()


class _OneServer:
    """A server that has everything, and nobody else."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    def owner(self, slot: int, deadline_s: float) -> Pool:
        return self._pool

    def moved(self, slot: int, to: str, asked: Pool) -> Pool | None:
        return None

    def asked(self, to: str, asked: Pool) -> Pool | None:
        return None

    def lost(self, slot: int, pool: Pool, deadline_s: float) -> bool:
        return False

    def late(self, pool: Pool) -> None:
        return None
