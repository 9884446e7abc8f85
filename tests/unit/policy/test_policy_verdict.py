"""How a verdict comes about: precedence, unknowns, tests of the terms, what is recorded."""

from __future__ import annotations

import json

import pytest

from engine.domain.enums import Component, Verdict
from engine.domain.outcome import DegradedVerdict, Terms
from engine.policy import Policy
from tests.unit.policy.policy_documents import content
from tests.unit.policy.policy_flows import decide, documents, policy, reasons, vector


@pytest.fixture(scope="module")
def consumer() -> Policy:
    return policy("consumer")


@pytest.fixture(scope="module")
def sme() -> Policy:
    return policy("sme")


def test_a_good_application_is_approved_with_its_price(consumer: Policy) -> None:
    outcome = decide(consumer, "consumer", 12_000, 36)
    assert outcome.verdict is Verdict.APPROVE
    assert outcome.deciding == ()
    assert outcome.offer is not None
    assert (outcome.offer.amount_minor, outcome.offer.term_months) == (1_200_000, 36)
    assert (outcome.offer.annual_rate_percent, outcome.offer.fee_minor) == (12.9, 12_000)
    assert [(r.table, r.rule) for r in outcome.rules] == [
        ("consumer_fraud_gate", "fg-pass"),
        ("consumer_cut_offs", "co-b"),
        ("consumer_limit", "li-b"),
        ("consumer_price", "pr-b-long"),
    ]
    assert all(r.verdict is None and r.reason == "" for r in outcome.rules)


@pytest.mark.parametrize(
    ("changes", "verdict", "codes", "deciding"),
    [
        ({"bankruptcy_open": True}, Verdict.DECLINE, ["PL_BANKRUPTCY_OPEN"], [Component.POLICY]),
        ({"age_years": 17.0}, Verdict.DECLINE, ["PL_UNDER_AGE"], [Component.POLICY]),
        ({"credit__points": 559.0}, Verdict.DECLINE, ["PL_SCORE_LOW"], [Component.CREDIT]),
        ({"credit__points": 599.0}, Verdict.DECLINE, ["PL_SCORE_LOW"], [Component.CREDIT]),
        ({"fraud__probability": 0.4}, Verdict.DECLINE, ["PL_FRAUD_HIGH"], [Component.FRAUD]),
        ({"fraud__probability": 0.3}, Verdict.REFER, ["PL_FRAUD_REVIEW"], [Component.FRAUD]),
        ({"credit__points": None}, Verdict.REFER, ["PL_SCORE_UNKNOWN"], [Component.CREDIT]),
        ({"fraud__probability": None}, Verdict.REFER, ["PL_FRAUD_UNKNOWN"], [Component.FRAUD]),
        ({"bankruptcy_open": None}, Verdict.REFER, ["PL_BUREAU_UNKNOWN"], [Component.POLICY]),
        # The gravest verdict wins, and every reason is kept.
        (
            {"credit__points": 500.0, "fraud__probability": 0.3, "age_years": None},
            Verdict.DECLINE,
            ["PL_AGE_UNKNOWN", "PL_FRAUD_REVIEW", "PL_SCORE_LOW"],
            [Component.CREDIT],
        ),
        (
            {"credit__points": 500.0, "fraud__probability": 0.9, "bankruptcy_open": True},
            Verdict.DECLINE,
            ["PL_BANKRUPTCY_OPEN", "PL_FRAUD_HIGH", "PL_SCORE_LOW"],
            [Component.CREDIT, Component.FRAUD, Component.POLICY],
        ),
        (
            {"fraud__probability": None, "employment_status": None},
            Verdict.REFER,
            ["PL_EMPLOYMENT_UNKNOWN", "PL_FRAUD_UNKNOWN"],
            [Component.FRAUD, Component.POLICY],
        ),
    ],
)
def test_the_gravest_verdict_wins(
    consumer: Policy, changes: dict[str, object], verdict: Verdict, codes: list[str], deciding: list[Component]
) -> None:
    outcome = decide(consumer, "consumer", 12_000, 36, **changes)
    assert outcome.verdict is verdict
    assert reasons(outcome) == codes
    assert list(outcome.deciding) == deciding
    assert outcome.offer is None


def test_rules_behind_a_decline_are_recorded(consumer: Policy) -> None:
    outcome = decide(consumer, "consumer", 12_000, 36, bankruptcy_open=True)
    assert [r.rule for r in outcome.rules] == ["ko-bankruptcy", "fg-pass", "co-b", "li-b", "pr-b-long"]
    assert outcome.rules[0].verdict is Verdict.DECLINE
    assert json.loads(outcome.rules[0].outputs_json) == {"verdict": "DECLINE", "reason": "PL_BANKRUPTCY_OPEN"}
    assert json.loads(outcome.rules[4].outputs_json) == {"annual_rate_percent": 12.9, "fee_percent": 1.0}


def test_the_boundary_belongs_to_the_band_that_the_table_says(consumer: Policy) -> None:
    rules = {p: decide(consumer, "consumer", 5_000, 12, credit__points=p).rules[1].rule for p in (719.0, 720.0, 679.0)}
    assert rules == {719.0: "co-b", 720.0: "co-a", 679.0: "co-c"}


@pytest.mark.parametrize(("asked", "verdict"), [(Verdict.REFER, Verdict.REFER), (Verdict.DECLINE, Verdict.DECLINE)])
def test_a_degraded_verdict_counts_as_a_rule(consumer: Policy, asked: Verdict, verdict: Verdict) -> None:
    request = Terms(1_200_000, 36)
    missing = DegradedVerdict("device_risk", asked, "FR_DEVICE_UNAVAILABLE", Component.FRAUD)
    outcome = consumer.decide(vector("consumer", request), request, [missing])
    assert outcome.verdict is verdict
    assert outcome.deciding == (Component.FRAUD,)
    fired = next(r for r in outcome.rules if r.table == "degraded")
    assert (fired.rule, fired.verdict, fired.reason) == ("device_risk", asked, "FR_DEVICE_UNAVAILABLE")


def test_a_degraded_refer_does_not_soften_a_decline(consumer: Policy) -> None:
    request = Terms(1_200_000, 36)
    missing = DegradedVerdict("device_risk", Verdict.REFER, "FR_DEVICE_UNAVAILABLE", Component.FRAUD)
    outcome = consumer.decide(vector("consumer", request, credit__points=400.0), request, [missing])
    assert outcome.verdict is Verdict.DECLINE
    assert outcome.deciding == (Component.CREDIT,)


def test_not_a_number_counts_as_unknown(consumer: Policy) -> None:
    outcome = decide(consumer, "consumer", 12_000, 36, fraud__probability=float("nan"))
    assert (outcome.verdict, reasons(outcome)) == (Verdict.REFER, ["PL_FRAUD_UNKNOWN"])


def test_a_table_that_says_nothing_refers() -> None:
    """The load-time check lets no gap through, so the gap is one outside the declared range."""
    tables = documents("consumer")
    rules = content(tables["cut_offs"])["rules"]
    rules[-1]["in_credit_points"] = "[300..620)"
    made = policy("consumer", tables)
    outcome = decide(made, "consumer", 12_000, 36, credit__points=299.0)
    assert outcome.verdict is Verdict.REFER
    assert outcome.deciding == (Component.POLICY,)
    assert reasons(outcome) == ["PL_NO_RULE"]
    fired = outcome.rules[-1]
    assert (fired.table, fired.rule, fired.verdict) == ("consumer_cut_offs", "none", Verdict.REFER)


def test_income_that_is_unknown_never_approves(consumer: Policy) -> None:
    outcome = decide(consumer, "consumer", 12_000, 36, monthly_income=None)
    assert outcome.verdict is Verdict.REFER
    assert set(reasons(outcome)) == {"PL_INCOME_UNKNOWN"}


def test_affordability_itself_refers_on_unknown_income_and_debts() -> None:
    tables = documents("consumer")
    del tables["knock_outs"]
    made = policy("consumer", tables)
    assert reasons(decide(made, "consumer", 12_000, 36, monthly_income=None)) == ["PL_INCOME_UNKNOWN"]
    assert reasons(decide(made, "consumer", 12_000, 36, existing_monthly_payments=None)) == ["PL_DEBT_UNKNOWN"]
    for missing in ("monthly_income", "existing_monthly_payments"):
        assert decide(made, "consumer", 12_000, 36, **{missing: None}).verdict is Verdict.REFER


def test_a_longer_term_is_offered_where_the_payment_is_too_high(consumer: Policy) -> None:
    # 42 % of 3,000 less 900 of debts leaves 360 a month; 12,000 over 36 months takes 403.75.
    changes: dict[str, object] = {"monthly_income": 3_000.0, "existing_monthly_payments": 900.0}
    outcome = decide(consumer, "consumer", 12_000, 36, **changes)
    assert outcome.verdict is Verdict.COUNTER_OFFER
    assert outcome.deciding == (Component.POLICY,)
    assert outcome.offer is not None
    assert (outcome.offer.amount_minor, outcome.offer.term_months) == (1_200_000, 48)
    assert outcome.offer.monthly_payment_minor <= 36_000
    failed = outcome.rules[-1]
    assert (failed.table, failed.rule, failed.verdict, failed.reason) == (
        "offer",
        "affordability",
        Verdict.COUNTER_OFFER,
        "PL_AFFORDABILITY",
    )
    assert json.loads(failed.outputs_json)["payment_max_minor"] == 36_000
    assert json.loads(failed.outputs_json)["monthly_payment_minor"] == 40_375


def test_a_smaller_amount_is_offered_above_the_limit(consumer: Policy) -> None:
    outcome = decide(consumer, "consumer", 40_000, 60, monthly_income=20_000.0)
    assert outcome.verdict is Verdict.COUNTER_OFFER
    assert reasons(outcome) == ["PL_AMOUNT_LIMIT"]
    assert outcome.offer is not None
    assert (outcome.offer.amount_minor, outcome.offer.term_months) == (3_500_000, 60)


def test_terms_that_are_not_offered_are_countered(consumer: Policy) -> None:
    outcome = decide(consumer, "consumer", 9_000, 60, credit__points=650.0)
    assert outcome.verdict is Verdict.COUNTER_OFFER
    assert reasons(outcome) == ["PL_NOT_OFFERED"]
    assert outcome.offer is not None
    assert (outcome.offer.amount_minor, outcome.offer.term_months) == (900_000, 48)


def test_nothing_affordable_is_a_decline(consumer: Policy) -> None:
    outcome = decide(consumer, "consumer", 12_000, 36, existing_monthly_payments=2_099.0)
    assert outcome.verdict is Verdict.DECLINE
    assert reasons(outcome) == ["PL_AFFORDABILITY"]
    assert outcome.offer is None


def test_a_flow_may_make_no_counter_offers() -> None:
    made = policy("consumer", counter_offers=False)
    outcome = decide(made, "consumer", 40_000, 60, monthly_income=20_000.0)
    assert outcome.verdict is Verdict.DECLINE
    assert reasons(outcome) == ["PL_AMOUNT_LIMIT"]


def test_the_legal_cap_counts_the_fee_and_is_exact() -> None:
    free = decide(policy("consumer"), "consumer", 12_000, 36)
    assert free.offer is not None
    cost = free.offer.annual_cost_percent
    assert cost > 12.9
    assert decide(policy("consumer", legal_cap_percent=cost), "consumer", 12_000, 36).verdict is Verdict.APPROVE
    capped = decide(policy("consumer", legal_cap_percent=cost - 1e-9), "consumer", 12_000, 36)
    assert capped.verdict is not Verdict.APPROVE
    assert "PL_LEGAL_CAP" in reasons(capped)
    none = decide(policy("consumer", legal_cap_percent=1.0), "consumer", 12_000, 36)
    assert (none.verdict, reasons(none)) == (Verdict.DECLINE, ["PL_LEGAL_CAP"])


def test_a_refer_beats_a_counter_offer_and_keeps_both_reasons(consumer: Policy) -> None:
    outcome = decide(consumer, "consumer", 18_000, 60, monthly_income=20_000.0, credit__points=630.0)
    assert outcome.verdict is Verdict.REFER
    assert outcome.offer is None
    assert reasons(outcome)[0] == "PL_SCORE_AMOUNT"
    assert {"PL_AMOUNT_LIMIT", "PL_NOT_OFFERED"} <= set(reasons(outcome))
    assert outcome.deciding == (Component.CREDIT,)


def test_debts_may_come_as_a_ratio_of_income() -> None:
    made = policy("consumer", existing_payments_slot=None, debt_ratio_slot="debt_ratio")
    # 42 % - 30 % of 3,000 leaves 360, as 900 of payments do.
    outcome = decide(made, "consumer", 12_000, 36, monthly_income=3_000.0, debt_ratio=0.3)
    assert json.loads(outcome.rules[-1].outputs_json)["payment_max_minor"] == 36_000


def test_a_vector_of_the_wrong_length_is_refused(consumer: Policy) -> None:
    with pytest.raises(ValueError, match="holds 3 values, not 17"):
        consumer.decide([1.0, 2.0, 3.0], Terms(1_200_000, 36), ())


def test_deciding_leaves_the_vector_alone(consumer: Policy) -> None:
    request = Terms(4_000_000, 60)
    given = vector("consumer", request)
    before = list(given)
    first = consumer.decide(given, request, ())
    assert given == before
    assert consumer.decide(given, request, ()) == first


def test_a_company_with_no_free_cash_is_declined(sme: Policy) -> None:
    assert decide(sme, "sme", 100_000, 60).verdict is Verdict.APPROVE
    outcome = decide(sme, "sme", 100_000, 60, monthly_free_cash_flow=-10.0)
    assert outcome.verdict is Verdict.DECLINE
    assert reasons(outcome) == ["PL_CASH_FLOW_NEGATIVE"]
