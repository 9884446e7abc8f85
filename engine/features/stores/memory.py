"""A store in this process's memory: for `assay decide` and for embedding the engine. Nothing outlives the process."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator, Sequence

from engine.features.store import (
    Change,
    StoreTimeout,
    StoreUnavailable,
    WriteResult,
    check_event_time,
    entity_prefix,
    event_time_of,
    parse_key,
)


class MemoryStore:
    """Rows in a dict. A lock holds writers apart; readers need none."""

    name = "memory"

    def __init__(self) -> None:
        self._rows: dict[bytes, tuple[int, bytes]] = {}
        self._schemas: dict[bytes, bytes] = {}
        self._write_lock = threading.Lock()
        self._closed = False

    def read(self, keys: Sequence[bytes], deadline_s: float | None = None) -> list[bytes | None]:
        """As the protocol says; never waits."""
        self._check_open()
        if deadline_s is not None and time.monotonic() > deadline_s:
            raise StoreTimeout("no time left to read")
        get = self._rows.get
        found = [get(key) for key in keys]
        return [None if row is None else row[1] for row in found]

    def write(self, rows: Iterable[tuple[bytes, bytes, int]], *, ttl_s: int | None = None) -> WriteResult:
        """As the protocol says; keeps rows until it is closed."""
        self._check_open()
        written = ignored = 0
        for key, value, event_time_us in rows:
            check_event_time(value, event_time_us)
            with self._write_lock:
                if (held := self._rows.get(key)) is None or held < (event_time_us, value):
                    self._rows[key] = (event_time_us, value)
                    written += 1
                else:
                    ignored += 1
        return WriteResult(written, ignored)

    def update(
        self, changes: Sequence[tuple[bytes, Change]], *, ttl_s: int | None = None, deadline_s: float | None = None
    ) -> list[bytes | None]:
        """As the protocol says, all changes at once."""
        self._check_open()
        held: list[bytes | None] = []
        with self._write_lock:
            for key, change in changes:
                row = self._rows.get(key)
                old = None if row is None else row[1]
                new = change(old)
                if new is not None:
                    self._rows[key] = (event_time_of(new), new)
                held.append(old if new is None else new)
        return held

    def delete(self, keys: Sequence[bytes]) -> int:
        """As the protocol says."""
        self._check_open()
        with self._write_lock:
            return sum(self._rows.pop(key, None) is not None for key in keys)

    def delete_entity(self, entity: str, entity_id: str) -> int:
        """As the protocol says; looks at every key."""
        self._check_open()
        prefix = entity_prefix(entity, entity_id)
        with self._write_lock:
            keys = [key for key in self._rows if key.startswith(prefix) and parse_key(key).entity_id == entity_id]
            for key in keys:
                del self._rows[key]
        return len(keys)

    def scan(self, prefix: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        """As the protocol says, in the order of the keys, as they were when the scan began."""
        self._check_open()
        with self._write_lock:
            found = sorted((key, row[1]) for key, row in self._rows.items() if key.startswith(prefix))
        return iter(found)

    def put_schema(self, fingerprint: bytes, canonical: bytes) -> None:
        """As the protocol says."""
        self._check_open()
        self._schemas[fingerprint] = canonical

    def get_schema(self, fingerprint: bytes) -> bytes | None:
        """As the protocol says."""
        self._check_open()
        return self._schemas.get(fingerprint)

    def schemas(self) -> Iterator[tuple[bytes, bytes]]:
        """As the protocol says."""
        self._check_open()
        return iter(list(self._schemas.items()))

    def ping(self) -> None:
        """As the protocol says."""
        self._check_open()

    def close(self) -> None:
        """As the protocol says."""
        self._closed = True
        self._rows, self._schemas = {}, {}

    def _check_open(self) -> None:
        if self._closed:
            raise StoreUnavailable("the store is closed")
