"""Interventional Shapley values by another way than the exporter's, for its self-check.

For one row x and one reference row r, a leaf is worth v to a coalition when each feature on its path agrees with x (if
in the coalition) or with r (if not). Call A the features where only x agrees, and C those where only r agrees; the
leaf takes part only when no feature disagrees in both. Then (Laberge & Pequignot 2022; the two-row case of Lundberg
et al. 2020) every feature in A gets v * (|A|-1)! |C|! / (|A|+|C|)!, every feature in C gets minus
v * |A|! (|C|-1)! / (|A|+|C|)!, and the mean over the reference rows is the answer.
"""

from __future__ import annotations

import math
from functools import cache

import numpy as np

from engine.export.float32 import Float32Array, Float64Array
from engine.export.trees import BoolArray, Forest, Tree


def interventional_contributions(forest: Forest, rows: Float32Array, reference: Float32Array) -> Float64Array:
    """[n, features]: contributions of each row against all reference rows."""
    phi = np.zeros((len(rows), forest.n_features), np.float64)
    both = np.concatenate([rows, reference])
    for tree in forest.trees:
        agreement: dict[int, BoolArray] = {}
        _descend(forest, tree, both, 0, agreement, phi, len(rows))
    return phi


def _descend(
    forest: Forest,
    tree: Tree,
    both: Float32Array,
    node: int,
    agreement: dict[int, BoolArray],
    phi: Float64Array,
    n: int,
) -> None:
    """Walk to every leaf, carrying for each feature met whether each row agrees with the way so far."""
    if tree.is_leaf(node):
        if agreement and tree.value[node] != 0.0:
            _add_leaf(agreement, float(tree.value[node]), phi, n)
        return
    feature = int(tree.feature[node])
    column, threshold = both[:, feature].astype(np.float64), float(tree.threshold[node])
    left = column <= threshold if forest.op == "<=" else column < threshold
    left |= np.isnan(column) & bool(tree.nan_left[node])
    for child, agrees in ((tree.left[node], left), (tree.right[node], ~left)):
        so_far = agreement.get(feature)
        extended = {**agreement, feature: agrees if so_far is None else so_far & agrees}
        _descend(forest, tree, both, int(child), extended, phi, n)


def _add_leaf(agreement: dict[int, BoolArray], value: float, phi: Float64Array, n: int) -> None:
    features = list(agreement)
    d = len(features)
    codes = np.zeros(len(agreement[features[0]]), np.int64)
    for bit, feature in enumerate(features):
        codes += agreement[feature].astype(np.int64) << bit
    # Rows with the same pattern have the same answer: do the pairs of patterns, not of rows.
    shares = np.bincount(codes[n:], minlength=1 << d) / (len(codes) - n)
    phi[:, features] += value * (shares @ _pairs(d))[codes[:n]]


@cache
def _pairs(d: int) -> Float64Array:
    """[2^d of x, 2^d of r, d]: the two-row values of a leaf of value 1, for every pair of patterns."""
    table = np.zeros((1 << d, 1 << d, d), np.float64)
    f = math.factorial
    for mine in range(1 << d):
        for theirs in range(1 << d):
            if mine | theirs != (1 << d) - 1:
                continue
            only_x, only_r = mine & ~theirs, theirs & ~mine
            a, c = only_x.bit_count(), only_r.bit_count()
            for j in range(d):
                if only_x >> j & 1:
                    table[mine, theirs, j] = f(a - 1) * f(c) / f(a + c)
                elif only_r >> j & 1:
                    table[mine, theirs, j] = -f(a) * f(c - 1) / f(a + c)
    return table
