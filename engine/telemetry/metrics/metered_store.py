"""A store whose calls are counted and timed, and whose reads are spans of the call that they are made for: a wrapper
with the store's own interface.

    MeteredStore(GuardedStore(RedisStore(settings), guard), metrics.store("redis"), SpanLabel("redis", "MGET"))

Around the guard it sees what a breaker refuses as well; within it, the store alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from engine.errors import StoreError
from engine.features.store import Change, FeatureStore, StoreCorrupt, StoreTimeout, StoreUnavailable, WriteResult
from engine.features.stores.breaker import NotTried
from engine.features.stores.notes import notes
from engine.features.stores.partial import PartialRead
from engine.telemetry.metrics.calls import StoreMetrics
from engine.telemetry.metrics.catalogue import OTHER
from engine.telemetry.tracing import shapes
from engine.telemetry.tracing.call import CallTrace, current

_T = TypeVar("_T")
_tick_ns = time.perf_counter_ns


@dataclass(frozen=True, slots=True)
class SpanLabel:
    """What the spans of a store's reads say. system, operation, namespace: as OpenTelemetry's conventions for databases
    have it; tier: `fast` or `durable`, None where there is one store alone; remote: whether another process answers."""

    system: str
    operation: str
    namespace: str | None = None
    tier: str | None = None
    remote: bool = True


class MeteredStore:
    """The store `inner`, which it closes with itself. It has the name of `inner`."""

    def __init__(self, inner: FeatureStore, metrics: StoreMetrics, label: SpanLabel | None = None) -> None:
        """label: None: reads are no spans."""
        self._inner, self._metrics, self._label = inner, metrics, label
        if label is not None:
            self._named = (label.system, label.operation, label.namespace)
            self._shape = shapes.STORE_READ if label.remote else shapes.STORE_READ_EMBEDDED
        self._state: Callable[[], str] | None = None
        if hasattr(inner, "state"):
            self._state = lambda: str(inner.state)

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
            ended_ns, outcome = _tick_ns(), outcome_of(error)
            self._metrics.observe("read", outcome, ended_ns - begun_ns, len(keys))
            if (call := current.call) is not None and self._label is not None:
                rows = error.rows if isinstance(error, PartialRead) else ()
                self._span(call, self._label, begun_ns, ended_ns, len(keys), rows, outcome)
            raise
        ended_ns = _tick_ns()
        self._metrics.observe("read", "ok", ended_ns - begun_ns, len(keys))
        if (call := current.call) is not None and self._label is not None:
            self._span(call, self._label, begun_ns, ended_ns, len(keys), found, None)
        return found

    def _span(
        self,
        call: CallTrace,
        label: SpanLabel,
        begun_ns: int,
        ended_ns: int,
        keys: int,
        rows: Sequence[object],
        failed: str | None,
    ) -> None:
        retries, hedged = notes.take()
        state = None if self._state is None else self._state()
        call.retries += retries
        if state is not None and state != "closed":
            call.breaker = state
        hits = len([row for row in rows if type(row) is bytes])
        values = (*self._named, failed, label.tier, keys, hits, retries, hedged, call.sharing, state)
        call.add(self._shape, begun_ns, ended_ns, values, failed)

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
