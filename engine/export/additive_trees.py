"""From an additive model to trees of contributions: one balanced search tree per term (nested for a pair)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from engine.export.additive import AdditiveModel, Term
from engine.export.ensemble import Ensemble, Leaf, Node, Split, join
from engine.export.float32 import Float32Array


def additive_ensemble(model: AdditiveModel, reference: Float32Array) -> Ensemble:
    """The model as trees, less the mean contributions of the `reference` rows; base becomes their mean raw."""
    mean = model.contributions(reference).mean(axis=0)
    trees = tuple(_term_tree(term) for term in model.terms)
    return Ensemble("<", model.n_features, trees, -mean, model.intercept + float(mean.sum()))


def _term_tree(term: Term) -> Node:
    def leaf(bins: tuple[int, ...]) -> Leaf:
        share = float(term.scores[bins]) / len(term.features)
        return Leaf(tuple((f, share) for f in sorted(term.features)) if share else ())

    def level(place: int, bins: tuple[int, ...]) -> Node:
        if place == len(term.features):
            return leaf(bins)
        return _search(term.features[place], term.cuts[place], lambda b: level(place + 1, (*bins, b)))

    return level(0, ())


def _search(feature: int, cuts: Float32Array, inside: Callable[[int], Node]) -> Node:
    """Find the bin of a feature: bin 0 for NaN, otherwise 1 + the number of cuts that are not above the value."""

    def between(low: int, high: int) -> Node:
        if low == high:
            return inside(low + 1)
        middle = (low + high) // 2
        return join(Split(feature, float(cuts[middle]), False, between(low, middle), between(middle + 1, high)))

    # Nothing is below minus infinity, so only NaN takes this branch; and every split keeps the one comparison `<`,
    # which the runtime has a faster loop for.
    return join(Split(feature, -np.inf, True, inside(0), between(0, len(cuts))))
