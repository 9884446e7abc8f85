"""What is said of a policy that must not go into service."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from engine.errors import Problem
from engine.policy import ROLES, compile_policy
from tests.unit.policy.policy_documents import content
from tests.unit.policy.policy_flows import FLOW_TERMS, SLOTS, codes, compiled, documents

Change = Callable[[dict[str, Any]], None]


def said(problems: list[Problem]) -> str:
    assert problems
    assert all(p.file and p.message and p.fix for p in problems)
    return "\n".join(map(str, problems))


def rule(table: dict[str, Any], rule_id: str) -> dict[str, str]:
    found: dict[str, str] = next(r for r in table["rules"] if r["_id"] == rule_id)
    return found


def setting(rule_id: str, key: str, value: str) -> Change:
    return lambda table: rule(table, rule_id).update({key: value})


def dropping(rule_id: str) -> Change:
    return lambda table: table["rules"].remove(rule(table, rule_id))


def renaming(kind: str, old: str, new: str) -> Change:
    def change(table: dict[str, Any]) -> None:
        next(c for c in table[kind] if c["field"] == old)["field"] = new

    return change


@pytest.mark.parametrize(
    ("role", "change", "words"),
    [
        ("knock_outs", setting("ko-bankruptcy", "out_verdict", '"PASS"'), "Write 'REFER' or 'DECLINE'"),
        ("knock_outs", setting("ko-bankruptcy", "out_reason", ""), "a reason code in quotes"),
        ("knock_outs", setting("ko-bankruptcy", "out_reason", '"PL_NOBODY_KNOWS"'), "PL_NOBODY_KNOWS is not in"),
        ("knock_outs", dropping("ko-bankruptcy-unknown"), "bankruptcy_open can be unknown (null), and no rule says"),
        ("knock_outs", lambda t: t.update(hitPolicy="first"), "Choose `collect`"),
        ("knock_outs", setting("ko-age-under", "in_age_years", "< 0"), "can never fire"),
        ("fraud_gate", dropping("fg-pass"), "fraud.probability = 0, application.amount = 500"),
        ("fraud_gate", dropping("fg-unknown"), "fraud.probability = null, application.amount = 500"),
        ("fraud_gate", setting("fg-review", "out_reason", ""), "asks for REFER without a reason"),
        ("fraud_gate", setting("fg-high", "out_verdict", '"MAYBE"'), "Write 'PASS', 'REFER' or 'DECLINE'"),
        ("fraud_gate", lambda t: t.update(hitPolicy="collect"), "Choose `first`"),
        ("cut_offs", setting("co-c", "in_credit_points", "[641..680)"), "credit.points = 640"),
        ("cut_offs", setting("co-b", "in_credit_points", "(680..720)"), "credit.points = 680"),
        ("cut_offs", setting("co-b", "in_credit_points", ">= 730"), "rule co-b: can never fire: rule co-a above it"),
        ("cut_offs", setting("co-b", "out_band", ""), "passes without a band"),
        ("cut_offs", setting("co-b", "out_band", "3"), "a band in quotes"),
        ("limit", setting("li-a", "in_credit_band", "'Z'"), "names 'Z', which credit.band never is"),
        ("limit", dropping("li-d"), "credit.band = 'D'"),
        ("limit", setting("li-a", "out_amount_max", '"much"'), "an amount in major units"),
        ("limit", setting("li-a", "out_payment_to_income_max_percent", "140"), "percent from 0 to 100"),
        ("limit", setting("li-a", "out_existing_debt", '"forget"'), "'deduct' or 'ignore'"),
        ("price", setting("pr-d-middle", "in_offer_term_months", "(12..24]"), "offer.term_months = 36"),
        ("price", setting("pr-b-long", "out_fee_percent", "null"), "gives only one of rate and fee"),
        ("price", setting("pr-b-long", "out_fee_percent", "1.00005"), "more than four decimals"),
        ("price", setting("pr-b-long", "out_annual_rate_percent", "-1"), "percent a year"),
        ("price", renaming("inputs", "offer.amount", "application.amount"), "Use offer.amount"),
        ("price", renaming("outputs", "fee_percent", "fee"), "the output fee_percent is missing"),
        ("price", renaming("outputs", "fee_percent", "fee"), "price has no output fee"),
        ("price", setting("pr-a-large", "in_offer_amount", "$ >= 20000"), "offer.amount is beyond comparisons"),
        ("fraud_gate", renaming("inputs", "application.amount", "offer.amount"), "fraud_gate cannot read offer.amount"),
    ],
)
def test_a_flaw_is_found_with_its_place(role: str, change: Change, words: str) -> None:
    tables = documents("consumer")
    change(content(tables[role]))  # type: ignore[index]
    made, problems = compile_policy(
        tables,
        files={r: f"policy/consumer_{r}.json" for r in ROLES},
        slots=SLOTS["consumer"],
        flow_terms=FLOW_TERMS["consumer"],
        reason_codes=codes(documents("consumer")),
    )
    assert made is None
    text = said(problems)
    assert words in text
    assert f"policy/consumer_{role}.json" in text


def test_a_gate_may_not_pass_what_it_does_not_know() -> None:
    tables = documents("consumer")
    table = content(tables["fraud_gate"])
    rule(table, "fg-unknown")["in_fraud_probability"] = "> 0.9"
    rule(table, "fg-pass")["in_fraud_probability"] = ""
    made, problems = compiled("consumer", tables)
    assert made is None
    assert "rule fg-pass: passes when fraud.probability is unknown (null)" in said(problems)


def test_a_gate_may_pass_the_unknown_by_name() -> None:
    tables = documents("consumer")
    table = content(tables["fraud_gate"])
    columns = ("in_device_applications_count_24h", "in_agent_applications_count_24h")
    table["inputs"] = [column for column in table["inputs"] if column["id"] not in columns]
    table["rules"] = [one for one in table["rules"] if one["in_agent_applications_count_24h"] in ("", "!= null")]
    table["rules"] = [one for one in table["rules"] if one["_id"] != "fg-pass-branch"]
    for one in table["rules"]:
        for column in columns:
            del one[column]
    rule(table, "fg-unknown").update({"out_verdict": '"PASS"', "out_reason": ""})
    assert compiled("consumer", tables)[1] == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"amount_min_minor": 0}, "Give 0 < least"),
        ({"amount_step_minor": 0}, "0 < step"),
        ({"amount_min_minor": 3_000}, "too small for the longest term"),
        ({"terms_months": ()}, "terms on offer are missing"),
        ({"income_slot": None}, "tests payments against income"),
        ({"income_slot": "employment_status"}, "'employment_status' is no number"),
        ({"existing_payments_slot": None}, "deducts existing debts"),
        ({"legal_cap_percent": None}, "no legal cap applies to the rules pr-a-large"),
        ({"legal_cap_percent": -1.0}, "the cap is -1.0"),
    ],
)
def test_terms_of_the_flow_are_checked(changes: dict[str, Any], words: str) -> None:
    made, problems = compiled("consumer", **changes)
    assert made is None
    assert words in said(problems)
    assert "flows/consumer.yaml" in said(problems)


def test_missing_tables_and_codes_are_named() -> None:
    tables = documents("sme")
    del tables["price"], tables["cut_offs"]
    made, problems = compile_policy(tables, files={}, slots=SLOTS["sme"], flow_terms=FLOW_TERMS["sme"], reason_codes=())
    assert made is None
    text = said(problems)
    for words in ("no table price", "no table cut_offs", "PL_NO_RULE is not in", "PL_LARGE_LOAN is not in"):
        assert words in text


def test_a_flow_with_a_fraud_model_must_have_a_fraud_gate() -> None:
    tables = documents("consumer")
    del tables["fraud_gate"]
    made, problems = compiled("consumer", tables)
    assert made is None
    assert "no table fraud_gate" in said(problems)


def test_slots_of_the_policy_cannot_be_features() -> None:
    slots = SLOTS["consumer"] | {"credit.band": replace(SLOTS["consumer"]["age_years"], index=14)}
    tables = documents("consumer")
    made, problems = compile_policy(
        tables, files={}, slots=slots, flow_terms=FLOW_TERMS["consumer"], reason_codes=codes(tables)
    )
    assert made is None
    assert "credit.band is written by the policy itself" in said(problems)


def test_mistakes_of_all_tables_come_at_once() -> None:
    tables = documents("consumer")
    content(tables["knock_outs"])["rules"][0]["in_age_years"] = "-"
    content(tables["fraud_gate"])["rules"][0]["out_reason"] = '"PL_NOBODY"'
    content(tables["limit"])["hitPolicy"] = "rarely"
    content(tables["price"])["rules"].pop()
    _, problems = compile_policy(
        tables,
        files={r: f"policy/consumer_{r}.json" for r in ROLES},
        slots=SLOTS["consumer"],
        flow_terms=FLOW_TERMS["consumer"],
        reason_codes=codes(documents("consumer")),
    )
    assert {p.file.removeprefix("policy/consumer_").removesuffix(".json") for p in problems} == {
        "knock_outs",
        "fraud_gate",
        "limit",
        "price",
    }


def test_a_cap_may_come_from_the_price_table() -> None:
    tables = documents("consumer")
    table = content(tables["price"])
    table["outputs"].append({"id": "out_cap", "name": "Legal cap", "field": "legal_cap_percent"})
    for row in table["rules"]:
        row["out_cap"] = "25"
    made, problems = compiled("consumer", tables, legal_cap_percent=None)
    assert made is not None, problems
    assert {price.cap_percent for price, _ in made.prices.rows if price is not None} == {25.0}
    both, _ = compiled("consumer", tables, legal_cap_percent=20.0)
    assert both is not None
    assert {price.cap_percent for price, _ in both.prices.rows if price is not None} == {20.0}


def test_a_table_beyond_the_subset_still_serves_and_says_so() -> None:
    tables = documents("consumer")
    rule(content(tables["knock_outs"]), "ko-unemployed-large")["in_employment_status"] = "startsWith($, 'unemp')"
    made, problems = compiled("consumer", tables)
    assert made is not None, problems
    assert [note.file for note in made.notes] == ["policy/consumer_knock_outs.json"]
    assert "startsWith" in made.notes[0].message
