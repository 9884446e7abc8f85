"""From boosted trees to trees of contributions (an `Ensemble`), exactly.

Every leaf of a boosted tree has a small table of Shapley values (shapley.py), looked up by which of the features on its
path agree with x. So the contributions of a tree depend on x only through the answers to its conditions. A tree is cut
into groups of leaves with at most GROUP_CONDITIONS distinct conditions on their paths; each group becomes one new tree
that asks those conditions (cells.py) and whose leaves hold the sum of the tables of the group.

An oblivious tree (CatBoost) asks the same d conditions on every path: it stays one tree of the same shape.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from engine.export.cells import Cells
from engine.export.ensemble import Ensemble, Leaf, Node
from engine.export.float32 import Float32Array, Float64Array
from engine.export.shapley import chance_from_cover, chance_from_patterns, leaf_tables
from engine.export.trees import Condition, Forest, IntArray, Path, Tree, oblivious

# Measured on 300 trees of depth 4: fewer make many small trees, more make many more leaves; 6 was the fastest to run.
GROUP_CONDITIONS = 6


@dataclass(frozen=True)
class _Explained:
    """A leaf with its table: phi[pattern, feature], over the features of its path."""

    path: Path
    table: Float64Array


def expand(forest: Forest, reference: Float32Array, *, interventional: bool) -> Ensemble:
    """All trees expanded, measured against the `reference` rows [n, features].

    interventional: Shapley values against the rows themselves; otherwise path-dependent ones (from training cover),
    less their mean over the rows. Either way base is the mean raw of the reference (for path-dependent values: up to
    rounding) and the mean contribution over the reference is 0.
    """
    base = forest.base
    offsets = np.zeros(forest.n_features, np.float64)
    trees: list[Node] = []
    for tree in forest.trees:
        explained: dict[int, _Explained] = {}
        for group in _by_players(tree):
            shares = _pattern_shares(forest, group, reference)
            values = np.array([tree.value[path.leaf] for path in group])
            chance = chance_from_patterns(shares) if interventional else chance_from_cover(_ratios(group))
            tables = leaf_tables(chance, values)
            base += float(values @ chance[:, -1])
            if not interventional:
                mean = np.einsum("lp,lpd->ld", shares, tables)
                base += float(mean.sum())
                for path, shift in zip(group, mean, strict=True):
                    offsets[list(path.features)] -= shift
            for path, table in zip(group, tables, strict=True):
                explained[path.leaf] = _Explained(path, table)
        trees.extend(_combine(group, forest.n_features) for group in _groups(tree, explained))
    return Ensemble(forest.op, forest.n_features, tuple(trees), offsets, base)


def _by_players(tree: Tree) -> Iterator[list[Path]]:
    """The leaves, in lists that have equally many features on their paths."""
    by_count: dict[int, list[Path]] = {}
    for path in tree.paths():
        by_count.setdefault(len(path.features), []).append(path)
    for count in sorted(by_count):
        yield by_count[count]


def _pattern_shares(forest: Forest, paths: Sequence[Path], reference: Float32Array) -> Float64Array:
    """[leaves, 2^d]: for each leaf, the share of reference rows of each pattern of agreeing features."""
    conditions = _distinct(paths)
    place = {condition: i for i, condition in enumerate(conditions)}
    codes = np.zeros(len(reference), np.int64)
    for i, condition in enumerate(conditions):
        codes |= forest.answers(condition, reference).astype(np.int64) << i
    # Rows with the same answers are one row of a higher weight: at most 2^conditions, and far fewer in fact.
    kinds, counts = np.unique(codes, return_counts=True)
    weights = counts / len(reference)
    size = 1 << len(paths[0].features)
    out = np.empty((len(paths), size), np.float64)
    for i, path in enumerate(paths):
        agrees = _agreement(path, [(kinds >> place[c] & 1) == yes for c, yes, _ in path.steps], len(kinds))
        out[i] = np.bincount(agrees, weights, minlength=size)
    return out


def _agreement(path: Path, right_answers: Sequence[np.ndarray], rows: int) -> IntArray:
    """[rows]: the bit mask of features all of whose conditions on the path are answered rightly."""
    bit = {feature: 1 << i for i, feature in enumerate(path.features)}
    mask = np.full(rows, (1 << len(path.features)) - 1, np.int64)
    for (condition, _, _), right in zip(path.steps, right_answers, strict=True):
        mask &= np.where(right, -1, ~bit[condition.feature])
    return mask


def _ratios(paths: Sequence[Path]) -> Float64Array:
    """[leaves, d]: the product of cover ratios of each feature on the path."""
    out = np.ones((len(paths), len(paths[0].features)), np.float64)
    for i, path in enumerate(paths):
        for condition, _, ratio in path.steps:
            out[i, path.features.index(condition.feature)] *= ratio
    return out


def _distinct(paths: Sequence[Path]) -> list[Condition]:
    return list(dict.fromkeys(condition for path in paths for condition, _, _ in path.steps))


def _groups(tree: Tree, explained: dict[int, _Explained]) -> Iterator[list[_Explained]]:
    """The leaves that matter, cut into groups of at most GROUP_CONDITIONS distinct conditions.

    A group is the whole subtree below a node, so the conditions above the node are shared by its leaves. An oblivious
    tree is one group.
    """

    def below(node: int) -> list[_Explained]:
        if tree.is_leaf(node):
            return [explained[node]]
        return below(int(tree.left[node])) + below(int(tree.right[node]))

    whole = oblivious([e.path for e in explained.values()])
    stack = [0]
    while stack:
        node = stack.pop()
        leaves = below(node)
        if not (whole or tree.is_leaf(node)) and len(_distinct([e.path for e in leaves])) > GROUP_CONDITIONS:
            stack += [int(tree.right[node]), int(tree.left[node])]
            continue
        telling = [e for e in leaves if e.path.steps and e.table.any()]
        if telling:
            yield telling


def _combine(group: Sequence[_Explained], n_features: int) -> Node:
    """One tree of contributions for a group of leaves."""
    conditions = _distinct([e.path for e in group])
    place = {condition: i for i, condition in enumerate(conditions)}
    cells = Cells(conditions)
    total = np.zeros((len(cells.answers), n_features), np.float64)
    for leaf in group:
        right = [cells.answers[:, place[c]] == yes for c, yes, _ in leaf.path.steps]
        total[:, list(leaf.path.features)] += leaf.table[_agreement(leaf.path, right, len(total))]
    return cells.tree([_leaf(row) for row in total])


def _leaf(row: Float64Array) -> Leaf:
    used = np.flatnonzero(row)
    return Leaf(tuple(zip(used.tolist(), row[used].tolist(), strict=True)))
