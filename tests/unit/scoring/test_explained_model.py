"""Explained models at run time: what a graph answers is checked before anyone believes it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from engine.domain.enums import Component
from engine.domain.facts import Facts
from engine.domain.score import ScoreStatus
from engine.errors import ModelError
from engine.scoring.manifest import MANIFEST_KEY, Manifest
from engine.scoring.model import ExplainedModel
from engine.scoring.onnx_runtime import Session
from engine.scoring.plan import ModelPlan, score, score_many
from tests.support.bundles import FIXTURE_MODELS

FILE = FIXTURE_MODELS / "tiny_german" / "model.onnx"


def model(content: bytes | None = None) -> ExplainedModel:
    session = Session(content or FILE.read_bytes())
    manifest = Manifest.model_validate_json(session.metadata[MANIFEST_KEY])
    made = ExplainedModel(session, manifest, "sha256:0")
    made.batchable = True
    return made


def golden() -> np.ndarray[Any, np.dtype[np.float64]]:
    return np.array([row.inputs for row in model().manifest.golden_rows], dtype=np.float64)


def spoilt(tensor: str, value: float) -> bytes:
    """The model with one answer that is `value` where the duration is above 40 months."""
    made = onnx.load(str(FILE))
    for node in made.graph.node:
        for index, name in enumerate(node.output):
            if name == tensor:
                node.output[index] = tensor + "_before"
        for index, name in enumerate(node.input):
            if name == tensor:
                node.input[index] = tensor + "_before"
    inputs = {f.name: i for i, f in enumerate(model().manifest.features)}
    made.graph.initializer.extend(
        [
            numpy_helper.from_array(np.array([inputs["duration_months"]], dtype=np.int64), "s_column"),
            numpy_helper.from_array(np.array(40, dtype=np.float32), "s_limit"),
            numpy_helper.from_array(np.array(value, dtype=np.float32), "s_value"),
        ]
    )
    made.graph.node.extend(
        [
            helper.make_node("Gather", ["features", "s_column"], ["s_months"], axis=1),
            helper.make_node("Greater", ["s_months", "s_limit"], ["s_long"]),
            helper.make_node("Where", ["s_long", "s_value", tensor + "_before"], [tensor]),
        ]
    )
    return made.SerializeToString()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf], ids=["nan", "inf", "-inf"])
@pytest.mark.parametrize("tensor", ["raw", "probability", "points", "contributions"])
def test_an_answer_that_is_no_number_is_no_score(tensor: str, value: float) -> None:
    made = model(spoilt(tensor, value))
    rows = golden()[:3].copy()
    months = made.inputs.index("duration_months")
    rows[:, months] = [12, 48, 12]
    scores = made.run(rows)
    assert [s.status for s in scores] == [ScoreStatus.OK, ScoreStatus.FAILED, ScoreStatus.OK]
    assert scores[1].points is None
    assert scores[1].probability is None
    assert scores[1].contributions is None


def test_an_input_that_may_not_be_missing_gives_no_score_when_it_is() -> None:
    made = model()
    needed = [i for i, f in enumerate(made.manifest.features) if f.missing == "not_allowed"]
    learned = [i for i, f in enumerate(made.manifest.features) if f.missing == "learned"]
    rows = golden()[:3].copy()
    rows[0, learned] = np.nan
    rows[1, needed[0]] = np.nan
    assert [s.status for s in made.run(rows)] == [ScoreStatus.OK, ScoreStatus.MISSING_INPUT, ScoreStatus.OK]


def test_golden_rows_come_out_as_stored() -> None:
    made = model()
    for row, got in zip(made.manifest.golden_rows, made.run(golden()), strict=True):
        assert got.raw == pytest.approx(row.raw, abs=1e-5)
        assert got.probability == pytest.approx(row.probability, abs=1e-6)
        assert got.contributions == pytest.approx(np.array(row.contributions), abs=1e-5)


class Breaks:
    """A model that fails when a marked row is in the run, as a graph with an index out of range does."""

    id, version, digest, inputs, manifest, batchable = "breaks", "1.0.0", "sha256:0", ("a",), None, True

    def run(self, rows: Any) -> list[Any]:
        if (rows == 13.0).any():
            raise ModelError("the run failed")
        return model().run(np.repeat(golden()[:1], len(rows), axis=0))


def facts(value: float) -> Facts:
    """Facts of one value; nothing else of them is read here."""
    return cast("Facts", SimpleNamespace(values=np.array([value]), blocked=frozenset()))


def test_a_row_that_breaks_a_run_takes_no_other_with_it() -> None:
    plan = ModelPlan("credit", Component.CREDIT, Breaks(), np.array([0], dtype=np.intp), frozenset({0}))
    many = [facts(v) for v in (1.0, 13.0, 2.0)]
    together = [scores[0].status for scores in score_many([plan], many)]
    alone = [score([plan], one)[0].status for one in many]
    assert together == alone == [ScoreStatus.OK, ScoreStatus.FAILED, ScoreStatus.OK]


def test_a_file_that_is_no_model_is_a_model_error(tmp_path: Path) -> None:
    with pytest.raises(ModelError):
        Session(b"not a model")
    with pytest.raises(ModelError):
        model().session.run(["raw"], {"features": np.zeros((1, 3), np.float32)})
