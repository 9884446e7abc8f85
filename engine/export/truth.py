"""Interventional Shapley values by another way than the exporter's, for its self-check.

For one row x and one reference row r, a leaf is worth v to a coalition when each feature on its path agrees with x (if
in the coalition) or with r (if not). Call A the features where only x agrees, and C those where only r agrees; the
leaf takes part only when no feature disagrees in both. Then (Laberge & Pequignot 2022; the two-row case of Lundberg
et al. 2020) every feature in A gets v * (|A|-1)! |C|! / (|A|+|C|)!, every feature in C gets minus
v * |A|! (|C|-1)! / (|A|+|C|)!, and the mean over the reference rows is the answer.
"""

from __future__ import annotations

import math

import numpy as np

from engine.export.float32 import Float32Array, Float64Array
from engine.export.trees import BoolArray, Forest, IntArray, Tree


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
    matrix = np.column_stack([agreement[f] for f in features])
    # Rows with the same pattern have the same answer: do the pairs of patterns, not of rows.
    codes = matrix @ (1 << np.arange(d))
    mine, place = np.unique(codes[:n], return_inverse=True)
    theirs, counts = np.unique(codes[n:], return_counts=True)
    phi[:, features] += value * _pairs(mine, theirs, counts / counts.sum(), d)[place]


def _pairs(mine: IntArray, theirs: IntArray, weights: Float64Array, d: int) -> Float64Array:
    """[mine, d]: the mean over `theirs` of the two-row values of a leaf of value 1."""
    only_x = mine[:, None] & ~theirs[None, :]
    only_r = theirs[None, :] & ~mine[:, None]
    takes_part = (mine[:, None] | theirs[None, :]) == (1 << d) - 1
    a, c = _bit_count(only_x, d), _bit_count(only_r, d)
    gain, loss = _coefficients(d)
    up = np.where(takes_part, gain[a, c] * weights, 0.0)
    down = np.where(takes_part, loss[a, c] * weights, 0.0)
    return np.column_stack(
        [(up * (only_x >> j & 1) - down * (only_r >> j & 1)).sum(axis=1) for j in range(d)]
    )


def _bit_count(masks: IntArray, d: int) -> IntArray:
    return np.asarray(sum((masks >> j & 1 for j in range(d)), np.zeros_like(masks)), np.int64)


def _coefficients(d: int) -> tuple[Float64Array, Float64Array]:
    gain, loss = np.zeros((d + 1, d + 1), np.float64), np.zeros((d + 1, d + 1), np.float64)
    f = math.factorial
    for a in range(d + 1):
        for c in range(d + 1 - a):
            if a:
                gain[a, c] = f(a - 1) * f(c) / f(a + c)
            if c:
                loss[a, c] = f(a) * f(c - 1) / f(a + c)
    return gain, loss
