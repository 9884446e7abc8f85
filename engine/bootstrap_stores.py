"""Opens the feature store that the settings name: the concrete classes, each behind its circuit breaker."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from engine.config import Config
from engine.config_stores import BreakerConfig, CassandraConfig, RedisConfig, StoreKind
from engine.errors import ConfigError, Problem
from engine.features.store import FeatureStore
from engine.features.stores.embedded import EmbeddedStore
from engine.features.stores.memory import MemoryStore
from engine.telemetry.metrics import sources
from engine.telemetry.metrics.metered_store import MeteredStore, SpanLabel
from engine.telemetry.metrics.registry import Metrics

if TYPE_CHECKING:
    from engine.features.stores.cassandra_settings import CassandraSettings
    from engine.features.stores.guarded import GuardedStore
    from engine.features.stores.redis import RedisStore
    from engine.features.stores.redis_cluster import RedisClusterStore

_COMMAND_MS = 10_000.0
_LIMITS = ("connect_timeout_ms", "read_timeout_ms", "write_timeout_ms")


def open_store(config: Config, *, guarded: bool = True, metrics: Metrics | None = None) -> FeatureStore:
    """The feature store that the settings name. guarded: without it a store's own failure shows, which is what a person
    at a command line wants to see. metrics: what its calls are counted in.

    A server of its own that cannot be reached is no error here: its calls fail until it is there. Raises StoreError
    for an embedded store that cannot be opened, ConfigError for certificates that cannot be read.
    """
    kind = config.store.kind
    if not guarded:
        config = _patient(config)
    if kind != "tiered":
        return _open(config, kind, guarded, metrics, None)
    from engine.features.stores.tiered import TieredSettings, TieredStore

    tiered = config.tiered
    store = TieredStore(
        _open(config, tiered.fast, guarded, metrics, "fast"),
        _open(config, tiered.durable, guarded, metrics, "durable"),
        TieredSettings(
            fast_timeout_ms=tiered.fast_timeout_ms,
            refill_ttl_s=tiered.refill_ttl_s,
            refill_waiting_max=tiered.refill_waiting_max,
            missing_ttl_s=tiered.missing_ttl_s,
            missing_rows_max=tiered.missing_rows_max,
        ),
    )
    if metrics is not None:
        metrics.add(sources.tiers(store))
    return store


def _patient(config: Config) -> Config:
    """The same settings with time enough for work on many rows, and to connect: the limits of a decision are not those
    of a command."""
    update = {name: max(_COMMAND_MS, getattr(config.redis, name)) for name in _LIMITS}
    redis = config.redis.model_copy(update=update)
    update = {name: max(_COMMAND_MS, getattr(config.cassandra, name)) for name in _LIMITS}
    cassandra = config.cassandra.model_copy(update=update)
    tiered = config.tiered.model_copy(update={"fast_timeout_ms": max(_COMMAND_MS, config.tiered.fast_timeout_ms)})
    return config.model_copy(update={"redis": redis, "cassandra": cassandra, "tiered": tiered})


def _open(config: Config, kind: StoreKind, guarded: bool, metrics: Metrics | None, tier: str | None) -> FeatureStore:
    store: FeatureStore
    if kind in ("memory", "embedded"):
        store = (
            MemoryStore()
            if kind == "memory"
            else EmbeddedStore(config.store.path, max_map_bytes=config.store.map_bytes_max)
        )
        return _metered(store, metrics, SpanLabel(f"assay.{kind}", "get", None, tier, remote=False))
    limits: RedisConfig | CassandraConfig
    if kind == "cassandra":
        store, limits = _cassandra(config.cassandra), config.cassandra
        label = SpanLabel("cassandra", "SELECT", config.cassandra.keyspace, tier)
    else:
        redis = _redis(config.redis, kind == "redis_cluster")
        store, limits = redis, config.redis
        if metrics is not None:
            metrics.add(sources.hedges(redis.name, redis))
        label = SpanLabel("redis", "MGET", str(config.redis.db), tier)
    if guarded and config.breaker.enabled:
        guard = _guard(store, config.breaker, limits)
        store = guard
        if metrics is not None:
            metrics.add(sources.guard(guard))
    return _metered(store, metrics, label)


def _metered(store: FeatureStore, metrics: Metrics | None, label: SpanLabel) -> FeatureStore:
    return store if metrics is None else MeteredStore(store, metrics.store(store.name), label)


def _redis(config: RedisConfig, cluster: bool) -> RedisStore | RedisClusterStore:
    from engine.features.stores.redis import RedisStore
    from engine.features.stores.redis_cluster import RedisClusterStore
    from engine.features.stores.redis_settings import RedisSettings

    try:
        settings = RedisSettings(cluster=cluster, **_plain(config))
        return (RedisClusterStore if cluster else RedisStore)(settings)
    except ValueError as error:
        raise _wrong("redis", error) from error


def _wrong(section: str, error: ValueError) -> ConfigError:
    return ConfigError([Problem("settings", section, str(error), "Correct the section; docs/settings.md lists it.")])


def cassandra_settings(config: CassandraConfig) -> CassandraSettings:
    """The settings of Cassandra as its store takes them."""
    from engine.features.stores.cassandra_settings import CassandraSettings

    return CassandraSettings(**_plain(config))


def _plain(config: RedisConfig | CassandraConfig) -> dict[str, Any]:
    """The settings of a section, which go by the same names in its store, with the password as it is."""
    password = None if config.password is None else config.password.get_secret_value()
    return {**{name: getattr(config, name) for name in type(config).model_fields}, "password": password}


def _cassandra(config: CassandraConfig) -> FeatureStore:
    from engine.features.stores.cassandra import CassandraStore

    try:
        return CassandraStore(cassandra_settings(config), lazy=True)
    except ValueError as error:
        raise _wrong("cassandra", error) from error


def _guard(store: FeatureStore, config: BreakerConfig, limits: RedisConfig | CassandraConfig) -> GuardedStore:
    from engine.features.stores.guarded import GuardedStore, GuardSettings

    return GuardedStore(
        store,
        GuardSettings(
            read_timeout_ms=limits.read_timeout_ms,
            update_timeout_ms=limits.write_timeout_ms,
            **config.model_dump(exclude={"enabled"}),
        ),
    )
