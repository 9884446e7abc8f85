"""LightGBM boosters: binary objectives, numerical splits."""

from __future__ import annotations

from typing import Any

import numpy as np

from engine.errors import Problem
from engine.export.errors import refuse_if
from engine.export.float32 import Float32Array, Float64Array, floor_float32
from engine.export.source import problem
from engine.export.trees import Condition, Forest, Tree, TreeBuilder

_OBJECTIVES = ("binary", "cross_entropy", "custom", "none", "")


class LightGbmSource:
    """A `lightgbm.Booster`, or a scikit-learn wrapper of one. Trees after the best iteration are left out."""

    kind = "lightgbm"
    library = ("lightgbm",)

    def __init__(self, native: Any) -> None:
        self._booster = native.booster_ if hasattr(native, "booster_") else native

    def feature_names(self) -> tuple[str, ...] | None:
        names = tuple(self._booster.feature_name())
        return None if all(n == f"Column_{i}" for i, n in enumerate(names)) else names

    def n_features(self) -> int:
        return int(self._booster.num_feature())

    def raw(self, rows: Float32Array) -> Float64Array:
        return np.asarray(self._booster.predict(rows, raw_score=True), np.float64)

    def contributions(self, rows: Float32Array) -> Float64Array:
        return np.asarray(self._booster.predict(rows, pred_contrib=True), np.float64)[:, :-1]

    def read(self) -> Forest:
        dump = self._booster.dump_model()
        problems = list(_refusals(dump))
        for info in dump["tree_info"]:
            problems += _tree_refusals(info)
        refuse_if(problems)
        trees = tuple(_tree(info["tree_structure"]) for info in dump["tree_info"])
        return Forest(self.n_features(), "<=", trees, 0.0)


def _refusals(dump: dict[str, Any]) -> list[Problem]:
    problems = []
    if dump["num_class"] != 1 or dump["num_tree_per_iteration"] != 1:
        problems.append(problem("num_class", f"it has {dump['num_class']} classes", "Train a binary objective."))
    objective = str(dump.get("objective", "")).split(" ")[0]
    if objective not in _OBJECTIVES and dump["num_class"] == 1:
        problems.append(problem("objective", f"{objective!r} does not score log-odds", "Train objective=binary."))
    if dump.get("average_output"):
        problems.append(problem("boosting", "a random forest averages its trees", "Train boosting=gbdt."))
    return problems


def _tree_refusals(info: dict[str, Any]) -> list[Problem]:
    where = f"tree {info['tree_index']}"
    found: dict[str, Problem] = {}
    stack = [info["tree_structure"]]
    while stack:
        node = stack.pop()
        if "leaf_value" in node:
            if "leaf_coeff" in node:
                found["linear"] = problem(where, "its leaves are linear models", "Train with linear_tree=false.")
            continue
        if node["decision_type"] != "<=":
            found["categorical"] = problem(
                where, "it splits on a native categorical feature", "Encode the category as a number before training."
            )
        if node["missing_type"] == "Zero":
            found["zero"] = problem(
                where, "zero means missing here", "Train with zero_as_missing=false and write missing values as NaN."
            )
        stack += [node["left_child"], node["right_child"]]
    return list(found.values())


def _tree(structure: dict[str, Any]) -> Tree:
    builder = TreeBuilder()

    def add(node: dict[str, Any]) -> int:
        index = builder.add()
        if "leaf_value" in node:
            builder.leaf(index, float(node["leaf_value"]), float(node.get("leaf_count", 0)))
            return index
        threshold = float(node["threshold"])
        # Where training saw no missing value, LightGBM reads NaN as 0.
        nan_left = bool(node["default_left"]) if node["missing_type"] == "NaN" else threshold >= 0.0
        condition = Condition(int(node["split_feature"]), float(floor_float32(threshold)), nan_left)
        left, right = add(node["left_child"]), add(node["right_child"])
        builder.split(index, condition, left, right, float(node["internal_count"]))
        return index

    add(structure)
    return builder.build()
