"""Additive models as the exporter sees them: EBMs and WOE scorecards are sums of step functions.

raw(x) = intercept + the sum over terms of score[bin of x]. A term has one feature, or two (a pair). Bin 0 is the bin
of missing values; bin i + 1 holds the values with cuts[i-1] <= x < cuts[i].

Contributions are per feature. A pair's score is shared half to each of its two features: that is the Shapley value of
a two-player game in which neither feature alone moves the term, which is how interpret-core purifies its pairs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from engine.export.float32 import Float32Array, Float64Array
from engine.export.trees import IntArray


@dataclass(frozen=True)
class Term:
    """One term: its feature(s), float32 cut points per feature (exact for `x < cut`), and its table of scores."""

    features: tuple[int, ...]
    cuts: tuple[Float32Array, ...]
    scores: Float64Array

    def bins(self, place: int, rows: Float32Array) -> IntArray:
        """[n]: the bin of each row in the term's feature number `place`."""
        column, cuts = rows[:, self.features[place]], self.cuts[place]
        found = np.searchsorted(cuts, column, side="right") + 1
        return np.where(np.isnan(column), 0, found).astype(np.int64)

    def evaluate(self, rows: Float32Array) -> Float64Array:
        """[n]: the term's score."""
        return self.scores[tuple(self.bins(place, rows) for place in range(len(self.features)))]


@dataclass(frozen=True)
class AdditiveModel:
    """All terms of one model."""

    n_features: int
    terms: tuple[Term, ...]
    intercept: float

    def contributions(self, rows: Float32Array) -> Float64Array:
        """[n, features]: not centred; intercept + their sum is raw."""
        total = np.zeros((len(rows), self.n_features), np.float64)
        for term in self.terms:
            share = term.evaluate(rows) / len(term.features)
            for feature in term.features:
                total[:, feature] += share
        return total
