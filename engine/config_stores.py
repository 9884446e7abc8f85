"""Settings of the feature stores and of what stands around them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, StringConstraints, model_validator

StoreKind = Literal["embedded", "redis", "redis_cluster", "cassandra", "tiered", "memory"]


class Section(BaseModel):
    """One table of settings."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def split(value: object) -> object:
    """A list may be written as one text with commas: a variable holds no other."""
    return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


def split_pairs(value: object) -> object:
    """A table may be written as one text: name=value,name=value."""
    if not isinstance(value, str):
        return value
    pairs = [part.partition("=") for part in value.split(",") if part.strip()]
    if not all(found and name.strip() for name, found, _ in pairs):
        raise ValueError("write name=value with commas between")  # the text may hold a secret
    return {name.strip(): text.strip() for name, _, text in pairs}


Addresses = Annotated[tuple[str, ...], BeforeValidator(split), Field(min_length=1)]


class _Tls(Section):
    @model_validator(mode="after")
    def _pair(self) -> _Tls:
        if (self.certificate is None) != (self.key is None):  # type: ignore[attr-defined]
            raise ValueError("certificate and key go together")
        if not self.tls and (self.ca is not None or self.certificate is not None):  # type: ignore[attr-defined]
            raise ValueError("ca, certificate and key mean nothing without tls = true")
        return self


class StoreConfig(Section):
    """Where features are read from."""

    kind: StoreKind = Field(
        "embedded",
        description="embedded: LMDB, no server needed; redis, redis_cluster, cassandra: see their sections; tiered: a"
        " fast store over a durable one; memory: forgotten when the process ends.",
    )
    path: Path = Field(Path("var/features"), description="The embedded store's directory.")
    map_bytes_max: int = Field(
        64 * 1024**3, ge=1024**2, description="The most that the embedded store may grow to, in bytes."
    )
    read_budget_ms: float = Field(50.0, gt=0, le=10_000, description="The most that the reads of one call may take.")
    deadline_reserve_ms: float = Field(
        10.0,
        ge=0,
        le=10_000,
        description="Kept of a caller's deadline, when features are read, for the rest of the call.",
    )
    last_good_rows_max: int = Field(
        100_000, ge=0, le=100_000_000, description="Rows kept in memory for features with `use: last_good_value`."
    )
    last_good_max_age_s: float = Field(
        900.0,
        gt=0,
        le=86_400,
        description="How long after it was read such a row may stand in. Erased rows go by then.",
    )


class TieredConfig(Section):
    """store.kind = tiered: reads go to the fast store first; the durable one is the system of record."""

    fast: Literal["redis", "redis_cluster", "memory"] = Field("redis", description="The store that is asked first.")
    durable: Literal["cassandra", "embedded"] = Field("cassandra", description="The store that holds everything.")
    fast_timeout_ms: float = Field(
        10.0, gt=0, le=10_000, description="The most that the fast store may take; the rest is the durable one's."
    )
    refill_ttl_s: int = Field(
        7 * 86_400,
        ge=1,
        le=10 * 365 * 86_400,
        description="How long the fast store keeps a row that was copied into it.",
    )
    refill_waiting_max: int = Field(10_000, ge=1, le=10_000_000, description="Rows that may wait to be copied.")
    missing_ttl_s: float = Field(
        5.0, ge=0, le=3600, description="How long a row found in neither store is not asked of the durable one again."
    )
    missing_rows_max: int = Field(100_000, ge=1, le=100_000_000, description="Rows remembered as found in neither.")


class RedisConfig(_Tls):
    """Redis, for store.kind = redis, redis_cluster, or a tier."""

    addresses: Addresses = Field(
        ("127.0.0.1:6379",), description="host:port or unix:/path; of a cluster, some of its nodes."
    )
    db: int = Field(0, ge=0, le=1_000_000, description="The database number (no cluster has any but 0).")
    user: str | None = Field(None, description="The ACL user. Absent: the default user.")
    password: SecretStr | None = Field(None, description="The password. Better in the environment than in the file.")
    tls: bool = Field(False, description="Whether to speak TLS.")
    ca: Path | None = Field(None, description="PEM file of the CA that the server's certificate must be from.")
    certificate: Path | None = Field(None, description="PEM file of the client's own certificate, if it needs one.")
    key: Path | None = Field(None, description="PEM file of the client's own key.")
    connect_timeout_ms: float = Field(500.0, gt=0, le=60_000, description="The most that connecting may take.")
    read_timeout_ms: float = Field(50.0, gt=0, le=60_000, description="The most that one read may take.")
    write_timeout_ms: float = Field(2000.0, gt=0, le=600_000, description="The most that one batch of writes may take.")
    hedge_after_ms: float | None = Field(
        None, gt=0, le=10_000, description="Ask a second time on another connection after this long. Absent: never."
    )


class CassandraConfig(_Tls):
    """Apache Cassandra, for store.kind = cassandra, or a tier."""

    addresses: Addresses = Field(("127.0.0.1:9042",), description="host:port of some of the cluster's nodes.")
    keyspace: Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,47}$")] = Field(
        "assay", description="The keyspace, made by `assay store migrate`."
    )
    replication: str = Field(
        "SimpleStrategy 1",
        description="Used when the keyspace is made: `SimpleStrategy 3` or `NetworkTopologyStrategy dc1:3 dc2:3`.",
    )
    local_dc: str | None = Field(None, description="The data centre to talk to. Absent: that of the first node found.")
    consistency: Literal["LOCAL_ONE", "ONE", "LOCAL_QUORUM", "QUORUM", "ALL"] = Field(
        "LOCAL_QUORUM", description="How many replicas must answer."
    )
    user: str | None = Field(None, description="The user. Absent: no credentials are sent.")
    password: SecretStr | None = Field(None, description="The password. Better in the environment than in the file.")
    tls: bool = Field(False, description="Whether to speak TLS.")
    ca: Path | None = Field(None, description="PEM file of the CA that the nodes' certificates must be from.")
    certificate: Path | None = Field(None, description="PEM file of the client's own certificate, if it needs one.")
    key: Path | None = Field(None, description="PEM file of the client's own key.")
    connect_timeout_ms: float = Field(2000.0, gt=0, le=60_000, description="The most that connecting may take.")
    read_timeout_ms: float = Field(50.0, gt=0, le=60_000, description="The most that one read may take.")
    write_timeout_ms: float = Field(5000.0, gt=0, le=600_000, description="The most that one write may take.")
    hedge_after_ms: float | None = Field(
        None, gt=0, le=10_000, description="Ask another replica after this long. Absent: never."
    )


class BreakerConfig(Section):
    """The circuit breaker that each store of its own process (Redis, Cassandra) is behind."""

    enabled: bool = Field(True, description="Whether there is one.")
    failures: int = Field(5, ge=1, le=10_000, description="Failures in a row that open it.")
    failure_ratio: float = Field(
        0.5, gt=0, le=1, description="Or this share of failures among the last calls, given enough of them."
    )
    window_calls: int = Field(100, ge=10, le=100_000, description="How many last calls that share is of.")
    probe_interval_ms: float = Field(
        250.0, gt=0, le=60_000, description="How long after it opened the store is probed for the first time."
    )
    probe_interval_max_ms: float = Field(5000.0, gt=0, le=600_000, description="The longest time between two probes.")
    probes_good: int = Field(2, ge=1, le=100, description="Good probes in a row that close it.")
    in_flight_max: int = Field(256, ge=1, le=100_000, description="Calls under way to one store; more fail at once.")


class VelocityConfig(Section):
    """The counters that the engine keeps of applications."""

    enabled: bool = Field(True, description="Whether decided applications are counted.")
    waiting_max: int = Field(
        100_000,
        ge=1,
        le=10_000_000,
        description="Events that may wait while the store fails; the rest stays in the journal.",
    )
