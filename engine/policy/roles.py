"""What each table of a policy is for, which outputs it must give, and what else its role demands."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Literal

from engine.errors import Problem
from engine.policy.completeness import check_silence, check_table, check_unknowns
from engine.policy.document import Constant, ParsedTable, Row
from engine.policy.slots import AMOUNT, BAND, OFFER_AMOUNT, OFFER_TERM, TERM
from engine.policy.tables import DecisionTable

Role = Literal["knock_outs", "fraud_gate", "cut_offs", "limit", "price"]
ROLES: tuple[Role, ...] = ("knock_outs", "fraud_gate", "cut_offs", "limit", "price")
OPTIONAL: frozenset[Role] = frozenset(("knock_outs",))

PASS, REFER, DECLINE = "PASS", "REFER", "DECLINE"
DEDUCT, IGNORE = "deduct", "ignore"

# Reason codes that the policy gives by itself; a bundle's catalogue must hold them.
NO_RULE = "PL_NO_RULE"
INCOME_UNKNOWN = "PL_INCOME_UNKNOWN"
DEBT_UNKNOWN = "PL_DEBT_UNKNOWN"
NOT_OFFERED = "PL_NOT_OFFERED"
AMOUNT_LIMIT = "PL_AMOUNT_LIMIT"
AFFORDABILITY = "PL_AFFORDABILITY"
LEGAL_CAP = "PL_LEGAL_CAP"
OWN_REASONS = (NO_RULE, INCOME_UNKNOWN, DEBT_UNKNOWN, NOT_OFFERED, AMOUNT_LIMIT, AFFORDABILITY, LEGAL_CAP)


def _one_of(*words: str) -> Callable[[Constant], bool]:
    return lambda value: value in words


def _text(value: Constant) -> bool:
    return isinstance(value, str) and bool(value)


def _number(lower: float, upper: float) -> Callable[[Constant], bool]:
    return lambda v: isinstance(v, float) and lower <= v <= upper


def _or_null(check: Callable[[Constant], bool]) -> Callable[[Constant], bool]:
    return lambda value: value is None or check(value)


@dataclass(frozen=True, slots=True)
class Output:
    """One output column of a role: its check, what it must be in words, and whether the column must be there."""

    check: Callable[[Constant], bool]
    wanted: str
    needed: bool = True


_REASON = Output(_or_null(_text), "a reason code in quotes, or empty where the verdict is 'PASS'")
_GATE = Output(_one_of(PASS, REFER, DECLINE), "'PASS', 'REFER' or 'DECLINE'")
_CAP = Output(_or_null(_number(0, 1000)), "percent a year from 0 to 1000, or null", needed=False)

OUTPUTS: dict[Role, dict[str, Output]] = {
    "knock_outs": {
        "verdict": Output(_one_of(REFER, DECLINE), "'REFER' or 'DECLINE'"),
        "reason": Output(_text, "a reason code in quotes"),
    },
    "fraud_gate": {"verdict": _GATE, "reason": _REASON},
    "cut_offs": {
        "verdict": _GATE,
        "band": Output(_or_null(_text), "a band in quotes, or empty where the verdict is not 'PASS'"),
        "reason": _REASON,
    },
    "limit": {
        "amount_max": Output(_number(0, 1e12), "an amount in major units, 0 or more"),
        "payment_to_income_max_percent": Output(_or_null(_number(0, 100)), "percent from 0 to 100, or null: no test"),
        "existing_debt": Output(_one_of(DEDUCT, IGNORE), "'deduct' or 'ignore'"),
    },
    "price": {
        "annual_rate_percent": Output(_or_null(_number(0, 1000)), "percent a year up to 1000, or null: not offered"),
        "fee_percent": Output(_or_null(_number(0, 99)), "percent of the amount from 0 to 99, or null: not offered"),
        "legal_cap_percent": _CAP,
    },
}


def check_role(role: Role, table: DecisionTable, reason_codes: Collection[str]) -> list[Problem]:
    """Every way in which a table does not fit its role: hit policy, columns, outputs, reason codes, gaps, and values
    that would pass unknown."""
    parsed = table.parsed
    problems: list[Problem] = []
    if parsed.collect != (role == "knock_outs"):
        wanted = "collect" if role == "knock_outs" else "first"
        message = f"the hit policy does not suit {role}"
        problems.append(Problem(parsed.file, parsed.place, message, f"Choose `{wanted}`"))
    problems += _columns(role, parsed)
    problems += _outputs(role, parsed)
    for row in parsed.rows:
        reason = row.outputs.get("reason")
        if isinstance(reason, str) and reason and reason not in reason_codes:
            problems.append(
                Problem(
                    parsed.file,
                    parsed.place_of(row),
                    f"the reason code {reason} is not in the catalogue",
                    "Add it to reasons.yaml, or use a code that is there",
                )
            )
    problems += check_table(parsed, complete=role != "knock_outs")
    if role == "knock_outs":
        problems += check_silence(parsed)
    elif role in ("fraud_gate", "cut_offs"):
        passing = [number for number, row in enumerate(parsed.rows) if row.outputs.get("verdict") == PASS]
        problems += check_unknowns(parsed, passing)
    return problems


def _columns(role: Role, table: ParsedTable) -> list[Problem]:
    """A table may read only what is known when it runs, and the price only what it prices."""
    late = {
        "limit": {OFFER_AMOUNT: f"use {AMOUNT}", OFFER_TERM: f"use {TERM}"},
        "price": {AMOUNT: f"use {OFFER_AMOUNT}: a counter-offer is priced too", TERM: f"use {OFFER_TERM}"},
    }.get(role, {BAND: "the band comes from the cut-offs", OFFER_AMOUNT: f"use {AMOUNT}", OFFER_TERM: f"use {TERM}"})
    problems = [
        Problem(table.file, table.place, f"{role} cannot read {column.field}", late[column.field].capitalize())
        for column in table.columns
        if column.field in late
    ]
    for n, column in enumerate(table.columns):
        if role == "price" and column.field == OFFER_AMOUNT and any(row.cells[n] is None for row in table.rows):
            message = f"a cell of {OFFER_AMOUNT} is beyond comparisons and intervals"
            fix = "Write it as `< 5000` or `[5000..20000)`: counter-offers are looked for between the bounds"
            problems.append(Problem(table.file, table.place, message, fix))
    return problems


def _outputs(role: Role, table: ParsedTable) -> list[Problem]:
    known = OUTPUTS[role]
    problems = [
        Problem(table.file, table.place, f"the output {name} is missing", f"Add the column: {output.wanted}")
        for name, output in known.items()
        if output.needed and name not in table.outputs
    ]
    problems += [
        Problem(table.file, table.place, f"{role} has no output {name}", f"Use {', '.join(known)}")
        for name in table.outputs
        if name not in known
    ]
    for row in table.rows:
        for name, value in row.outputs.items():
            if name in known and not known[name].check(value):
                message = f"the output {name} is {value!r}"
                problems.append(Problem(table.file, table.place_of(row), message, f"Write {known[name].wanted}"))
        fault = _together(role, row)
        if fault:
            problems.append(Problem(table.file, table.place_of(row), *fault))
    return problems


def _together(role: Role, row: Row) -> tuple[str, str] | None:
    out = row.outputs
    if role in ("fraud_gate", "cut_offs"):
        if out.get("verdict") in (REFER, DECLINE) and not out.get("reason"):
            return f"asks for {out['verdict']} without a reason", "Give it a reason code"
        if role == "cut_offs" and out.get("verdict") == PASS and not out.get("band"):
            return "passes without a band", "Give it a band: limit and price go by it"
    if role == "price":
        rate, fee = out.get("annual_rate_percent"), out.get("fee_percent")
        if (rate is None) != (fee is None):
            return "gives only one of rate and fee", "Give both (a fee may be 0), or neither where nothing is offered"
        if isinstance(fee, float) and round(fee * 10_000) != float(f"{fee * 10_000:.9g}"):
            return f"the fee {fee} % has more than four decimals", "Round it"
    return None
