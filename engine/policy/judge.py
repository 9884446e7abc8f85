"""The verdict of one flow's policy.

A verdict starts at REFER, and only rules change it. Tables are asked in order, each by its role: knock-outs, fraud
gate, cut-offs, limit, price. Every rule that fires is recorded, also behind one that already decides.

- A gate or cut-off row passes, refers or declines. A table that says nothing refers, with the code PL_NO_RULE.
- A passing cut-off gives the band, by which limit and price go. The limit says the most that may be lent, and what part
  of income payments may take, existing debts deducted or not. Income or debts that this needs and that are unknown
  refer, with PL_INCOME_UNKNOWN or PL_DEBT_UNKNOWN.
- The terms asked for then pass or fail four tests: they have a price (PL_NOT_OFFERED), the amount is within the limit
  (PL_AMOUNT_LIMIT), the payment is affordable (PL_AFFORDABILITY), the all-in annual cost is within the legal cap
  (PL_LEGAL_CAP). Where any fails, other terms are looked for (`engine.policy.counter_offer`): if some pass, each failed
  test asks for COUNTER_OFFER, else for DECLINE. An application that is declined already is not put to these tests.
- What the feature catalogue says of a value that could not be had counts as a rule.

The verdict is the gravest asked for: DECLINE before REFER before COUNTER_OFFER; where none is asked for, all has
passed and it is APPROVE. The deciding components are those whose rules asked for that verdict.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from engine.domain.enums import Component, Verdict
from engine.domain.outcome import TERMS_TABLE, DegradedVerdict, Offer, PolicyOutcome, RuleFired, Terms
from engine.errors import Problem
from engine.policy import roles
from engine.policy.counter_offer import Ability, Search, quote
from engine.policy.offer import Price
from engine.policy.roles import Role
from engine.policy.slots import SlotSpec
from engine.policy.tables import DecisionTable

_COUNTER, _REFER, _DECLINE = 1, 2, 3
_VERDICTS = (Verdict.APPROVE, Verdict.COUNTER_OFFER, Verdict.REFER, Verdict.DECLINE)
# A member of an enum is looked up by a call in Python.
_APPROVE, _TO_REFER, _POLICY = Verdict.APPROVE, Verdict.REFER, Component.POLICY
_UNBOUNDED = 1 << 62
# What a catalogue may ask for, many times over.
_DEGRADED_MAX = 4096
_NUMBER = (float, int)


class Ask(NamedTuple):
    """What a fired rule asks for: a rank (0 nothing, 1 counter-offer, 2 refer, 3 decline) and the component that asks
    it, with the rule as recorded. band: what a passing cut-off gives."""

    rank: int
    component: Component
    rule: RuleFired
    band: str | None = None


class Limit(NamedTuple):
    """One row of the limit table. income_share: the part of income that payments may take, infinite for no test."""

    amount_max_minor: int
    income_share: float
    deduct_debts: bool
    rule: RuleFired


# One row of the price table: the price, None where nothing is offered, and the rule as recorded.
Priced = tuple[Price | None, RuleFired]
# What a table gives for a policy vector: at most one of its rows, or all that fire where it collects.
Asks = Callable[[Sequence[object]], tuple[Ask, ...]]


@dataclass(frozen=True, slots=True)
class Gate:
    """A table that asks for verdicts, and what its silence asks for."""

    evaluate: Asks
    silence: Ask


@dataclass(frozen=True, slots=True)
class Limits:
    """The limit table, what its silence asks for, and the slots (-1 for none) of income, existing payments and debt
    ratio."""

    evaluate: Callable[[Sequence[object]], tuple[Limit, ...]]
    silence: Ask
    income: int
    payments: int
    debt_ratio: int


@dataclass(frozen=True, slots=True)
class Prices:
    """The price table, its rows, and what its silence asks for."""

    evaluate: Callable[[Sequence[object]], tuple[Priced, ...]]
    rows: tuple[Priced, ...]
    silence: Ask


@dataclass(frozen=True, slots=True)
class Policy:
    """The compiled policy of one flow. Immutable and shared by threads.

    tables: by role; slots: what tables may read, the policy's own among them; size: the length of the vector that
    `decide` takes; minor_per_major: cents in a unit; search: None where the flow makes no counter-offers; notes: what
    is worth knowing and no mistake, such as a table that runs in zen.
    """

    tables: Mapping[Role, DecisionTable]
    slots: Mapping[str, SlotSpec]
    size: int
    minor_per_major: int
    knock_outs: Gate | None
    fraud_gate: Gate | None
    cut_offs: Gate
    limits: Limits
    prices: Prices
    search: Search | None
    notes: tuple[Problem, ...]

    def decide(
        self,
        vector: Sequence[object],
        request: Terms,
        degraded: Sequence[DegradedVerdict],
        *,
        counter_offers: bool = True,
    ) -> PolicyOutcome:
        """Judge one application.

        vector: the flow's policy vector by slot index: finite floats (ints work, slower), bools, strings or None;
        it is read, never written. degraded: what the feature catalogue asks for values that could not be had.
        counter_offers: whether to look for other terms where these fail; what is found has been held against price,
        limit, cap and affordability, and not yet against rules and models that read the terms.
        Raises ValueError where the vector is not `size` long.
        """
        if len(vector) != self.size:
            raise ValueError(f"the policy vector holds {len(vector)} values, not {self.size}")
        work = [*vector, None, request.amount_minor / self.minor_per_major, float(request.term_months)]
        asks: list[Ask] = [] if self.knock_outs is None else [*self.knock_outs.evaluate(work)]
        if self.fraud_gate is not None:
            asks += self.fraud_gate.evaluate(work) or (self.fraud_gate.silence,)
        (cut_off,) = self.cut_offs.evaluate(work) or (self.cut_offs.silence,)
        asks.append(cut_off)
        for missing in degraded:
            asks.append(_degraded(missing))
        fired = [ask.rule for ask in asks]
        rank = max([ask.rank for ask in asks])
        offer = None
        if cut_off.band is not None:
            work[self.size] = cut_off.band
            search = self.search if counter_offers else None
            lent = self._lend(work, request, search, fired, rank == _DECLINE)
            if isinstance(lent, Offer):
                offer = lent
            elif lent is not None:
                asked, offer = lent
                asks += asked
                rank = max([rank, *(ask.rank for ask in asked)])
        if not rank:
            return PolicyOutcome(_APPROVE if offer else _TO_REFER, offer, tuple(fired), ())
        deciding = tuple(sorted({ask.component for ask in asks if ask.rank == rank}))
        return PolicyOutcome(_VERDICTS[rank], offer if rank == _COUNTER else None, tuple(fired), deciding)

    def _lend(
        self, work: list[object], request: Terms, search: Search | None, fired: list[RuleFired], declined: bool
    ) -> Offer | tuple[list[Ask], Offer | None] | None:
        """Limit, price and the tests of the terms; adds to `fired`. Gives the offer where all is passed, what is asked
        for and the counter-offer where it is not, None for what is declined already."""
        limits, prices = self.limits.evaluate(work), self.prices.evaluate(work)
        if limits:
            fired.append(limits[0].rule)
        if prices:
            fired.append(prices[0][1])
        if declined:
            return None
        if not limits or not prices:
            return _ask([self.prices.silence if limits else self.limits.silence], fired)
        limit, price = limits[0], prices[0][0]
        payment_max = self._payment_max(limit, work)
        if isinstance(payment_max, Ask):
            return _ask([payment_max], fired)
        offer = None if price is None else quote(request.amount_minor, request.term_months, price)
        if (
            offer is not None
            and price is not None
            and request.amount_minor <= limit.amount_max_minor
            and offer.monthly_payment_minor <= payment_max
            and offer.annual_cost_percent <= price.cap_percent
        ):
            return offer
        ability = Ability(limit.amount_max_minor, payment_max)
        counter = None if search is None else search.find(request, ability, self._pricing(work))
        rank = _DECLINE if counter is None else _COUNTER
        failures = _failures(request, ability, price, offer, _VERDICTS[rank])
        return _ask([Ask(rank, _POLICY, rule) for rule in failures], fired, counter)

    def _payment_max(self, limit: Limit, work: list[object]) -> int | Ask:
        """The highest monthly payment that an applicant can bear, in whole minor units rounded down; or what to ask for
        where income or debts are unknown."""
        if limit.income_share == math.inf:
            return _UNBOUNDED
        income = work[self.limits.income]
        if not isinstance(income, _NUMBER) or math.isnan(income):
            return _INCOME_UNKNOWN
        able = income * limit.income_share
        if limit.deduct_debts:
            by_ratio = self.limits.payments < 0
            debts = work[self.limits.debt_ratio if by_ratio else self.limits.payments]
            if not isinstance(debts, _NUMBER) or math.isnan(debts):
                return _DEBT_UNKNOWN
            able -= debts * income if by_ratio else debts
        # A millionth of a cent is noise of double arithmetic, not a cent that is lacking.
        return math.floor(able * self.minor_per_major + 1e-6)

    def _pricing(self, work: list[object]) -> Callable[[int, int], Price | None]:
        amount_at, term_at = self.size + 1, self.size + 2

        def price_of(amount_minor: int, term_months: int) -> Price | None:
            work[amount_at] = amount_minor / self.minor_per_major
            work[term_at] = float(term_months)
            rows = self.prices.evaluate(work)
            return rows[0][0] if rows else None

        return price_of


def _ask(asks: list[Ask], fired: list[RuleFired], counter: Offer | None = None) -> tuple[list[Ask], Offer | None]:
    fired += [ask.rule for ask in asks]
    return asks, counter


@lru_cache(maxsize=_DEGRADED_MAX)
def _degraded(missing: DegradedVerdict) -> Ask:
    rank = _DECLINE if missing.verdict is Verdict.DECLINE else _REFER
    outputs = {"verdict": _VERDICTS[rank].name, "reason": missing.reason}
    rule = RuleFired("degraded", missing.source, _VERDICTS[rank], missing.reason, compact(outputs))
    return Ask(rank, missing.component, rule)


def refer(table: str, rule: str, reason: str) -> Ask:
    """What the policy itself asks for where it cannot judge."""
    outputs = compact({"verdict": Verdict.REFER.name, "reason": reason})
    return Ask(_REFER, Component.POLICY, RuleFired(table, rule, Verdict.REFER, reason, outputs))


def compact(outputs: Mapping[str, object]) -> str:
    """A JSON object without spaces."""
    return json.dumps(dict(outputs), ensure_ascii=False, separators=(",", ":"))


_INCOME_UNKNOWN = refer(TERMS_TABLE, "affordability", roles.INCOME_UNKNOWN)
_DEBT_UNKNOWN = refer(TERMS_TABLE, "affordability", roles.DEBT_UNKNOWN)


def _failures(
    request: Terms, ability: Ability, price: Price | None, offer: Offer | None, verdict: Verdict
) -> list[RuleFired]:
    """The tests that the terms asked for fail, as rules that ask for `verdict`."""
    failed: list[tuple[str, str, dict[str, object]]] = []
    if request.amount_minor > ability.amount_max_minor:
        facts: dict[str, object] = {"amount_minor": request.amount_minor, "amount_max_minor": ability.amount_max_minor}
        failed.append(("amount_limit", roles.AMOUNT_LIMIT, facts))
    if offer is None or price is None:
        failed.append(("price", roles.NOT_OFFERED, {"term_months": request.term_months}))
    else:
        if offer.monthly_payment_minor > ability.payment_max_minor:
            facts = {
                "monthly_payment_minor": offer.monthly_payment_minor,
                "payment_max_minor": ability.payment_max_minor,
            }
            failed.append(("affordability", roles.AFFORDABILITY, facts))
        if offer.annual_cost_percent > price.cap_percent:
            cost = offer.annual_cost_percent if math.isfinite(offer.annual_cost_percent) else None
            facts = {"annual_cost_percent": cost, "legal_cap_percent": price.cap_percent}
            failed.append(("legal_cap", roles.LEGAL_CAP, facts))
    return [
        RuleFired(TERMS_TABLE, rule, verdict, reason, compact({"verdict": verdict.name, "reason": reason, **facts}))
        for rule, reason, facts in failed
    ]
