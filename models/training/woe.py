"""A weight-of-evidence scorecard: bins that keep to the signs credit sense demands, and a logistic regression on them.

Numpy only. WOE of a bin = ln(share of all bads in it / share of all goods in it): positive is riskier than average.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from engine.export import WoeFeature, WoeScorecard, sigmoid
from models.training.metrics import Floats, Labels

FINE_BINS = 40
MIN_SHARE = 0.01
# Neighbouring bins whose bad rates differ by no more than chance are one bin (chi-squared, 1 degree, p = 0.001).
MIN_CHI_SQUARED = 10.83
# Half a bad and half a good are added to each bin in proportion, so that no WOE is infinite.
SMOOTHING = 0.5
# A missing bin with fewer rows says nothing: its WOE is that of an average applicant.
MIN_MISSING_ROWS = 50
RIDGE = 1e-3


def train(rows: NDArray[np.float32], bad: Labels, names: Sequence[str], monotone: Sequence[int]) -> WoeScorecard:
    """Bin every column and weigh the bins. monotone: +1, -1 or 0 for each column, as in the manifest.

    Raises ValueError when a column's weight comes out negative, which would turn its bins round.
    """
    binned = [_bin(rows[:, at], bad, name, monotone[at]) for at, name in enumerate(names)]
    design = np.column_stack([np.ones(len(bad)), *(one.term(rows[:, at]) for at, one in enumerate(binned))])
    weights = _logistic(design, bad)
    turned = [name for name, weight in zip(names, weights[1:], strict=True) if weight < 0]
    if turned:
        raise ValueError(f"negative weight of {', '.join(turned)}: leave it out")
    features = tuple(
        WoeFeature(one.name, one.cuts, one.woe, one.woe_missing, float(weight))
        for one, weight in zip(binned, weights[1:], strict=True)
    )
    return WoeScorecard(features, float(weights[0]))


def _bin(column: NDArray[np.float32], bad: Labels, name: str, sign: int) -> WoeFeature:
    """One column's bins, with a weight of 1."""
    present = ~np.isnan(column)
    values = column[present].astype(np.float64)
    cuts = _fine_cuts(values)
    counts = _counts(np.searchsorted(cuts, values, side="right"), bad[present], len(cuts) + 1)
    kept = list(range(len(cuts)))
    while kept:
        merged = _weakest(counts, sign, len(values))
        if merged is None:
            break
        counts[merged] += counts[merged + 1]
        counts = np.delete(counts, merged + 1, axis=0)
        del kept[merged]
    lost = np.array([(bad[~present] == 0).sum(), (bad[~present] == 1).sum()], np.float64)
    goods_and_bads = np.array([(bad == 0).sum(), (bad == 1).sum()], np.float64)
    missing = float(_woe(lost[None], goods_and_bads)[0]) if lost.sum() >= MIN_MISSING_ROWS else 0.0
    return WoeFeature(name, tuple(cuts[kept].tolist()), tuple(_woe(counts, goods_and_bads).tolist()), missing, 1.0)


def _fine_cuts(values: Floats) -> Floats:
    """Cuts between quantiles, halfway between two neighbouring values and exact in float32."""
    distinct = np.unique(values)
    wanted = np.unique(np.quantile(values, np.linspace(0, 1, FINE_BINS + 1)[1:-1], method="lower"))
    below = np.searchsorted(distinct, wanted)
    below = below[below + 1 < len(distinct)]
    # The tail of a count that is nearly always 0 holds the risk: cut after each of its first values too.
    below = np.unique(np.concatenate([below, np.arange(min(6, len(distinct) - 1))]))
    halfway = (distinct[below] + distinct[below + 1]) / 2
    return np.unique(halfway.astype(np.float32)).astype(np.float64)


def _counts(bins: NDArray[np.int64], bad: Labels, count: int) -> Floats:
    """[bins, 2]: goods and bads."""
    return np.column_stack([np.bincount(bins[bad == kind], minlength=count) for kind in (0, 1)]).astype(np.float64)


def _weakest(counts: Floats, sign: int, rows: int) -> int | None:
    """The bin that must be merged with its right neighbour next, or None when all may stand: first any that breaks the
    sign, then any that is too small, then those least unlike, up to chance."""
    if len(counts) < 2:
        return None
    totals = counts.sum(axis=1)
    rates = counts[:, 1] / np.maximum(totals, 1)
    steps = np.diff(rates) * sign
    if sign and steps.min() < 0:
        return int(np.argmin(steps))
    chi = _chi_squared(counts)
    small = totals < min(MIN_SHARE * rows, 2_000)
    if small.any():
        at = int(np.argmin(totals))
        if at == 0 or at == len(totals) - 1:
            return min(at, len(totals) - 2)
        return at if chi[at] <= chi[at - 1] else at - 1
    return int(np.argmin(chi)) if chi.min() < MIN_CHI_SQUARED else None


def _chi_squared(counts: Floats) -> Floats:
    """[bins - 1]: Pearson's statistic of each bin with its right neighbour."""
    left, right = counts[:-1], counts[1:]
    both = left + right
    expected = both / np.maximum(both.sum(axis=1, keepdims=True), 1)
    out = np.zeros(len(left), np.float64)
    for side in (left, right):
        wanted = np.maximum(expected * side.sum(axis=1, keepdims=True), 1e-9)
        out += ((side - wanted) ** 2 / wanted).sum(axis=1)
    return out


def _woe(counts: Floats, totals: Floats) -> Floats:
    prior = totals / totals.sum()
    smooth = counts + SMOOTHING * prior
    return np.asarray(np.log(smooth[:, 1] / totals[1]) - np.log(smooth[:, 0] / totals[0]), np.float64)


def _logistic(design: Floats, bad: Labels) -> Floats:
    """Weights of a logistic regression with a slight ridge on all but the intercept, by Newton's method."""
    weights = np.zeros(design.shape[1])
    ridge = np.full(design.shape[1], RIDGE)
    ridge[0] = 0.0
    for _ in range(50):
        probability = sigmoid(design @ weights)
        gradient = design.T @ (probability - bad) + ridge * weights
        spread = probability * (1 - probability)
        step = np.linalg.solve((design * spread[:, None]).T @ design + np.diag(ridge), gradient)
        weights = weights - step
        if float(np.abs(step).max()) < 1e-10:
            break
    return weights
