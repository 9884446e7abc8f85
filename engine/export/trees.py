"""Boosted trees as the exporter sees them, whichever library grew them.

raw(x) = base + the sum over trees of the value of the leaf that x falls into. A split sends x to the left when
`x[feature] <op> threshold` holds, and NaN to the side the library learned. Thresholds are float32 and route every
float32 value exactly as the library does (see float32.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import numpy.typing as npt

from engine.export.float32 import Float32Array, Float64Array

Operator = Literal["<=", "<"]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Condition:
    """One question about one feature; the answer is yes (left) or no (right)."""

    feature: int
    threshold: float
    nan_left: bool


@dataclass(frozen=True)
class Path:
    """The way from the root to one leaf: which conditions had which answer, and the cover ratio of every step."""

    leaf: int
    steps: tuple[tuple[Condition, bool, float], ...]

    @cached_property
    def features(self) -> tuple[int, ...]:
        """The distinct features on the way, ascending: the players of this leaf's game."""
        return tuple(sorted({condition.feature for condition, _, _ in self.steps}))


def oblivious(paths: Sequence[Path]) -> bool:
    """Whether some path asks every condition of the tree, so that the other paths add none."""
    asked = [{condition for condition, _, _ in path.steps} for path in paths]
    return max(len(conditions) for conditions in asked) == len(set[Condition]().union(*asked))


@dataclass(frozen=True)
class Tree:
    """Parallel arrays, one entry a node, the root first. A leaf has left = right = -1.

    value: what a leaf adds to raw. cover: training weight that reached the node (path-dependent SHAP needs it).
    """

    feature: IntArray
    threshold: Float32Array
    nan_left: BoolArray
    left: IntArray
    right: IntArray
    value: Float64Array
    cover: Float64Array

    def is_leaf(self, node: int) -> bool:
        """Whether the node is a leaf."""
        return bool(self.left[node] < 0)

    def condition(self, node: int) -> Condition:
        """The question an inner node asks."""
        return Condition(int(self.feature[node]), float(self.threshold[node]), bool(self.nan_left[node]))

    def paths(self) -> Iterator[Path]:
        """Every leaf with the way to it, from left to right."""
        stack: list[tuple[int, tuple[tuple[Condition, bool, float], ...]]] = [(0, ())]
        while stack:
            node, steps = stack.pop()
            if self.is_leaf(node):
                yield Path(node, steps)
                continue
            condition, cover = self.condition(node), float(self.cover[node])
            for child, went_left in ((int(self.right[node]), False), (int(self.left[node]), True)):
                ratio = float(self.cover[child]) / cover if cover > 0 else 0.0
                stack.append((child, (*steps, (condition, went_left, ratio))))


class TreeBuilder:
    """Collects the nodes of one tree; a reader adds them in any order that puts the root first."""

    def __init__(self) -> None:
        self._rows: list[tuple[int, float, bool, int, int, float, float]] = []

    def add(self) -> int:
        """Reserve the next node and return its index."""
        self._rows.append((0, 0.0, False, -1, -1, 0.0, 0.0))
        return len(self._rows) - 1

    def leaf(self, node: int, value: float, cover: float) -> None:
        """Make the reserved node a leaf."""
        self._rows[node] = (0, 0.0, False, -1, -1, value, cover)

    def split(self, node: int, condition: Condition, left: int, right: int, cover: float) -> None:
        """Make the reserved node a split."""
        self._rows[node] = (condition.feature, condition.threshold, condition.nan_left, left, right, 0.0, cover)

    def build(self) -> Tree:
        """The finished tree."""
        feature, threshold, nan_left, left, right, value, cover = zip(*self._rows, strict=True)
        return Tree(
            feature=np.array(feature, np.int64),
            threshold=np.array(threshold, np.float32),
            nan_left=np.array(nan_left, np.bool_),
            left=np.array(left, np.int64),
            right=np.array(right, np.int64),
            value=np.array(value, np.float64),
            cover=np.array(cover, np.float64),
        )


@dataclass(frozen=True)
class Forest:
    """All trees of one model. `op` is the comparison of every split: LightGBM and CatBoost `<=`, XGBoost `<`."""

    n_features: int
    op: Operator
    trees: tuple[Tree, ...]
    base: float

    def answers(self, condition: Condition, rows: Float32Array) -> BoolArray:
        """[n]: the answer of each row to a condition."""
        column, threshold = rows[:, condition.feature], np.float32(condition.threshold)
        met = column <= threshold if self.op == "<=" else column < threshold
        return np.where(np.isnan(column), condition.nan_left, met)

    def raw(self, rows: Float32Array) -> Float64Array:
        """[n]: the score, by walking every tree in float64. The exporter's tests use it; serving never does."""
        total = np.full(len(rows), self.base, np.float64)
        index = np.arange(len(rows))
        for tree in self.trees:
            node = np.zeros(len(rows), np.int64)
            inner = tree.left[node] >= 0
            while inner.any():
                column, threshold = rows[index, tree.feature[node]], tree.threshold[node]
                met = column <= threshold if self.op == "<=" else column < threshold
                goes_left = np.where(np.isnan(column), tree.nan_left[node], met)
                node = np.where(inner, np.where(goes_left, tree.left[node], tree.right[node]), node)
                inner = tree.left[node] >= 0
            total += tree.value[node]
        return total
