"""Models of any make: every shape that converters write gives the same scores, and no reasons."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from engine.bundle.compile_models import load_model
from engine.bundle.load import load_bundle
from engine.bundle.schema import ModelEntry
from engine.bundle.source import Document, Source
from engine.domain.application import ValidApplication
from engine.domain.enums import Verdict
from engine.domain.facts import UNNAMED
from engine.domain.score import ScoreStatus
from engine.pipeline import Prepared, conclude
from engine.scoring.model import Model
from tests.support import tiny
from tests.support.bundles import FIXTURE_MODELS

FOREIGN = FIXTURE_MODELS / "foreign"
SCALING = {
    "anchor_points": 600,
    "anchor_odds": 5,
    "points_to_double": 40,
    "points_min": 300,
    "points_max": 850,
}


def _table() -> tuple[tuple[str, ...], NDArray[np.float64]]:
    with (FIXTURE_MODELS / "german_credit.csv").open(encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    names = tuple(n for n in rows[0] if n != "bad")
    # -1 stands for missing in the models here.
    return names, np.array([[float(row[n] or -1) for n in names] for row in rows[:200]])


NAMES, ROWS = _table()


def load(file: str | Path, **entry: Any) -> Model:
    """One foreign model as a bundle declares it. Every problem fails the test."""
    path = FOREIGN / file if isinstance(file, str) else file
    source = Source(path.parent)
    declared = ModelEntry.model_validate(
        {
            "file": path.name,
            "explanation": "none",
            "version": "1.0.0",
            "inputs": {"features": NAMES},
            "scaling": SCALING,
            **entry,
        }
    )
    model = load_model("forest", declared, Document("bundle.yaml", {}), source)
    assert not source.problems, [str(p) for p in source.problems]
    assert model is not None
    return model


@pytest.mark.parametrize(
    "file", ["forest_zipmap.onnx", "forest_plain.onnx", "forest_double.onnx", "forest_columns.onnx"]
)
def test_one_forest_gives_one_answer_whatever_its_shape(file: str) -> None:
    import onnxruntime

    reference = onnxruntime.InferenceSession(str(FOREIGN / "forest_plain.onnx"))
    expected = reference.run(["probabilities"], {"X": ROWS.astype(np.float32)})[0][:, 1]
    scores = load(file).run(ROWS)
    assert [s.status for s in scores] == [ScoreStatus.OK] * len(ROWS)
    assert np.array([s.probability for s in scores]) == pytest.approx(expected, abs=1e-5)
    for score in scores:
        assert score.contributions is None
        assert score.probability is not None
        assert score.points is not None
        odds = math.log((1 - score.probability) / score.probability) if 0 < score.probability < 1 else 0.0
        if odds:
            assert score.points == pytest.approx(600 + 40 / math.log(2) * (odds - math.log(5)), abs=0.51)


def test_the_other_class_is_the_other_side() -> None:
    bad, good = load("forest_plain.onnx"), load("forest_plain.onnx", output={"bad_class": 0})
    for one, other in zip(bad.run(ROWS[:20]), good.run(ROWS[:20]), strict=True):
        assert one.probability is not None
        assert other.probability == pytest.approx(1 - one.probability, abs=1e-6)


@pytest.mark.parametrize("file", ["forest_regressor.onnx", "logistic.onnx"])
def test_regressors_and_pipelines_are_served(file: str) -> None:
    scores = load(file).run(ROWS)
    assert all(s.status is ScoreStatus.OK for s in scores)
    assert len({s.points for s in scores}) > 10


def test_log_odds_become_a_probability() -> None:
    scores = load("forest_regressor.onnx", output={"kind": "log_odds"}).run(ROWS[:5])
    for score in scores:
        assert score.probability == pytest.approx(1 / (1 + math.exp(-score.raw)))


def test_a_missing_input_gives_no_score_to_that_row_alone() -> None:
    rows = ROWS[:4].copy()
    rows[1, 3] = np.nan
    rows[3, :] = np.nan
    model = load("forest_plain.onnx")
    scores = model.run(rows)
    assert [s.status for s in scores] == [
        ScoreStatus.OK,
        ScoreStatus.MISSING_INPUT,
        ScoreStatus.OK,
        ScoreStatus.MISSING_INPUT,
    ]
    assert scores[1].points is None
    assert scores[1].probability is None
    assert scores[2].raw == model.run(rows[2:3])[0].raw
    assert [s.status for s in model.run(rows[3:])] == [ScoreStatus.MISSING_INPUT]


def test_batches_give_the_bits_of_single_rows_where_the_model_says_so() -> None:
    for file in sorted(p.name for p in FOREIGN.glob("*.onnx")):
        model = load(file)
        if model.batchable:
            together = [(s.raw, s.probability, s.points) for s in model.run(ROWS)]
            alone = [(s.raw, s.probability, s.points) for row in ROWS for s in model.run(row.reshape(1, -1))]
            assert together == alone, file


def test_columns_listed_in_another_order_than_the_graph_names_them_are_a_problem() -> None:
    source = Source(FOREIGN)
    entry = ModelEntry.model_validate(
        {
            "file": "forest_columns.onnx",
            "explanation": "none",
            "version": "1.0.0",
            "inputs": {"features": NAMES[::-1]},
        }
    )
    assert load_model("forest", entry, Document("bundle.yaml", {}), source) is None
    assert "order" in source.problems[0].message


def _save(file: Path, nodes: list[Any], output: Any, element: int = TensorProto.FLOAT) -> Path:
    import onnx

    graph = helper.make_graph(
        nodes,
        "made",
        [helper.make_tensor_value_info("X", element, [None, 2])],
        [output],
        [numpy_helper.from_array(np.array([1], dtype=np.int64), "axis")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), str(file))
    return file


@pytest.mark.parametrize(("element", "name"), [(TensorProto.INT64, "int64"), (TensorProto.BOOL, "bool")])
def test_whole_numbers_cannot_be_missing(tmp_path: Path, element: int, name: str) -> None:
    """A tensor of whole numbers has no NaN: to say `missing: nan` of it would feed any number at all."""
    nodes = [
        helper.make_node("Cast", ["X"], ["F"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["F"], ["score"], axes=[1], keepdims=1),
    ]
    output = helper.make_tensor_value_info("score", TensorProto.FLOAT, [None, 1])
    file = _save(tmp_path / f"{name}.onnx", nodes, output, element)
    assert load(file, inputs={"features": ["a1", "b1"]}).run(np.array([[1.0, 1.0]]))[0].raw == 1.0
    source = Source(tmp_path)
    entry = ModelEntry.model_validate(
        {
            "file": file.name,
            "explanation": "none",
            "version": "1.0.0",
            "inputs": {"features": ["a1", "b1"], "missing": "nan"},
        }
    )
    load_model("whole", entry, Document("bundle.yaml", {}), source)
    assert source.problems


def test_an_answer_that_is_no_probability_is_no_score(tmp_path: Path) -> None:
    nodes = [helper.make_node("ReduceSum", ["X", "axis"], ["score"], keepdims=1)]
    file = _save(tmp_path / "sum.onnx", nodes, helper.make_tensor_value_info("score", TensorProto.FLOAT, [None, 1]))
    model = load(file, inputs={"features": ["a1", "b1"], "missing": "nan"}, output={"kind": "log_odds"})
    assert [s.status for s in model.run(np.array([[1.0, np.nan], [np.inf, 0.0], [1.0, 2.0]]))] == [
        ScoreStatus.FAILED,
        ScoreStatus.FAILED,
        ScoreStatus.OK,
    ]


def test_a_flow_with_a_foreign_model_decides_and_gives_no_reasons_from_it(tmp_path: Path) -> None:
    root = tiny.write_bundle(tmp_path / "tiny")
    (root / "forest.onnx").write_bytes((FOREIGN / "forest_zipmap.onnx").read_bytes())
    entry = {
        "file": "forest.onnx",
        "explanation": "none",
        "version": "2.0.0",
        "inputs": {"features": list(NAMES)},
        "scaling": SCALING,
    }
    tiny.change(root / "bundle.yaml", ["models"], {"forest": entry})
    tiny.change(root / "bundle.yaml", ["scenarios"], [])
    tiny.change(root / "flows" / "tiny_loan.yaml", ["models", "credit", "model"], "forest")
    plan = load_bundle(root).plan
    flow = plan.flows["tiny_loan.application"]
    nothing = ValidApplication(
        "r", "en", 150_000, 12, ("p1", None), (math.nan,) * flow.features.request_count, (), None
    )
    prepared = Prepared(plan, flow, nothing, [None, None], [0, 0, 0])
    concluded = conclude(prepared, [None, UNNAMED], 1_800_000_000_000_000, lambda: 0)
    assert concluded.scores[0].status is ScoreStatus.MISSING_INPUT
    assert concluded.outcome.verdict is Verdict.REFER
    assert not concluded.reasons.credit
    assert "PL_SCORE_UNKNOWN" in {r.code for r in concluded.reasons.policy}
