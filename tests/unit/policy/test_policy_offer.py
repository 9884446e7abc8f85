"""Payments, fees and the all-in annual cost, against closed forms and exact arithmetic."""

from __future__ import annotations

import math
from decimal import ROUND_CEILING, ROUND_HALF_UP, Decimal, localcontext

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.policy.counter_offer import quote
from engine.policy.offer import (
    Price,
    annual_cost_percent,
    fee_minor,
    last_payment_minor,
    payment_minor,
)


def exact_payments(amount: int, term: int, rate_percent: float) -> tuple[int, int]:
    """Payment and last payment in exact decimals: the balance is carried month by month, unrounded."""
    with localcontext(prec=60):
        i = Decimal(repr(rate_percent)) / 1200
        payment = amount * i / (1 - (1 + i) ** -term) if i else Decimal(amount) / term
        # The decimals' own last digits must not add a cent either.
        rounded = int((payment - Decimal("1e-30")).to_integral_value(ROUND_CEILING))
        balance = Decimal(amount)
        for _ in range(term - 1):
            balance = balance * (1 + i) - rounded
        last = int((balance * (1 + i)).to_integral_value(ROUND_HALF_UP))
    return rounded, last


def worth(received: int, payment: int, last: int, term: int, annual_cost: float) -> Decimal:
    """Present value of the payments less what is received, at an effective annual rate."""
    with localcontext(prec=40):
        v = 1 / (1 + Decimal(annual_cost) / 100) ** (Decimal(1) / 12)
        return sum((payment * v**k for k in range(1, term)), last * v**term) - received


def test_a_textbook_loan() -> None:
    # 10,000 at 12 % over 12 months: 888.49 a month.
    assert payment_minor(1_000_000, 12, 12.0) == 88_849
    offer = quote(1_000_000, 12, Price(12.0, 0, 36.0))
    assert offer.fee_minor == 0
    assert offer.annual_cost_percent == pytest.approx(100 * (1.01**12 - 1), abs=1e-3)


def test_one_payment_has_a_closed_form() -> None:
    # One month at 12 %: 1 % of interest. With 2 % fee: (1010 / 980) ** 12 - 1.
    offer = quote(100_000, 1, Price(12.0, 20_000, 36.0))
    assert (offer.monthly_payment_minor, offer.fee_minor, offer.total_repayable_minor) == (101_000, 2_000, 101_000)
    assert offer.annual_cost_percent == pytest.approx(100 * ((1010 / 980) ** 12 - 1), rel=1e-12)


def test_two_payments_have_a_closed_form() -> None:
    # 100.00 against two payments of 51.00: x = 1/(1+j) solves 51 x^2 + 51 x = 100.
    x = (-51 + math.sqrt(51**2 + 4 * 51 * 100)) / (2 * 51)
    cost = annual_cost_percent(10_000, 5_100, 5_100, 2, 0.0)
    assert cost == pytest.approx(100 * (x**-12 - 1), rel=1e-12)


def test_no_interest_and_no_fee_cost_nothing() -> None:
    offer = quote(100_001, 12, Price(0.0, 0, 0.0))
    assert offer.monthly_payment_minor == 8_334
    assert offer.total_repayable_minor == 100_001
    assert offer.annual_cost_percent == 0.0


def test_no_interest_with_a_fee_costs_something() -> None:
    offer = quote(120_000, 12, Price(0.0, 10_000, 36.0))
    assert offer.total_repayable_minor == 120_000
    assert offer.annual_cost_percent > 1.8
    assert abs(worth(118_800, 10_000, 10_000, 12, offer.annual_cost_percent)) < Decimal("1e-6")


@pytest.mark.parametrize(
    ("amount", "e4", "fee"),
    [(10_000, 10_000, 100), (149, 10_000, 1), (150, 10_000, 2), (33_333, 12_500, 417), (5, 0, 0)],
)
def test_a_fee_is_rounded_half_up(amount: int, e4: int, fee: int) -> None:
    assert fee_minor(amount, e4) == fee


@pytest.mark.parametrize("received", [0, -1])
def test_nothing_received_costs_beyond_counting(received: int) -> None:
    assert annual_cost_percent(received, 100, 100, 12, 0.0) == math.inf


def test_an_absurd_loan_is_still_counted() -> None:
    cost = annual_cost_percent(1, 10**9, 10**9, 120, 0.0)
    assert cost == pytest.approx(100 * (1 + 1e9) ** 12, rel=1e-6)


_amounts = st.integers(50_000, 50_000_000)
_terms = st.sampled_from([1, 2, 6, 12, 36, 60, 120])
_rates = st.integers(0, 60_00).map(lambda r: r / 100)


@settings(max_examples=300, deadline=None)
@given(_amounts, _terms, _rates)
def test_payments_are_those_of_exact_arithmetic(amount: int, term: int, rate: float) -> None:
    payment = payment_minor(amount, term, rate)
    exact = exact_payments(amount, term, rate)
    assert (payment, last_payment_minor(amount, term, rate, payment)) == (exact[0], max(exact[1], 0))


@settings(max_examples=300, deadline=None)
@given(_amounts, _terms, _rates, st.integers(0, 200_000))
def test_the_cost_is_the_rate_at_which_payments_are_worth_the_payout(
    amount: int, term: int, rate: float, fee_e4: int
) -> None:
    offer = quote(amount, term, Price(rate, fee_e4, 36.0))
    last = offer.total_repayable_minor - offer.monthly_payment_minor * (term - 1)
    received = amount - offer.fee_minor
    assert 0 <= last <= offer.monthly_payment_minor
    if offer.total_repayable_minor == received:
        assert offer.annual_cost_percent == 0
        return
    error = worth(received, offer.monthly_payment_minor, last, term, offer.annual_cost_percent)
    assert abs(error) < Decimal(received) * Decimal("1e-10")
    effective = 100 * ((1 + rate / 1200) ** 12 - 1)
    # A last payment rounded down may undercut the nominal rate by half a cent in all.
    assert offer.annual_cost_percent >= effective - 100 * 12 / received


@given(st.floats(0, 1), st.integers(1, 120))
def test_the_guess_does_not_matter(guess: float, term: int) -> None:
    cost = annual_cost_percent(1_000_000, 1_100_000 // term, 1_100_000 // term, term, guess)
    assert cost == pytest.approx(
        annual_cost_percent(1_000_000, 1_100_000 // term, 1_100_000 // term, term, 0.0), rel=1e-9
    )
