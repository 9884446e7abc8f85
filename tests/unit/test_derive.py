"""Derived features: small functions that never fail and never make a number of nothing."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.features.derive import FUNCTIONS

NAN = math.nan


@pytest.mark.parametrize(
    ("name", "arguments", "expected"),
    [
        ("copy", (2.5,), 2.5),
        ("ratio", (1.0, 4.0), 0.25),
        ("ratio", (1.0, 0.0), NAN),
        ("ratio", (0.0, 0.0), NAN),
        ("ratio", (NAN, 1.0), NAN),
        ("sum", (0.1,) * 10, 1.0),
        ("sum", (1.0, NAN), NAN),
        ("difference", (5.0, 7.0), -2.0),
        ("product", (3.0, 12.0), 36.0),
        ("minimum", (3.0, 1.0, 2.0), 1.0),
        ("minimum", (3.0, NAN), NAN),
        ("maximum", (3.0, 1.0, 2.0), 3.0),
        ("maximum", (NAN, 3.0), NAN),
        ("clip", (5.0, 0.0, 1.0), 1.0),
        ("clip", (-5.0, 0.0, 1.0), 0.0),
        ("clip", (0.5, 0.0, 1.0), 0.5),
        ("clip", (NAN, 0.0, 1.0), NAN),
        ("clip", (5.0, NAN, 9.0), NAN),
        ("clip", (5.0, 0.0, NAN), NAN),
        ("log1p", (0.0,), 0.0),
        ("log1p", (-1.0,), NAN),
        ("log1p", (-5.0,), NAN),
        ("first_present", (NAN, 2.0, 3.0), 2.0),
        ("first_present", (0.0, 2.0), 0.0),
        ("first_present", (NAN, NAN), NAN),
        ("count_present", (NAN, 2.0, 0.0), 2.0),
        ("count_present", (NAN,), 0.0),
        ("is_missing", (NAN,), 1.0),
        ("is_missing", (0.0,), 0.0),
        ("days_between", (0.0, 86_400.0), 1.0),
        ("days_between", (86_400.0, 0.0), -1.0),
        ("years_between", (0.0, 365.25 * 86_400), 1.0),
        ("monthly_payment", (1200.0, 0.0, 12.0), 100.0),
        ("monthly_payment", (10_000.0, 12.0, 24.0), 470.73),
        ("monthly_payment", (NAN, 12.0, 24.0), NAN),
        ("monthly_payment", (1000.0, 12.0, 0.0), NAN),
    ],
)
def test_functions_give_what_they_say(name: str, arguments: tuple[float, ...], expected: float) -> None:
    got = FUNCTIONS[name].call(*arguments)
    assert got == pytest.approx(expected, abs=0.005, nan_ok=True)


numbers = st.one_of(st.floats(), st.just(NAN), st.just(0.0), st.floats(-1e6, 1e6))


@pytest.mark.parametrize("name", sorted(FUNCTIONS))
@given(arguments=st.lists(numbers, min_size=3, max_size=3))
def test_a_missing_argument_makes_the_result_missing(name: str, arguments: list[float]) -> None:
    function = FUNCTIONS[name]
    arguments = arguments[: function.arity or 3]
    try:
        result = function.call(*arguments)
    except (OverflowError, ValueError, ZeroDivisionError):
        return  # the feature stage takes these for missing
    assert isinstance(result, float)
    if any(math.isnan(a) for a in arguments) and not function.takes_missing:
        assert math.isnan(result)


def test_every_function_is_described_and_counts_its_arguments() -> None:
    for name, function in FUNCTIONS.items():
        assert function.description, name
        assert function.arity is None or function.arity >= 1
