"""XGBoost boosters: gbtree, binary logistic objectives, numerical splits."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np

from engine.errors import Problem
from engine.export.errors import refuse_if
from engine.export.float32 import Float32Array, Float64Array
from engine.export.source import problem
from engine.export.trees import Condition, Forest, Tree, TreeBuilder

# Objectives by how they read base_score: as a probability, or as log-odds.
_PROBABILITY = ("binary:logistic", "reg:logistic")
_LOG_ODDS = ("binary:logitraw",)


class XgboostSource:
    """An `xgboost.Booster`, or a scikit-learn wrapper of one.

    As the library's own `predict` does, a wrapper that stopped early is read up to its best iteration and a bare
    Booster with all its trees.
    """

    kind = "xgboost"
    library = ("xgboost",)

    def __init__(self, native: Any) -> None:
        self._booster = native
        self._wrapper_missing = float("nan")
        if hasattr(native, "get_booster"):
            self._booster = native.get_booster()
            self._wrapper_missing = float(native.missing)
            best = self._booster.attributes().get("best_iteration")
            if best is not None:
                self._booster = self._booster[: int(best) + 1]

    def feature_names(self) -> tuple[str, ...] | None:
        return tuple(self._booster.feature_names) if self._booster.feature_names else None

    def n_features(self) -> int:
        return int(self._booster.num_features())

    def raw(self, rows: Float32Array) -> Float64Array:
        margin = self._booster.predict(self._matrix(rows), output_margin=True, validate_features=False)
        return np.asarray(margin, np.float64)

    def contributions(self, rows: Float32Array) -> Float64Array:
        phi = self._booster.predict(self._matrix(rows), pred_contribs=True, validate_features=False)
        return np.asarray(phi, np.float64)[:, :-1]

    def _matrix(self, rows: Float32Array) -> Any:
        from xgboost import DMatrix

        return DMatrix(rows)

    def read(self) -> Forest:
        learner = json.loads(bytes(self._booster.save_raw("json")))["learner"]
        problems = list(_refusals(learner))
        if not math.isnan(self._wrapper_missing):
            wrong = f"{self._wrapper_missing} means missing here"
            problems.append(problem("missing", wrong, "Train with missing=nan."))
        refuse_if(problems)
        trees = tuple(_tree(t) for t in learner["gradient_booster"]["model"]["trees"])
        score = float(learner["learner_model_param"]["base_score"].strip("[]"))
        base = score if learner["objective"]["name"] in _LOG_ODDS else math.log(score / (1.0 - score))
        return Forest(self.n_features(), "<", trees, base)


def _refusals(learner: dict[str, Any]) -> list[Problem]:
    problems = []
    parameters, objective = learner["learner_model_param"], learner["objective"]["name"]
    if int(parameters["num_class"]) > 1 or int(parameters.get("num_target", "1")) > 1:
        problems.append(problem("num_class", "it has several classes or targets", "Train objective=binary:logistic."))
    elif objective not in _PROBABILITY + _LOG_ODDS:
        problems.append(
            problem("objective", f"{objective!r} does not score log-odds", "Train objective=binary:logistic.")
        )
    booster = learner["gradient_booster"]
    if booster["name"] != "gbtree":
        problems.append(problem("booster", f"{booster['name']!r} is not supported", "Train with booster=gbtree."))
        return problems
    for tree in booster["model"]["trees"]:
        where = f"tree {tree['id']}"
        if any(tree["split_type"]) or tree["categories"]:
            problems.append(
                problem(
                    where,
                    "it splits on a native categorical feature",
                    "Encode the category as a number before training.",
                )
            )
        if int(tree["tree_param"]["size_leaf_vector"]) > 1:
            problems.append(problem(where, "its leaves are vectors", "Train with multi_strategy=one_output_per_tree."))
    return problems


def _tree(dump: dict[str, Any]) -> Tree:
    left, right, hessian = dump["left_children"], dump["right_children"], dump["sum_hessian"]
    # Node numbers are kept; the root is 0. A number that pruning deleted is an unreachable leaf of value 0.
    builder = TreeBuilder()
    for node, numbers in enumerate(dump["split_conditions"]):
        builder.add()
        number = float(np.float32(numbers))
        if left[node] < 0:
            builder.leaf(node, number, float(hessian[node]))
        else:
            condition = Condition(int(dump["split_indices"][node]), number, bool(dump["default_left"][node]))
            builder.split(node, condition, int(left[node]), int(right[node]), float(hessian[node]))
    return builder.build()
