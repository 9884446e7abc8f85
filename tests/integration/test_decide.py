"""Decide over real gRPC: what a caller gets, field by field."""

from __future__ import annotations

import re
import time

import pytest

from assay.decision.v1 import decision_pb2 as pb
from assay.decision.v1 import decision_service_pb2 as service_pb
from engine.features.stores.embedded import EmbeddedStore
from tests.support.applications import (
    GOOD,
    GOOD_COMPANY,
    all_ids,
    company,
    consumer,
    entity_of,
    load_rows,
    new_id,
    now_us,
)
from tests.support.bundles import shipped
from tests.support.server import Client

REASON_FIELDS = ("credit_reasons", "fraud_reasons", "policy_reasons")
COMPONENTS = {"credit_reasons": pb.COMPONENT_CREDIT, "fraud_reasons": pb.COMPONENT_FRAUD, "policy_reasons": 3}


def _subject(store: EmbeddedStore, **kwargs: object) -> str:
    subject = new_id("subject")
    load_rows(store, all_ids(subject), **kwargs)  # type: ignore[arg-type]
    return subject


def _money(money: object) -> float:
    return money.units + money.nanos / 1e9  # type: ignore[attr-defined, no-any-return]


def check_decision(decision: pb.Decision, request: service_pb.DecideRequest) -> None:
    """What holds for every answer."""
    plan = shipped().plan
    flow = plan.flows[decision.flow]
    assert re.fullmatch(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", decision.decision_id)
    assert decision.request_id == request.request_id
    assert decision.verdict in (1, 2, 3, 4)
    assert (decision.bundle.name, decision.bundle.version) == (plan.name, plan.version)
    assert decision.bundle.digest == plan.digest
    assert re.fullmatch("[0-9a-f]{32}", decision.trace_id)
    assert abs(decision.decided_at.ToMicroseconds() / 1e6 - time.time()) < 60
    assert decision.record_state == pb.RECORD_STATE_RECORDED
    assert decision.language == (request.language or plan.languages[0])
    times = decision.stage_times
    parts = [getattr(times, n).ToNanoseconds() for n in ("validate", "features", "scoring", "policy", "reasons")]
    assert all(part > 0 for part in parts)
    assert sum(parts) <= times.total.ToNanoseconds() < 30e9

    assert decision.HasField("offer") == (decision.verdict in (pb.VERDICT_APPROVE, pb.VERDICT_COUNTER_OFFER))
    assert bool(decision.deciding_components) == (decision.verdict != pb.VERDICT_APPROVE)
    assert [(s.model, s.version, int(s.component)) for s in decision.scores] == [
        (m.model.id, m.model.version, int(m.component)) for m in flow.models
    ]
    for score in decision.scores:
        assert score.status in (pb.SCORE_STATUS_OK, pb.SCORE_STATUS_MISSING_INPUT)
        has_score = score.status == pb.SCORE_STATUS_OK
        assert score.HasField("probability") == score.HasField("points") == has_score
        assert 0.0 <= score.probability <= 1.0
        assert has_score or score.raw == 0.0
    for field in REASON_FIELDS:
        reasons = getattr(decision, field)
        assert len(reasons) <= 4
        assert [r.rank for r in reasons] == list(range(1, len(reasons) + 1))
        for reason in reasons:
            text = flow.reasons.catalogue[reason.code]
            assert reason.component == COMPONENTS[field] == text.component
            assert reason.text == text.applicant[decision.language]
            assert reason.regulation_b == text.regulation_b
            assert (reason.HasField("contribution") and reason.contribution > 0) or reason.rule
        weights = [r.contribution for r in reasons if r.HasField("contribution")]
        assert weights == sorted(weights, reverse=True)
    for one in decision.substitutions:
        assert one.status not in (pb.FEATURE_STATUS_UNSPECIFIED, pb.FEATURE_STATUS_PRESENT)
        assert one.action != pb.SUBSTITUTION_ACTION_UNSPECIFIED
        uses_value = one.action in (pb.SUBSTITUTION_ACTION_DEFAULT, pb.SUBSTITUTION_ACTION_STALE_VALUE)
        assert one.HasField("value_used") == uses_value


def test_good_applicant_is_approved_on_the_terms_asked_for(client: Client, store: EmbeddedStore) -> None:
    request = consumer(_subject(store), amount=5000, term_months=24)
    decision = client.stub.Decide(request).decision

    check_decision(decision, request)
    assert decision.flow == "consumer_loan.application"
    assert decision.verdict == pb.VERDICT_APPROVE, decision
    assert not decision.replayed
    assert not decision.substitutions
    assert not decision.policy_reasons
    offer = decision.offer
    assert _money(offer.amount) == 5000
    assert offer.term_months == 24
    assert 0 < offer.annual_rate_percent < offer.annual_cost_percent <= 36
    assert {m.currency_code for m in (offer.amount, offer.monthly_payment, offer.total_repayable)} == {"USD"}
    # The payment of an annuity at this rate, to the cent.
    rate = offer.annual_rate_percent / 1200
    assert _money(offer.monthly_payment) == pytest.approx(5000 * rate / (1 - (1 + rate) ** -24), abs=0.01)
    assert _money(offer.total_repayable) == pytest.approx(24 * _money(offer.monthly_payment), abs=0.24)


def test_a_good_company_is_lent_to(client: Client, store: EmbeddedStore) -> None:
    subject = new_id("company")
    load_rows(store, {"applicant": subject}, values=GOOD_COMPANY)
    request = company(subject, amount=100_000, term_months=120)
    decision = client.stub.Decide(request).decision

    check_decision(decision, request)
    assert decision.flow == "sme_loan.application"
    assert decision.verdict == pb.VERDICT_APPROVE, decision
    assert [s.component for s in decision.scores] == [pb.COMPONENT_CREDIT]
    assert not decision.substitutions
    assert _money(decision.offer.amount) == 100_000
    assert decision.offer.term_months == 120
    assert decision.offer.annual_cost_percent <= 36


@pytest.mark.parametrize(
    ("change", "verdict", "code"),
    [
        ({"monthly_free_cash_flow": -1.0}, pb.VERDICT_DECLINE, "PL_CASH_FLOW_NEGATIVE"),
        ({"employees_count": 501}, pb.VERDICT_DECLINE, "PL_NOT_SMALL_BUSINESS"),
        ({"annual_revenue": None}, pb.VERDICT_REFER, "PL_REVENUE_UNKNOWN"),
        ({"new_business": None}, pb.VERDICT_REFER, "PL_BUSINESS_AGE_UNKNOWN"),
    ],
)
def test_a_company_that_a_rule_stops(
    client: Client, store: EmbeddedStore, change: dict[str, object], verdict: int, code: str
) -> None:
    subject = new_id("company")
    load_rows(store, {"applicant": subject}, {"business_file": change}, values=GOOD_COMPANY)
    request = company(subject, amount=100_000)
    decision = client.stub.Decide(request).decision
    check_decision(decision, request)
    assert decision.verdict == verdict
    assert code in {r.code for r in decision.policy_reasons}


def test_a_company_that_nothing_is_known_of_is_not_lent_to(client: Client) -> None:
    decision = client.stub.Decide(company()).decision
    assert decision.verdict in (pb.VERDICT_REFER, pb.VERDICT_DECLINE)


@pytest.mark.parametrize("change", [{"bankruptcy_open": True}, {"past_due_90_count": 5}], ids=["bankrupt", "past due"])
def test_a_knock_out_declines_with_its_own_reason(
    client: Client, store: EmbeddedStore, change: dict[str, object]
) -> None:
    request = consumer(_subject(store, changes={"credit_file": change}))
    decision = client.stub.Decide(request).decision

    check_decision(decision, request)
    assert decision.verdict == pb.VERDICT_DECLINE
    assert pb.COMPONENT_POLICY in decision.deciding_components
    first = decision.policy_reasons[0]
    assert first.code in ("PL_BANKRUPTCY_OPEN", "PL_PAST_DUE_90")
    assert first.rule.startswith("consumer_knock_outs/")


def test_a_loan_beyond_the_means_is_countered_or_declined(client: Client, store: EmbeddedStore) -> None:
    subject = _subject(store, changes={"applicant_file": {"verified_monthly_income": 2500.0}})
    request = consumer(subject, amount=50_000, term_months=12)
    decision = client.stub.Decide(request).decision

    check_decision(decision, request)
    assert decision.verdict == pb.VERDICT_COUNTER_OFFER, decision
    assert _money(decision.offer.amount) < 50_000 or decision.offer.term_months != 12
    # What is left of 2,500 a month can never bear a payment above it.
    assert _money(decision.offer.monthly_payment) < 2500 - 600
    assert {r.code for r in decision.policy_reasons} & {"PL_AFFORDABILITY", "PL_AMOUNT_LIMIT"}


def test_an_applicant_nothing_is_known_of_is_never_approved(client: Client) -> None:
    for entities in (True, False):
        request = consumer(entities=entities, fields={})
        decision = client.stub.Decide(request).decision
        check_decision(decision, request)
        assert decision.verdict in (pb.VERDICT_REFER, pb.VERDICT_DECLINE)
        statuses = {s.status for s in decision.substitutions}
        assert statuses == {pb.FEATURE_STATUS_NOT_FOUND}
        by_name = {s.feature: s for s in decision.substitutions}
        assert by_name["revolving_utilization"].action == pb.SUBSTITUTION_ACTION_VERDICT
        assert "PL_BUREAU_UNKNOWN" in {r.code for r in decision.policy_reasons}


def test_a_default_for_no_history_stands_in_only_for_an_entity_that_was_named(client: Client) -> None:
    named = client.stub.Decide(consumer(entities=True)).decision
    unnamed = client.stub.Decide(consumer(entities=False)).decision
    name = "device_applications_count_1h"
    here = next(s for s in named.substitutions if s.feature == name)
    there = next(s for s in unnamed.substitutions if s.feature == name)
    assert (here.action, here.value_used) == (pb.SUBSTITUTION_ACTION_DEFAULT, 0.0)
    assert there.action == pb.SUBSTITUTION_ACTION_MISSING
    assert not there.HasField("value_used")


def test_a_null_is_not_the_same_as_no_row(client: Client, store: EmbeddedStore) -> None:
    subject = _subject(store, changes={"credit_file": {"revolving_utilization": None}})
    decision = client.stub.Decide(consumer(subject)).decision
    statuses = {s.feature: s.status for s in decision.substitutions}
    assert statuses == {"revolving_utilization": pb.FEATURE_STATUS_NULL}
    assert decision.verdict == pb.VERDICT_REFER
    assert [r.code for r in decision.policy_reasons] == ["PL_BUREAU_UNKNOWN"]


def test_a_stale_row_is_stale_with_its_age_and_refers(client: Client, store: EmbeddedStore) -> None:
    subject = _subject(store, age_days={"credit_file": 46.0})
    request = consumer(subject)
    decision = client.stub.Decide(request).decision
    check_decision(decision, request)
    by_name = {s.feature: s for s in decision.substitutions}
    assert set(GOOD["credit_file"]) >= set(by_name)
    assert {s.status for s in by_name.values()} == {pb.FEATURE_STATUS_STALE}
    age = by_name["revolving_utilization"].age.ToTimedelta().total_seconds() / 86_400
    assert age == pytest.approx(46.0, abs=0.01)
    assert decision.verdict == pb.VERDICT_REFER


def test_a_row_is_fresh_until_the_last_moment(client: Client, store: EmbeddedStore) -> None:
    subject = _subject(store, age_days={"credit_file": 44.99})
    assert client.stub.Decide(consumer(subject)).decision.verdict == pb.VERDICT_APPROVE


@pytest.mark.parametrize("view", ["credit_file", "applicant_file", "device_velocity", "ip_profile"])
def test_bytes_that_do_not_decode_are_unavailable(client: Client, store: EmbeddedStore, view: str) -> None:
    subject = new_id("corrupt")
    ids = all_ids(subject)
    load_rows(store, ids, {view: None})
    from engine.features.store import row_key

    entity = entity_of(view)
    moment = now_us()
    junk = b"\xff" * 16 + moment.to_bytes(8, "little", signed=True) + b"\x00" * 40
    store.write([(row_key(entity, ids[entity], view), junk, moment)])

    request = consumer(subject)
    decision = client.stub.Decide(request).decision
    check_decision(decision, request)
    broken = {s.feature for s in decision.substitutions if s.status == pb.FEATURE_STATUS_UNAVAILABLE}
    assert broken
    assert broken <= set(GOOD[view]) | {"monthly_income"}
    if view in ("credit_file", "applicant_file", "device_velocity"):
        assert decision.verdict == pb.VERDICT_REFER


def test_values_out_of_range_in_the_store_are_not_believed(client: Client, store: EmbeddedStore) -> None:
    subject = _subject(store, changes={"applicant_file": {"age_years": 999}})
    decision = client.stub.Decide(consumer(subject)).decision
    assert {s.feature: s.status for s in decision.substitutions} == {"age_years": pb.FEATURE_STATUS_UNAVAILABLE}
    assert decision.verdict == pb.VERDICT_REFER


@pytest.mark.parametrize("language", ["en", "zh"])
def test_texts_come_in_the_language_asked_for(client: Client, store: EmbeddedStore, language: str) -> None:
    subject = _subject(store, changes={"credit_file": {"bankruptcy_open": True}})
    request = consumer(subject, language=language)
    decision = client.stub.Decide(request).decision
    check_decision(decision, request)
    text = decision.policy_reasons[0].text
    assert any("\u4e00" <= c <= "\u9fff" for c in text) == (language == "zh")


def test_the_trace_context_of_the_caller_is_honoured(client: Client) -> None:
    trace_id = "4bf92f3577b34da6a3ce929d0e0e4736"
    header = (("traceparent", f"00-{trace_id}-00f067aa0ba902b7-01"),)
    assert client.stub.Decide(consumer(), metadata=header).decision.trace_id == trace_id


@pytest.mark.parametrize(
    "header",
    [
        "",
        "nonsense",
        "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
        "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
        "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
    ],
)
def test_a_trace_context_that_is_none_gives_a_new_trace(client: Client, header: str) -> None:
    trace_id = client.stub.Decide(consumer(), metadata=(("traceparent", header),)).decision.trace_id
    assert re.fullmatch("[0-9a-f]{32}", trace_id)
    assert trace_id not in ("0" * 32, "4bf92f3577b34da6a3ce929d0e0e4736")


def test_the_same_facts_give_the_same_decision_bit_for_bit(client: Client, store: EmbeddedStore) -> None:
    subject = _subject(store, changes={"credit_file": {"revolving_utilization": 0.731, "past_due_30_59_count": 1}})
    answers = []
    for _ in range(5):
        decision = client.stub.Decide(consumer(subject)).decision
        for field in ("decision_id", "request_id", "stage_times", "trace_id", "decided_at"):
            decision.ClearField(field)
        answers.append(decision.SerializeToString(deterministic=True))
    assert len(set(answers)) == 1
