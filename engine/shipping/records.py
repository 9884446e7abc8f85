"""Reads in Cassandra what was shipped, in the form in which the journal gives it.

records = CassandraRecords(settings, opener)
records.get("0198...")                            a StoredDecision, as JournalReader and DecisionLog give it
for decision in records.by_day(date(2026, 3, 1)):  in the order of time, a page at a time
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta
from functools import partial
from hashlib import sha256
from typing import Any, NamedTuple

from engine.errors import RecordError
from engine.features.stores.cassandra_driver import Call
from engine.features.stores.cassandra_link import CassandraLink
from engine.features.stores.cassandra_schema import check_schema
from engine.features.stores.cassandra_settings import CassandraSettings
from engine.record.entries import StoredDecision, unpack_decision
from engine.record.journal import pack_declared
from engine.record.segments import Frame, FrameKind, Position, segment_name
from engine.shipping.rows import BUCKETS_A_DAY, declared_holder, in_us, outcome_ref, request_hash
from engine.shipping.statements import READS, erase_calls
from engine.shipping.subjects import KeyOpener, ShippedKeys, SubjectKey

_READ_TIMEOUT_S = 10.0
# How many decisions are asked for ahead of who reads them, and how many of them at once.
_AHEAD = 64
_MANY = 16


class Listed(NamedTuple):
    """A decision as lists of decisions have it. decided_at_ms: since 1970; verdict: as in the protocol, 0 when the
    record could not be read."""

    decision_id: str
    decided_at_ms: int
    flow: str
    bundle: str
    verdict: int


class ShippedSegment(NamedTuple):
    """A segment of a journal that was shipped. complete: to its end, which is at `length` bytes."""

    source: str
    worker: str
    number: int
    complete: bool
    length: int


class CassandraRecords:
    """Safe to use from several threads.

    opener: opens personal parts; without it they are left out, as `locked`. read_timeout_s: the most that one answer
    may take. lazy: do not wait for the first connection.

    Raises StoreError: for certificates that cannot be read, and unless lazy when Cassandra is not there or its tables
    are not. Every method raises StoreError when Cassandra does not answer, and RecordError for what is there in part.
    """

    def __init__(
        self,
        cassandra: CassandraSettings,
        opener: KeyOpener | None = None,
        *,
        read_timeout_s: float = _READ_TIMEOUT_S,
        lazy: bool = False,
    ) -> None:
        self._opener, self._timeout_s = opener, read_timeout_s
        self._link = CassandraLink(cassandra, READS, partial(check_schema, cassandra), lazy=lazy)

    # --- decisions ------------------------------------------------------------------------------------------------

    def get(self, decision_id: str) -> StoredDecision | None:
        """A decision by its id; None when it was not shipped."""
        found = self._one("get", decision_id)
        return None if found is None else self._stored(FrameKind.DECISION, found)

    def get_by_request(self, request_key: bytes) -> StoredDecision | None:
        """The decision of a request; of several the latest."""
        found = self._one("request", request_hash(request_key))
        return None if found is None else self.get(found[0])

    def list_subject(
        self, subject: bytes, since: datetime | None = None, until: datetime | None = None, limit: int = 1000
    ) -> list[Listed]:
        """A subject's decisions, the latest first: from `since` on, before `until`, at most `limit`.

        subject: its keyed hash, `MasterKey.subject_mark`. Moments carry a time zone.
        """
        first_ms = -(1 << 62) if since is None else _ms(since)
        last_ms = 1 << 62 if until is None else _ms(until)
        pages = self._link.pages("subject", (subject, first_ms, last_ms, limit), self._timeout_s)
        return [_listed(row) for page in pages for row in page]

    def by_subject(
        self, subject: bytes, since: datetime | None = None, until: datetime | None = None, limit: int = 1000
    ) -> Iterator[StoredDecision]:
        """The same decisions in full."""
        return self._fetch(iter(self.list_subject(subject, since, until, limit)))

    def list_day(self, day: date, buckets: range = range(BUCKETS_A_DAY)) -> Iterator[Listed]:
        """The decisions of a day (UTC) in the order of time. buckets: only of some of its five minutes, for who shares
        a day out."""
        for bucket in buckets:
            for page in self._link.pages("day", (day, bucket), self._timeout_s):
                yield from map(_listed, page)

    def by_day(self, day: date, buckets: range = range(BUCKETS_A_DAY)) -> Iterator[StoredDecision]:
        """The same decisions in full; some are fetched ahead, and no more are held."""
        return self._fetch(self.list_day(day, buckets))

    def between(self, first: date, last: date) -> Iterator[StoredDecision]:
        """The decisions of some days (UTC), both named ones among them, in full and in the order of time."""
        for number in range((last - first).days + 1):
            yield from self.by_day(first + timedelta(days=number))

    # --- what belongs to decisions --------------------------------------------------------------------------------

    def catalogue(self, digest: str) -> bytes | None:
        """A slot list by its digest."""
        return self._declared(FrameKind.CATALOGUE, digest)

    def environment(self, digest: str) -> bytes | None:
        """A description of a pinned environment by its digest."""
        return self._declared(FrameKind.ENVIRONMENT, digest)

    def outcomes(self, decision_id: str, request_key: bytes = b"") -> list[bytes]:
        """Outcomes of a decision as serialised `assay.outcome.v1.OutcomeRecord`, in no order. request_key: gives those
        as well that came by request id before the decision was known."""
        refs = [decision_id, *([outcome_ref("", request_key)] if request_key else [])]
        return [frame.payload for ref in refs for frame, _ in self._of_decision(ref, FrameKind.OUTCOME)]

    def challengers(self, decision_id: str) -> list[StoredDecision]:
        """What challengers decided on the same facts, in no order."""
        found = self._of_decision(decision_id, FrameKind.SHADOW)
        return [unpack_decision(frame, self._keys(subject)) for frame, subject in found]

    # --- erasing --------------------------------------------------------------------------------------------------

    def erase(self, subject: bytes) -> None:
        """Erase a person in Cassandra at once, without waiting for a journal to be shipped that tells of it, and also
        where no journal of this host ever held a record of theirs: all keys of the subject so far go, and its rows by
        subject. Harmless when repeated. subject: its keyed hash, `MasterKey.subject_mark`. Raises StoreError: call
        again."""
        calls = erase_calls(subject, time.time_ns() // 1000)
        # In this order: until the last one is done, the call is repeated.
        for call in calls:
            self._link.all([call], time.monotonic() + self._timeout_s, what="erase")

    # --- the journal as it was ------------------------------------------------------------------------------------

    def segments(self) -> list[ShippedSegment]:
        """All segments of all journal directories, by source, worker and age."""
        sources = sorted(row[0] for page in self._link.pages("sources", (), self._timeout_s) for row in page)
        return [
            ShippedSegment(source, worker, number, bool(complete), length or 0)
            for source in sources
            for page in self._link.pages("segments", (source,), self._timeout_s)
            for worker, number, complete, length in page
        ]

    def frames(self, source: str, worker: str, number: int) -> Iterator[Frame]:
        """The frames of a segment in their order, as they were in the journal, chain included; damaged bytes as kind
        0. Those whose time is over are missing."""
        for page in self._link.pages("frames", (source, worker, number), self._timeout_s):
            for offset, sequence, link, flags, kind, length, ref, parts, payload in page:
                position = Position(segment_name(worker, number), offset)
                content = self._content(source, position, kind, ref, parts, payload)
                if content is None:
                    raise RecordError(f"what the frame at {position.segment}:{offset} refers to is not in Cassandra")
                digest = sha256(content).digest() if sequence else b""
                yield Frame(position, kind, content, offset + length, sequence or 0, link or b"", digest, flags or 0)

    def ping(self) -> None:
        """Raises StoreError when Cassandra does not answer."""
        self._one("get", "ping")

    def close(self) -> None:
        """Let go. Harmless when repeated."""
        self._link.close()

    # --- inside ---------------------------------------------------------------------------------------------------

    def _one(self, name: str, *values: object) -> tuple[Any, ...] | None:
        rows = self._link.all([Call(name, values)], time.monotonic() + self._timeout_s)[0]
        return rows[0] if rows else None

    def _stored(self, kind: int, row: tuple[Any, ...]) -> StoredDecision:
        frame, subject = self._frame(kind, row)
        return unpack_decision(frame, self._keys(subject))

    def _frame(self, kind: int, row: tuple[Any, ...]) -> tuple[Frame, bytes]:
        """A frame and its subject's keyed hash, from a row that has the whole of it."""
        source, worker, number, offset, sequence, link, flags, subject, parts, payload = row
        position = Position(segment_name(worker, number), offset)
        content = self._joined(f"{source}/{position.segment}:{offset}", parts, payload)
        digest = sha256(content).digest() if sequence else b""
        end = offset + len(content)  # a frame by itself has no neighbour to begin there
        return Frame(position, kind, content, end, sequence or 0, link or b"", digest, flags or 0), subject or b""

    def _content(
        self, source: str, position: Position, kind: int, ref: str | None, parts: int | None, payload: bytes | None
    ) -> bytes | None:
        """The payload of a frame, wherever it lies."""
        if ref is None:
            return self._joined(f"{source}/{position.segment}:{position.offset}", parts, payload)
        if kind == FrameKind.DECISION:
            found = self._one("get", ref)
        elif kind in (FrameKind.CATALOGUE, FrameKind.ENVIRONMENT):
            declared = self._declared(FrameKind(kind), ref)
            return None if declared is None else pack_declared(ref) + declared
        else:
            worker, _, number = position.segment.rpartition("-")
            own = self._one("of_decision_one", ref, kind, source, worker, int(number), position.offset)
            return None if own is None else self._joined(f"{source}/{position.segment}:{position.offset}", *own)
        return None if found is None else self._frame(kind, found)[0].payload

    def _joined(self, holder: str, parts: int | None, payload: bytes | None) -> bytes:
        if not parts:
            if payload is None:
                raise RecordError(f"the payload of {holder} is not in Cassandra")
            return payload
        found = [part for page in self._link.pages("part_read", (holder,), self._timeout_s) for part in page]
        if [part for part, _ in found] != list(range(parts)):
            raise RecordError(f"of the {parts} parts of {holder} some are not in Cassandra")
        return b"".join(content for _, content in found)

    def _declared(self, kind: FrameKind, digest: str) -> bytes | None:
        found = self._one("declared_read", kind, digest)
        return None if found is None else self._joined(declared_holder(kind, digest), *found)

    def _of_decision(self, ref: str, kind: FrameKind) -> Iterator[tuple[Frame, bytes]]:
        for page in self._link.pages("of_decision_read", (ref, kind), self._timeout_s):
            for row in page:
                yield self._frame(kind, row)

    def _fetch(self, listed: Iterator[Listed]) -> Iterator[StoredDecision]:
        """Decisions in full, in the order of the list. What expired in between is left out."""
        waiting: deque[Any] = deque()
        with ThreadPoolExecutor(_MANY, thread_name_prefix="assay-records") as pool:
            try:
                for one in listed:
                    waiting.append(pool.submit(self.get, one.decision_id))
                    if len(waiting) >= _AHEAD and (stored := waiting.popleft().result()) is not None:
                        yield stored
                while waiting:
                    if (stored := waiting.popleft().result()) is not None:
                        yield stored
            finally:
                for future in waiting:
                    future.cancel()

    def _keys(self, subject: bytes) -> ShippedKeys | None:
        return None if self._opener is None else ShippedKeys(self._opener, subject, self._key)

    def _key(self, subject: bytes, key_id: bytes) -> SubjectKey | None:
        """One of a subject's keys; None when it was erased or never shipped."""
        found = self._one("key_read", subject, key_id)
        if found is None or found[1] is None:
            return None
        created_us, wrapped, erased_us = found
        if erased_us is not None and created_us <= erased_us:
            return None
        return SubjectKey(key_id, subject, created_us, wrapped)


def _listed(row: tuple[Any, ...]) -> Listed:
    decision_id, decided_at, flow, bundle, verdict = row
    return Listed(decision_id, in_us(decided_at) // 1000, flow or "", bundle or "", verdict or 0)


def _ms(moment: datetime) -> int:
    if moment.tzinfo is None:
        raise ValueError("a moment without a time zone")
    return round(moment.astimezone(UTC).timestamp() * 1000)
