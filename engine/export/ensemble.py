"""The form in which every model leaves for the graph: decision trees whose leaves carry one weight per feature.

contributions(x) = offsets + the sum over trees of the weights of the leaf that x falls into, and
raw(x) = base + the sum of contributions. It is what one ai.onnx.ml TreeEnsembleRegressor with as many targets as
features computes, so score and reasons come from one node and cannot disagree.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from engine.export.float32 import Float64Array
from engine.export.trees import Operator


class Leaf(NamedTuple):
    """Weights by feature, ascending, without zeros."""

    weights: tuple[tuple[int, float], ...]


class Split(NamedTuple):
    """`feature <op> threshold` leads to `yes`; NaN goes to `yes` when `nan_yes`."""

    feature: int
    threshold: float
    nan_yes: bool
    yes: Node
    no: Node


Node = Leaf | Split


@dataclass(frozen=True)
class Ensemble:
    """Trees of contributions; `op` is the comparison of every split."""

    op: Operator
    n_features: int
    trees: tuple[Node, ...]
    offsets: Float64Array
    base: float

    def weights(self) -> int:
        """How many numbers the leaves hold: the size of the file follows from it."""
        return sum(_weights(tree) for tree in self.trees)


def join(split: Split) -> Node:
    """The split, or just its leaf when both answers lead to the same weights."""
    if isinstance(split.yes, Leaf) and split.yes == split.no:
        return split.yes
    return split


def _weights(node: Node) -> int:
    if isinstance(node, Leaf):
        return len(node.weights)
    return _weights(node.yes) + _weights(node.no)
