"""CatBoost models: binary, float features, symmetric (oblivious) trees."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from engine.errors import Problem
from engine.export.errors import refuse_if
from engine.export.float32 import Float32Array, Float64Array, floor_float32
from engine.export.source import problem
from engine.export.trees import Condition, Forest, Tree, TreeBuilder

_OBJECTIVES = ("Logloss", "CrossEntropy")


class CatBoostSource:
    """A `catboost.CatBoost` or `CatBoostClassifier`. What use_best_model cut off is not in the model any more."""

    kind = "catboost"
    library = ("catboost",)

    def __init__(self, native: Any) -> None:
        self._model = native

    def feature_names(self) -> tuple[str, ...] | None:
        names = tuple(self._model.feature_names_)
        return None if all(n == str(i) for i, n in enumerate(names)) else names

    def n_features(self) -> int:
        return len(self._model.feature_names_)

    def raw(self, rows: Float32Array) -> Float64Array:
        return np.asarray(self._model.predict(rows, prediction_type="RawFormulaVal", thread_count=1), np.float64)

    def contributions(self, rows: Float32Array) -> Float64Array:
        from catboost import EFstrType, Pool

        phi = self._model.get_feature_importance(Pool(rows), type=EFstrType.ShapValues, thread_count=1)
        return np.asarray(phi, np.float64)[:, :-1]

    def read(self) -> Forest:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "model.json"
            self._model.save_model(str(file), format="json")
            dump = json.loads(file.read_text(encoding="utf-8"))
        objective = str(self._model.get_all_params().get("loss_function", "")).split(":")[0]
        refuse_if(_refusals(dump, objective))
        columns = {f["feature_index"]: f for f in dump["features_info"]["float_features"]}
        scale, (bias,) = dump["scale_and_bias"]
        trees = tuple(_tree(t, columns, float(scale)) for t in dump["oblivious_trees"])
        return Forest(self.n_features(), "<=", trees, float(bias))


def _refusals(dump: dict[str, Any], objective: str) -> list[Problem]:
    problems = []
    if len(dump["scale_and_bias"][1]) != 1:
        problems.append(problem("classes", "it has several classes", "Train loss_function=Logloss."))
    elif objective and objective not in _OBJECTIVES:
        problems.append(problem("loss_function", f"{objective!r} does not score log-odds", "Train Logloss."))
    for kind in ("categorical", "text", "embedding"):
        if dump["features_info"].get(f"{kind}_features"):
            problems.append(
                problem("features", f"it has native {kind} features", "Encode them as numbers before training.")
            )
    if "oblivious_trees" not in dump:
        problems.append(
            problem("grow_policy", "its trees are not symmetric", "Train with grow_policy=SymmetricTree (the default).")
        )
        return problems
    kinds = {split["split_type"] for tree in dump["oblivious_trees"] for split in tree["splits"] or ()}
    for kind in sorted(kinds - {"FloatFeature"}):
        problems.append(problem("splits", f"it has splits of type {kind}", "Use float features only."))
    return problems


def _tree(dump: dict[str, Any], columns: dict[int, Any], scale: float) -> Tree:
    # Bit k of a leaf's number is the answer to `x > border` of split k, so the answer no is our left.
    conditions = []
    for split in dump["splits"] or ():
        column = columns[split["float_feature_index"]]
        nan_left = column["nan_value_treatment"] != "AsTrue"
        conditions.append(Condition(column["flat_feature_index"], float(floor_float32(split["border"])), nan_left))
    weights = dump.get("leaf_weights") or [0.0] * len(dump["leaf_values"])
    builder = TreeBuilder()

    def add(bit: int, leaf: int) -> tuple[int, float]:
        index = builder.add()
        if bit < 0:
            cover = float(weights[leaf])
            builder.leaf(index, float(dump["leaf_values"][leaf]) * scale, cover)
            return index, cover
        left, left_cover = add(bit - 1, leaf)
        right, right_cover = add(bit - 1, leaf | 1 << bit)
        builder.split(index, conditions[bit], left, right, left_cover + right_cover)
        return index, left_cover + right_cover

    add(len(conditions) - 1, 0)
    return builder.build()
