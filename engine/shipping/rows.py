"""What becomes of one frame in Cassandra: rows about it, and where its payload goes."""

from __future__ import annotations

import time
from datetime import UTC, date, datetime, timedelta
from hashlib import sha256
from typing import NamedTuple

from google.protobuf.message import DecodeError

from assay.decision.v1 import decision_record_pb2 as record_pb
from assay.outcome.v1 import outcome_pb2
from engine.errors import RecordError
from engine.features.stores.cassandra_driver import UNSET, Values
from engine.record.entries import StoredDecision, unpack_decision, unpack_erasure
from engine.record.journal import unpack_declared
from engine.record.segments import Frame, FrameKind, worker_of
from engine.shipping.settings import Retention, ttl_s
from engine.shipping.subjects import NOBODY, Subject, SubjectKey, Subjects

# The most bytes that lie in one cell; longer payloads lie in parts of this size.
PART_BYTES = 1 << 20
BUCKETS_A_DAY = 288
_BUCKET_US = 86_400_000_000 // BUCKETS_A_DAY
_EPOCH = date(1970, 1, 1)
_US_A_DAY = 86_400_000_000


def request_hash(request_key: bytes) -> bytes:
    """What a request is found by: SHA-256 of its key, for keys are of any length and content."""
    return sha256(request_key).digest()


def day_and_bucket(moment_us: int) -> tuple[date, int]:
    """The partition of `decisions_by_day` that a moment is in: its day (UTC), and its five minutes of the day."""
    return _EPOCH + timedelta(days=moment_us // _US_A_DAY), moment_us % _US_A_DAY // _BUCKET_US


def sequence_of(segment: str) -> int:
    """The number in a segment's name."""
    return int(segment.rpartition("-")[2])


def holder_of(source: str, frame: Frame) -> str:
    """What the parts of a frame's payload are kept under."""
    return f"{source}/{frame.position.segment}:{frame.position.offset}"


def declared_holder(kind: int, digest: str) -> str:
    """The same for what is found by its digest."""
    return f"declared/{kind}/{digest}"


class Rows(NamedTuple):
    """The rows of a batch, by the statements that write them, in the order in which they have to be written: what is
    referred to goes first."""

    declared: list[Values]
    parts: list[Values]
    by_id: list[Values]
    of_decision: list[Values]
    by_subject: list[Values]
    by_request: list[Values]
    by_day: list[Values]
    frames: list[Values]


class Counted(NamedTuple):
    """What a batch held. keys: what its sealed parts are sealed with; erasures: the keyed hashes of subjects that were
    erased, and when, in microseconds since 1970."""

    decisions: int
    expired: int
    keys: list[SubjectKey]
    erasures: list[tuple[bytes, int]]


class _About(NamedTuple):
    """What is known of a frame. moment_us: when it was made, since 1970; days: how long it is kept; labels: flow,
    digest of the bundle and verdict."""

    moment_us: int
    days: int
    subject: Subject = NOBODY
    labels: tuple[object, object, object] = (UNSET, UNSET, UNSET)


class RowMaker:
    """Makes rows of frames of one journal directory."""

    def __init__(self, source: str, retention: Retention, subjects: Subjects) -> None:
        self._source, self._retention, self._subjects = source, retention, subjects

    def make(
        self, frames: list[Frame], known: set[tuple[int, str]], now_s: float | None = None
    ) -> tuple[Rows, Counted]:
        """The rows of some frames. known: kinds and digests of what was declared and is in Cassandra already. Rows
        whose time is over are left out and counted. Raises RecordError when a key cannot be read."""
        now_s = time.time() if now_s is None else now_s
        rows = Rows([], [], [], [], [], [], [], [])
        keys: dict[bytes, SubjectKey] = {}
        erasures: list[tuple[bytes, int]] = []
        decisions = expired = 0
        seen = set(known)
        for frame in frames:
            decisions += frame.kind == FrameKind.DECISION
            try:
                if frame.kind in (FrameKind.DECISION, FrameKind.SHADOW):
                    about = self._decision(rows, frame, now_s)
                    if about.subject.key is not None:
                        keys[about.subject.key.key_id] = about.subject.key
                elif frame.kind in (FrameKind.CATALOGUE, FrameKind.ENVIRONMENT):
                    self._declared(rows, frame, seen, now_s)
                elif frame.kind == FrameKind.OUTCOME:
                    ref, about = _outcome(frame, now_s, self._retention.longest)
                    self._of_decision(rows, frame, ref, about, now_s)
                else:
                    # Changes, erasures, damaged bytes, kinds of a later version: in their places, for ever.
                    self._whole(rows, frame, now_s)
                    if frame.kind == FrameKind.ERASED:
                        erasure = unpack_erasure(frame)
                        erasures.append((erasure.mark, erasure.moment_us))
            except _Expired:
                expired += 1
        return rows, Counted(decisions, expired, list(keys.values()), erasures)

    def _decision(self, rows: Rows, frame: Frame, now_s: float) -> _About:
        try:
            stored = unpack_decision(frame)
        except RecordError:  # of a form of a later version: kept, and found by nothing but its place
            self._whole(rows, frame, now_s)
            return _About(int(now_s * 1e6), 0)
        about = self._about(stored, now_s)
        if frame.kind == FrameKind.SHADOW:
            self._of_decision(rows, frame, stored.decision_id, about, now_s)
            return about
        ttl = self._ttl(about, now_s)
        using = (ttl, about.moment_us)
        decided_ms, mark = about.moment_us // 1000, about.subject.mark
        key = request_hash(stored.request_key)
        parts, payload = self._payload(rows, frame, *using)
        place = (*self._place(frame), *_chain(frame))
        content = (mark or UNSET, key, stored.payload_digest, parts, payload)
        rows.by_id.append((stored.decision_id, *place, decided_ms, *about.labels, *content, *using))
        if mark:
            rows.by_subject.append((mark, decided_ms, stored.decision_id, *about.labels, *using))
        rows.by_request.append((key, stored.decision_id, stored.payload_digest, decided_ms, *using))
        rows.by_day.append((*day_and_bucket(about.moment_us), decided_ms, stored.decision_id, *about.labels, *using))
        self._frame(rows, frame, stored.decision_id, (0, UNSET), *using)
        return about

    def _about(self, stored: StoredDecision, now_s: float) -> _About:
        record = _parse(stored.record)
        subject = self._subjects.of(stored, record)
        days = self._retention.days_of(subject.country)
        if record is None or not record.HasField("decision"):
            return _About(int(now_s * 1e6), days, subject)
        decision = record.decision
        moment_us = decision.decided_at.ToMicroseconds() or int(now_s * 1e6)
        return _About(moment_us, days, subject, (decision.flow, decision.bundle.digest, decision.verdict))

    @staticmethod
    def _ttl(about: _About, now_s: float) -> int:
        ttl = ttl_s(about.days, about.moment_us / 1e6, now_s)
        if ttl is None:
            raise _Expired
        return ttl

    def _declared(self, rows: Rows, frame: Frame, seen: set[tuple[int, str]], now_s: float) -> None:
        digest, payload = unpack_declared(frame.payload)
        # Every segment begins with all that is declared: once is enough.
        if (frame.kind, digest) not in seen:
            seen.add((frame.kind, digest))
            holder = declared_holder(frame.kind, digest)
            rows.declared.append((frame.kind, digest, *_split(rows, holder, payload, 0, int(now_s * 1e6))))
        self._frame(rows, frame, digest, (0, UNSET), 0, int(now_s * 1e6))

    def _of_decision(self, rows: Rows, frame: Frame, ref: str, about: _About, now_s: float) -> None:
        using = (self._ttl(about, now_s), about.moment_us)
        content = self._payload(rows, frame, *using)
        if ref:
            mark = about.subject.mark or UNSET
            rows.of_decision.append((ref, frame.kind, *self._place(frame), *_chain(frame), mark, *content, *using))
            content = (0, UNSET)
        self._frame(rows, frame, ref, content, *using)

    def _whole(self, rows: Rows, frame: Frame, now_s: float) -> None:
        """The frame with its payload where it was in the journal, for ever."""
        now_us = int(now_s * 1e6)
        self._frame(rows, frame, "", self._payload(rows, frame, 0, now_us), 0, now_us)

    def _payload(self, rows: Rows, frame: Frame, ttl: int, moment_us: int) -> tuple[int, object]:
        return _split(rows, holder_of(self._source, frame), frame.payload, ttl, moment_us)

    def _place(self, frame: Frame) -> tuple[str, str, int, int]:
        segment, offset = frame.position
        return self._source, worker_of(segment), sequence_of(segment), offset

    def _frame(self, rows: Rows, frame: Frame, ref: str, content: tuple[int, object], ttl: int, moment_us: int) -> None:
        length = frame.end - frame.position.offset
        rows.frames.append(
            (*self._place(frame), *_chain(frame), frame.kind, length, ref or UNSET, *content, ttl, moment_us)
        )


class _Expired(Exception):
    """What is past its retention before it was shipped."""


def _chain(frame: Frame) -> tuple[int, bytes, int]:
    return frame.sequence, frame.link, frame.flags


def _parse(content: bytes) -> record_pb.DecisionRecord | None:
    try:
        return record_pb.DecisionRecord.FromString(content)
    except DecodeError:
        return None


def outcome_ref(decision_id: str, request_key: bytes) -> str:
    """What an outcome is found by: its decision's id, or, when it came before its decision was known, its request."""
    return decision_id or "request:" + request_hash(request_key).hex()


def _outcome(frame: Frame, now_s: float, days: int) -> tuple[str, _About]:
    moment_us, ref = int(now_s * 1e6), ""
    try:
        record = outcome_pb2.OutcomeRecord.FromString(frame.payload)
    except DecodeError:
        record = outcome_pb2.OutcomeRecord()
    if record.decision_id or record.request_id:
        ref = outcome_ref(record.decision_id, f"{record.tenant}\0{record.request_id}".encode())
        moment_us = record.recorded_at.ToMicroseconds() or moment_us
    return ref, _About(moment_us, days)


def _split(rows: Rows, holder: str, payload: bytes, ttl: int, moment_us: int) -> tuple[int, object]:
    """The number of parts and the payload's cell: 0 and all of it, or some and nothing."""
    if len(payload) <= PART_BYTES:
        return 0, payload
    parts = range(0, len(payload), PART_BYTES)
    for part, start in enumerate(parts):
        rows.parts.append((holder, part, payload[start : start + PART_BYTES], ttl, moment_us))
    return len(parts), UNSET


def in_us(moment: datetime) -> int:
    """A moment as the driver gives it, which is UTC without saying so, in microseconds since 1970."""
    return round(moment.replace(tzinfo=UTC).timestamp() * 1000) * 1000
