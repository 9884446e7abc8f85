"""Quotes, tests and searches for terms that a lender can offer.

An offer passes when its amount is within the limit, its payment within what the applicant can afford, and its all-in
annual cost within the legal cap. Where the terms asked for fail, these are tried in order, and the first that passes is
the counter-offer:

1. the amount asked for at other terms: longer ones from the nearest on, then shorter ones from the nearest on;
2. the largest smaller amount at the term asked for;
3. the largest smaller amount at any other term; of equal amounts the one at the nearest term, the longer of two equally
   near.

Amounts are multiples of the flow's step. The price changes with the amount only at the bounds of the price table, so
each piece between two bounds has one price, within which the payment grows with the amount: the largest payable amount
of a piece follows from the payment of its largest amount, give or take a step. Where that amount breaks the cap
(rounding to the cent makes small loans dearer by a hair) up to `CAP_STEPS` smaller ones are tried before the next
piece. The work is bounded by terms x pieces.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from engine.domain.outcome import Offer, Terms
from engine.policy.offer import Price, annual_cost_percent, fee_minor, last_payment_minor, payment_minor
from engine.policy.slots import FlowTerms

CAP_STEPS = 8
# Some 300 bytes each.
_QUOTES_MAX = 8192

# Gives the price of an amount and term, None where it is not offered.
Pricing = Callable[[int, int], Price | None]


class Ability(NamedTuple):
    """What an applicant may borrow at most and pay a month at most, in minor units."""

    amount_max_minor: int
    payment_max_minor: int


@lru_cache(maxsize=_QUOTES_MAX)
def quote(amount_minor: int, term_months: int, price: Price) -> Offer:
    """The offer for an amount and term at a price. Kept: most people ask for round amounts."""
    annual_rate = price.annual_rate_percent
    fee = fee_minor(amount_minor, price.fee_e4_percent)
    payment = payment_minor(amount_minor, term_months, annual_rate)
    last = last_payment_minor(amount_minor, term_months, annual_rate, payment)
    received = amount_minor - fee
    guess = annual_rate / 1200.0 + (2.0 * fee / (received * (term_months + 1)) if received > 0 else 0.0)
    cost = annual_cost_percent(received, payment, last, term_months, guess)
    total = payment * (term_months - 1) + last
    return Offer(amount_minor, term_months, annual_rate, fee, payment, cost, total)


def passes(offer: Offer, price: Price, ability: Ability) -> bool:
    """Whether an offer is within limit, affordability and cap."""
    return (
        offer.amount_minor <= ability.amount_max_minor
        and offer.monthly_payment_minor <= ability.payment_max_minor
        and offer.annual_cost_percent <= price.cap_percent
    )


def amount_pieces(terms: FlowTerms, bounds_major: Sequence[float]) -> tuple[tuple[int, int], ...]:
    """The multiples of the amount step between a flow's least and greatest amount, cut at the bounds of the price table
    (major units): (least, greatest) of each piece, from the largest amounts down. A multiple that is itself a bound is
    a piece of its own."""
    step = terms.amount_step_minor
    least = -(-terms.amount_min_minor // step) * step
    greatest = terms.amount_max_minor // step * step
    pieces: list[tuple[int, int]] = []
    start = least
    for bound in sorted(set(bounds_major)):
        minor = round(bound * terms.minor_per_major, 6)
        below = int(-(-minor // step)) * step - step
        if start <= min(below, greatest):
            pieces.append((start, min(below, greatest)))
        if minor % step == 0 and least <= minor <= greatest:
            pieces.append((int(minor), int(minor)))
        start = max(start, int(minor // step) * step + step)
    if start <= greatest:
        pieces.append((start, greatest))
    return tuple(reversed(pieces))


@dataclass(frozen=True, slots=True)
class Search:
    """The bounded search for a counter-offer in one flow. `pieces` as `amount_pieces` gives them."""

    terms: FlowTerms
    pieces: tuple[tuple[int, int], ...]

    def find(self, request: Terms, ability: Ability, pricing: Pricing) -> Offer | None:
        """The first offer that passes in the order of the module's docstring, None where there is none."""
        asked = request.term_months
        longer = [t for t in sorted(self.terms.terms_months) if t > asked]
        shorter = [t for t in sorted(self.terms.terms_months, reverse=True) if t < asked]
        if request.amount_minor <= ability.amount_max_minor:
            for term in (*longer, *shorter):
                price = pricing(request.amount_minor, term)
                if price is None or not self._affordable(request.amount_minor, term, price, ability):
                    continue
                offer = quote(request.amount_minor, term, price)
                if passes(offer, price, ability):
                    return offer
        top = min(request.amount_minor - 1, ability.amount_max_minor)
        if top < self.terms.amount_min_minor or ability.payment_max_minor <= 0:
            return None
        same = self._largest(asked, top, ability, pricing)
        if same is not None:
            return same
        best: Offer | None = None
        for term in sorted((*longer, *shorter), key=lambda t: (abs(t - asked), -t)):
            # Only a larger amount takes the place of one at a nearer term.
            offer_here = self._largest(term, top, ability, pricing, 0 if best is None else best.amount_minor)
            best = offer_here or best
        return best

    def _largest(self, term: int, top: int, ability: Ability, pricing: Pricing, above: int = 0) -> Offer | None:
        """The largest amount in (above, top] that passes at a term."""
        step = self.terms.amount_step_minor
        for least, greatest in self.pieces:
            high = min(greatest, top // step * step)
            if high < least:
                continue
            if high <= above:
                return None
            price = pricing(high, term)
            if price is None:
                continue
            amount = self._payable(least, high, term, price, ability.payment_max_minor)
            for smaller in range(amount, max(least, amount - CAP_STEPS * step, above + 1) - 1, -step):
                offer = quote(smaller, term, price)
                if passes(offer, price, ability):
                    return offer
        return None

    @staticmethod
    def _affordable(amount: int, term: int, price: Price, ability: Ability) -> bool:
        return payment_minor(amount, term, price.annual_rate_percent) <= ability.payment_max_minor

    def _payable(self, least: int, high: int, term: int, price: Price, payment_max: int) -> int:
        """The largest multiple of the step in [least, high] whose payment is payable; below `least` for none.

        Payments grow in proportion to the amount but for the rounding, so the payment of `high` tells where to look.
        """
        step = self.terms.amount_step_minor
        payment = payment_minor(high, term, price.annual_rate_percent)
        if payment <= payment_max:
            return high
        amount = min(high - step, (high * (payment_max + 1) // max(payment - 1, 1) // step + 1) * step)
        while amount >= least and payment_minor(amount, term, price.annual_rate_percent) > payment_max:
            amount -= step
        return amount
