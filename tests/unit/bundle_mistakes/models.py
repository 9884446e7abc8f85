"""Mistakes in models, explained and foreign."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx

from tests.unit.bundle_mistakes.spoil import BUNDLE, FLOW, MODEL, Mistake, after, both, foreign, graph, manifest, put


def _retype(model: onnx.ModelProto) -> None:
    """An input of 13 columns in place of 14."""
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 13


def _sum_wrong(content: dict[str, Any]) -> None:
    content["attribution"]["base_value"] += 0.01


def _golden_wrong(content: dict[str, Any]) -> None:
    content["golden_rows"][1]["raw"] += 0.001


def _ungroup(content: dict[str, Any]) -> None:
    content["reasons"] = [r for r in content["reasons"] if r["code"] != "CR_TEST_PURPOSE"]


def _no_metadata(model: onnx.ModelProto) -> None:
    del model.metadata_props[:]


MISTAKES: dict[str, Mistake] = {
    "no ONNX file": (lambda r: (r / MODEL).write_bytes(b"hello"), MODEL, "", "ONNX Runtime"),
    "empty ONNX file": (lambda r: (r / MODEL).write_bytes(b""), MODEL, "", ""),
    "half an ONNX file": (lambda r: (r / MODEL).write_bytes((r / MODEL).read_bytes()[:-2000]), MODEL, "", ""),
    "no manifest": (graph(_no_metadata), MODEL, "metadata", "explanation: none"),
    "id of another model": (
        both(
            put(BUNDLE, ["models"], {"other": {"file": MODEL}}),
            put(FLOW, ["models", "credit", "model"], "other"),
        ),
        MODEL,
        "manifest id",
        "tiny_german",
    ),
    "input of another width": (graph(_retype), MODEL, "", ""),
    "NaN raw score": (graph(lambda m: after(m, "raw", "Add", np.nan)), MODEL, "", "finite"),
    "NaN probability": (graph(lambda m: after(m, "probability", "Add", np.nan)), MODEL, "", ""),
    "NaN points": (graph(lambda m: after(m, "points", "Add", np.nan)), MODEL, "", ""),
    "NaN contributions": (graph(lambda m: after(m, "contributions", "Mul", np.nan)), MODEL, "", ""),
    "infinite probability": (graph(lambda m: after(m, "probability", "Add", np.inf)), MODEL, "", ""),
    "weights tampered with": (graph(lambda m: after(m, "raw", "Add", 0.01)), MODEL, "golden row", "off by"),
    "contributions that do not add up": (
        graph(lambda m: after(m, "contributions", "Mul", 1.01)),
        MODEL,
        "",
        "",
    ),
    "another base": (manifest(_sum_wrong), MODEL, "contributions", "differ"),
    "golden rows tampered with": (manifest(_golden_wrong), MODEL, "golden row 1", "off by"),
    "input without a reason": (manifest(_ungroup), FLOW, "models.credit", "no reason code"),
    "manifest of a later form": (
        manifest(lambda m: m.update(manifest_schema=2)),
        MODEL,
        "manifest manifest_schema",
        "",
    ),
    # foreign models
    "foreign model called exact": (foreign(explanation=None, inputs=None), "forest.onnx", "metadata", "explanation"),
    "foreign model without version": (foreign(version=None), BUNDLE, "models.forest.version", "version"),
    "foreign model without inputs": (foreign(inputs=None), BUNDLE, "models.forest.inputs", "inputs"),
    "foreign model of another width": (foreign(inputs={"features": ["income"]}), "forest.onnx", "models.forest", "14"),
    "foreign model's output unknown": (foreign(output={"tensor": "score"}), "forest.onnx", "models.forest", "score"),
    "foreign model's class unknown": (foreign(output={"bad_class": 7}), "forest.onnx", "models.forest", "7"),
    "foreign model's class unknown in its maps": (
        foreign(output={"bad_class": "bad"}, source="forest_zipmap.onnx"),
        "forest.onnx",
        "models.forest",
        "'bad'",
    ),
}
