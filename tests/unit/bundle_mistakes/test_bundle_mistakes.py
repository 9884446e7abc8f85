"""Every mistake in a bundle is found at load, and told with its file, its place and what to do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from engine.bundle.load import load_bundle
from engine.errors import BundleError
from tests.support import tiny
from tests.support.bundles import problems_of
from tests.unit.bundle_mistakes import features, files, flows, models, reasons, scenarios, tables
from tests.unit.bundle_mistakes.spoil import FEATURES, FLOW, MODEL, SCENARIOS, Mistake, foreign, manifest, told

SUBJECTS = (files, features, flows, reasons, tables, models, scenarios)
MISTAKES: dict[str, Mistake] = {name: one for subject in SUBJECTS for name, one in subject.MISTAKES.items()}


def test_each_name_stands_for_one_mistake() -> None:
    assert len(MISTAKES) == sum(len(subject.MISTAKES) for subject in SUBJECTS)


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return tiny.write_bundle(tmp_path / "tiny")


@pytest.mark.timeout(20)
@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_told_with_file_and_place(bundle: Path, name: str) -> None:
    spoil, file, place, part = MISTAKES[name]
    spoil(bundle)
    problems = problems_of(bundle, scenarios=True)
    assert told(problems, file, place, part), [str(p) for p in problems]
    for problem in problems:
        assert problem.file
        assert problem.message
        assert problem.fix, "every problem says what to do"


def test_the_bundle_that_they_spoil_is_good(bundle: Path) -> None:
    loaded = load_bundle(bundle)
    assert loaded.scenarios == 1
    assert list(loaded.plan.flows) == ["tiny_loan.application"]


# The one that the YAML writer would mend comes last.
TEN = (
    "empty range",
    "category twice",
    "unknown function",
    "default out of range",
    "language missing",
    "retired code given by a model",
    "amounts the wrong way",
    "shadowed rule",
    "golden rows tampered with",
    "key twice",
)


def test_a_bundle_with_ten_mistakes_tells_all_ten(bundle: Path) -> None:
    for name in TEN:
        MISTAKES[name][0](bundle)
    problems = problems_of(bundle)
    untold = [name for name in TEN if not told(problems, *MISTAKES[name][1:])]
    assert not untold, "\n".join(map(str, problems))


def test_a_model_that_fails_is_the_only_problem(bundle: Path) -> None:
    """What follows from it alone is not told as a mistake of its own."""
    (bundle / MODEL).write_bytes(b"hello")
    problems = problems_of(bundle)
    assert [p.file for p in problems] == [MODEL], [str(p) for p in problems]


def test_a_failed_load_leaves_no_half_bundle(bundle: Path) -> None:
    (bundle / SCENARIOS).unlink()
    with pytest.raises(BundleError) as caught:
        load_bundle(bundle)
    assert len(caught.value.problems) == 1
    assert "tiny_loan.yaml" in str(caught.value)


def test_units_must_agree(bundle: Path) -> None:
    def change(content: dict[str, Any]) -> None:
        content["features"][0]["unit"] = "days"

    manifest(change)(bundle)
    tiny.change(bundle / FEATURES, ["views", "account", "features", "checking_band", "unit"], "years")
    problems = problems_of(bundle)
    assert told(problems, FLOW, "models.credit (line", "unit clash"), [str(p) for p in problems]


def test_a_graph_that_fails_on_some_rows_is_a_problem_of_the_model(bundle: Path) -> None:
    """It answers the input's shape and breaks when it is run."""
    width = 14
    table = numpy_helper.from_array(np.zeros(1, dtype=np.float32), "table")
    nodes = [
        helper.make_node("Cast", ["X"], ["index"], to=TensorProto.INT64),
        helper.make_node("Add", ["index", "seven"], ["far"]),
        helper.make_node("Gather", ["table", "far"], ["gathered"]),
        helper.make_node("ReduceSum", ["gathered", "axis"], ["score"], keepdims=1),
    ]
    made = helper.make_graph(
        nodes,
        "breaks",
        [helper.make_tensor_value_info("X", TensorProto.FLOAT, [None, width])],
        [helper.make_tensor_value_info("score", TensorProto.FLOAT, [None, 1])],
        [
            table,
            numpy_helper.from_array(np.array(7, dtype=np.int64), "seven"),
            numpy_helper.from_array(np.array([1], dtype=np.int64), "axis"),
        ],
    )
    foreign()(bundle)
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, str(bundle / "forest.onnx"))
    problems = problems_of(bundle)
    assert told(problems, "forest.onnx", "", ""), [str(p) for p in problems]
