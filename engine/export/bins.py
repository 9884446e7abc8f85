"""PSI reference bins and scaled points, by the definitions in the manifest: for trainers and for the exporter."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.scoring.manifest import Bins, Calibration, PsiReference, Scaling

SCORE_BINS = 20


def quantile_bins(values: npt.NDArray[np.floating[Any]], count: int = 10) -> Bins:
    """PSI reference of one column: at most `count` bins between quantiles, with NaN as the missing share.

    Values that repeat collapse bins, so a column of few values has one bin for each of them.
    """
    wide = np.asarray(values, np.float64)
    present = wide[~np.isnan(wide)]
    missing_share = 1.0 - len(present) / len(wide)
    if not len(present):
        return Bins(edges=(), shares=(0.0,), missing_share=1.0)
    quantiles = np.quantile(present, np.linspace(0, 1, count + 1)[1:-1], method="lower")
    edges = np.unique(quantiles[quantiles < present.max()])
    counts = np.bincount(np.searchsorted(edges, present, side="left"), minlength=len(edges) + 1)
    shares = counts / len(wide)
    return Bins(edges=tuple(edges.tolist()), shares=tuple(shares.tolist()), missing_share=missing_share)


def calibrated_logit(raw: npt.NDArray[np.float64], calibration: Calibration) -> npt.NDArray[np.float64]:
    """Log-odds of bad after calibration: slope * raw + intercept."""
    return calibration.slope * raw + calibration.intercept


def sigmoid(logit: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The logistic function, without overflow for large negative or positive log-odds."""
    half = np.tanh(0.5 * logit)
    return np.asarray(0.5 * (1.0 + half), np.float64)


def scaled_points(logit: npt.NDArray[np.float64], scaling: Scaling) -> npt.NDArray[np.float64]:
    """Points (clipped, not rounded) of calibrated log-odds of bad, as `Scaling` defines them."""
    sign = 1.0 if scaling.higher_is == "safer" else -1.0
    points = scaling.anchor_points + sign * scaling.points_per_logit * (-logit - np.log(scaling.anchor_odds))
    return np.asarray(np.clip(points, scaling.points_min, scaling.points_max), np.float64)


def psi_reference(
    rows: npt.NDArray[np.float32],
    raw: npt.NDArray[np.float64],
    names: Sequence[str],
    calibration: Calibration,
    scaling: Scaling | None,
) -> PsiReference:
    """The distributions that drift is measured from: every input, and the model's points.

    rows: [n, F], columns in the order of `names`; raw: [n], the model's raw scores of these rows.
    A model without a scale has no points; its calibrated probability stands in their place.
    """
    logit = calibrated_logit(raw, calibration)
    score = sigmoid(logit) if scaling is None else scaled_points(logit, scaling)
    return PsiReference(
        score=quantile_bins(score, SCORE_BINS),
        features={name: quantile_bins(rows[:, at]) for at, name in enumerate(names)},
    )
