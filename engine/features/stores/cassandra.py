"""The store in Apache Cassandra: the durable one, shared by all servers.

All rows of an entity are one partition. How two writers of one row come to one result, wherever they are:

*Plain writes* (`write`) leave it to Cassandra, where of two writes to a cell the one with the later timestamp stays,
and with the same timestamp the one with the greater bytes. That is the rule of every store here, once the timestamp is
the row's event time. So that is what a plain write carries, moved into the far past (`_plain_time`): every plain write
is older than every atomic change, whose timestamps Cassandra takes from its clocks.

*Atomic changes* (`update`, and every delete) are lightweight transactions: the replicas agree on one change of a
partition after the other. A change names the revision that it found and puts a random one in its place; the wrong
revision, and nothing is changed. So a change whose outcome is not known can be looked up, or made again.

*Together*: revisions of plain writes are negative, those of atomic changes positive. A row that an atomic change put
there is changed by atomic changes alone: `write` sees its revision and goes that way too. So does a plain write that
is not to be seen afterwards, because what lay there was deleted at a later time. Rows that are only written, and rows
that are only updated, never meet these cases. A plain write on the very moment of the first update of a row that was
not there may be passed over by it.
"""

from __future__ import annotations

import random
import re
import time
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import islice
from typing import Any

from engine.domain.facts import UNREAD, NoRow
from engine.errors import StoreError
from engine.features.store import (
    Change,
    WriteResult,
    check_event_time,
    entity_prefix,
    event_time_of,
    parse_key,
    row_key,
)
from engine.features.stores import cassandra_changes
from engine.features.stores.cassandra_changes import Changer
from engine.features.stores.cassandra_driver import Call, Statement, Values
from engine.features.stores.cassandra_link import CassandraLink
from engine.features.stores.cassandra_schema import Migrated, check_schema, migrate
from engine.features.stores.cassandra_settings import CassandraSettings
from engine.features.stores.partial import PartialRead

__all__ = ["CassandraSettings", "CassandraStore", "Migrated", "migrate"]

_ENTITY = "entity = ? AND entity_id = ?"
_STATEMENTS = {
    **cassandra_changes.STATEMENTS,
    "read": Statement(f"SELECT view_name, value FROM feature_rows WHERE {_ENTITY} AND view_name IN ?", hedged=True),
    "held": Statement(
        "SELECT entity_id, value, revision FROM feature_rows WHERE entity = ? AND view_name = ? AND entity_id IN ?"
    ),
    "held_revisions": Statement(
        "SELECT entity_id, revision FROM feature_rows WHERE entity = ? AND view_name = ? AND entity_id IN ?"
    ),
    "write": Statement(
        f"UPDATE feature_rows USING TIMESTAMP ? SET value = ?, revision = ? WHERE {_ENTITY} AND view_name = ?"
    ),
    "views": Statement(f"SELECT view_name FROM feature_rows WHERE {_ENTITY}", serial=True),
    "entity": Statement(f"SELECT entity, entity_id, view_name, value FROM feature_rows WHERE {_ENTITY}", page_rows=200),
    "rows": Statement("SELECT entity, entity_id, view_name, value FROM feature_rows", page_rows=500),
    "put_schema": Statement("INSERT INTO feature_schemas (fingerprint, canonical) VALUES (?, ?)"),
    "get_schema": Statement("SELECT canonical FROM feature_schemas WHERE fingerprint = ?"),
    "schemas": Statement("SELECT fingerprint, canonical FROM feature_schemas"),
}
# What is done together: rows of one write, rows of one statement and their bytes (beyond which a node warns), atomic
# changes, statements on their way.
_ROWS, _STATEMENT_ROWS, _STATEMENT_BYTES, _CHANGES, _IN_FLIGHT = 2000, 10, 5000, 200, 16
_PING_S = 1.0
# Event times that a plain write can carry: some 18,000 years either way. Others are written as atomic changes.
_PLAIN_EVENT_TIMES = 1 << 59
_NAME_START = re.compile(rb"[a-z0-9_.]*")


def _plain_time(event_time_us: int) -> int:
    """The timestamp of a plain write: as event times go, and far before any clock's time."""
    return event_time_us - (1 << 60)


class CassandraStore:
    """Rows in a keyspace of an Apache Cassandra cluster, which `migrate` has made.

    lazy: open also while Cassandra is not there; calls fail with StoreUnavailable until it is, from then on they
    succeed. Raises StoreUnavailable: unless lazy when it is not there or the keyspace is not ready; in any case for
    certificates that cannot be read.

    A forked child connects anew by itself on first use.
    """

    name = "cassandra"

    def __init__(self, settings: CassandraSettings, *, lazy: bool = False) -> None:
        self._settings = settings
        self._read_s = settings.read_timeout_ms / 1000
        self._write_s = settings.write_timeout_ms / 1000
        self._link = CassandraLink(settings, _STATEMENTS, partial(check_schema, settings), lazy=lazy)
        self._changer = Changer(self._link)

    def read(self, keys: Sequence[bytes], deadline_s: float | None = None) -> list[bytes | None]:
        """As the protocol says: one statement for each entity, all sent at once to a replica that holds it.

        Raises PartialRead when some replicas answered and others did not.
        """
        limit_s = time.monotonic() + self._read_s
        places = [_split(key) for key in keys]
        wanted: dict[bytes, dict[str, None]] = {}
        for head, view in places:
            wanted.setdefault(head, {})[view] = None
        calls = [Call("read", (*_entity(head), list(views))) for head, views in wanted.items()]
        answers = self._link.each(calls, limit_s if deadline_s is None else min(deadline_s, limit_s))
        found: dict[bytes, dict[str, bytes]] = {}
        failures: list[StoreError] = []
        for head, answer in zip(wanted, answers, strict=True):
            if isinstance(answer, StoreError):
                failures.append(answer)
            else:
                found[head] = dict(answer)
        if not failures:
            return [found[head].get(view) for head, view in places]
        if not found:
            raise failures[0]
        rows: list[bytes | NoRow | None] = [found[h].get(v) if h in found else UNREAD for h, v in places]
        raise PartialRead(f"a part of the rows could not be read: {failures[0]}", rows) from failures[0]

    def write(self, rows: Iterable[tuple[bytes, bytes, int]], *, ttl_s: int | None = None) -> WriteResult:
        """As the protocol says, 2,000 rows at a time. With ttl_s each row costs an atomic change."""
        written = ignored = 0
        todo = iter(rows)
        while batch := list(islice(todo, _ROWS)):
            for _, value, event_time_us in batch:
                check_event_time(value, event_time_us)
            fresh = self._write(batch, ttl_s)
            written += fresh
            ignored += len(batch) - fresh
        return WriteResult(written, ignored)

    def _write(self, batch: Sequence[tuple[bytes, bytes, int]], ttl_s: int | None) -> int:
        best: dict[bytes, tuple[int, bytes]] = {}
        for key, value, event_time_us in batch:
            if key not in best or best[key] < (event_time_us, value):
                best[key] = (event_time_us, value)
        held = self._held("held", best)
        plain: list[Values] = []
        unheld: list[bytes] = []
        atomic: list[bytes] = []
        for key, (event_time_us, value) in best.items():
            old, revision = held.get(key, (None, -1))
            if old is not None and (event_time_of(old), old) >= (event_time_us, value):
                continue
            if revision > 0 or ttl_s is not None or abs(event_time_us) >= _PLAIN_EVENT_TIMES:
                atomic.append(key)
                continue
            plain.append((_plain_time(event_time_us), value, -1 - random.getrandbits(62), *parse_key(key)))
            if old is None:
                unheld.append(key)
        self._write_plain(plain)
        # Where nothing was, something may have been deleted: its mark lies over what was written now.
        seen = self._held("held_revisions", unheld)
        hidden = [key for key in unheld if seen.get(key, (1,))[-1] > 0]
        atomic += hidden
        newer = [(key, _Newer(*best[key])) for key in atomic]
        for start in range(0, len(newer), _CHANGES):
            self._changer.update(newer[start : start + _CHANGES], ttl_s, time.monotonic() + self._write_s)
        return len(plain) - len(hidden) + sum(change.put for _, change in newer)

    def _held(self, name: str, keys: Iterable[bytes]) -> dict[bytes, tuple[Any, ...]]:
        """What the statement gives for these rows, by key, several rows a statement."""
        groups: dict[tuple[str, str], list[str]] = {}
        for key in keys:
            entity, entity_id, view = parse_key(key)
            groups.setdefault((entity, view), []).append(entity_id)
        calls = [
            Call(name, (entity, view, ids[start : start + _STATEMENT_ROWS]))
            for (entity, view), ids in groups.items()
            for start in range(0, len(ids), _STATEMENT_ROWS)
        ]
        answers = self._link.all(calls, time.monotonic() + self._write_s, in_flight=_IN_FLIGHT, what="write")
        return {
            row_key(str(call.values[0]), entity_id, str(call.values[1])): tuple(rest)
            for call, rows in zip(calls, answers, strict=True)
            for entity_id, *rest in rows
        }

    def _write_plain(self, rows: Sequence[Values]) -> None:
        """Write rows, neighbours in one batch: they are written each by itself, and sent as one."""
        deadline_s = time.monotonic() + self._write_s
        batches: list[list[Values]] = []
        size = 0
        for values in self._link.session(deadline_s).by_replica("write", rows):
            size += len(values[1])  # type: ignore[arg-type]
            if not batches or size > _STATEMENT_BYTES or len(batches[-1]) == _STATEMENT_ROWS:
                batches.append([])
                size = len(values[1])  # type: ignore[arg-type]
            batches[-1].append(values)
        calls = [Call("write", batch[0]) if len(batch) == 1 else Call("write", batch=batch) for batch in batches]
        self._link.all(calls, deadline_s, in_flight=_IN_FLIGHT, what="write")

    def update(
        self, changes: Sequence[tuple[bytes, Change]], *, ttl_s: int | None = None, deadline_s: float | None = None
    ) -> list[bytes | None]:
        """As the protocol says: a lightweight transaction for each key, those of one entity one after the other.

        What became of a change without an answer is looked up while there is time; a StoreTimeout leaves it open.
        """
        return self._changer.update(changes, ttl_s, self._write_by(deadline_s))

    def delete(self, keys: Sequence[bytes]) -> int:
        """As the protocol says: an atomic change for each row."""
        keys = list(dict.fromkeys(keys))
        parts = [keys[start : start + _CHANGES] for start in range(0, len(keys), _CHANGES)] or [[]]
        return sum(self._changer.delete(part, self._write_by(None)) for part in parts)

    def delete_entity(self, entity: str, entity_id: str) -> int:
        """As the protocol says. What marks the rows as deleted holds their keys until it is compacted away, after the
        table's `gc_grace_seconds`.
        """
        prefix = entity_prefix(entity, entity_id)
        rows = self._link.all([Call("views", (entity, entity_id))], self._write_by(None), what="delete")[0]
        return self.delete([prefix + view.encode() for (view,) in rows])

    def scan(self, prefix: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        """As the protocol says, in no order, page by page.

        A prefix that names a whole entity (`entity_prefix`, with or without the start of a view's name) reads that
        entity alone; every other prefix reads the whole table. So the entities `{subject/a}` and `{subject/a}b}` are
        told apart here, where stores that go by the bytes give the rows of both.
        """
        head, brace, view = prefix.rpartition(b"}")
        if brace and head[:1] == b"{" and b"/" in head and _NAME_START.fullmatch(view):
            pages = self._link.pages("entity", _entity(head), self._write_s)
        else:
            pages = self._link.pages("rows", (), self._write_s)
        for page in pages:
            for entity, entity_id, view_name, value in page:
                key = row_key(entity, entity_id, view_name)
                if key.startswith(prefix):
                    yield key, value

    def put_schema(self, fingerprint: bytes, canonical: bytes) -> None:
        """As the protocol says."""
        self._link.all([Call("put_schema", (fingerprint, canonical))], self._write_by(None), what="write")

    def get_schema(self, fingerprint: bytes) -> bytes | None:
        """As the protocol says; within the limit of a write, for it is no part of a decision."""
        rows = self._link.all([Call("get_schema", (fingerprint,))], self._write_by(None))[0]
        return rows[0][0] if rows else None

    def schemas(self) -> Iterator[tuple[bytes, bytes]]:
        """As the protocol says."""
        for page in self._link.pages("schemas", (), self._write_s):
            yield from page

    def ping(self) -> None:
        """As the protocol says, within a second."""
        self._link.all([Call("get_schema", (b"ping",))], time.monotonic() + _PING_S)

    def close(self) -> None:
        """As the protocol says. Takes some seconds when Cassandra does not answer."""
        self._link.close()

    def _write_by(self, deadline_s: float | None) -> float:
        limit_s = time.monotonic() + self._write_s
        return limit_s if deadline_s is None else min(deadline_s, limit_s)


class _Newer:
    """The change that a write is: the newer event time wins, and of two values with the same the greater bytes."""

    def __init__(self, event_time_us: int, value: bytes) -> None:
        self.put = False
        self._new = (event_time_us, value)

    def __call__(self, held: bytes | None) -> bytes | None:
        self.put = held is None or (event_time_of(held), held) < self._new
        return self._new[1] if self.put else None


def _split(key: bytes) -> tuple[bytes, str]:
    """A key as `{entity/id` and view. Raises ValueError when it is no key of a row."""
    head, brace, view = key.rpartition(b"}")
    if not brace or head[:1] != b"{" or b"/" not in head:
        raise ValueError("no key of a row")
    return head, view.decode()


def _entity(head: bytes) -> tuple[str, str]:
    entity, _, entity_id = head[1:].partition(b"/")
    return entity.decode(), entity_id.decode()
