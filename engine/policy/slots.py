"""What the tables may read: the slots of a flow's policy vector, and the three that the policy writes itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

SlotKind = Literal["number", "boolean", "string"]

AMOUNT = "application.amount"
TERM = "application.term_months"
BAND = "credit.band"
OFFER_AMOUNT = "offer.amount"
OFFER_TERM = "offer.term_months"


@dataclass(frozen=True, slots=True)
class SlotSpec:
    """One slot of the policy vector and the values it can hold.

    index: place in the vector; kind: Python float or int, bool, or str (and None where nullable); lower, upper: the
    closed range of a number, None for no bound; allowed: every string that can occur, empty for any string; nullable:
    whether None can occur; integer: whether a number is always whole; values: every number that can occur, where that
    is a short list (it takes the place of the range).
    """

    index: int
    kind: SlotKind
    lower: float | None = None
    upper: float | None = None
    allowed: tuple[str, ...] = ()
    nullable: bool = False
    integer: bool = False
    values: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class FlowTerms:
    """What a flow lends, and where its policy finds what an applicant can afford.

    amount_*_minor: whole minor units (cents); a counter-offer's amount is a multiple of the step. terms_months: every
    term on offer. legal_cap_percent: the highest all-in annual cost, percent, None where the price table's column
    `legal_cap_percent` gives it. income_slot: monthly income (for a company, monthly cash free for debt service), in
    major units. existing_payments_slot: monthly payments on other debts, major units; or debt_ratio_slot: those
    payments as a share of income (0.35 = 35 %). counter_offers: whether to look for other terms.
    """

    amount_min_minor: int
    amount_max_minor: int
    amount_step_minor: int
    terms_months: tuple[int, ...]
    legal_cap_percent: float | None
    income_slot: str | None
    existing_payments_slot: str | None = None
    debt_ratio_slot: str | None = None
    counter_offers: bool = True
    minor_per_major: int = 100


def policy_slots(slots: Mapping[str, SlotSpec], terms: FlowTerms, bands: tuple[str, ...]) -> Mapping[str, SlotSpec]:
    """The flow's slots and, after them, the three that the policy writes: `credit.band`, `offer.amount` (major units)
    and `offer.term_months`."""
    start = 1 + max((spec.index for spec in slots.values()), default=-1)
    own = {
        BAND: SlotSpec(start, "string", allowed=bands),
        OFFER_AMOUNT: SlotSpec(
            start + 1,
            "number",
            terms.amount_min_minor / terms.minor_per_major,
            terms.amount_max_minor / terms.minor_per_major,
        ),
        OFFER_TERM: SlotSpec(start + 2, "number", values=tuple(float(t) for t in terms.terms_months)),
    }
    return MappingProxyType({**slots, **own})
