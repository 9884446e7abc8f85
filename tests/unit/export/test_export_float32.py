"""Thresholds moved to float32 route every float32 value as the float64 threshold does."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from engine.export.float32 import ceil_float32, floor_float32

thresholds = st.floats(allow_nan=False, allow_infinity=False)
values = st.floats(width=32, allow_nan=False)


@given(thresholds, values)
def test_floor_keeps_less_or_equal(threshold: float, value: float) -> None:
    assert (np.float32(value) <= floor_float32(threshold)) == (value <= threshold)


@given(thresholds, values)
def test_ceil_keeps_less(threshold: float, value: float) -> None:
    assert (np.float32(value) < ceil_float32(threshold)) == (value < threshold)


@given(values)
def test_a_float32_threshold_does_not_move(value: float) -> None:
    assert floor_float32(value) == ceil_float32(value) == np.float32(value)


@given(thresholds)
def test_at_the_neighbours_of_a_threshold(threshold: float) -> None:
    with np.errstate(over="ignore", under="ignore"):
        near = np.float32(threshold)
        around = [near, np.nextafter(near, np.float32(np.inf)), np.nextafter(near, np.float32(-np.inf))]
    for value in around:
        assert (value <= floor_float32(threshold)) == (float(value) <= threshold)
        assert (value < ceil_float32(threshold)) == (float(value) < threshold)
