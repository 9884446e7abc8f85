"""Cassandra stores for the acceptance suite: one keyspace on the shared node, emptied for each new place."""

from __future__ import annotations

import atexit
from functools import cache
from pathlib import Path

from engine.features.stores.cassandra import CassandraSettings, CassandraStore, migrate
from engine.features.stores.cassandra_driver import Session, connect

from .cassandra import CassandraNode, shared_node

KEYSPACE = "acceptance"
_places: list[Path] = []


def settings_for(node: CassandraNode, keyspace: str, **options: object) -> CassandraSettings:
    """How to reach a node of the tests. The time limits are those of a busy machine."""
    limits = {"connect_timeout_ms": 10_000, "read_timeout_ms": 20_000, "write_timeout_ms": 60_000}
    return CassandraSettings((node.address,), keyspace, **{**limits, **options})  # type: ignore[arg-type]


@cache
def _session(node: CassandraNode) -> Session:
    settings = settings_for(node, KEYSPACE)
    migrate(settings)
    session = connect(settings, None, {})
    atexit.register(session.shutdown)
    return session


def open_cassandra(place: Path) -> CassandraStore:
    """The store of a place: empty when it is not the place of the last call."""
    node = shared_node()
    session = _session(node)
    if _places[-1:] != [place]:
        for table in ("feature_rows", "feature_schemas"):
            session.execute(f"TRUNCATE {KEYSPACE}.{table}", timeout_s=60)
        _places[:] = [place]
    return CassandraStore(settings_for(node, KEYSPACE))
