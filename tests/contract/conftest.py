"""The stores that the acceptance suite runs against. A new store is one more entry of STORES."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from engine.features.store import FeatureStore
from engine.features.stores.embedded import EmbeddedStore
from engine.features.stores.guarded import GuardedStore, GuardSettings
from engine.features.stores.memory import MemoryStore
from engine.features.stores.tiered import TieredSettings, TieredStore
from tests.support.cassandra_places import open_cassandra
from tests.support.redis_places import open_redis, open_redis_cluster, open_redis_tls_acl

# The machine may be busy, and the suite reads thousands of rows at once.
_PATIENT = GuardSettings(read_timeout_ms=20_000, update_timeout_ms=60_000)
_QUICK = TieredSettings(fast_timeout_ms=20_000, settle_s=0.05)

# How to open a store on a place of its own; opening the same place again finds what was written there.
STORES: dict[str, Callable[[Path], FeatureStore]] = {
    "memory": lambda _: MemoryStore(),
    "embedded": lambda place: EmbeddedStore(place / "features"),
    # Starts with so little room that the suite makes it grow.
    "embedded_small": lambda place: EmbeddedStore(place / "features", map_bytes=1 << 16),
    "guarded": lambda place: GuardedStore(EmbeddedStore(place / "features"), _PATIENT),
    "tiered": lambda place: TieredStore(MemoryStore(), EmbeddedStore(place / "features"), _QUICK),
    "tiered_redis_cassandra": lambda place: TieredStore(
        GuardedStore(open_redis(place), _PATIENT), GuardedStore(open_cassandra(place), _PATIENT), _QUICK
    ),
    "tiered_cluster_embedded": lambda place: TieredStore(
        GuardedStore(open_redis_cluster(place), _PATIENT), EmbeddedStore(place / "features"), _QUICK
    ),
    "redis": open_redis,
    "redis_tls_acl": open_redis_tls_acl,
    "redis_cluster": open_redis_cluster,
    "cassandra": open_cassandra,
}
DURABLE = STORES.keys() - {"memory"}


# The first test of a store may have to start its server, and a Java machine is not quick on a busy one.
_OWN_LIMITS = {name: pytest.mark.timeout(600) for name in ("cassandra", "tiered_redis_cassandra")}


@pytest.fixture(params=[pytest.param(name, marks=_OWN_LIMITS.get(name, ())) for name in sorted(STORES)])
def open_store(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], FeatureStore]:
    """Opens the store under test, every time on the same place."""
    return lambda: STORES[request.param](tmp_path)


@pytest.fixture
def store(open_store: Callable[[], FeatureStore]) -> Iterator[FeatureStore]:
    """The store under test, empty."""
    opened = open_store()
    yield opened
    opened.close()


@pytest.fixture
def durable(request: pytest.FixtureRequest) -> bool:
    """Whether the store under test keeps rows after it is closed."""
    return request.node.callspec.params["open_store"] in DURABLE
