"""The tables of Assay's keyspace, and the migrations that make them.

Migrations are numbered and never altered: a new one is added. Each is recorded in `schema_migrations` with a checksum
of its text, and every statement can be run again harmlessly, so that one that was interrupted is finished by the next
run. Runs at the same time take turns, by a row that an atomic change puts there and that vanishes by itself.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from typing import Any

from engine.errors import StoreError
from engine.features.store import StoreUnavailable
from engine.features.stores.cassandra_driver import RUN_MIGRATE, Session, connect, store_error
from engine.features.stores.cassandra_record_tables import RECORD_TABLES
from engine.features.stores.cassandra_settings import CassandraSettings, replication_map, tls_context

# An entity's rows are one partition. A plain write carries a time far in the past of all atomic changes, made from the
# row's event time, so that Cassandra's own "the later write wins" is "the newer event time wins" (see cassandra.py).
_ROWS = """
CREATE TABLE IF NOT EXISTS feature_rows (
    entity text,
    entity_id text,
    view_name text,
    value blob,
    revision bigint,
    PRIMARY KEY ((entity, entity_id), view_name)
) WITH compaction = {'class': 'LeveledCompactionStrategy'}
  AND comment = 'Assay: one row of one view of one entity; value: engine/features/encoding.py'
"""
_SCHEMAS = """
CREATE TABLE IF NOT EXISTS feature_schemas (
    fingerprint blob PRIMARY KEY,
    canonical blob
) WITH comment = 'Assay: what the rows of a schema mean, for ever'
"""
_APPLIED = """
CREATE TABLE IF NOT EXISTS schema_migrations (
    version int PRIMARY KEY,
    checksum text,
    applied_at timestamp
) WITH comment = 'Assay: migrations that were applied; version 0 is the lock of a run'
"""
_RECORDED = "SELECT version, checksum FROM schema_migrations"
_Run = Callable[..., list[dict[str, Any]]]
_LOCK_TTL_S = 120
_LOCK_WAIT_S = 180.0
_DDL_TIMEOUT_S = 30.0
_SOON_S = 15.0


@dataclass(frozen=True, slots=True)
class Migration:
    """One step of the tables' history."""

    version: int
    statements: tuple[str, ...]

    @property
    def checksum(self) -> str:
        """Of the statements, whatever their white space."""
        text = ";".join(" ".join(statement.split()) for statement in self.statements)
        return sha256(text.encode()).hexdigest()


MIGRATIONS: tuple[Migration, ...] = (Migration(1, (_ROWS, _SCHEMAS)), Migration(2, RECORD_TABLES))


@dataclass(frozen=True, slots=True)
class Migrated:
    """What a run did. applied: the versions that it applied, none when all were there; version: the newest now."""

    keyspace: str
    applied: tuple[int, ...]
    version: int


def migrate(settings: CassandraSettings, migrations: Sequence[Migration] = MIGRATIONS) -> Migrated:
    """Make the keyspace and bring its tables to the newest version. Harmless when repeated, also at the same time.

    Raises StoreError: where Cassandra cannot be reached or refuses, and, before anything is changed, when a migration
    that was applied is not the one that this release has.
    """
    session = connect(settings, tls_context(settings), {}, with_keyspace=False)
    try:
        return _migrate(settings, session, migrations)
    finally:
        session.shutdown()


def check_schema(settings: CassandraSettings, session: Session, migrations: Sequence[Migration] = MIGRATIONS) -> None:
    """Raise StoreUnavailable unless every migration of this release was applied. Newer ones may have been as well."""
    missing = _pending(settings, partial(_run, settings, session), migrations)
    if missing:
        raise StoreUnavailable(
            f"{settings.place}: keyspace {settings.keyspace} lacks migration {missing[0].version}: {RUN_MIGRATE}"
        )


def _migrate(settings: CassandraSettings, session: Session, migrations: Sequence[Migration]) -> Migrated:
    run = partial(_run, settings, session)
    keyspace, newest = settings.keyspace, migrations[-1].version
    if not run("SELECT keyspace_name FROM system_schema.keyspaces WHERE keyspace_name = %s", keyspace):
        replication = ", ".join(f"'{key}': '{value}'" for key, value in replication_map(settings.replication).items())
        run(f"CREATE KEYSPACE IF NOT EXISTS {keyspace} WITH replication = {{{replication}}}")
    # What another run has just made may not be there for this one yet.
    for statement in (f"USE {keyspace}", _APPLIED, _RECORDED):
        _soon(partial(run, statement))
    if not _pending(settings, run, migrations):
        return Migrated(keyspace, (), newest)
    applied = []
    holder = str(uuid.uuid4())
    _lock(settings, run, holder)
    try:
        for migration in _pending(settings, run, migrations):
            for statement in migration.statements:
                _hold(settings, run, holder)
                run(statement)
            run(
                "INSERT INTO schema_migrations (version, checksum, applied_at) VALUES (%s, %s, toTimestamp(now()))",
                migration.version,
                migration.checksum,
            )
            applied.append(migration.version)
    finally:
        with suppress(StoreError):  # it vanishes by itself
            run("DELETE FROM schema_migrations WHERE version = 0 IF checksum = %s", holder)
    return Migrated(keyspace, tuple(applied), newest)


def _run(settings: CassandraSettings, session: Session, cql: str, *values: object) -> list[dict[str, Any]]:
    try:
        return session.execute(cql, values, _DDL_TIMEOUT_S)
    except Exception as e:
        raise store_error(e, settings) from e


def _soon(work: Callable[[], object]) -> None:
    """Do it as soon as it can be done."""
    deadline_s = time.monotonic() + _SOON_S
    while True:
        try:
            work()
            return
        except StoreUnavailable:
            if time.monotonic() > deadline_s:
                raise
            time.sleep(0.2)


def _pending(settings: CassandraSettings, run: _Run, migrations: Sequence[Migration]) -> list[Migration]:
    """What is still to be applied. Raises StoreUnavailable when what was applied is something else."""
    recorded = {row["version"]: row["checksum"] for row in run(_RECORDED)}
    for migration in migrations:
        if recorded.get(migration.version, migration.checksum) != migration.checksum:
            raise StoreUnavailable(
                f"{settings.place}: migration {migration.version} of keyspace {settings.keyspace} is not the one of "
                "this release: it was altered, or the keyspace is another program's"
            )
    return [migration for migration in migrations if migration.version not in recorded]


def _lock(settings: CassandraSettings, run: _Run, holder: str) -> None:
    deadline_s = time.monotonic() + _LOCK_WAIT_S
    take = f"INSERT INTO schema_migrations (version, checksum) VALUES (0, %s) IF NOT EXISTS USING TTL {_LOCK_TTL_S}"
    while not run(take, holder)[0]["[applied]"]:
        if time.monotonic() > deadline_s:
            raise StoreUnavailable(f"{settings.place}: another run migrates keyspace {settings.keyspace}, for too long")
        time.sleep(0.5)


def _hold(settings: CassandraSettings, run: _Run, holder: str) -> None:
    """Keep the lock for some more time. Raises StoreUnavailable when it was lost."""
    keep = f"UPDATE schema_migrations USING TTL {_LOCK_TTL_S} SET checksum = %s WHERE version = 0 IF checksum = %s"
    if not run(keep, holder, holder)[0]["[applied]"]:
        raise StoreUnavailable(f"{settings.place}: another run took over the migration of {settings.keyspace}")
