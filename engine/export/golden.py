"""Golden rows: a few inputs with the answers the graph gave when it was made, so that a load can be checked.

They are made up, not taken from the training rows: each value is a common quantile of its own column, so no applicant's
row travels with the model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from engine.export.float32 import Float32Array, Float64Array
from engine.export.session import Answer
from engine.scoring.manifest import FeatureInput, GoldenRow

GOLDEN_ROWS = 12
_LEVELS = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
_CANDIDATES = 64
_SEED = 20_240_229


def golden_inputs(
    raw: Callable[[Float32Array], Float64Array], rows: Float32Array, features: Sequence[FeatureInput]
) -> Float32Array:
    """[8..12, F]: medians, all low, all high, all missing, and mixtures that span the scores, with and without NaN.

    raw: the model's score, which the mixtures are spread by. A feature whose missing values are not allowed is never
    missing here.
    """
    levels = _quantiles(rows)
    may_miss = np.array([f.missing == "learned" for f in features])
    middle = levels[len(_LEVELS) // 2]
    fixed = [middle, levels[0], levels[-1], np.where(may_miss, np.float32(np.nan), middle)]
    random = np.random.default_rng(_SEED)
    choice = random.integers(0, len(_LEVELS), (_CANDIDATES, rows.shape[1]))
    mixed = levels[choice, np.arange(rows.shape[1])]
    # Every second mixture has gaps.
    gaps = (random.random(mixed.shape) < 0.25) & may_miss & (np.arange(_CANDIDATES) % 2 == 0)[:, None]
    mixed = np.where(gaps, np.float32(np.nan), mixed).astype(np.float32)
    order = np.argsort(raw(mixed), kind="stable")
    spread = np.linspace(0, _CANDIDATES - 1, GOLDEN_ROWS - len(fixed)).round().astype(np.int64)
    chosen = [*fixed, *mixed[order[spread]]]
    distinct = {np.asarray(row, np.float32).tobytes(): row for row in chosen}
    return np.array(list(distinct.values()), np.float32)


def golden_rows(inputs: Float32Array, answer: Answer) -> tuple[GoldenRow, ...]:
    """The inputs with what the graph answered."""
    return tuple(
        GoldenRow(
            inputs=tuple(None if np.isnan(v) else float(v) for v in row),
            raw=float(answer.raw[i]),
            probability=float(answer.probability[i]),
            points=None if answer.points is None else float(answer.points[i]),
            contributions=tuple(answer.contributions[i].astype(float).tolist()),
        )
        for i, row in enumerate(inputs)
    )


def _quantiles(rows: Float32Array) -> Float32Array:
    """[levels, F] of the values that are present; 0 for a column without any. Real values, so integers stay so."""
    out = np.zeros((len(_LEVELS), rows.shape[1]), np.float32)
    for j in range(rows.shape[1]):
        column = rows[:, j]
        present = column[~np.isnan(column)]
        if len(present):
            out[:, j] = np.quantile(present, _LEVELS, method="nearest")
    return out
