"""The self-check notices what it is there to notice."""

from __future__ import annotations

import numpy as np
import pytest

from engine.export.bins import quantile_bins, sigmoid
from engine.export.session import Answer
from engine.export.verify import Truth, Verification, compare, top_agreement
from engine.scoring.manifest import Calibration

TOLERANCE = 1e-5
PHI = np.array([[0.5, 0.3, -0.2, 0.1, 0.05, 0.0], [0.1, 0.1 + 1e-6, 0.4, 0.3, 0.2, -1.0]])
RAW = -1.0 + PHI.sum(axis=1)


def measure(answer: Answer) -> Verification:
    truth = Truth(RAW, PHI, np.arange(2), -1.0)
    return compare(answer, truth, Calibration(method="none"), None, TOLERANCE)


def right() -> Answer:
    probability = sigmoid(RAW).astype(np.float32)
    return Answer(RAW.astype(np.float32), probability, None, PHI.astype(np.float32))


def test_a_right_answer_has_no_problems() -> None:
    check = measure(right())
    assert check.problems("f") == []
    assert check.raw_max_abs < 1e-7
    assert (check.top4_agreement, check.rows, check.contribution_rows) == (1.0, 2, 2)


@pytest.mark.parametrize(
    ("part", "places"),
    [
        ("raw", {"raw"}),
        ("probability", {"probability"}),
        ("contributions", {"contribution", "additivity"}),
    ],
)
@pytest.mark.parametrize("wrong", [2e-5, np.nan])
def test_one_wrong_number_is_a_problem(part: str, places: set[str], wrong: float) -> None:
    answer = right()
    getattr(answer, part).flat[-1] += np.float32(wrong)
    assert {p.place for p in measure(answer).problems("f")} == places


def test_swapped_contributions_are_a_problem_of_reasons_too() -> None:
    answer = right()
    answer.contributions[0, [0, 1]] = answer.contributions[0, [1, 0]]
    check = measure(answer)
    assert {p.place for p in check.problems("f")} == {"contribution", "reasons"}
    assert check.top4_agreement == 0.5
    assert check.additivity_max_abs < TOLERANCE


def test_a_tie_within_the_tolerance_agrees_and_is_counted() -> None:
    wanted = np.array([[0.4, 0.3, 0.1, 0.1 + 1e-6, 0.0]])
    got = np.array([[0.4, 0.3, 0.1 + 1e-6, 0.1, 0.0]])
    same, tied = top_agreement(got, wanted, TOLERANCE)
    assert (same.tolist(), tied.tolist()) == ([False], [True])
    same, tied = top_agreement(np.array([[0.3, 0.4, 0.1, 0.1, 0.0]]), wanted, TOLERANCE)
    assert (same.tolist(), tied.tolist()) == ([False], [False])


def test_contributions_that_lower_the_risk_are_no_reasons() -> None:
    wanted = np.array([[0.4, -0.3, -0.1, -0.2, -0.5]])
    got = np.array([[0.4, -0.5, -0.2, -0.1, -0.3]])
    same, _ = top_agreement(got, wanted, TOLERANCE)
    assert same.tolist() == [True]
    lost, close = top_agreement(-got, wanted, TOLERANCE)
    assert (lost.tolist(), close.tolist()) == ([False], [False])


def test_bins_count_every_value_once() -> None:
    values = np.array([1, 1, 1, 1, 1, 1, 2, 3, 4, np.nan])
    bins = quantile_bins(values, 4)
    assert bins.missing_share == pytest.approx(0.1)
    edges = [-np.inf, *bins.edges, np.inf]
    for low, high, share in zip(edges, edges[1:], bins.shares, strict=False):
        assert share == pytest.approx(((values > low) & (values <= high)).mean())
    assert min(bins.shares) > 0


def test_bins_of_a_constant_and_of_nothing() -> None:
    assert quantile_bins(np.ones(5)).shares == (1.0,)
    assert quantile_bins(np.full(5, np.nan)).missing_share == 1.0
