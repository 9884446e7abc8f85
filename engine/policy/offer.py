"""The arithmetic of an offer: payment, fee, all-in annual cost.

Money is whole minor units (cents). A loan of `amount` for n months at a nominal annual rate r has the monthly rate
i = r / 12 and n payments at the end of each month:

- payment = amount * i / (1 - (1 + i)^-n), or amount / n at a rate of zero, rounded **up** to the cent;
- the last payment is what is then still owed: the balance after n - 1 payments with one more month's interest, interest
  being carried unrounded, rounded half up to the cent. It is never more than the others, and never below zero: where
  rounding up alone repays a small, long and dear loan before its end, the cost is stated a little too high;
- fee = amount * fee percent, rounded half up to the cent, kept back from the pay-out: the applicant gets amount - fee;
- the all-in annual cost is the effective annual rate of what is received against what is paid: 100 * ((1 + j)^12 - 1),
  where j is the monthly rate at which the payments are worth the pay-out. It is compared with caps unrounded.

The rate j is found by Newton's method. The present value falls and is convex in j, so from any guess the steps after
the first run up to the root from the left; the first guess is the nominal monthly rate and the fee spread over the
mean life of the loan. Bisection stands behind that.
"""

from __future__ import annotations

import math
from math import exp, expm1, log1p
from typing import NamedTuple

_NEWTON_STEPS = 24
_BISECTIONS = 200
# Noise of double arithmetic must not add a cent: a millionth of a cent is not owed.
_NOISE_MINOR = 1e-6


class Price(NamedTuple):
    """What a row of the price table asks: nominal annual rate, percent; fee, percent of the amount, in ten-thousandths
    of a percent (whole); the highest all-in annual cost that this row allows, percent, infinite for none."""

    annual_rate_percent: float
    fee_e4_percent: int
    cap_percent: float


def fee_minor(amount_minor: int, fee_e4_percent: int) -> int:
    """The fee in minor units, rounded half up."""
    return (amount_minor * fee_e4_percent + 500_000) // 1_000_000


def payment_minor(amount_minor: int, term_months: int, annual_rate_percent: float) -> int:
    """The monthly payment in minor units, rounded up."""
    if annual_rate_percent == 0:
        return -(-amount_minor // term_months)
    rate = annual_rate_percent / 1200.0
    return math.ceil(amount_minor * rate / -expm1(-term_months * log1p(rate)) - _NOISE_MINOR)


def last_payment_minor(amount_minor: int, term_months: int, annual_rate_percent: float, payment: int) -> int:
    """The last payment in minor units, for a monthly payment rounded up; never below zero."""
    if annual_rate_percent == 0:
        return max(amount_minor - payment * (term_months - 1), 0)
    rate = annual_rate_percent / 1200.0
    growth = expm1(term_months * log1p(rate))
    overpaid = payment * growth / rate - amount_minor * (growth + 1.0)
    return max(payment - math.ceil(overpaid - 0.5), 0)


def annual_cost_percent(received_minor: int, payment: int, last_payment: int, term_months: int, guess: float) -> float:
    """The all-in annual cost in percent: the effective annual rate at which `term_months - 1` payments and the last one
    are worth what is received.

    guess: a monthly rate near the answer, not negative. Gives infinity where nothing is received or the rate is
    beyond counting, and zero where no more is paid than received.
    """
    total = payment * (term_months - 1) + last_payment
    if received_minor <= 0:
        return math.inf
    if total <= received_minor:
        return 0.0
    rate = _newton(received_minor, payment, last_payment, term_months - 1, guess)
    if rate is None:
        rate = _bisection(received_minor, payment, last_payment, term_months - 1)
    try:
        return 100.0 * expm1(12.0 * log1p(rate))
    except OverflowError:
        return math.inf


def _newton(received: int, payment: int, last: int, full: int, rate: float) -> float | None:
    """`full` payments of `payment`, then `last`. None where the steps do not settle."""
    for _ in range(_NEWTON_STEPS):
        if rate < 1e-7:
            # The closed forms below lose their digits here; the sums' first terms are exact enough to step from.
            value = payment * full + last - received - rate * (payment * full * (full + 1) / 2 + last * (full + 1))
            slope = -(payment * full * (full + 1) / 2 + last * (full + 1))
        else:
            log = log1p(rate)
            annuity = -expm1(-full * log) / rate
            discount = exp(-(full + 1) * log)
            value = payment * annuity + last * discount - received
            slope = payment * (full * discount - annuity) / rate - last * (full + 1) * discount / (1.0 + rate)
        step = value / slope
        rate -= step
        if rate < 0:
            return None
        # The error left after a step is about the step squared times the term: nothing that a double could show.
        if abs(step) <= 1e-9:
            return rate
    return None


def _bisection(received: int, payment: int, last: int, full: int) -> float:
    low, high = 0.0, 1.0
    while _worth(payment, last, full, high) > received and high < 1e12:
        high *= 2.0
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2.0
        if _worth(payment, last, full, middle) > received:
            low = middle
        else:
            high = middle
    return high


def _worth(payment: int, last: int, full: int, rate: float) -> float:
    if rate == 0:
        return float(payment * full + last)
    log = log1p(rate)
    return payment * -expm1(-full * log) / rate + last * exp(-(full + 1) * log)
