"""The index of outcomes: by outcome id and by decision, for answers and for telling a repeated outcome from a new one.

SQLite from the standard library: outcomes are few against decisions, several processes write, and a lock that spans
"is it there? append it, note it" is what makes an outcome id its first caller's own. Everything in it follows from
the journal, and is read again from there after a crash; the payloads are in it as well, so that outcomes are still
found when the shipper has let their segments go.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

from engine.errors import RecordError
from engine.record.segments import Position

_SCHEMA = """
CREATE TABLE IF NOT EXISTS outcomes (
    tenant TEXT NOT NULL, outcome_id TEXT NOT NULL, decision_id TEXT NOT NULL, request_id TEXT NOT NULL,
    recorded_us INTEGER NOT NULL, payload BLOB NOT NULL,
    PRIMARY KEY (tenant, outcome_id)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS by_decision ON outcomes (tenant, decision_id) WHERE decision_id != '';
CREATE INDEX IF NOT EXISTS by_request ON outcomes (tenant, request_id) WHERE decision_id = '';
CREATE TABLE IF NOT EXISTS watermarks (worker TEXT PRIMARY KEY, segment TEXT NOT NULL, position INTEGER NOT NULL);
"""
_LAYOUT = 1
_BUSY_S = 10.0


class OutcomeIndex:
    """Safe to use from several threads and processes. Open it after the last fork."""

    def __init__(self, path: Path, *, to_disk: bool = False) -> None:
        """to_disk: what was noted survives the loss of power too (it would be read again from the journal). A file
        that is damaged, or of another version, is thrown away and built again. Raises RecordError."""
        self._path, self._to_disk = path, to_disk
        self._lock = threading.RLock()
        # Whether an index that could not be used was thrown away.
        self.discarded = False
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            try:
                self._db = self._open()
            except sqlite3.DatabaseError as error:
                if isinstance(error, sqlite3.OperationalError):
                    raise
                self._discard()
                self._db = self._open()
        except (sqlite3.Error, OSError) as error:
            raise RecordError(f"the index of outcomes {path} cannot be opened: {error}") from error

    def _open(self) -> sqlite3.Connection:
        db = sqlite3.connect(self._path, timeout=_BUSY_S, isolation_level=None, check_same_thread=False)
        try:
            self._path.chmod(0o600)
            db.execute("PRAGMA journal_mode = WAL")
            db.execute(f"PRAGMA synchronous = {'FULL' if self._to_disk else 'NORMAL'}")
            (layout,) = db.execute("PRAGMA user_version").fetchone()
            if layout not in (0, _LAYOUT):
                raise sqlite3.DatabaseError(f"layout {layout}")
            db.execute("BEGIN IMMEDIATE")
            for statement in _SCHEMA.split(";"):
                db.execute(statement)
            db.execute(f"PRAGMA user_version = {_LAYOUT}")
            db.execute("COMMIT")
        except BaseException:
            db.close()
            raise
        return db

    def _discard(self) -> None:
        self.discarded = True
        for suffix in ("", "-wal", "-shm"):
            self._path.with_name(self._path.name + suffix).unlink(missing_ok=True)

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Holds the index for this thread, among all threads and processes; what is added meanwhile is kept at the
        end, also when it ends with an error. Raises RecordError."""
        with self._lock:
            with _told("written"):
                self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
            finally:
                with _told("written"):
                    try:
                        self._db.execute("COMMIT")
                    except sqlite3.Error:
                        with contextlib.suppress(sqlite3.Error):
                            self._db.execute("ROLLBACK")
                        raise

    def add(
        self, tenant: str, outcome_id: str, decision_id: str, request_id: str, recorded_us: int, payload: bytes
    ) -> None:
        """Notes one outcome; to be called while `writing`. Of two under one id the one recorded later stays: the other
        was never acknowledged. Raises RecordError."""
        with _told("written"):
            self._db.execute(
                "INSERT INTO outcomes VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (tenant, outcome_id) DO UPDATE SET "
                "decision_id = excluded.decision_id, request_id = excluded.request_id, "
                "recorded_us = excluded.recorded_us, payload = excluded.payload "
                "WHERE excluded.recorded_us > recorded_us",
                (tenant, outcome_id, decision_id, request_id, recorded_us, payload),
            )

    def find(self, tenant: str, outcome_id: str) -> bytes | None:
        """One outcome's record. Raises RecordError."""
        with self._lock, _told("read"):
            row = self._db.execute(
                "SELECT payload FROM outcomes WHERE tenant = ? AND outcome_id = ?", (tenant, outcome_id)
            ).fetchone()
        return None if row is None else bytes(row[0])

    def of_decision(self, tenant: str, decision_id: str, request_id: str) -> list[bytes]:
        """The records of one decision, also those that came under its request id before it was known. Either id may be
        empty. Raises RecordError."""
        with self._lock, _told("read"):
            rows = self._db.execute(
                "SELECT payload FROM outcomes WHERE tenant = ? AND decision_id = ? AND decision_id != '' UNION ALL "
                "SELECT payload FROM outcomes WHERE tenant = ? AND request_id = ? AND decision_id = '' AND ? != ''",
                (tenant, decision_id, tenant, request_id, request_id),
            ).fetchall()
        return [bytes(payload) for (payload,) in rows]

    def count_of(self, tenant: str, decision_id: str) -> int:
        """How many outcomes a decision has. Raises RecordError."""
        with self._lock, _told("read"):
            (count,) = self._db.execute(
                "SELECT count(*) FROM outcomes WHERE tenant = ? AND decision_id = ? AND decision_id != ''",
                (tenant, decision_id),
            ).fetchone()
        return int(count)

    def watermark(self, worker: str) -> Position | None:
        """Up to where a worker's frames are in the index. Raises RecordError."""
        with self._lock, _told("read"):
            row = self._db.execute("SELECT segment, position FROM watermarks WHERE worker = ?", (worker,)).fetchone()
        return None if row is None else Position(*row)

    def move_watermark(self, worker: str, upto: Position) -> None:
        """All frames of a worker before `upto` are in the index; to be called while `writing`. Raises RecordError."""
        held = self.watermark(worker)
        if held is None or held < upto:
            with _told("written"):
                self._db.execute("INSERT OR REPLACE INTO watermarks VALUES (?, ?, ?)", (worker, *upto))

    def close(self) -> None:
        """Lets go. Harmless when repeated."""
        with self._lock, contextlib.suppress(sqlite3.Error):
            self._db.close()


def read_payloads(path: Path) -> Iterator[bytes]:
    """All records of an index, which a server may be writing meanwhile. Raises RecordError."""
    with _told("read"), contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=_BUSY_S)) as db:
        for (payload,) in db.execute("SELECT payload FROM outcomes"):
            yield bytes(payload)


@contextlib.contextmanager
def _told(verb: str) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise RecordError(f"the index of outcomes cannot be {verb}: {error}") from error
