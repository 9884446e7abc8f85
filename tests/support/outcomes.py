"""A real server of the outcome service in this process, over a real journal; decisions and outcomes to put there."""

from __future__ import annotations

import contextlib
import itertools
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.timestamp_pb2 import Timestamp
from google.type.money_pb2 import Money

from assay.decision.v1 import decision_pb2 as decision_pb
from assay.decision.v1 import decision_record_pb2 as record_pb
from assay.outcome.v1 import outcome_pb2 as pb
from assay.outcome.v1 import outcome_service_pb2 as service_pb
from assay.outcome.v1 import outcome_service_pb2_grpc as stubs
from engine.clock import new_decision_id
from engine.errors import Refusal
from engine.outcomes.desk import OutcomeDesk
from engine.outcomes.standing import Kind, Observed
from engine.record.claims import CLAIMED
from engine.record.keys import request_key
from engine.record.log import DecisionLog
from engine.rpc.outcome_servicer import OUTCOME_METHODS, OutcomeServicer, outcome_handlers
from engine.rpc.streams import Streams
from engine.shipping.fallback import DecisionsEverywhere
from engine.shipping.records import CassandraRecords
from engine.telemetry.counters import Counters
from engine.telemetry.tracing import shapes

from .features import SetClock

SHAPES = dict.fromkeys(OUTCOME_METHODS, shapes.FEATURE_RPC["PutFeatures"])
_count = itertools.count()


def us(text: str) -> int:
    """Microseconds since 1970 of a moment in UTC ("2025-01-31" or "2025-01-31T12:00")."""
    return round(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1_000_000)


def stamp(moment: int | str) -> Timestamp:
    """A timestamp of microseconds or of a text."""
    made = Timestamp()
    made.FromMicroseconds(us(moment) if isinstance(moment, str) else moment)
    return made


def usd(amount: float) -> Money:
    """An amount in USD."""
    return Money(currency_code="USD", units=int(amount), nanos=round(amount % 1 * 1e9))


def outcome(
    decision_id: str = "", observed_at: int | str = "2025-06-01", outcome_id: str | None = None, **kind: Any
) -> pb.Outcome:
    """An outcome. kind: one of its kinds by name, and further fields of the message."""
    named: dict[str, Any] = {"decision_id": decision_id} if decision_id else {}
    made = pb.Outcome(
        outcome_id=f"o-{next(_count)}" if outcome_id is None else outcome_id,
        observed_at=stamp(observed_at),
        source="servicing",
        **named,
        **kind,
    )
    return made


def status(days: int) -> pb.RepaymentStatus:
    """A repayment status."""
    return pb.RepaymentStatus(days_past_due=days)


def seen(kind: Kind, observed_at: str, recorded_at: str | None = None, **more: Any) -> Observed:
    """An outcome as analyses see it. recorded_at: absent, when it was observed."""
    found = {"outcome_id": f"s-{next(_count)}", **more}
    return Observed(kind=kind, observed_us=us(observed_at), recorded_us=us(recorded_at or observed_at), **found)


def record_of(
    decided_at: int | str,
    verdict: int = decision_pb.VERDICT_APPROVE,
    *,
    request_id: str | None = None,
    flow: str = "consumer_loan.application",
    raw: float = 0.0,
    probability: float | None = None,
    **more: Any,
) -> record_pb.DecisionRecord:
    """A record with one credit score. more: fields of the message."""
    decided_us = us(decided_at) if isinstance(decided_at, str) else decided_at
    record = record_pb.DecisionRecord(schema_version=1, **more)
    decision = record.decision
    decision.decision_id = new_decision_id(decided_us)
    decision.request_id = f"r-{next(_count)}" if request_id is None else request_id
    decision.flow = flow
    decision.verdict = verdict  # type: ignore[assignment]
    decision.decided_at.FromMicroseconds(decided_us)
    decision.bundle.name, decision.bundle.version, decision.bundle.digest = "lending", "1.0.0", "sha256:" + "ab" * 32
    score = decision.scores.add(model="credit_pd", version="1.0.0", raw=raw, probability=probability)
    score.component, score.status = decision_pb.COMPONENT_CREDIT, decision_pb.SCORE_STATUS_OK
    application = record.application
    application.product, application.term_months = "consumer_loan", 24
    application.amount.CopyFrom(usd(5000))
    application.subject.id = f"subject-{decision.request_id}"
    return record


def commit(log: DecisionLog, record: record_pb.DecisionRecord) -> str:
    """Puts a record into a journal, and gives its decision's id."""
    key = request_key(record.tenant, record.decision.request_id)
    assert log.claim(key, b"digest") is CLAIMED
    log.commit(key, record.decision.decision_id, b"digest", record.SerializeToString())
    return record.decision.decision_id


@dataclass
class OutcomeService:
    """The service and what is behind it."""

    stub: stubs.OutcomeServiceStub
    desk: OutcomeDesk
    log: DecisionLog
    clock: SetClock
    counters: Counters
    streams: Streams
    draining: threading.Event
    address: str

    def decide(self, decided_at: int | str = "2025-01-15", **more: Any) -> str:
        """A decision in the journal; its id."""
        return commit(self.log, record_of(decided_at, **more))

    def record(self, one: pb.Outcome, *, allow_unknown: bool = False) -> service_pb.RecordOutcomeResponse:
        """Records one outcome."""
        request = service_pb.RecordOutcomeRequest(outcome=one, allow_unknown=allow_unknown)
        return self.stub.RecordOutcome(request, timeout=20)

    def stream(self, *messages: list[pb.Outcome], allow_unknown: bool = False) -> list[Any]:
        """Records a stream of messages, and gives all acknowledgements."""
        requests = [
            service_pb.RecordOutcomesRequest(
                outcomes=[service_pb.SentOutcome(outcome=one) for one in outcomes], allow_unknown=allow_unknown
            )
            for outcomes in messages
        ]
        return list(self.stub.RecordOutcomes(iter(requests), timeout=30))

    def listed(self, **asked: Any) -> list[Any]:
        """What is known of a decision."""
        return list(self.stub.ListOutcomes(service_pb.ListOutcomesRequest(**asked), timeout=20).outcomes)


@contextlib.contextmanager
def outcome_service(
    directory: Path, now: str = "2026-01-15", shipped: CassandraRecords | None = None
) -> Iterator[OutcomeService]:
    """A server with a journal in a directory, at a moment. shipped: where decisions are that the journal lacks."""
    clock, counters, streams = SetClock(us(now)), Counters(), Streams(2)
    log = DecisionLog(directory)
    try:
        decisions = log if shipped is None else DecisionsEverywhere(log, shipped)
        desk = OutcomeDesk(log, decisions, directory, clock, counters)
        with _closing(desk.close):
            draining = threading.Event()

            def check_open() -> None:
                if draining.is_set():
                    raise Refusal("DRAINING", "The server is stopping; retry on another host.")

            servicer = OutcomeServicer(desk, streams, SHAPES, check_open=check_open)
            server = grpc.server(ThreadPoolExecutor(6), options=[("grpc.so_reuseport", 0)])
            server.add_generic_rpc_handlers((outcome_handlers(servicer),))
            port = server.add_insecure_port("127.0.0.1:0")
            server.start()
            channel = grpc.insecure_channel(f"127.0.0.1:{port}", [("grpc.use_local_subchannel_pool", 1)])
            with _closing(lambda: server.stop(None).wait()), _closing(channel.close):
                stub = stubs.OutcomeServiceStub(channel)
                yield OutcomeService(stub, desk, log, clock, counters, streams, draining, f"127.0.0.1:{port}")
    finally:
        log.close()


@contextlib.contextmanager
def _closing(close: Callable[[], object]) -> Iterator[None]:
    try:
        yield
    finally:
        close()
