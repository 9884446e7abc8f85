"""The policies that ship: complete, within the law they state, and safe whatever is unknown."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

import pytest
import zen
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.domain.enums import Verdict
from engine.domain.outcome import Terms
from engine.policy import Policy
from engine.policy.counter_offer import quote
from engine.policy.offer import payment_minor
from tests.unit.policy.policy_documents import content
from tests.unit.policy.policy_flows import FLOW_TERMS, SLOTS, TABLES, decide, policy, reasons, vector

POLICIES = {flow: policy(flow) for flow in SLOTS}
FLOWS = pytest.mark.parametrize("flow", list(SLOTS))


@FLOWS
def test_every_table_is_compiled(flow: str) -> None:
    made = POLICIES[flow]
    assert made.notes == ()
    assert all(table.compiled for table in made.tables.values())


@pytest.mark.parametrize(("flow", "role"), [(flow, role) for flow in SLOTS for role in POLICIES[flow].tables])
def test_a_table_is_as_the_editor_saves_it(flow: str, role: str) -> None:
    text = (TABLES / f"{flow}_{role}.json").read_text("utf-8")
    document = json.loads(text)
    assert text == json.dumps(document, indent=2, ensure_ascii=False) + "\n"
    assert document["contentType"] == "application/vnd.gorules.decision"
    spots = [node["position"]["x"] for node in document["nodes"]]
    assert spots == sorted(set(spots))
    table = content(document)
    assert all(rule["_id"] and "_description" in rule for rule in table["rules"])
    zen.ZenEngine().create_decision(text).validate()


def test_the_consumer_flow_carries_about_forty_rules() -> None:
    assert 40 <= sum(len(t.rows) for t in POLICIES["consumer"].tables.values()) <= 50


@FLOWS
def test_every_price_is_within_the_cap_at_every_amount_and_term(flow: str) -> None:
    made, terms = POLICIES[flow], FLOW_TERMS[flow]
    seen = set()
    for band in made.slots["credit.band"].allowed:
        for term in terms.terms_months:
            for amount in {a for piece in made.search.pieces for a in piece}:  # type: ignore[union-attr]
                work = [*vector(flow, Terms(amount, term)), band, amount / 100, float(term)]
                ((price, rule),) = made.prices.evaluate(work)
                seen.add(rule.rule)
                if price is not None:
                    assert quote(amount, term, price).annual_cost_percent <= 36.0, (band, term, amount)
    assert seen == {row.rule for row in made.tables["price"].rows}


@FLOWS
def test_a_better_band_never_pays_more(flow: str) -> None:
    made, terms = POLICIES[flow], FLOW_TERMS[flow]
    for term in terms.terms_months:
        for amount in {a for piece in made.search.pieces for a in piece}:  # type: ignore[union-attr]
            costs = []
            for band in made.slots["credit.band"].allowed:
                work = [*vector(flow, Terms(amount, term)), band, amount / 100, float(term)]
                ((price, _),) = made.prices.evaluate(work)
                costs.append(float("inf") if price is None else quote(amount, term, price).annual_cost_percent)
            assert costs == sorted(costs)


_consumer = st.fixed_dictionaries(
    {
        "credit__points": st.one_of(st.none(), st.integers(540, 780).map(float)),
        "fraud__probability": st.one_of(st.none(), st.sampled_from([0.01, 0.01, 0.01, 0.1, 0.3, 0.8])),
        "age_years": st.sampled_from([None, 17.0, 18.0, 44.0, 44.0, 44.0]),
        "monthly_income": st.one_of(st.none(), st.integers(500, 12_000).map(float)),
        "debt_ratio": st.sampled_from([None, 0.1, 0.1, 0.4, 0.7]),
        "past_due_90_count": st.sampled_from([None, 0.0, 0.0, 0.0, 1.0, 4.0]),
        "past_due_60_89_count": st.sampled_from([None, 0.0, 0.0, 0.0, 2.0, 4.0]),
        "bankruptcy_open": st.sampled_from([None, False, False, False, True]),
        "employment_status": st.sampled_from([None, "employed", "employed", "student", "unemployed", "retired"]),
        "existing_monthly_payments": st.one_of(st.none(), st.integers(0, 3_000).map(float)),
    }
)
_request = st.builds(
    Terms,
    st.integers(10, 1000).map(lambda n: n * 5_000),
    st.sampled_from(FLOW_TERMS["consumer"].terms_months),
)
_READ = {
    "credit__points",
    "fraud__probability",
    "age_years",
    "monthly_income",
    "debt_ratio",
    "past_due_90_count",
    "past_due_60_89_count",
    "bankruptcy_open",
    "employment_status",
    "existing_monthly_payments",
}


@settings(max_examples=500, deadline=None)
@given(_consumer, _request)
def test_an_offer_is_always_within_limit_affordability_and_cap(values: dict[str, object], request: Terms) -> None:
    made = POLICIES["consumer"]
    outcome = made.decide(vector("consumer", request, **values), request, ())
    if any(values[name] is None for name in _READ):
        assert outcome.verdict in (Verdict.REFER, Verdict.DECLINE)
    if outcome.offer is None:
        assert outcome.verdict in (Verdict.REFER, Verdict.DECLINE)
        assert outcome.deciding
        return
    offer = outcome.offer
    terms = FLOW_TERMS["consumer"]
    fired = {r.table: json.loads(r.outputs_json) for r in outcome.rules}
    limit = fired["consumer_limit"]
    income, debts = values["monthly_income"], values["existing_monthly_payments"]
    assert isinstance(income, float)
    assert isinstance(debts, float)
    payment_max = income * limit["payment_to_income_max_percent"] / 100 - debts
    assert offer.monthly_payment_minor <= payment_max * 100 + 1e-6
    assert offer.amount_minor <= limit["amount_max"] * 100
    assert offer.annual_cost_percent <= 36.0
    assert offer.term_months in terms.terms_months
    assert terms.amount_min_minor <= offer.amount_minor <= request.amount_minor
    assert offer.monthly_payment_minor == payment_minor(
        offer.amount_minor, offer.term_months, offer.annual_rate_percent
    )
    as_asked = (offer.amount_minor, offer.term_months) == (request.amount_minor, request.term_months)
    assert outcome.verdict is (Verdict.APPROVE if as_asked else Verdict.COUNTER_OFFER)
    if outcome.verdict is Verdict.COUNTER_OFFER:
        # Who asks for the counter-offer's own terms gets them.
        again = Terms(offer.amount_minor, offer.term_months)
        accepted = made.decide(vector("consumer", again, **values), again, ())
        assert accepted.verdict is Verdict.APPROVE
        assert accepted.offer == offer


@pytest.mark.parametrize(
    ("flow", "name"),
    [("consumer", n) for n in sorted(_READ)]
    + [("sme", n) for n in ("credit__points", "new_business", "employees_count",
                            "annual_revenue", "monthly_free_cash_flow")],
)  # fmt: skip
def test_each_unknown_value_by_itself_refers(flow: str, name: str) -> None:
    amount, term = (12_000, 36) if flow == "consumer" else (100_000, 60)
    assert decide(POLICIES[flow], flow, amount, term).verdict is Verdict.APPROVE
    outcome = decide(POLICIES[flow], flow, amount, term, **{name: None})
    assert outcome.verdict is Verdict.REFER
    assert reasons(outcome)


def test_one_policy_serves_many_threads() -> None:
    made: Policy = POLICIES["consumer"]
    requests = [Terms(50_000 + 5_000 * (n % 900), (6, 12, 24, 36, 48, 60)[n % 6]) for n in range(400)]

    def run(request: Terms) -> object:
        return made.decide(vector("consumer", request, monthly_income=2_500.0), request, ())

    alone = [run(request) for request in requests]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(run, requests)) == alone
