"""DeleteSubject at a real server: a person is gone from every record, and the journal is whole."""

from __future__ import annotations

import signal
import struct
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from assay.decision.v1 import decision_service_pb2 as pb
from assay.feature.v1 import feature_service_pb2, feature_service_pb2_grpc
from assay.outcome.v1 import outcome_pb2, outcome_service_pb2_grpc
from assay.outcome.v1 import outcome_service_pb2 as outcome_service
from tests.support.applications import all_ids, consumer, load_rows, now_us
from tests.support.errors import Failure, failure_of
from tests.support.outcomes import outcome
from tests.support.served_commands import assay, assert_journal_is_whole
from tests.support.served_load import TIMEOUT_S, as_given
from tests.support.server import Client, open_store, running

WHO, OTHER = "planted-person-4711", "somebody-else"
INCOME, DISTANCE = 7654.321, 13.577
DEBT_RATIO = 0.147258
NOTE = "planted-note-of-a-colleague"


def request_of(subject: str, request_id: str, amount: int = 5350) -> pb.DecideRequest:
    fields = {
        "stated_monthly_income": INCOME,
        "occupation_median_income": 8000.0,
        "form_fill_seconds": 400.0,
        "ip_to_address_distance_km": DISTANCE,
    }
    return consumer(subject, request_id=request_id, amount=amount, term_months=24, fields=fields)


def planted(answers: list[pb.DecideResponse]) -> dict[str, bytes]:
    """What must be nowhere in the journal, as it would stand in a record: ids, values sent and read, the offer."""
    words = {f"id of {entity}": entity_id.encode() for entity, entity_id in all_ids(WHO).items()}
    values = {"income": INCOME, "distance": DISTANCE, "debt ratio": DEBT_RATIO}
    for name, value in values.items():
        words[name] = struct.pack("<d", value)
        words[f"{name} in words"] = repr(value).encode()
    words["note"] = NOTE.encode()
    for n, answer in enumerate(answers):
        offer = answer.decision.offer
        assert offer.amount.units
        words[f"offer {n}"] = offer.SerializeToString(deterministic=True)
        words[f"payment {n}"] = offer.monthly_payment.SerializeToString(deterministic=True)
    return words


def found_in(directory: Path, words: dict[str, bytes]) -> Iterator[str]:
    """Where a word stands, in whatever file."""
    for path in sorted(path for path in directory.rglob("*") if path.is_file()):
        content = path.read_bytes()
        for name, word in words.items():
            if word in content:
                yield f"{name} in {path.relative_to(directory)}"


def get(client: Client, decision_id: str) -> pb.GetDecisionResponse:
    wanted = pb.GetDecisionRequest(decision_id=decision_id, view=pb.DECISION_VIEW_FULL)
    return client.stub.GetDecision(wanted, timeout=TIMEOUT_S)


def assert_erased(client: Client, request: pb.DecideRequest, before: pb.GetDecisionResponse) -> None:
    """The open part is as it was; what is about the person is gone."""
    decision_id = before.decision.decision_id
    after = get(client, decision_id)
    assert after.erased
    assert not after.record.HasField("application")
    assert not after.record.facts
    packed = after.record.packed_facts
    assert not (packed.values or packed.statuses or packed.origins or packed.view_event_times_us)
    assert not after.record.packed_reasons.contributions
    assert not after.decision.HasField("offer")
    assert not after.decision.substitutions
    assert all(not run.contributions for run in after.record.runs)
    # Rules about terms have this person's amounts.
    fired = {rule.table for rule in before.record.rules}
    assert {rule.table for rule in after.record.rules} == fired - {"limit", "price"}, fired
    kept = ("decision_id", "request_id", "flow", "verdict", "scores", "bundle", "decided_at", "trace_id")
    for name in kept:
        assert getattr(after.decision, name) == getattr(before.decision, name), name
    # The request is still known: it is neither decided anew nor answered, and what differs in another is not told.
    failure = failure_for(client, request)
    assert (failure.code, failure.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "DECISION_ERASED")
    assert failure.metadata["decision_id"] == decision_id
    failure = failure_for(client, request_of(WHO, request.request_id, amount=9000))
    assert failure.reason == "REQUEST_ID_REUSED"
    assert "differs" not in failure.metadata


def failure_for(client: Client, request: pb.DecideRequest) -> Failure:
    with pytest.raises(grpc.RpcError) as refused:
        client.stub.Decide(request, timeout=TIMEOUT_S)
    return failure_of(refused.value)


def test_a_person_who_was_erased_is_in_no_record_and_the_journal_is_whole(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        load_rows(store, all_ids(WHO), {"credit_file": {"debt_ratio": DEBT_RATIO}})
        load_rows(store, all_ids(OTHER))
    requests = [request_of(WHO, f"r-{n}", amount=5350 + 50 * n) for n in range(3)]
    with running(tmp_path) as (server, client):
        batch = pb.DecideBatchRequest(requests=requests[1:])
        answers = [client.stub.Decide(requests[0], timeout=TIMEOUT_S)]
        items = client.stub.DecideBatch(batch, timeout=TIMEOUT_S).items
        answers += [pb.DecideResponse(decision=item.decision) for item in items]
        before = [get(client, answer.decision.decision_id) for answer in answers]
        for got, request, answer in zip(before, requests, answers, strict=True):
            assert not got.erased
            assert got.record.application == request.application
            assert got.decision == as_given(answer.decision, replayed=True)
            assert {fact.value for fact in got.record.facts} >= {INCOME, DISTANCE, DEBT_RATIO}
        others = client.stub.Decide(request_of(OTHER, "other"), timeout=TIMEOUT_S).decision
        outcomes = outcome_service_pb2_grpc.OutcomeServiceStub(client.channel)
        note = outcome_pb2.ManualOverride(verdict=1, reason_code="R", note=NOTE, officer="o-1")  # type: ignore[arg-type]
        said = outcome(answers[0].decision.decision_id, now_us(), manual_override=note)
        outcomes.RecordOutcome(outcome_service.RecordOutcomeRequest(outcome=said), timeout=TIMEOUT_S)
        words = planted(answers)
        # Sealed from the first moment.
        assert list(found_in(tmp_path / "decisions", words)) == []

        erase = feature_service_pb2.DeleteSubjectRequest(entity_id=WHO)
        features = feature_service_pb2_grpc.FeatureServiceStub(client.channel)
        assert features.DeleteSubject(erase, timeout=TIMEOUT_S).rows_removed > 0
        for request, got in zip(requests, before, strict=True):
            assert_erased(client, request, got)
        listed = outcomes.ListOutcomes(
            outcome_service.ListOutcomesRequest(decision_id=answers[0].decision.decision_id), timeout=TIMEOUT_S
        )
        assert NOTE not in str(listed)
        assert get(client, others.decision_id).record.application.subject.id == OTHER
        # Who applies again is a person like any other.
        anew = client.stub.Decide(request_of(WHO, "anew"), timeout=TIMEOUT_S).decision
        assert get(client, anew.decision_id).record.application.subject.id == WHO
        assert "Traceback" not in server.output
        for word in (WHO, NOTE, repr(INCOME)):
            assert word not in server.output
        server.stop(signal.SIGKILL)
    with running(tmp_path) as (server, client):
        for request, got in zip(requests, before, strict=True):
            assert_erased(client, request, got)
        assert get(client, anew.decision_id).record.application.subject.id == WHO
        assert server.stop() == 0
    for directory in ("decisions", "var/traces", "var/traffic"):
        assert list(found_in(tmp_path / directory, words)) == []
    shown = assay(tmp_path, "audit", "show", answers[0].decision.decision_id)
    assert shown.returncode == 0, shown.stderr
    assert '"personal_part": "erased"' in shown.stdout
    assert WHO not in shown.stdout
    assert_journal_is_whole(tmp_path)
