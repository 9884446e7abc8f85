"""Derived features: small pure functions of numbers. A missing argument (NaN) makes the result missing, unless the
function is about absence itself."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

NAN = math.nan
_DAY_S = 86_400.0
_YEAR_S = 365.25 * _DAY_S


@dataclass(frozen=True, slots=True)
class Function:
    """A derived feature's function: how many arguments it takes (None: one or more), what it does, and whether
    its result may be missing although no argument is."""

    call: Callable[..., float]
    arity: int | None
    description: str
    takes_missing: bool = False


def _ratio(a: float, b: float) -> float:
    return a / b if b != 0.0 else NAN


def _sum(*values: float) -> float:
    return math.fsum(values)


def _minimum(*values: float) -> float:
    return NAN if any(v != v for v in values) else min(values)


def _maximum(*values: float) -> float:
    return NAN if any(v != v for v in values) else max(values)


def _clip(a: float, low: float, high: float) -> float:
    return NAN if any(v != v for v in (a, low, high)) else min(max(a, low), high)


def _first_present(*values: float) -> float:
    for value in values:
        if value == value:
            return value
    return NAN


def _count_present(*values: float) -> float:
    return float(sum(1 for value in values if value == value))


def _log1p(a: float) -> float:
    return math.log1p(a) if a > -1.0 else NAN


def _monthly_payment(amount: float, annual_rate_percent: float, term_months: float) -> float:
    """The payment of an annuity loan, interest compounded monthly."""
    if not (amount == amount and annual_rate_percent == annual_rate_percent and term_months >= 1.0):
        return NAN
    rate = annual_rate_percent / 1200.0
    if rate <= -1.0:
        return NAN
    if rate == 0.0:
        return amount / term_months
    return float(amount * rate / (1.0 - (1.0 + rate) ** -term_months))


FUNCTIONS: dict[str, Function] = {
    "copy": Function(lambda a: a, 1, "the argument itself"),
    "ratio": Function(_ratio, 2, "the first divided by the second; missing when the second is zero"),
    "sum": Function(_sum, None, "all arguments added"),
    "difference": Function(lambda a, b: a - b, 2, "the first less the second"),
    "product": Function(lambda a, b: a * b, 2, "the first times the second"),
    "minimum": Function(_minimum, None, "the smallest"),
    "maximum": Function(_maximum, None, "the largest"),
    "clip": Function(_clip, 3, "the first, held between the second and the third"),
    "log1p": Function(_log1p, 1, "the natural logarithm of one plus the argument"),
    "first_present": Function(_first_present, None, "the first argument that is not missing", takes_missing=True),
    "count_present": Function(_count_present, None, "how many arguments are not missing", takes_missing=True),
    "is_missing": Function(lambda a: 1.0 if a != a else 0.0, 1, "1 when missing, else 0", takes_missing=True),
    "days_between": Function(lambda a, b: (b - a) / _DAY_S, 2, "days from the first moment to the second"),
    "years_between": Function(lambda a, b: (b - a) / _YEAR_S, 2, "years of 365.25 days between two moments"),
    "monthly_payment": Function(
        _monthly_payment, 3, "the monthly payment for an amount, a nominal annual rate in percent and a term in months"
    ),
}


def compile_derived(
    steps: Sequence[tuple[int, Callable[..., float], tuple[int, ...], bool]], ranges: Sequence[tuple[float, float]]
) -> Callable[[list[float]], tuple[int, ...]]:
    """One function that computes all derived features of a flow in order, in place in a vector.

    steps: slot, function, slots of the arguments, whether it takes missing ones; ranges: finite, by step. The function
    gives the numbers of the steps whose result is missing, out of its range or not to be had: those are NaN then. It is
    written from slot numbers alone: no text of a bundle becomes code.
    """
    errors = (OverflowError, ValueError, ZeroDivisionError)
    space: dict[str, Any] = {"__builtins__": {}, "nan": NAN, "errors": errors}
    lines = ["def derive_all(v):", " bad = ()"]
    for n, ((slot, call, arguments, takes_missing), (low, high)) in enumerate(zip(steps, ranges, strict=True)):
        space |= {f"call{n}": call, f"low{n}": low, f"high{n}": high}
        given = [f"v[{int(place)}]" for place in arguments]
        whole = [] if takes_missing else [f"{x} == {x}" for x in given]
        lines += [
            " try:",
            f"  x = call{n}({', '.join(given)})" + (f" if {' and '.join(whole)} else nan" if whole else ""),
            " except errors:",
            "  x = nan",
            f" if low{n} <= x <= high{n}:",
            f"  v[{int(slot)}] = x",
            " else:",
            f"  v[{int(slot)}] = nan",
            f"  bad += ({n},)",
        ]
    lines.append(" return bad")
    exec(compile("\n".join(lines), "<derived features>", "exec"), space)
    made: Callable[[list[float]], tuple[int, ...]] = space["derive_all"]
    return made
