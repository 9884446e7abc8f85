"""Figures of a fraud model on the later weeks of a stream."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.metrics import average_precision_score, roc_auc_score

from models.training.fraud.schemes import FRAUD_TYPES

Floats = npt.NDArray[np.float64]
REVIEW_RATES = (0.01, 0.02, 0.05)  # shares of honest applications that a gate would stop


@dataclass(frozen=True, slots=True)
class Figures:
    """auc, average_precision, ks: against what really was fraud; auc_observed: against the labels that the lender will
    ever have (missed frauds stand as honest); recall: false-positive rate -> share of frauds caught; precision: the
    same -> share of the stopped that are frauds; recall_by_type: at 5 % false positives; rows, frauds: of the test.
    """

    rows: int
    frauds: int
    auc: float
    auc_observed: float
    average_precision: float
    ks: float
    recall: dict[float, float]
    precision: dict[float, float]
    recall_by_type: dict[str, float]
    type_counts: dict[str, int]


def threshold_at(raw: Floats, fraud: npt.NDArray[np.bool_], rate: float) -> float:
    """The score that the share `rate` of honest applications exceeds."""
    return float(np.quantile(raw[~fraud], 1.0 - rate))


def figures(raw: Floats, kind: npt.NDArray[np.int64], observed: npt.NDArray[np.bool_]) -> Figures:
    """raw: score before calibration; kind: what each application really was; observed: ever known as fraud."""
    fraud = kind > 0
    over = {rate: raw > threshold_at(raw, fraud, rate) for rate in REVIEW_RATES}
    order = np.argsort(raw, kind="stable")
    caught = np.cumsum(fraud[order]) / fraud.sum()
    passed = np.cumsum(~fraud[order]) / (~fraud).sum()
    return Figures(
        rows=len(raw),
        frauds=int(fraud.sum()),
        auc=float(roc_auc_score(fraud, raw)),
        auc_observed=float(roc_auc_score(observed, raw)),
        average_precision=float(average_precision_score(fraud, raw)),
        ks=float(np.max(passed - caught)),
        recall={rate: float(hit[fraud].mean()) for rate, hit in over.items()},
        precision={rate: float(fraud[hit].mean()) for rate, hit in over.items()},
        recall_by_type={name: float(over[0.05][kind == place + 1].mean()) for place, name in enumerate(FRAUD_TYPES)},
        type_counts={name: int((kind == place + 1).sum()) for place, name in enumerate(FRAUD_TYPES)},
    )


def calibration_bands(probability: Floats, bad: npt.NDArray[Any], bands: int = 20) -> tuple[Floats, Floats, Floats]:
    """Mean predicted, share observed and number of rows in `bands` bands of equal size, lowest first."""
    parts = np.array_split(np.argsort(probability, kind="stable"), bands)
    predicted = np.array([probability[part].mean() for part in parts])
    seen = np.array([np.asarray(bad, np.float64)[part].mean() for part in parts])
    return predicted, seen, np.array([len(part) for part in parts], np.float64)


def calibration_error(probability: Floats, bad: npt.NDArray[Any], bands: int = 20) -> float:
    """Expected calibration error over bands of equal size."""
    predicted, seen, size = calibration_bands(probability, bad, bands)
    return float((np.abs(predicted - seen) * size).sum() / size.sum())
