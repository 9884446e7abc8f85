"""Percentiles are those of the values, however they are kept, merged or sent."""

from __future__ import annotations

import math
import random

import pytest

from loadtest.histograms import Buckets, Latencies

VALUES = [random.Random(seed).lognormvariate(8, 1.2) for seed in range(5001)]


def exact_ms(percentile: float) -> float:
    """The nearest rank of the sorted values."""
    ranked = sorted(VALUES)
    return ranked[max(0, math.ceil(percentile / 100 * len(ranked)) - 1)] / 1000


@pytest.mark.parametrize("percentile", [1, 50, 90, 99, 99.9, 100])
def test_percentiles_are_exact_to_three_digits(percentile: float) -> None:
    held, sparse = Latencies(), Buckets()
    for value in VALUES:
        held.note(value)
        sparse.note(value)
    assert held.percentile_ms(percentile) == pytest.approx(exact_ms(percentile), rel=0.002, abs=0.003)
    assert sparse.values_ms([percentile])[0] == pytest.approx(exact_ms(percentile), rel=0.017)


def test_parts_that_were_sent_make_the_whole() -> None:
    whole, parts = Latencies(), [Latencies() for _ in range(3)]
    for at, value in enumerate(VALUES):
        whole.note(value)
        parts[at % 3].note(value)
    merged = Latencies()
    for part in parts:
        merged.add(Latencies.decoded(part.encoded()))
    assert merged.summary() == whole.summary()
    assert merged.curve() == whole.curve()


def test_ends_are_kept_in_range() -> None:
    held = Latencies()
    held.note(0)
    held.note(1e12)
    assert held.count == 2
    assert held.percentile_ms(100) == pytest.approx(3_600_000, rel=0.001)


def test_nothing_has_no_percentile() -> None:
    assert Latencies().summary() == {"count": 0}
    assert Latencies().curve() == []
    assert Buckets().values_ms([50, 99]) == [0, 0]


def test_the_curve_rises_and_ends_with_the_count() -> None:
    held = Latencies()
    for value in VALUES:
        held.note(value)
    curve = held.curve()
    assert curve == sorted(curve)
    # Of 5,001 values nothing can be said of one in a hundred thousand.
    assert 99.9 < curve[-1][0] < 99.999


def test_what_is_no_histogram_is_said() -> None:
    with pytest.raises(ValueError, match="HdrHistogram"):
        Latencies.decoded("HISTnothing")
