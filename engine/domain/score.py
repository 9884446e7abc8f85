"""What a model said."""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class ScoreStatus(IntEnum):
    """Whether a model gave a score."""

    OK = 1
    MISSING_INPUT = 2
    FAILED = 3


class ModelScore(NamedTuple):
    """One model's answer for one application.

    raw: before calibration; NaN without a score. probability: of the bad event, 0 to 1; None for models that give
    none. points: rounded to a whole number. contributions: float32, one per input, base + their sum = raw; None for
    unexplained models.
    """

    status: ScoreStatus
    raw: float
    probability: float | None
    points: int | None
    contributions: NDArray[np.float32] | None


def no_score(status: ScoreStatus) -> ModelScore:
    """The answer of a model that gave no score. Policy sees nulls, so it can never lead to an approval by accident."""
    return ModelScore(status, float("nan"), None, None, None)
