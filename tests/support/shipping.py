"""Journals full of records and a keyspace to ship them to."""

from __future__ import annotations

import time
import uuid
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

from assay.decision.v1 import decision_pb2 as pb
from assay.decision.v1 import decision_record_pb2 as record_pb
from engine.features.stores.cassandra import migrate
from engine.features.stores.cassandra_settings import CassandraSettings
from engine.record.entries import StoredDecision
from engine.record.log import Claimed, DecisionLog
from engine.record.master import MasterKey
from engine.record.reader import JournalReader
from engine.record.segments import Frame
from engine.shipping.settings import ShipSettings

from .cassandra import CassandraNode, shared_node
from .cassandra_places import settings_for

KEYSPACE = "shipping_tests"
DIGEST = b"d" * 33
MASTER = MasterKey(bytes(range(32)))
# Small portions and short waits, so that much happens in little time.
QUICK = ShipSettings(batch_rows=50, poll_s=0.02, retry_s=0.05, retry_max_s=0.5, write_timeout_s=5.0, keep_local_s=0.0)


@cache
def _migrated(node: CassandraNode) -> CassandraSettings:
    settings = settings_for(node, KEYSPACE)
    migrate(settings)
    return settings


def cassandra() -> CassandraSettings:
    """Where to ship to. Tests keep apart by the ids of their decisions."""
    return _migrated(shared_node())


def open_log(directory: Path, worker: str = "w0", **options: object) -> DecisionLog:
    """A log with sealed records and small segments."""
    return DecisionLog.open(directory, worker=worker, master=MASTER, **{"segment_bytes": 1 << 16, **options})  # type: ignore[arg-type]


def record_of(
    decision_id: str, subject: str, decided_us: int, verdict: int = pb.VERDICT_APPROVE, size: int = 400
) -> tuple[bytes, bytes]:
    """The open and the personal part of a record."""
    decision = pb.Decision(
        decision_id=decision_id, flow="consumer_loan.application", bundle=pb.BundleRef(name="b", digest="sha256:b")
    )
    decision.verdict = verdict  # type: ignore[assignment]
    decision.decided_at.FromMicroseconds(decided_us)
    record = record_pb.DecisionRecord(schema_version=1, decision=decision, engine_version="x" * size)
    personal = record_pb.DecisionRecord(application=pb.Application(product="p", subject=pb.Subject(id=subject)))
    return record.SerializeToString(), personal.SerializeToString()


def commit(
    log: DecisionLog,
    subject: str = "s",
    *,
    name: str = "",
    decided_us: int | None = None,
    size: int = 400,
    country: str = "",
) -> str:
    """Record one decision. Gives its id."""
    decision_id = name or uuid.uuid4().hex
    key = b"\0" + decision_id.encode()
    assert log.claim(key, DIGEST) == Claimed()
    decided_us = time.time_ns() // 1000 if decided_us is None else decided_us
    record, personal = record_of(decision_id, subject, decided_us, size=size)
    log.commit(key, decision_id, DIGEST, record, personal, subject, country)
    return decision_id


def in_journal(directory: Path) -> dict[str, StoredDecision]:
    """All decisions of a journal by id. No id is there twice."""
    found = list(JournalReader(directory).decisions())
    by_id = {stored.decision_id: stored for stored in found}
    assert len(by_id) == len(found)
    return by_id


def all_frames(directory: Path) -> list[Frame]:
    """Every frame of a journal."""
    reader = JournalReader(directory)
    found = [item for worker in reader.workers() for item in reader.frames(worker)]
    assert all(isinstance(item, Frame) for item in found), found
    return [item for item in found if isinstance(item, Frame)]


def day_us(year: int, month: int, day: int, hour: int = 0, minute: int = 0) -> int:
    """A moment (UTC) in microseconds since 1970."""
    return int(datetime(year, month, day, hour, minute, tzinfo=UTC).timestamp()) * 1_000_000
