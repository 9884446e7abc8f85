"""GetDecision: what was decided, and all that is needed to explain it."""

from __future__ import annotations

import math

import grpc
import numpy as np
import pytest

from assay.decision.v1 import decision_pb2 as pb
from assay.decision.v1 import decision_record_pb2 as record_pb
from assay.decision.v1 import decision_service_pb2 as service_pb
from engine.features.stores.embedded import EmbeddedStore
from tests.support.applications import GOOD, all_ids, consumer, load_rows, new_id
from tests.support.bundles import shipped
from tests.support.errors import failure_of
from tests.support.server import Client

FULL, BASIC = service_pb.DECISION_VIEW_FULL, service_pb.DECISION_VIEW_BASIC


@pytest.fixture(scope="module")
def request_(store: EmbeddedStore) -> service_pb.DecideRequest:
    subject = new_id("record")
    changes = {
        "credit_file": {"revolving_utilization": 0.93, "past_due_30_59_count": 2, "debt_ratio": None},
        "device_profile": None,
    }
    load_rows(store, all_ids(subject), changes, age_days={"email_profile": 200.0})
    return consumer(subject, amount=12_000, term_months=36)


@pytest.fixture(scope="module")
def decision(client: Client, request_: service_pb.DecideRequest) -> pb.Decision:
    return client.stub.Decide(request_).decision


@pytest.fixture(scope="module")
def record(client: Client, decision: pb.Decision) -> record_pb.DecisionRecord:
    asked = service_pb.GetDecisionRequest(decision_id=decision.decision_id, view=FULL)
    return client.stub.GetDecision(asked).record


def test_both_ids_and_all_views_give_the_answer_as_it_was(client: Client, decision: pb.Decision) -> None:
    expected = pb.Decision()
    expected.CopyFrom(decision)
    expected.replayed = True
    for ids in ({"decision_id": decision.decision_id}, {"request_id": decision.request_id}):
        for view in (service_pb.DECISION_VIEW_UNSPECIFIED, BASIC, FULL):
            answer = client.stub.GetDecision(service_pb.GetDecisionRequest(**ids, view=view))
            assert answer.decision == expected
            assert answer.HasField("record") == (view == FULL)


def test_the_record_holds_the_application_as_it_was_received(
    record: record_pb.DecisionRecord, request_: service_pb.DecideRequest
) -> None:
    assert record.schema_version == 1
    assert record.application == request_.application
    assert record.policy_digest.startswith("sha256:") and len(record.policy_digest) == 71
    purposes = {fact.feature: fact.purpose for fact in record.facts}
    assert purposes["revolving_utilization"], "every fact says what it may be used for"
    # Keyed: nobody can confirm a guess at the application by it.
    assert len(record.payload_digest) == 33
    assert record.engine_version
    assert record.environment_digest.startswith("sha256:")


def test_every_fact_is_named_with_its_value_status_and_origin(record: record_pb.DecisionRecord) -> None:
    facts = {f.feature: f for f in record.facts}
    plan = shipped().plan.flows["consumer_loan.application"].features
    assert list(facts) == [f.name for f in plan.features]
    assert len(record.packed_facts.values) == 8 * len(facts)

    used = facts["revolving_utilization"]
    assert (used.status, used.value) == (pb.FEATURE_STATUS_PRESENT, 0.93)
    assert used.origin == record_pb.VALUE_ORIGIN_STORE
    assert facts["stated_monthly_income"].origin == record_pb.VALUE_ORIGIN_CALLER
    assert facts["monthly_income"].origin == record_pb.VALUE_ORIGIN_DERIVED
    assert facts["monthly_income"].value == GOOD["applicant_file"]["verified_monthly_income"]

    assert facts["debt_ratio"].status == pb.FEATURE_STATUS_NULL
    assert not facts["debt_ratio"].HasField("value")
    assert facts["device_age_days"].status == pb.FEATURE_STATUS_NOT_FOUND
    assert facts["email_age_days"].status == pb.FEATURE_STATUS_STALE
    assert facts["email_age_days"].age.ToTimedelta().days == 200
    # What was read and not used is there to be judged by; what was used is not.
    assert facts["email_age_days"].value_read == GOOD["email_profile"]["email_age_days"]
    assert not facts["email_age_days"].HasField("value")
    assert facts["revolving_utilization"].view == "credit_file"
    assert facts["revolving_utilization"].HasField("age")


def test_every_row_that_was_read_is_named(record: record_pb.DecisionRecord) -> None:
    views = {v.view: v for v in record.views}
    assert set(views) == {v.name for v in shipped().plan.flows["consumer_loan.application"].features.views}
    assert views["device_profile"].status == pb.FEATURE_STATUS_NOT_FOUND
    assert not views["device_profile"].HasField("event_time")
    assert views["email_profile"].status == pb.FEATURE_STATUS_STALE
    assert views["credit_file"].HasField("event_time")
    assert record.store == "embedded"


def test_base_and_contributions_add_up_to_the_raw_score(
    record: record_pb.DecisionRecord, decision: pb.Decision
) -> None:
    models = shipped().models
    assert [r.model for r in record.runs] == [s.model for s in decision.scores]
    for run, score in zip(record.runs, decision.scores, strict=True):
        assert (run.raw, run.probability, run.points) == (score.raw, score.probability, score.points)
        assert run.digest == models[run.model].digest
        assert tuple(run.inputs) == models[run.model].inputs
        assert run.base + math.fsum(run.contributions) == pytest.approx(run.raw, abs=1e-4)
        assert "@" in run.attribution


def test_the_stored_facts_are_what_the_models_were_given(record: record_pb.DecisionRecord) -> None:
    by_name = {f.feature: f.value if f.HasField("value") else math.nan for f in record.facts}
    for run in record.runs:
        row = np.array([[by_name[name] for name in run.inputs]])
        again = shipped().models[run.model].run(row)[0]
        assert again.raw == run.raw
        assert again.contributions is not None
        assert again.contributions.tolist() == list(run.contributions)


def test_all_reasons_are_kept_and_the_principal_ones_lead(
    record: record_pb.DecisionRecord, decision: pb.Decision
) -> None:
    for component, principal in ((1, decision.credit_reasons), (2, decision.fraud_reasons)):
        full = [r for r in record.all_reasons if r.component == component and r.HasField("contribution")]
        assert [r.rank for r in full] == list(range(1, len(full) + 1))
        assert [(r.code, r.contribution) for r in principal] == [(r.code, r.contribution) for r in full[:4]]
        weights = [r.contribution for r in full]
        assert weights == sorted(weights, reverse=True)
    assert {r.code for r in decision.policy_reasons} <= {r.code for r in record.all_reasons}


def test_the_rules_that_fired_explain_the_policy_reasons(
    record: record_pb.DecisionRecord, decision: pb.Decision
) -> None:
    fired = {f"{r.table}/{r.rule}": r for r in record.rules}
    assert fired
    for reason in decision.policy_reasons:
        assert fired[reason.rule].reason == reason.code
    for rule in record.rules:
        assert rule.outputs_json.startswith("{")


@pytest.mark.parametrize(
    "asked",
    [
        service_pb.GetDecisionRequest(decision_id="0197d3a2-0000-7000-8000-000000000000"),
        service_pb.GetDecisionRequest(request_id="never-sent"),
        service_pb.GetDecisionRequest(decision_id="x" * 100_000),
        service_pb.GetDecisionRequest(request_id="y" * 100_000),
        service_pb.GetDecisionRequest(request_id="\x00\n\u6f22\U0001f600"),
    ],
    ids=["decision id", "request id", "long decision id", "long request id", "strange"],
)
def test_an_id_that_nothing_is_stored_under_is_not_found(client: Client, asked: service_pb.GetDecisionRequest) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        client.stub.GetDecision(asked)
    failure = failure_of(caught.value)
    assert failure.code is grpc.StatusCode.NOT_FOUND
    assert failure.reason == "DECISION_NOT_FOUND"
    assert len(failure.everything) < 1000


@pytest.mark.parametrize(
    ("asked", "path"),
    [
        (service_pb.GetDecisionRequest(), "decision_id"),
        (service_pb.GetDecisionRequest(decision_id=""), "decision_id"),
        (service_pb.GetDecisionRequest(request_id=""), "request_id"),
        (service_pb.GetDecisionRequest(request_id="x", view=77), "view"),  # type: ignore[arg-type]
    ],
)
def test_a_question_without_an_id_is_refused(client: Client, asked: service_pb.GetDecisionRequest, path: str) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        client.stub.GetDecision(asked)
    failure = failure_of(caught.value)
    assert failure.code is grpc.StatusCode.INVALID_ARGUMENT
    assert failure.reason == "INVALID_REQUEST"
    assert set(failure.fields) == {path}
