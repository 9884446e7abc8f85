"""The ONNX graph of an explained model.

    features [n, F] -> TreeEnsembleRegressor -> contributions [n, F]
                       x ones + base         -> raw           [n, 1]
                       slope, intercept, Sigmoid -> probability [n, 1]
                       scale, shift, Clip    -> points        [n, 1]   (when the manifest has a scaling)

Everything is float32. With `wide` the trees are stored and summed in float64 (the input is cast, the output is still
float32): for models whose float32 sums would miss the tolerance.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, checker, helper, numpy_helper

from engine.export.ensemble import Ensemble, Leaf, Node
from engine.scoring.manifest import (
    CONTRIBUTIONS_TENSOR,
    INPUT_TENSOR,
    MANIFEST_KEY,
    POINTS_TENSOR,
    PROBABILITY_TENSOR,
    RAW_TENSOR,
    Calibration,
    Manifest,
    Scaling,
)

# Conservative versions that every ONNX Runtime since 1.14 reads.
OPSET = 18
OPSET_ML = 3
IR_VERSION = 8
PRODUCER = "assay"


@dataclass
class _Table:
    """The parallel attribute lists of a TreeEnsembleRegressor."""

    comparison: str
    tree_ids: list[int] = field(default_factory=list)
    node_ids: list[int] = field(default_factory=list)
    features: list[int] = field(default_factory=list)
    modes: list[str] = field(default_factory=list)
    thresholds: list[float] = field(default_factory=list)
    yes: list[int] = field(default_factory=list)
    no: list[int] = field(default_factory=list)
    nan_yes: list[int] = field(default_factory=list)
    target_trees: list[int] = field(default_factory=list)
    target_nodes: list[int] = field(default_factory=list)
    targets: list[int] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)

    def add(self, tree: int, root: Node) -> None:
        start = len(self.node_ids)

        def place(node: Node) -> int:
            row = len(self.node_ids)
            self.tree_ids.append(tree)
            self.node_ids.append(row - start)
            leaf = isinstance(node, Leaf)
            self.features.append(0 if isinstance(node, Leaf) else node.feature)
            self.modes.append("LEAF" if leaf else self.comparison)
            self.thresholds.append(0.0 if isinstance(node, Leaf) else node.threshold)
            self.nan_yes.append(0 if isinstance(node, Leaf) else int(node.nan_yes))
            self.yes.append(0)
            self.no.append(0)
            if isinstance(node, Leaf):
                # The operator wants a weight on every leaf.
                for target, weight in node.weights or ((0, 0.0),):
                    self.target_trees.append(tree)
                    self.target_nodes.append(row - start)
                    self.targets.append(target)
                    self.weights.append(weight)
            else:
                self.yes[row] = place(node.yes)
                self.no[row] = place(node.no)
            return row - start

        place(root)


def _tree_node(ensemble: Ensemble, source: str, *, wide: bool) -> NodeProto:
    table = _Table("BRANCH_LEQ" if ensemble.op == "<=" else "BRANCH_LT")
    # The offsets are a tree of one leaf. The operator's own base_values would do, but ONNX Runtime adds them only to
    # targets that some leaf has written to, and a leaf leaves out the features it does not move.
    offsets = Leaf(tuple((i, float(v)) for i, v in enumerate(ensemble.offsets) if v))
    roots = (*ensemble.trees, offsets) if offsets.weights or not ensemble.trees else ensemble.trees
    for number, root in enumerate(roots):
        table.add(number, root)
    numbers: dict[str, Sequence[float]] = {
        "nodes_values": table.thresholds,
        "target_weights": table.weights,
    }
    attributes: dict[str, Any] = {}
    for name, values in numbers.items():
        if wide:
            attributes[f"{name}_as_tensor"] = numpy_helper.from_array(np.array(values, np.float64), name)
        else:
            attributes[name] = np.array(values, np.float32).tolist()
    return helper.make_node(
        "TreeEnsembleRegressor",
        [source],
        [CONTRIBUTIONS_TENSOR],
        name="explain",
        domain="ai.onnx.ml",
        n_targets=ensemble.n_features,
        aggregate_function="SUM",
        post_transform="NONE",
        nodes_treeids=table.tree_ids,
        nodes_nodeids=table.node_ids,
        nodes_featureids=table.features,
        nodes_modes=table.modes,
        nodes_truenodeids=table.yes,
        nodes_falsenodeids=table.no,
        nodes_missing_value_tracks_true=table.nan_yes,
        target_treeids=table.target_trees,
        target_nodeids=table.target_nodes,
        target_ids=table.targets,
        **attributes,
    )


class _Tail:
    """The scalar arithmetic after the trees."""

    def __init__(self) -> None:
        self.nodes: list[NodeProto] = []
        self.constants: list[TensorProto] = []

    def constant(self, name: str, value: Any) -> str:
        self.constants.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def node(self, operator: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(operator, list(inputs), [output], name=output, **attributes))
        return output

    def affine(self, source: str, slope: float, shift: float, name: str) -> str:
        """slope * source + shift; the steps that would change nothing are left out."""
        if slope != 1.0:
            source = self.node("Mul", [source, self.constant(f"{name}_slope", np.float32(slope))], f"{name}_scaled")
        if shift != 0.0:
            source = self.node("Add", [source, self.constant(f"{name}_shift", np.float32(shift))], f"{name}_shifted")
        return source


def build_graph(
    ensemble: Ensemble, calibration: Calibration, scaling: Scaling | None, *, wide: bool = False
) -> ModelProto:
    """The model without its manifest, checked by onnx."""
    tail = _Tail()
    source = INPUT_TENSOR
    if wide:
        source = tail.node("Cast", [INPUT_TENSOR], "features_wide", to=TensorProto.DOUBLE)
    tail.nodes.append(_tree_node(ensemble, source, wide=wide))
    # A product with ones and not a ReduceSum: measured on ONNX Runtime 1.31, its sums come in the same order however
    # many rows there are, so a row gets the same bits alone and in a batch; those of ReduceSum do not from 16 rows on.
    ones = tail.constant("ones", np.ones((ensemble.n_features, 1), np.float32))
    total = tail.node("MatMul", [CONTRIBUTIONS_TENSOR, ones], "total")
    tail.node("Add", [total, tail.constant("base", np.float32(ensemble.base))], RAW_TENSOR)
    logit = tail.affine(RAW_TENSOR, calibration.slope, calibration.intercept, "calibration")
    tail.node("Sigmoid", [logit], PROBABILITY_TENSOR)
    outputs = [RAW_TENSOR, PROBABILITY_TENSOR]
    if scaling is not None:
        sign = 1.0 if scaling.higher_is == "safer" else -1.0
        slope = -sign * scaling.points_per_logit
        shift = scaling.anchor_points - sign * scaling.points_per_logit * float(np.log(scaling.anchor_odds))
        points = tail.affine(logit, slope, shift, "points")
        low = tail.constant("points_min", np.float32(scaling.points_min))
        high = tail.constant("points_max", np.float32(scaling.points_max))
        tail.node("Clip", [points, low, high], POINTS_TENSOR)
        outputs.append(POINTS_TENSOR)
    graph = helper.make_graph(
        tail.nodes,
        "explained",
        [helper.make_tensor_value_info(INPUT_TENSOR, TensorProto.FLOAT, ["rows", ensemble.n_features])],
        [
            *(helper.make_tensor_value_info(name, TensorProto.FLOAT, ["rows", 1]) for name in outputs),
            helper.make_tensor_value_info(CONTRIBUTIONS_TENSOR, TensorProto.FLOAT, ["rows", ensemble.n_features]),
        ],
        tail.constants,
    )
    model = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", OPSET), helper.make_opsetid("ai.onnx.ml", OPSET_ML)],
        ir_version=IR_VERSION,
        producer_name=PRODUCER,
    )
    checker.check_model(model)
    return model


def with_manifest(model: ModelProto, manifest: Manifest) -> bytes:
    """The bytes of the file: the model with its manifest. The same inputs give the same bytes."""
    helper.set_model_props(model, {MANIFEST_KEY: manifest.model_dump_json()})
    return model.SerializeToString(deterministic=True)
