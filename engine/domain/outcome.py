"""What the policy stage gives: a verdict, the rules behind it and, where money is lent, the offer."""

from __future__ import annotations

from typing import NamedTuple

from engine.domain.enums import Component, Verdict

# The table that rules about the terms themselves (limit, affordability, legal cap) are recorded under.
TERMS_TABLE = "offer"


class Terms(NamedTuple):
    """What the applicant asks for: the amount in whole minor units of the flow's currency, and the term in months."""

    amount_minor: int
    term_months: int


class DegradedVerdict(NamedTuple):
    """An outcome that the feature catalogue names for a value that could not be had: what is missing (a feature, view
    or model), the verdict asked for (REFER or DECLINE), the reason code, and the component it weighs on."""

    source: str
    verdict: Verdict
    reason: str
    component: Component


class Offer(NamedTuple):
    """Terms. Amounts are whole minor units (cents) of the flow's currency; rates are percent a year."""

    amount_minor: int
    term_months: int
    annual_rate_percent: float
    fee_minor: int
    monthly_payment_minor: int
    annual_cost_percent: float
    total_repayable_minor: int


class RuleFired(NamedTuple):
    """One rule that fired: the table's name, the rule's id, the verdict it asked for (None for rules that give a
    band, price or limit), the reason code it carries ("" for none) and its outputs as a JSON object."""

    table: str
    rule: str
    verdict: Verdict | None
    reason: str
    outputs_json: str


class PolicyOutcome(NamedTuple):
    """The policy's answer. `deciding` names the components that the verdict turns on (empty for APPROVE)."""

    verdict: Verdict
    offer: Offer | None
    rules: tuple[RuleFired, ...]
    deciding: tuple[Component, ...]
