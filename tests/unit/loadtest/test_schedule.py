"""Arrivals come when the scenario says, at the rate that it says, and as Poisson has them."""

from __future__ import annotations

import random
from itertools import pairwise
from typing import Any, Literal

import pytest

from loadtest.loads import OpenDriver
from loadtest.schedule import arrivals, expected, rate_at


def driver(arrivals: Literal["poisson", "constant"], *stages: dict[str, Any]) -> OpenDriver:
    """A driver with these stages."""
    return OpenDriver.model_validate({"stages": stages, "mix": [{"ask": "decide_any"}], "arrivals": arrivals})


def test_poisson_arrivals_have_the_rate_and_the_spread() -> None:
    made = list(arrivals(driver("poisson", {"duration_s": 400, "rate_per_s": 50}), random.Random(5)))
    counts = [0] * 400
    for moment in made:
        counts[int(moment)] += 1
    mean = sum(counts) / 400
    variance = sum((count - mean) ** 2 for count in counts) / 399
    assert mean == pytest.approx(50, rel=0.03)
    # Of a Poisson process the two are equal; of even arrivals the variance would be none.
    assert variance / mean == pytest.approx(1, abs=0.25)
    assert made == sorted(made)


def test_processes_share_a_poisson_process() -> None:
    wanted = driver("poisson", {"duration_s": 200, "rate_per_s": 30})
    shares = [list(arrivals(wanted, random.Random(number), number, 3)) for number in range(3)]
    assert sum(map(len, shares)) == pytest.approx(6000, rel=0.05)
    assert all(len(share) == pytest.approx(2000, rel=0.1) for share in shares)


def test_a_ramp_rises() -> None:
    wanted = driver("poisson", {"duration_s": 100, "rate_per_s": 10, "to_rate_per_s": 110})
    made = list(arrivals(wanted, random.Random(3)))
    assert len(made) == pytest.approx(6000, rel=0.05)
    first = sum(moment < 50 for moment in made)
    assert first == pytest.approx(10 * 50 + 25 * 50, rel=0.1)


def test_constant_arrivals_are_even() -> None:
    made = list(arrivals(driver("constant", {"duration_s": 10, "rate_per_s": 20}), random.Random(1)))
    assert len(made) == 200
    assert all(after - before == pytest.approx(0.05) for before, after in pairwise(made))


def test_constant_arrivals_of_several_stages_and_processes_miss_none() -> None:
    stages = ({"duration_s": 3, "rate_per_s": 7, "to_rate_per_s": 20}, {"duration_s": 2.5, "rate_per_s": 13})
    wanted = driver("constant", *stages)
    alone = list(arrivals(wanted, random.Random(1)))
    shared = sorted(moment for number in range(3) for moment in arrivals(wanted, random.Random(1), number, 3))
    assert shared == alone
    assert len(alone) == int(sum(map(expected, wanted.stages)))


def test_the_rate_is_told() -> None:
    wanted = driver(
        "poisson", {"duration_s": 10, "rate_per_s": 10, "to_rate_per_s": 20}, {"duration_s": 5, "rate_per_s": 7}
    )
    assert [rate_at(wanted, second) for second in (0, 5, 12, 15)] == [10, 15, 7, 0]
