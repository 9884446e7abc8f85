"""How well a score tells bad from good, and whether its probabilities hold. numpy alone.

Scores rise with risk, labels are 1 for bad. Functions take arrays of one length, without NaN, and give None where a
figure is not defined: without both bad and good there is nothing to tell apart.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Z95 = 1.959963984540054


@dataclass(frozen=True, slots=True)
class Auc:
    """The area under the ROC curve with a 95 % confidence interval: DeLong's variance (1988), on the logit scale so
    that the interval stays inside 0 and 1. low, high: None where the variance is zero, as for a perfect separation."""

    value: float
    low: float | None
    high: float | None

    @property
    def gini(self) -> float:
        """2 AUC - 1."""
        return 2 * self.value - 1


@dataclass(frozen=True, slots=True)
class Ks:
    """The greatest distance between the cumulative shares of bad and good, and the score it is at: `value` parts those
    at or below `at` from the rest."""

    value: float
    at: float


@dataclass(frozen=True, slots=True)
class Band:
    """One band of predicted probability. low, high: the smallest and greatest in it; predicted: their mean; observed:
    the share of bad, with its 95 % Wilson interval."""

    low: float
    high: float
    count: int
    bads: int
    predicted: float
    observed: float
    observed_low: float
    observed_high: float


@dataclass(frozen=True, slots=True)
class Psi:
    """The population stability index. chance: what two samples of these sizes out of one population stay below 95
    times in 100; a rule of thumb that forgets the sizes calls small samples unstable."""

    value: float
    chance: float


def midranks(values: Floats) -> Floats:
    """Ranks from 1, those of equal values averaged."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return ((ends - (counts - 1) / 2)[inverse]).astype(np.float64)


def auc(scores: Floats, labels: Floats) -> Auc | None:
    """The AUC and its interval."""
    bad, good = scores[labels == 1], scores[labels == 0]
    m, n = len(bad), len(good)
    if m == 0 or n == 0:
        return None
    ranks = midranks(np.concatenate((bad, good)))
    value = float((ranks[:m].sum() - m * (m + 1) / 2) / (m * n))
    low = high = None
    if m > 1 and n > 1 and 0 < value < 1:
        # The share of good below each bad one, and of bad above each good one.
        above = (ranks[:m] - midranks(bad)) / n
        below = 1 - (ranks[m:] - midranks(good)) / m
        deviation = math.sqrt(float(above.var(ddof=1)) / m + float(below.var(ddof=1)) / n)
        if deviation > 0:
            centre, half = math.log(value / (1 - value)), Z95 * deviation / (value * (1 - value))
            low, high = _logistic(centre - half), _logistic(centre + half)
    return Auc(value, low, high)


def ks(scores: Floats, labels: Floats) -> Ks | None:
    """The Kolmogorov-Smirnov distance between bad and good."""
    edges, bad, good = cumulative(scores, labels)
    if len(edges) == 0:
        return None
    gaps = np.abs(good - bad)
    at = int(gaps.argmax())
    return Ks(float(gaps[at]), float(edges[at]))


def cumulative(scores: Floats, labels: Floats) -> tuple[Floats, Floats, Floats]:
    """Every distinct score, rising, and the shares of bad and of good at or below it. Empty without both."""
    bads = float(labels.sum())
    goods = len(labels) - bads
    if not bads or not goods:
        empty = np.empty(0)
        return empty, empty, empty
    edges, inverse = np.unique(scores, return_inverse=True)
    bad = np.bincount(inverse, weights=labels, minlength=len(edges)).cumsum() / bads
    good = np.bincount(inverse, weights=1 - labels, minlength=len(edges)).cumsum() / goods
    return edges, bad, good


def roc(scores: Floats, labels: Floats, points: int = 200) -> list[tuple[float, float]]:
    """The ROC curve: shares of good and of bad above each cut, both rising; at most so many points."""
    _, bad, good = cumulative(scores, labels)
    if len(bad) == 0:
        return []
    # From the highest cut, above which there is nothing, to below the lowest, above which everything is.
    x, y = np.append(1 - good[::-1], 1.0), np.append(1 - bad[::-1], 1.0)
    keep = _thin(len(x), points)
    return [(max(float(x[i]), 0.0), max(float(y[i]), 0.0)) for i in keep]


def ks_curves(scores: Floats, labels: Floats, points: int = 200) -> list[tuple[float, float, float]]:
    """Score, share of bad and share of good at or below it; at most so many points."""
    edges, bad, good = cumulative(scores, labels)
    return [(float(edges[i]), float(bad[i]), float(good[i])) for i in _thin(len(edges), points)]


def brier(probabilities: Floats, labels: Floats) -> float | None:
    """The mean squared distance between probability and label."""
    return float(np.square(probabilities - labels).mean()) if len(labels) else None


def wilson(bads: int, count: int) -> tuple[float, float]:
    """The 95 % Wilson interval of a share; (0, 1) when there is nothing to go by."""
    if count == 0:
        return 0.0, 1.0
    share, z2 = bads / count, Z95 * Z95
    centre = (share + z2 / (2 * count)) / (1 + z2 / count)
    half = Z95 / (1 + z2 / count) * math.sqrt(share * (1 - share) / count + z2 / (4 * count * count))
    # At the ends the formula gives 0 and 1 but for rounding.
    return (0.0 if bads == 0 else max(0.0, centre - half)), (1.0 if bads == count else min(1.0, centre + half))


def calibration(probabilities: Floats, labels: Floats, bands: int = 10) -> list[Band]:
    """Bands of about equal counts, by predicted probability; equal probabilities stay together."""
    if len(labels) == 0:
        return []
    cuts = np.unique(np.quantile(probabilities, np.arange(1, bands) / bands, method="lower"))
    places = np.searchsorted(cuts, probabilities, side="left")
    found = []
    for place in np.unique(places):
        inside = places == place
        p, y = probabilities[inside], labels[inside]
        count, bads = len(y), int(y.sum())
        low, high = wilson(bads, count)
        found.append(Band(float(p.min()), float(p.max()), count, bads, float(p.mean()), bads / count, low, high))
    return found


def calibration_error(found: list[Band]) -> float | None:
    """The expected calibration error: the distance between predicted and observed, weighted by the bands' counts."""
    total = sum(one.count for one in found)
    return sum(one.count * abs(one.predicted - one.observed) for one in found) / total if total else None


def psi(base: Floats, now: Floats, bins: int = 10) -> Psi | None:
    """How far a score's distribution has moved from a base's, over bins of equal counts of the base. Half a case is
    added to every bin, so that an empty one gives no infinity."""
    if len(base) == 0 or len(now) == 0:
        return None
    cuts = np.unique(np.quantile(base, np.arange(1, bins) / bins, method="lower"))
    shares = []
    for values in (base, now):
        counts = np.bincount(np.searchsorted(cuts, values, side="left"), minlength=len(cuts) + 1) + 0.5
        shares.append(counts / counts.sum())
    value = float(((shares[1] - shares[0]) * np.log(shares[1] / shares[0])).sum())
    # Under one population the index is about (1/n + 1/m) times a chi-squared variable (Yurdakul and Naranjo, 2020).
    return Psi(value, (1 / len(base) + 1 / len(now)) * _chi_squared_95(len(cuts)))


def _chi_squared_95(freedom: int) -> float:
    """Wilson and Hilferty's approximation of the 95 % quantile."""
    if freedom == 0:
        return 0.0
    part = 2 / (9 * freedom)
    return float(freedom * (1 - part + 1.6448536269514722 * math.sqrt(part)) ** 3)


def _thin(count: int, most: int) -> list[int]:
    """Places of a curve that are kept: the first, the last, and evenly between."""
    if count <= most:
        return list(range(count))
    return sorted(set(np.linspace(0, count - 1, most).round().astype(int).tolist()))


def _logistic(value: float) -> float:
    return 1 / (1 + math.exp(-value)) if value > -700 else 0.0
