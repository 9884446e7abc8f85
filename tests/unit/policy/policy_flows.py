"""The shipped policies as flows for tests: slots and terms as a bundle would give them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from engine.domain.outcome import PolicyOutcome, Terms
from engine.errors import Problem
from engine.policy import OWN_REASONS, ROLES, FlowTerms, Policy, Role, SlotSpec, compile_policy

TABLES = Path(__file__).parents[3] / "models" / "lending" / "policy"

_CONSUMER: dict[str, dict[str, Any]] = {
    "credit.points": {"kind": "number", "lower": 300.0, "upper": 850.0, "nullable": True},
    "credit.probability": {"kind": "number", "lower": 0.0, "upper": 1.0, "nullable": True},
    "fraud.points": {"kind": "number", "lower": 0.0, "upper": 1000.0, "nullable": True},
    "fraud.probability": {"kind": "number", "lower": 0.0, "upper": 1.0, "nullable": True},
    "application.amount": {"kind": "number", "lower": 500.0, "upper": 50_000.0},
    "application.term_months": {"kind": "number", "values": (6.0, 12.0, 24.0, 36.0, 48.0, 60.0)},
    "age_years": {"kind": "number", "lower": 0.0, "upper": 120.0, "nullable": True, "integer": True},
    "monthly_income": {"kind": "number", "lower": 0.0, "upper": 1e7, "nullable": True},
    "verified_monthly_income": {"kind": "number", "lower": 0.0, "upper": 1e7, "nullable": True},
    "debt_ratio": {"kind": "number", "lower": 0.0, "nullable": True},
    "past_due_90_count": {"kind": "number", "lower": 0.0, "upper": 99.0, "nullable": True, "integer": True},
    "past_due_60_89_count": {"kind": "number", "lower": 0.0, "upper": 99.0, "nullable": True, "integer": True},
    "bankruptcy_open": {"kind": "boolean", "nullable": True},
    "employment_status": {
        "kind": "string",
        "allowed": ("employed", "self_employed", "unemployed", "retired", "student"),
        "nullable": True,
    },
    "existing_monthly_payments": {"kind": "number", "lower": 0.0, "nullable": True},
    "device_applications_count_24h": {"kind": "number", "lower": 0.0, "nullable": True, "integer": True},
    "agent_applications_count_24h": {"kind": "number", "lower": 0.0, "nullable": True, "integer": True},
}
_SME: dict[str, dict[str, Any]] = {
    "credit.points": {"kind": "number", "lower": 300.0, "upper": 850.0, "nullable": True},
    "application.amount": {"kind": "number", "lower": 5_000.0, "upper": 500_000.0},
    "application.term_months": {"kind": "number", "values": (12.0, 24.0, 36.0, 48.0, 60.0, 84.0, 120.0)},
    "new_business": {"kind": "boolean", "nullable": True},
    "employees_count": {"kind": "number", "lower": 0.0, "nullable": True, "integer": True},
    "annual_revenue": {"kind": "number", "lower": 0.0, "nullable": True},
    "monthly_free_cash_flow": {"kind": "number", "nullable": True},
}
SLOTS = {
    "consumer": {name: SlotSpec(index, **spec) for index, (name, spec) in enumerate(_CONSUMER.items())},
    "sme": {name: SlotSpec(index, **spec) for index, (name, spec) in enumerate(_SME.items())},
}
FLOW_TERMS = {
    "consumer": FlowTerms(
        amount_min_minor=50_000,
        amount_max_minor=5_000_000,
        amount_step_minor=5_000,
        terms_months=(6, 12, 24, 36, 48, 60),
        legal_cap_percent=36.0,
        income_slot="monthly_income",
        existing_payments_slot="existing_monthly_payments",
    ),
    "sme": FlowTerms(
        amount_min_minor=500_000,
        amount_max_minor=50_000_000,
        amount_step_minor=50_000,
        terms_months=(12, 24, 36, 48, 60, 84, 120),
        legal_cap_percent=36.0,
        income_slot="monthly_free_cash_flow",
    ),
}
GOOD_CONSUMER: dict[str, object] = {
    "credit.points": 700.0,
    "credit.probability": 0.016,
    "fraud.points": 800.0,
    "fraud.probability": 0.01,
    "age_years": 41.0,
    "monthly_income": 5000.0,
    "verified_monthly_income": 5000.0,
    "debt_ratio": 0.2,
    "past_due_90_count": 0.0,
    "past_due_60_89_count": 0.0,
    "bankruptcy_open": False,
    "employment_status": "employed",
    "existing_monthly_payments": 1000.0,
    "device_applications_count_24h": 0.0,
    "agent_applications_count_24h": 3.0,
}
GOOD_SME: dict[str, object] = {
    "credit.points": 600.0,
    "new_business": False,
    "employees_count": 12.0,
    "annual_revenue": 900_000.0,
    "monthly_free_cash_flow": 9_000.0,
}


def document(flow: str, role: Role) -> dict[str, Any]:
    """One shipped table."""
    loaded: dict[str, Any] = json.loads((TABLES / f"{flow}_{role}.json").read_text("utf-8"))
    return loaded


def documents(flow: str) -> dict[Role, dict[str, Any]]:
    """The shipped tables of a flow by role."""
    return {role: document(flow, role) for role in ROLES if (TABLES / f"{flow}_{role}.json").exists()}


def codes(tables: Mapping[Role, Mapping[str, Any]]) -> set[str]:
    """Every reason code that tables name, and the policy's own."""
    found = set(OWN_REASONS)
    for table in tables.values():
        for node in table["nodes"]:
            for rule in node["content"].get("rules", ()):
                found |= {rule["out_reason"].strip("\"'")} if rule.get("out_reason") else set()
    return found


def compiled(
    flow: str, tables: Mapping[Role, Mapping[str, Any]] | None = None, **changes: Any
) -> tuple[Policy | None, list[Problem]]:
    """Compile a flow's policy, with other tables or terms where given."""
    use = documents(flow) if tables is None else tables
    return compile_policy(
        use,
        files={role: f"policy/{flow}_{role}.json" for role in ROLES} | {"flow": f"flows/{flow}.yaml"},
        slots=SLOTS[flow],
        flow_terms=replace(FLOW_TERMS[flow], **changes),
        reason_codes=codes(use),
        fraud_model="fraud.probability" in SLOTS[flow],
    )


def policy(flow: str, tables: Mapping[Role, Mapping[str, Any]] | None = None, **changes: Any) -> Policy:
    """The same where no problem is expected."""
    made, problems = compiled(flow, tables, **changes)
    assert made is not None, "\n".join(map(str, problems))
    return made


def vector(flow: str, request: Terms, **changes: object) -> list[object]:
    """The policy vector of a good applicant with some values changed; dots in names are written `__`."""
    values = dict(GOOD_CONSUMER if flow == "consumer" else GOOD_SME)
    values |= {name.replace("__", "."): value for name, value in changes.items()}
    values["application.amount"] = request.amount_minor / 100
    values["application.term_months"] = float(request.term_months)
    return [values[name] for name in SLOTS[flow]]


def decide(made: Policy, flow: str, amount: float, term: int, **changes: object) -> PolicyOutcome:
    """Decide a good applicant with some values changed; amount in major units."""
    request = Terms(round(amount * 100), term)
    return made.decide(vector(flow, request, **changes), request, ())


def reasons(outcome: PolicyOutcome) -> list[str]:
    """The reason codes of the rules that fired, in order."""
    return [rule.reason for rule in outcome.rules if rule.reason]
