"""Exact Shapley values of one leaf, as a table.

A leaf of value v contributes to f(x) when x gives every condition on the leaf's path the right answer. Group those
conditions by feature: feature j *agrees* when x answers all its conditions on the path rightly. The leaf is then a
game of the d features on its path,

    worth(S) = v * [every feature in S agrees with x] * chance(features not in S),

where chance(R) says how likely the features in R agree when they are not known:

- interventional: the share of reference rows that agree on all of R together;
- path-dependent: the product over R of the cover ratios along the path (Lundberg et al. 2020, TreeSHAP).

Both are the same game with another chance, and x enters only through which of its d features agree: 2^d patterns. So
the Shapley values of a leaf for every possible x form a table of 2^d rows and d columns, linear in `chance`.
Subsets and patterns are bit masks; bit i stands for the i-th feature on the path.
"""

from __future__ import annotations

import math
from functools import cache

import numpy as np

from engine.export.float32 import Float64Array

MAX_PATH_FEATURES = 10


@cache
def _kernel(d: int) -> Float64Array:
    """[2^d * d, 2^d]: the linear map from chance[subset] to phi[pattern, feature] of a leaf of value 1.

    phi_j = sum over S without j of |S|! (d - |S| - 1)! / d! * (worth(S + j) - worth(S)).
    """
    size = 1 << d
    kernel = np.zeros((size, d, size), np.float64)
    full = size - 1
    for j in range(d):
        bit = 1 << j
        for subset in range(size):
            if subset & bit:
                continue
            members = subset.bit_count()
            weight = math.factorial(members) * math.factorial(d - members - 1) / math.factorial(d)
            for pattern in range(size):
                if pattern & subset != subset:
                    continue
                if pattern & bit:
                    kernel[pattern, j, full & ~(subset | bit)] += weight
                kernel[pattern, j, full & ~subset] -= weight
    return kernel.reshape(size * d, size)


def leaf_tables(chance: Float64Array, value: Float64Array) -> Float64Array:
    """[leaves, 2^d, d]: phi of every pattern, for leaves that all have d features on their path.

    chance: [leaves, 2^d], by subset of features; chance[:, 0] is 1. value: [leaves].
    """
    leaves, size = chance.shape
    d = size.bit_length() - 1
    if d > MAX_PATH_FEATURES:
        raise ValueError(f"a path of {d} distinct features is too long for a table")
    table = (chance * value[:, None]) @ _kernel(d).T
    return table.reshape(leaves, size, d)


def chance_from_cover(ratios: Float64Array) -> Float64Array:
    """[leaves, 2^d]: path-dependent chances; ratios [leaves, d] is the product of cover ratios of each feature."""
    leaves, d = ratios.shape
    chance = np.ones((leaves, 1), np.float64)
    for j in range(d):
        chance = np.concatenate([chance, chance * ratios[:, j : j + 1]], axis=1)
    return chance


def chance_from_patterns(shares: Float64Array) -> Float64Array:
    """[leaves, 2^d]: interventional chances; shares [leaves, 2^d] is the share of reference rows of each exact pattern.

    chance(R) = the share of rows whose pattern contains R: a sum over supersets, done one bit at a time.
    """
    leaves, size = shares.shape
    chance = shares.copy()
    for j in range(size.bit_length() - 1):
        cube = chance.reshape(leaves, size >> (j + 1), 2, 1 << j)
        cube[:, :, 0, :] += cube[:, :, 1, :]
    return chance
