"""Writes deploy/cassandra/schema.cql: Cassandra's tables as `assay store migrate` makes them, to be made by hand.

python -m tools.cassandra_schema
"""

from __future__ import annotations

from engine.features.stores import cassandra_schema
from engine.features.stores.cassandra_schema import MIGRATIONS
from tools.docs_common import ROOT

FILE = ROOT / "deploy" / "cassandra" / "schema.cql"
_HEAD = """\
-- Assay's keyspace, as `assay store migrate` makes it. Made by `python -m tools.cassandra_schema`; do not edit.
--
-- `assay store migrate` is the better way: it waits for the cluster to agree, takes turns with others who migrate, and
-- can be repeated. This is for who may not let a program create tables. The rows at the end are what the engine looks
-- for before it uses the keyspace.
--
-- Put your own data centres and replicas here: three replicas where anything depends on it.
CREATE KEYSPACE IF NOT EXISTS assay WITH replication = {'class': 'NetworkTopologyStrategy', 'dc1': '3'};
USE assay;
"""


def schema() -> str:
    """The file's content."""
    parts = [_HEAD, _statement(cassandra_schema._APPLIED)]
    for migration in MIGRATIONS:
        parts.append(f"-- Migration {migration.version}.\n")
        parts += [_statement(one) for one in migration.statements]
    parts.append("-- That they were applied.\n")
    for migration in MIGRATIONS:
        parts.append(
            "INSERT INTO schema_migrations (version, checksum, applied_at) "
            f"VALUES ({migration.version}, '{migration.checksum}', toTimestamp(now()));\n"
        )
    return "\n".join(parts)


def _statement(text: str) -> str:
    return text.strip() + ";\n"


if __name__ == "__main__":
    FILE.write_text(schema(), encoding="utf-8")
