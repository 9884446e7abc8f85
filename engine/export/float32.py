"""Thresholds that route every float32 value exactly as the float64 threshold they came from.

A library compares x (float32, widened) with a float64 threshold t. The graph holds float32 thresholds only, so t is
moved to the neighbour that keeps every comparison: down for `x <= t`, up for `x < t`. No float32 lies in between.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Float32Array = npt.NDArray[np.float32]
Float64Array = npt.NDArray[np.float64]


def floor_float32(values: npt.ArrayLike) -> Float32Array:
    """The largest float32 that is not above each value: exact for `x <= value`."""
    return _moved(values, below=True)


def ceil_float32(values: npt.ArrayLike) -> Float32Array:
    """The smallest float32 that is not below each value: exact for `x < value`."""
    return _moved(values, below=False)


def _moved(values: npt.ArrayLike, *, below: bool) -> Float32Array:
    wide: Float64Array = np.asarray(values, np.float64)
    # Thresholds beyond float32 become infinities or the largest finite number, which route as they should.
    with np.errstate(over="ignore", under="ignore"):
        near = wide.astype(np.float32)
        wrong = near.astype(np.float64) > wide if below else near.astype(np.float64) < wide
        neighbour = np.nextafter(near, np.float32(-np.inf if below else np.inf))
    return np.where(wrong, neighbour, near).astype(np.float32)
