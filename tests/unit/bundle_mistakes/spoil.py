"""Ways to spoil the tiny bundle, and what is to be told of each."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from engine.errors import Problem
from tests.support import tiny
from tests.support.bundles import FIXTURE_MODELS, edit

Spoil = Callable[[Path], object]
# What is spoilt; the file of the problem, or ""; a part of its place, or ""; a part of its text, or "".
Mistake = tuple[Spoil, str, str, str]

FEATURES, FLOW, REASONS, BUNDLE = "features.yaml", "flows/tiny_loan.yaml", "reasons.yaml", "bundle.yaml"
MODEL, SCENARIOS = "tiny_german/model.onnx", "scenarios/tiny_loan.yaml"


def put(file: str, path: Sequence[str | int], value: Any) -> Spoil:
    """Changes one entry of a file; None takes it out."""
    return lambda root: tiny.change(root / file, path, value)


def both(*spoils: Spoil) -> Spoil:
    """One mistake that takes several changes."""
    return lambda root: [spoil(root) for spoil in spoils]


def text(file: str, old: str, new: str) -> Spoil:
    """Changes the text of a file once."""
    return lambda root: edit(root / file, old, new)


def rule(file: str, number: int, column: str, cell: str) -> Spoil:
    """Changes one cell of a table."""
    return put(f"policy/{file}.json", ["nodes", 1, "content", "rules", number, column], cell)


def drop_rule(file: str, number: int) -> Spoil:
    """Takes a rule out of a table."""
    return put(f"policy/{file}.json", ["nodes", 1, "content", "rules", number], None)


def foreign(**more: Any) -> Spoil:
    """The forest in place of the explained model."""
    entry = {
        "file": "forest.onnx",
        "explanation": "none",
        "version": "1.0.0",
        "inputs": {"features": list(_german_inputs())},
        "scaling": {
            "anchor_points": 600,
            "anchor_odds": 5,
            "points_to_double": 40,
            "points_min": 300,
            "points_max": 850,
        },
        **more,
    }
    entry = {k: v for k, v in entry.items() if v is not None}

    def spoil(root: Path) -> None:
        name = entry.pop("source", "forest_plain.onnx")
        (root / "forest.onnx").write_bytes((FIXTURE_MODELS / "foreign" / str(name)).read_bytes())
        tiny.change(root / BUNDLE, ["models"], {"forest": entry})
        tiny.change(root / FLOW, ["models", "credit", "model"], "forest")

    return spoil


def _german_inputs() -> tuple[str, ...]:
    model = onnx.load(str(FIXTURE_MODELS / "tiny_german" / "model.onnx"))
    manifest = next(p.value for p in model.metadata_props if p.key == "assay.manifest")
    return tuple(f["name"] for f in json.loads(manifest)["features"])


def graph(change: Callable[[onnx.ModelProto], None]) -> Spoil:
    """Changes the explained model's graph."""

    def spoil(root: Path) -> None:
        model = onnx.load(str(root / MODEL))
        change(model)
        onnx.save(model, str(root / MODEL))

    return spoil


def after(model: onnx.ModelProto, tensor: str, operator: str, constant: float) -> None:
    """Lets `tensor` pass through one more node with a constant."""
    for node in model.graph.node:
        for index, name in enumerate(node.output):
            if name == tensor:
                node.output[index] = tensor + "_before"
        for index, name in enumerate(node.input):
            if name == tensor:
                node.input[index] = tensor + "_before"
    number = numpy_helper.from_array(np.array(constant, dtype=np.float32), tensor + "_constant")
    model.graph.initializer.append(number)
    model.graph.node.append(helper.make_node(operator, [tensor + "_before", tensor + "_constant"], [tensor]))


def manifest(change: Callable[[dict[str, Any]], None]) -> Spoil:
    """Changes what the explained model says of itself."""

    def rewrite(model: onnx.ModelProto) -> None:
        entry = next(p for p in model.metadata_props if p.key == "assay.manifest")
        content = json.loads(entry.value)
        change(content)
        entry.value = json.dumps(content)

    return graph(rewrite)


def told(problems: Sequence[Problem], file: str, place: str, part: str) -> bool:
    """Whether one of the problems is of this file, at this place, and says this."""
    return any(
        (not file or p.file == file) and place in p.place and part in f"{p.message} {p.fix} {p.place} {p.file}"
        for p in problems
    )
