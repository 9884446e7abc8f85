"""Writes batches of frames to Cassandra, so that what is referred to is there before what refers to it."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Sequence
from itertools import chain

from engine.features.stores.cassandra_driver import Call, Values
from engine.features.stores.cassandra_link import CassandraLink
from engine.record.segments import Frame, worker_of
from engine.shipping.rows import Counted, RowMaker, sequence_of
from engine.shipping.settings import ShipSettings, ttl_s
from engine.shipping.state import Checkpoint
from engine.shipping.statements import erase_calls
from engine.shipping.subjects import SubjectKey

# What one statement with several rows holds: of one partition as many as a node takes without a warning, which is by
# their bytes; of neighbouring partitions ten.
_BATCH_BYTES, _PARTITIONS, _ROW_BYTES = 5000, 10, 48
_KNOWN_MAX = 100_000


class CassandraSink:
    """Writes batches of one journal directory. Every write can be repeated harmlessly. For one thread."""

    def __init__(self, link: CassandraLink, source: str, make: RowMaker, settings: ShipSettings) -> None:
        """link: with the statements of `engine.shipping.statements.WRITES`."""
        self._link, self._source, self._make, self._settings = link, source, make, settings
        self._known: set[tuple[int, str]] = set()
        self._keys_known: set[bytes] = set()

    def write(self, frames: list[Frame], passed: Collection[Checkpoint]) -> Counted:
        """Write frames, and note the segments that end with them. When this returns, the consistency level's replicas
        have all of it. Raises StoreError: some of it may be there, and all is to be written again; RecordError when a
        key cannot be read."""
        rows, counted = self._make.make(frames, self._known)
        self._wave(
            chain(
                self._keys(counted.keys),
                (Call("part", values) for values in rows.parts),
                (Call("declared", values) for values in rows.declared),
                self._begun(frames),
            )
        )
        self._wave(
            chain(
                (Call("by_id", values) for values in rows.by_id),
                (Call("of_decision", values) for values in rows.of_decision),
            )
        )
        self._wave(
            chain(
                self._neighbours("by_subject", rows.by_subject),
                self._neighbours("by_request", rows.by_request),
                _together("by_day", rows.by_day, lambda values: values[:2]),
                _together("frame", rows.frames, lambda values: values[:3]),
            )
        )
        # Last: what was written above about an erased subject is older and goes with it.
        self._wave(chain.from_iterable(erase_calls(*erasure) for erasure in counted.erasures))
        self._wave(self._ended(passed))
        self._remember(rows.declared, counted.keys)
        return counted

    def _keys(self, keys: Sequence[SubjectKey]) -> list[Call]:
        """The keys that are not there yet, but for those that were erased after they were made: by another host, for
        here their slots would be empty. Raises StoreError."""
        new = [key for key in keys if key.key_id not in self._keys_known]
        marks = list({key.subject for key in new})
        found = self._link.all([Call("erased_read", (mark,)) for mark in marks], self._deadline_s(), what="ship")
        erased_us = {
            mark: max((moment_us for (moment_us,) in rows if moment_us is not None), default=-1)
            for mark, rows in zip(marks, found, strict=True)
        }
        return [
            Call("key", (key.subject, key.key_id, key.created_us, key.wrapped, ttl, key.created_us))
            for key in new
            if key.created_us > erased_us[key.subject] and (ttl := self._key_ttl_s(key)) is not None
        ]

    def _key_ttl_s(self, key: SubjectKey) -> int | None:
        """A key is used for a day, and lives as long as the last record that it was used for."""
        days = self._settings.retention.days_of(key.country)
        return ttl_s(days + 1 if days else 0, key.created_us / 1e6, time.time())

    def _begun(self, frames: Sequence[Frame]) -> list[Call]:
        segments = sorted({frame.position.segment for frame in frames})
        return [Call("segment_begun", self._segment(name)) for name in segments]

    def _ended(self, passed: Collection[Checkpoint]) -> list[Call]:
        return [Call("segment_ended", (*self._segment(done.segment), done.offset)) for done in passed]

    def _segment(self, name: str) -> tuple[str, str, int]:
        return self._source, worker_of(name), sequence_of(name)

    def _neighbours(self, name: str, rows: list[Values]) -> Iterable[Call]:
        if not rows:
            return ()
        session = self._link.session(self._deadline_s())
        return _together(name, session.by_replica(name, rows), lambda _: ())

    def _wave(self, calls: Iterable[Call]) -> None:
        sent = list(calls)
        if sent:
            self._link.all(sent, self._deadline_s(), in_flight=self._settings.in_flight, what="ship")

    def _deadline_s(self) -> float:
        return time.monotonic() + self._settings.write_timeout_s

    def _remember(self, declared: Iterable[Values], keys: Iterable[SubjectKey]) -> None:
        """What need not be written again by this process."""
        if len(self._known) + len(self._keys_known) > _KNOWN_MAX:
            self._known.clear()
            self._keys_known.clear()
        self._known.update((int(str(kind)), str(digest)) for kind, digest, *_ in declared)
        self._keys_known.update(key.key_id for key in keys)


def _together(name: str, rows: Iterable[Values], partition: Callable[[Values], object]) -> Iterable[Call]:
    """Statements with several rows each: neighbours of one partition, or of any few when `partition` says ()."""
    batch: list[Values] = []
    size, last = 0, None
    for values in rows:
        here = partition(values)
        bytes_here = _ROW_BYTES + sum(len(value) for value in values if isinstance(value, (bytes, str)))
        full = len(batch) >= _PARTITIONS if here == () else here != last
        if batch and (full or size + bytes_here > _BATCH_BYTES):
            yield _call(name, batch)
            batch, size = [], 0
        batch.append(values)
        size, last = size + bytes_here, here
    if batch:
        yield _call(name, batch)


def _call(name: str, batch: list[Values]) -> Call:
    return Call(name, batch[0]) if len(batch) == 1 else Call(name, batch=batch)
