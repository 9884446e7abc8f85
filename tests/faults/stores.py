"""The stores of the fault tests, as `assay` puts them together, with breakers that tests need not wait for long.

A store that a test spoils has short limits, so that the fault is soon met. One whose answers the test counts on is
`patient`: the machine may stand still for a second now and then, and that must not pass for a fault.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

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
# What a network may add without harm, and what no read waits for, also when the machine stands still meanwhile.
DELAY_MS, SLOW_MS = 5.0, 2_000.0
PATIENT_MS = 30_000.0


def guarded(store: FeatureStore, *, patient: bool = False, **settings: Any) -> GuardedStore:
    """With a breaker that opens after three failures and closes within a second. One that has a guard keeps it."""
    if isinstance(store, GuardedStore):
        return store
    quick: dict[str, Any] = {"failures": 3, "probe_interval_ms": 50.0, "probe_interval_max_ms": 400.0}
    limits: dict[str, Any] = {"read_timeout_ms": PATIENT_MS if patient else READ_TIMEOUT_MS}
    return GuardedStore(store, GuardSettings(**limits | quick | settings))


def redis(*addresses: str, cluster: bool = False, patient: bool = False) -> FeatureStore:
    """Redis without a guard."""
    connect_ms, write_ms = (PATIENT_MS, PATIENT_MS) if patient else (200.0, 1000.0)
    settings = RedisSettings(addresses, cluster=cluster, connect_timeout_ms=connect_ms, write_timeout_ms=write_ms)
    return RedisClusterStore(settings) if cluster else RedisStore(settings)


def held_by(server: RedisServer, keys: Sequence[bytes]) -> list[bytes | None]:
    """What a Redis holds of some rows, past the store under test."""
    store = redis(server.address, patient=True)
    try:
        return store.read(keys, time.monotonic() + PATIENT_MS / 1000)
    finally:
        store.close()


def tiered(
    fast: FeatureStore, durable: FeatureStore, patient: Literal["fast", "durable", "neither"] = "durable"
) -> TieredStore:
    """Both with a guard. patient: the one whose rows the test counts on."""
    fast_ms = PATIENT_MS if patient == "fast" else 40.0
    settings = TieredSettings(fast_timeout_ms=fast_ms, missing_ttl_s=0.2, settle_s=0.2)
    return TieredStore(
        guarded(fast, patient=patient == "fast"), guarded(durable, patient=patient == "durable"), settings
    )


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
