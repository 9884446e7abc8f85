"""A store whose calls are counted and timed: a wrapper with the store's own interface.

    GuardedStore(MeteredStore(RedisStore(settings), metrics.store("redis")), guard)

Within the guard it times the store itself, and does not see the calls that a breaker refuses; those the breaker counts.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

from engine.errors import StoreError
from engine.features.store import Change, FeatureStore, StoreCorrupt, StoreTimeout, StoreUnavailable, WriteResult
from engine.features.stores.breaker import NotTried
from engine.features.stores.partial import PartialRead
from engine.telemetry.metrics.calls import StoreMetrics
from engine.telemetry.metrics.catalogue import OTHER

_T = TypeVar("_T")
_tick_ns = time.perf_counter_ns


class MeteredStore:
    """The store `inner`, which it closes with itself. It has the name of `inner`."""

    def __init__(self, inner: FeatureStore, metrics: StoreMetrics) -> None:
        self._inner, self._metrics = inner, metrics

    @property
    def name(self) -> str:
        """The name of the store within."""
        return self._inner.name

    @property
    def inner(self) -> FeatureStore:
        """The store within."""
        return self._inner

    def read(self, keys: Sequence[bytes], deadline_s: float | None = None) -> list[bytes | None]:
        """As the protocol says."""
        begun_ns = _tick_ns()
        try:
            found = self._inner.read(keys, deadline_s)
        except StoreError as error:
            self._metrics.observe("read", outcome_of(error), _tick_ns() - begun_ns, len(keys))
            raise
        self._metrics.observe("read", "ok", _tick_ns() - begun_ns, len(keys))
        return found

    def write(self, rows: Iterable[tuple[bytes, bytes, int]], *, ttl_s: int | None = None) -> WriteResult:
        """As the protocol says."""
        return self._timed("write", lambda: self._inner.write(rows, ttl_s=ttl_s))

    def update(
        self, changes: Sequence[tuple[bytes, Change]], *, ttl_s: int | None = None, deadline_s: float | None = None
    ) -> list[bytes | None]:
        """As the protocol says."""
        return self._timed("update", lambda: self._inner.update(changes, ttl_s=ttl_s, deadline_s=deadline_s))

    def delete(self, keys: Sequence[bytes]) -> int:
        """As the protocol says."""
        return self._timed("delete", lambda: self._inner.delete(keys))

    def delete_entity(self, entity: str, entity_id: str) -> int:
        """As the protocol says."""
        return self._timed("delete", lambda: self._inner.delete_entity(entity, entity_id))

    def scan(self, prefix: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        """As the protocol says; not timed."""
        return self._inner.scan(prefix)

    def put_schema(self, fingerprint: bytes, canonical: bytes) -> None:
        """As the protocol says; not timed."""
        self._inner.put_schema(fingerprint, canonical)

    def get_schema(self, fingerprint: bytes) -> bytes | None:
        """As the protocol says; not timed."""
        return self._inner.get_schema(fingerprint)

    def schemas(self) -> Iterator[tuple[bytes, bytes]]:
        """As the protocol says; not timed."""
        return self._inner.schemas()

    def ping(self) -> None:
        """As the protocol says; not timed."""
        self._inner.ping()

    def close(self) -> None:
        """As the protocol says."""
        self._inner.close()

    def _timed(self, operation: str, call: Callable[[], _T]) -> _T:
        begun_ns = _tick_ns()
        try:
            found = call()
        except StoreError as error:
            self._metrics.observe(operation, outcome_of(error), _tick_ns() - begun_ns)
            raise
        self._metrics.observe(operation, "ok", _tick_ns() - begun_ns)
        return found


def outcome_of(error: BaseException) -> str:
    """The word for a failure: one of `calls.STORE_OUTCOMES`."""
    for kind, word in (
        (PartialRead, "partial"),
        (NotTried, "not_tried"),
        (StoreTimeout, "timeout"),
        (StoreUnavailable, "unavailable"),
        (StoreCorrupt, "corrupt"),
    ):
        if isinstance(error, kind):
            return word
    return OTHER
