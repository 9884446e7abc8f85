"""A store in memory that fails, hangs or lies when a test tells it to, and counts what it was asked."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence

from engine.features.store import Change, StoreTimeout, StoreUnavailable, WriteResult
from engine.features.stores.memory import MemoryStore

ALL = ("read", "write", "update", "delete", "delete_entity", "scan", "put_schema", "get_schema", "schemas", "ping")
WRITES = ("write", "update", "delete", "delete_entity", "put_schema")


class FaultyStore(MemoryStore):
    """A `MemoryStore` of another name.

    calls: how often each method was called. asked: the keys of every read. `fail` and `heal` switch faults; `gate`,
    when set, is waited for before anything is read; `before` is called with the method's name before anything is done.
    """

    name = "faulty"

    def __init__(self, name: str = "faulty") -> None:
        super().__init__()
        self.name = name
        self.calls: Counter[str] = Counter()
        self.asked: list[tuple[bytes, ...]] = []
        self.deadlines: list[float | None] = []
        self.gate: threading.Event | None = None
        self.before: Callable[[str], None] | None = None
        self._faults: dict[str, Exception] = {}

    def fail(self, error: Exception | None = None, methods: Iterable[str] = ALL) -> None:
        """From now on these methods raise `error`, or StoreUnavailable."""
        self._faults |= dict.fromkeys(methods, error or StoreUnavailable(f"{self.name} is down"))

    def heal(self) -> None:
        """All is well again."""
        self._faults = {}

    def _called(self, method: str) -> None:
        self.calls[method] += 1
        if self.before is not None:
            self.before(method)
        if method in self._faults:
            raise self._faults[method]

    def read(self, keys: Sequence[bytes], deadline_s: float | None = None) -> list[bytes | None]:
        self.asked.append(tuple(keys))
        self.deadlines.append(deadline_s)
        self._called("read")
        if self.gate is not None:
            left_s = 60.0 if deadline_s is None else deadline_s - time.monotonic()
            if not self.gate.wait(max(0.0, left_s)):
                raise StoreTimeout(f"{self.name} is late")
        return super().read(keys, deadline_s)

    def write(self, rows: Iterable[tuple[bytes, bytes, int]], *, ttl_s: int | None = None) -> WriteResult:
        self._called("write")
        return super().write(rows, ttl_s=ttl_s)

    def update(
        self, changes: Sequence[tuple[bytes, Change]], *, ttl_s: int | None = None, deadline_s: float | None = None
    ) -> list[bytes | None]:
        self.deadlines.append(deadline_s)
        self._called("update")
        return super().update(changes, ttl_s=ttl_s, deadline_s=deadline_s)

    def delete(self, keys: Sequence[bytes]) -> int:
        self._called("delete")
        return super().delete(keys)

    def delete_entity(self, entity: str, entity_id: str) -> int:
        self._called("delete_entity")
        return super().delete_entity(entity, entity_id)

    def scan(self, prefix: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        self._called("scan")
        return super().scan(prefix)

    def put_schema(self, fingerprint: bytes, canonical: bytes) -> None:
        self._called("put_schema")
        super().put_schema(fingerprint, canonical)

    def get_schema(self, fingerprint: bytes) -> bytes | None:
        self._called("get_schema")
        return super().get_schema(fingerprint)

    def schemas(self) -> Iterator[tuple[bytes, bytes]]:
        self._called("schemas")
        return super().schemas()

    def ping(self) -> None:
        self._called("ping")
        super().ping()


def until(true: Callable[[], object], timeout_s: float = 60.0) -> None:
    """Waits until something is true. Raises AssertionError when it never becomes so."""
    end_s = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < end_s, "it did not come true in time"
        time.sleep(0.002)
