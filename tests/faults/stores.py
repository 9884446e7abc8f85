"""The stores of the fault tests, as `assay` puts them together, with breakers that tests need not wait for long."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from redis.exceptions import OutOfMemoryError

from engine.features.store import FeatureStore
from engine.features.stores.embedded import EmbeddedStore
from engine.features.stores.guarded import GuardedStore, GuardSettings
from engine.features.stores.redis import RedisStore
from engine.features.stores.redis_cluster import RedisClusterStore
from engine.features.stores.redis_settings import RedisSettings
from engine.features.stores.tiered import TieredSettings, TieredStore
from tests.support.redis_servers import RedisServer

READ_TIMEOUT_MS = 80.0


def guarded(store: FeatureStore, **settings: Any) -> GuardedStore:
    """With a breaker that opens after three failures and closes within a second. One that has a guard keeps it."""
    if isinstance(store, GuardedStore):
        return store
    quick: dict[str, Any] = {"failures": 3, "probe_interval_ms": 50.0, "probe_interval_max_ms": 400.0}
    return GuardedStore(store, GuardSettings(**{"read_timeout_ms": READ_TIMEOUT_MS} | quick | settings))


def redis(*addresses: str, cluster: bool = False) -> FeatureStore:
    """Redis without a guard."""
    settings = RedisSettings(addresses=addresses, cluster=cluster, connect_timeout_ms=200.0, write_timeout_ms=1000.0)
    return RedisClusterStore(settings) if cluster else RedisStore(settings)


def tiered(fast: FeatureStore, durable: FeatureStore) -> TieredStore:
    """Both with a guard."""
    settings = TieredSettings(fast_timeout_ms=40.0, missing_ttl_s=0.2, settle_s=0.2)
    return TieredStore(guarded(fast), guarded(durable), settings)


def embedded(place: Path, **settings: Any) -> EmbeddedStore:
    """The embedded store."""
    return EmbeddedStore(place / "features", **settings)


def fill(server: RedisServer) -> None:
    """Puts rubbish into a Redis with `maxmemory` until it takes no more."""
    for i in range(100_000):
        try:
            server.admin().set(f"filler:{i}", b"x" * 1_000)
        except OutOfMemoryError:
            return
    raise AssertionError("it has no maxmemory")


def make_room(server: RedisServer) -> None:
    """Takes the rubbish out again."""
    admin = server.admin()
    while keys := [key for key in admin.scan_iter("filler:*", 1000)][:1000]:
        admin.delete(*keys)
