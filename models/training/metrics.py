"""How a scorecard is judged: separation, calibration and drift, in numpy."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.export import sigmoid
from engine.scoring.manifest import Bins

Floats = NDArray[np.float64]
Labels = NDArray[np.uint8]
# Gives rows in log-odds of bad; a trainer fits one to rows and labels.
Scorer = Callable[[NDArray[np.float32]], Floats]
Trainer = Callable[[NDArray[np.float32], Labels], Scorer]

FOLDS = 5
CALIBRATION_BINS = 20


def roc(bad: Labels, score: Floats) -> tuple[Floats, Floats]:
    """(share of goods, share of bads) at or above every distinct score, from the riskiest down, starting at (0, 0)."""
    order = np.argsort(-score, kind="stable")
    last = np.append(np.flatnonzero(np.diff(score[order])), len(score) - 1)
    bads = np.cumsum(bad[order], dtype=np.float64)[last]
    goods = last + 1 - bads
    return np.append(0.0, goods / goods[-1]), np.append(0.0, bads / bads[-1])


def auc(bad: Labels, score: Floats) -> float:
    """Area under the ROC curve: the share of pairs of a bad and a good that are ordered rightly, ties half."""
    goods, bads = roc(bad, score)
    return float(np.trapezoid(bads, goods))


def ks(bad: Labels, score: Floats) -> float:
    """Kolmogorov-Smirnov distance of the scores of goods and bads."""
    goods, bads = roc(bad, score)
    return float(np.abs(bads - goods).max())


def calibration_bands(bad: Labels, probability: Floats, count: int = CALIBRATION_BINS) -> tuple[Floats, Floats, Floats]:
    """(mean predicted, share bad, rows) of `count` bands of equal size, ordered by prediction."""
    parts = np.array_split(np.argsort(probability, kind="stable"), count)
    predicted = np.array([probability[part].mean() for part in parts])
    return predicted, np.array([bad[part].mean() for part in parts]), np.array([float(len(part)) for part in parts])


def ece(bad: Labels, probability: Floats, count: int = CALIBRATION_BINS) -> float:
    """Expected calibration error: mean distance of predicted and observed over bands of equal size."""
    predicted, seen, rows = calibration_bands(bad, probability, count)
    return float(np.average(np.abs(predicted - seen), weights=rows))


def brier(bad: Labels, probability: Floats) -> float:
    """Mean squared error of the probability."""
    return float(np.mean((probability - bad) ** 2))


def psi(reference: Bins, values: NDArray[np.floating[Any]]) -> float:
    """Population stability index of `values` against training, missing being a bin of its own; empty bins count as
    one in a million."""
    missing = np.isnan(values)
    counts = np.bincount(
        np.searchsorted(np.asarray(reference.edges), values[~missing].astype(np.float64), side="left"),
        minlength=len(reference.shares),
    )
    now = np.maximum(np.append(counts, missing.sum()) / len(values), 1e-6)
    then = np.maximum(np.append(reference.shares, reference.missing_share), 1e-6)
    return float(np.sum((now - then) * np.log(now / then)))


@dataclass(frozen=True, slots=True)
class CrossValidation:
    """What `cross_validate` found. raw: log-odds of each row by the model that did not see it; fold: which that was;
    scores: metric -> one value a fold."""

    raw: Floats
    fold: NDArray[np.int64]
    scores: dict[str, list[float]]

    def mean(self, metric: str) -> float:
        """Mean over the folds."""
        return float(np.mean(self.scores[metric]))

    def sd(self, metric: str) -> float:
        """Standard deviation over the folds (n - 1)."""
        return float(np.std(self.scores[metric], ddof=1))

    def text(self, metric: str) -> str:
        """`0.8648 ± 0.0035`."""
        return f"{self.mean(metric):.4f} ± {self.sd(metric):.4f}"


def stratified_folds(bad: Labels, count: int = FOLDS, seed: int = 0) -> NDArray[np.int64]:
    """The fold of every row, 0 to count - 1, as scikit-learn's shuffled StratifiedKFold gives them."""
    from sklearn.model_selection import StratifiedKFold

    fold = np.zeros(len(bad), np.int64)
    for number, (_, held) in enumerate(StratifiedKFold(count, shuffle=True, random_state=seed).split(fold, bad)):
        fold[held] = number
    return fold


def cross_validate(rows: NDArray[np.float32], bad: Labels, train: Trainer, name: str) -> CrossValidation:
    """5-fold stratified cross-validation with seed 0. Prints one line a fold."""
    fold = stratified_folds(bad)
    raw = np.zeros(len(bad), np.float64)
    scores: dict[str, list[float]] = {"auc": [], "ks": [], "ece20": [], "brier": []}
    for number, held in _held_out(fold):
        raw[held] = train(rows[~held], bad[~held])(rows[held])
        probability = sigmoid(raw[held])
        scores["auc"].append(auc(bad[held], raw[held]))
        scores["ks"].append(ks(bad[held], raw[held]))
        scores["ece20"].append(ece(bad[held], probability))
        scores["brier"].append(brier(bad[held], probability))
        shown = "  ".join(f"{metric} {values[-1]:.4f}" for metric, values in scores.items())
        print(f"  {name}: fold {number + 1} of {FOLDS}  {shown}", flush=True)
    return CrossValidation(raw, fold, scores)


def _held_out(fold: NDArray[np.int64]) -> Iterator[tuple[int, NDArray[np.bool_]]]:
    for number in range(int(fold.max()) + 1):
        yield number, fold == number


def platt(raw: Floats, bad: Labels) -> tuple[float, float]:
    """(slope, intercept) of the logistic regression of `bad` on `raw`, by Newton's method."""
    slope, intercept = 1.0, 0.0
    for _ in range(50):
        probability = sigmoid(slope * raw + intercept)
        weight, gap = probability * (1 - probability), probability - bad
        hessian = np.array([[(weight * raw * raw).sum(), (weight * raw).sum()], [(weight * raw).sum(), weight.sum()]])
        step = np.linalg.solve(hessian, np.array([(gap * raw).sum(), gap.sum()]))
        slope, intercept = slope - float(step[0]), intercept - float(step[1])
        if float(np.abs(step).max()) < 1e-10:
            break
    return slope, intercept


def platt_ece(found: CrossValidation, bad: Labels) -> float:
    """Mean ECE over the folds after Platt scaling fitted on the out-of-fold scores of the other folds."""
    errors = []
    for _, held in _held_out(found.fold):
        slope, intercept = platt(found.raw[~held], bad[~held])
        errors.append(ece(bad[held], sigmoid(slope * found.raw[held] + intercept)))
    return float(np.mean(errors))
