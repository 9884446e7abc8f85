"""The search for a counter-offer: order, limits, and what trying everything finds."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.domain.outcome import Offer, Terms
from engine.policy.counter_offer import Ability, Search, amount_pieces, passes, quote
from engine.policy.offer import Price
from engine.policy.slots import FlowTerms

TERMS = FlowTerms(
    amount_min_minor=50_000,
    amount_max_minor=1_000_000,
    amount_step_minor=5_000,
    terms_months=(6, 12, 24, 36),
    legal_cap_percent=36.0,
    income_slot=None,
)
BOUNDS = [2_000.0, 5_000.0]
GRID = range(50_000, 1_000_001, 5_000)


def pricing(amount: int, term: int) -> Price | None:
    """Dearer for small amounts; nothing below 2,000 for long; not offered at 24 months from 5,000 on."""
    if amount < 200_000:
        return None if term > 12 else Price(24.0, 10_000, 36.0)
    if amount < 500_000:
        return Price(15.0, 10_000, 36.0)
    return None if term == 24 else Price(10.0, 0, 36.0)


def largest(term: int, below: int, ability: Ability) -> Offer | None:
    for amount in reversed(GRID):
        price = pricing(amount, term)
        if amount < below and price is not None:
            offer = quote(amount, term, price)
            if passes(offer, price, ability):
                return offer
    return None


def by_trying_everything(request: Terms, ability: Ability) -> Offer | None:
    asked = request.term_months
    longer = sorted(t for t in TERMS.terms_months if t > asked)
    shorter = sorted((t for t in TERMS.terms_months if t < asked), reverse=True)
    for term in [*longer, *shorter]:
        price = pricing(request.amount_minor, term)
        if price is not None and passes(quote(request.amount_minor, term, price), price, ability):
            return quote(request.amount_minor, term, price)
    same = largest(asked, request.amount_minor, ability)
    if same is not None:
        return same
    others = [o for t in [*longer, *shorter] if (o := largest(t, request.amount_minor, ability)) is not None]
    return min(others, key=lambda o: (-o.amount_minor, abs(o.term_months - asked), -o.term_months), default=None)


@settings(max_examples=400, deadline=None)
@given(
    st.integers(50_000, 1_000_000),
    st.sampled_from(TERMS.terms_months),
    st.integers(0, 1_200_000),
    st.integers(-1_000, 250_000),
)
def test_the_search_finds_what_trying_everything_finds(amount: int, term: int, limit: int, payment: int) -> None:
    request, ability = Terms(amount, term), Ability(limit, payment)
    found = Search(TERMS, amount_pieces(TERMS, BOUNDS)).find(request, ability, pricing)
    wanted = by_trying_everything(request, ability)
    # What passes as asked for is never searched; the search looks at other terms only.
    assert found == wanted


def test_the_same_amount_at_the_nearest_longer_term_comes_first() -> None:
    found = Search(TERMS, amount_pieces(TERMS, BOUNDS)).find(Terms(600_000, 6), Ability(10**9, 60_000), pricing)
    assert found is not None
    assert (found.amount_minor, found.term_months) == (600_000, 12)


def test_then_the_largest_amount_at_the_term_asked_for() -> None:
    found = Search(TERMS, amount_pieces(TERMS, BOUNDS)).find(Terms(900_000, 36), Ability(10**9, 20_000), pricing)
    assert found is not None
    assert found.term_months == 36
    assert found.amount_minor == largest(36, 900_000, Ability(10**9, 20_000)).amount_minor  # type: ignore[union-attr]


def test_then_other_terms() -> None:
    # Long terms start at 2,000; only the short ones have anything small.
    found = Search(TERMS, amount_pieces(TERMS, BOUNDS)).find(Terms(300_000, 36), Ability(100_000, 10_000), pricing)
    assert found is not None
    assert (found.amount_minor, found.term_months) == (100_000, 12)


@pytest.mark.parametrize(
    "ability", [Ability(49_999, 10**9), Ability(10**9, 0), Ability(10**9, -5), Ability(10**9, 100)]
)
def test_there_may_be_nothing_to_offer(ability: Ability) -> None:
    assert Search(TERMS, amount_pieces(TERMS, BOUNDS)).find(Terms(300_000, 12), ability, pricing) is None


@given(
    st.integers(1, 300),
    st.integers(1, 500),
    st.integers(0, 500),
    st.lists(st.integers(0, 1200).map(lambda x: x / 4), max_size=4),
)
def test_pieces_hold_every_multiple_once_and_no_bound_inside(
    step: int, low: int, more: int, bounds: list[float]
) -> None:
    terms = FlowTerms(low, low + more, step, (6,), None, None, minor_per_major=2)
    pieces = amount_pieces(terms, bounds)
    amounts = [a for least, greatest in reversed(pieces) for a in range(least, greatest + 1, step)]
    assert amounts == [a for a in range(0, low + more + 1, step) if a >= low]
    for least, greatest in pieces:
        assert not any(least < bound * 2 < greatest for bound in bounds)
        assert least == greatest or not any(bound * 2 in (least, greatest) for bound in bounds)
