"""Compiles the tables of one flow into its policy, and says all that is wrong with them."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import Any

from engine.domain.enums import Component, Verdict
from engine.domain.outcome import RuleFired
from engine.errors import Problem
from engine.policy.counter_offer import Search, amount_pieces
from engine.policy.judge import Ask, Gate, Limit, Limits, Policy, Prices, refer
from engine.policy.offer import Price
from engine.policy.roles import DECLINE, DEDUCT, NO_RULE, OPTIONAL, OWN_REASONS, REFER, ROLES, Role, check_role
from engine.policy.slots import BAND, OFFER_AMOUNT, OFFER_TERM, FlowTerms, SlotSpec, policy_slots
from engine.policy.tables import DecisionTable, TableRow, compile_table

__all__ = ["Policy", "Role", "compile_policy"]

_RANKS = {REFER: 2, DECLINE: 3}
_ASKED = {REFER: Verdict.REFER, DECLINE: Verdict.DECLINE}


def compile_policy(
    tables: Mapping[Role, Mapping[str, Any]],
    *,
    files: Mapping[str, str],
    slots: Mapping[str, SlotSpec],
    flow_terms: FlowTerms,
    reason_codes: Collection[str],
    fraud_model: bool = True,
) -> tuple[Policy | None, list[Problem]]:
    """Compile the tables of a flow.

    tables: JDM documents by role (knock_outs may be left out); files: their files by role, and by "flow" the file of
    the flow's settings; slots: the flow's policy vector; reason_codes: every code of the catalogue; fraud_model:
    whether the flow has one, and so must have a fraud gate. Gives the policy, or None and every problem found.
    """
    flow_file = files.get("flow", "flow")
    problems = _terms_problems(flow_file, flow_terms, slots)
    problems += [
        Problem(flow_file, "policy", f"the policy has no table {role}", "Add it: only knock_outs may be left out")
        for role in ROLES
        if role not in tables and role not in OPTIONAL and (fraud_model or role != "fraud_gate")
    ]
    problems += [
        Problem(flow_file, "policy", f"the reason code {code} is not in the catalogue", "Add it: the policy gives it")
        for code in OWN_REASONS
        if code not in reason_codes
    ]
    compiled: dict[Role, DecisionTable] = {}
    bands: tuple[str, ...] = ()
    # The cut-offs come first: the bands that they give are the domain of limit and price.
    for role in sorted(ROLES, key=lambda r: r != "cut_offs"):
        if role not in tables:
            continue
        own = policy_slots(slots, flow_terms, bands)
        table, found = compile_table(tables[role], file=files.get(role, role), slots=own)
        problems += found
        if table is None:
            continue
        compiled[role] = table
        if role == "cut_offs":
            bands = tuple(sorted(str(band) for band in table.constants("band")))
        if bands or role not in ("limit", "price"):
            problems += check_role(role, table, reason_codes)
    problems += _needs(flow_file, compiled, flow_terms)
    if problems:
        return None, problems
    return _assemble(compiled, policy_slots(slots, flow_terms, bands), flow_terms, slots), []


def _terms_problems(file: str, terms: FlowTerms, slots: Mapping[str, SlotSpec]) -> list[Problem]:
    problems: list[Problem] = []

    def say(place: str, message: str, fix: str) -> None:
        problems.append(Problem(file, place, message, fix))

    if not 0 < terms.amount_min_minor <= terms.amount_max_minor or terms.amount_step_minor <= 0:
        say("amount", "the least, greatest and step of the amount do not fit", "Give 0 < least <= greatest, 0 < step")
    if not terms.terms_months or any(t < 1 for t in terms.terms_months):
        say("terms_months", "the terms on offer are missing or below one month", "List whole months")
    elif terms.amount_min_minor < max(terms.terms_months) ** 2:
        say(
            "amount",
            "the least amount is too small for the longest term: its payments would be rounding",
            f"Lend at least {max(terms.terms_months) ** 2} minor units, or shorten the term",
        )
    if terms.legal_cap_percent is not None and not 0 <= terms.legal_cap_percent <= 1000:
        say("legal_cap_percent", f"the cap is {terms.legal_cap_percent}", "Write percent a year from 0 to 1000")
    for key in ("income_slot", "existing_payments_slot", "debt_ratio_slot"):
        name = getattr(terms, key)
        if name is not None and (name not in slots or slots[name].kind != "number"):
            say(key, f"{name!r} is no number of this flow", "Name a number that the flow's policy can read")
    for name in (BAND, OFFER_AMOUNT, OFFER_TERM):
        if name in slots:
            say("policy", f"{name} is written by the policy itself", "Rename the feature")
    return problems


def _needs(file: str, tables: Mapping[Role, DecisionTable], terms: FlowTerms) -> list[Problem]:
    """What the rows of limit and price need of the flow's settings."""
    problems: list[Problem] = []
    limit, price = tables.get("limit"), tables.get("price")
    tested = [r for r in limit.rows if r.outputs.get("payment_to_income_max_percent") is not None] if limit else []
    if tested and terms.income_slot is None:
        fix = "Name the slot that holds monthly income"
        problems.append(Problem(file, "income_slot", "the limit table tests payments against income", fix))
    if any(r.outputs.get("existing_debt") == DEDUCT for r in tested) and not (
        terms.existing_payments_slot or terms.debt_ratio_slot
    ):
        fix = "Name existing_payments_slot or debt_ratio_slot, or write 'ignore'"
        problems.append(Problem(file, "existing_payments_slot", "the limit table deducts existing debts", fix))
    if price and terms.legal_cap_percent is None:
        uncapped = [
            row.rule
            for row in price.rows
            if row.outputs.get("annual_rate_percent") is not None and row.outputs.get("legal_cap_percent") is None
        ]
        if uncapped:
            message = f"no legal cap applies to the rules {', '.join(uncapped[:5])} of the price table"
            fix = "Set the flow's legal_cap_percent, or give the rules one"
            problems.append(Problem(file, "legal_cap_percent", message, fix))
    return problems


def _assemble(
    tables: Mapping[Role, DecisionTable],
    own: Mapping[str, SlotSpec],
    terms: FlowTerms,
    slots: Mapping[str, SlotSpec],
) -> Policy:
    limit, price = tables["limit"], tables["price"]
    bounds = [
        bound
        for n, column in enumerate(price.parsed.columns)
        if column.field == OFFER_AMOUNT
        for cell in {row.cells[n] for row in price.parsed.rows}
        for bound in (cell.bounds() if cell is not None else ())
    ]

    def index(name: str | None) -> int:
        return -1 if name is None else slots[name].index

    priced = tuple((_price(row, terms), _fired(row, None)) for row in price.rows)
    return Policy(
        tables=MappingProxyType(dict(tables)),
        slots=own,
        size=own[BAND].index,
        minor_per_major=terms.minor_per_major,
        knock_outs=_gate(tables["knock_outs"], Component.POLICY) if "knock_outs" in tables else None,
        fraud_gate=_gate(tables["fraud_gate"], Component.FRAUD) if "fraud_gate" in tables else None,
        cut_offs=_gate(tables["cut_offs"], Component.CREDIT),
        limits=Limits(
            limit.giving([_limit(row, terms) for row in limit.rows]),
            refer(limit.name, "none", NO_RULE),
            index(terms.income_slot),
            index(terms.existing_payments_slot),
            index(terms.debt_ratio_slot),
        ),
        prices=Prices(
            price.giving(priced),
            priced,
            refer(price.name, "none", NO_RULE),
        ),
        search=Search(terms, amount_pieces(terms, bounds)) if terms.counter_offers else None,
        notes=tuple(Problem(t.parsed.file, t.parsed.place, t.note, "") for t in tables.values() if t.note),
    )


def _gate(table: DecisionTable, component: Component) -> Gate:
    asks = []
    for row in table.rows:
        verdict, band = str(row.outputs["verdict"]), row.outputs.get("band")
        asks.append(
            Ask(
                _RANKS.get(verdict, 0),
                component,
                _fired(row, _ASKED.get(verdict)),
                None if band is None else str(band),
            )
        )
    return Gate(table.giving(asks), refer(table.name, "none", NO_RULE))


def _limit(row: TableRow, terms: FlowTerms) -> Limit:
    share, amount = row.outputs["payment_to_income_max_percent"], row.outputs["amount_max"]
    assert isinstance(amount, float)
    return Limit(
        amount_max_minor=round(amount * terms.minor_per_major),
        income_share=math.inf if share is None else float(share) / 100.0,
        deduct_debts=row.outputs["existing_debt"] == DEDUCT,
        rule=_fired(row, None),
    )


def _price(row: TableRow, terms: FlowTerms) -> Price | None:
    rate, fee = row.outputs["annual_rate_percent"], row.outputs["fee_percent"]
    if not isinstance(rate, float) or not isinstance(fee, float):
        return None
    caps = [c for c in (terms.legal_cap_percent, row.outputs.get("legal_cap_percent")) if c is not None]
    return Price(rate, round(fee * 10_000), min(float(c) for c in caps))


def _fired(row: TableRow, verdict: Verdict | None) -> RuleFired:
    return RuleFired(row.table, row.rule, verdict, str(row.outputs.get("reason") or ""), row.outputs_json)
