"""The checked-in models are what their script builds, and answer what they say."""

from __future__ import annotations

import importlib.util
from importlib.metadata import version
from pathlib import Path
from types import ModuleType

import numpy as np
import onnxruntime
import pytest

from engine.export import inspect
from engine.export.session import GraphSession
from tests.unit.export.export_cases import FIXTURES, german

FOREIGN = sorted((FIXTURES / "foreign").glob("*.onnx"))


def build_script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("fixture_build", FIXTURES / "build.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_tiny_model_answers_its_golden_rows() -> None:
    file = FIXTURES / "tiny_german" / "model.onnx"
    golden = inspect(file).golden_rows
    x = np.array([[np.nan if v is None else v for v in row.inputs] for row in golden], np.float32)
    answer = GraphSession(file.read_bytes()).run(x)
    np.testing.assert_allclose(answer.raw, [row.raw for row in golden], atol=1e-6)
    np.testing.assert_allclose(answer.contributions, [row.contributions for row in golden], atol=1e-6)


def test_the_tiny_model_is_rebuilt_to_the_byte(tmp_path: Path) -> None:
    pytest.importorskip("lightgbm")
    checked_in = FIXTURES / "tiny_german" / "model.onnx"
    made_with = inspect(checked_in).libraries
    here = {name: version(name) for name in made_with}
    if here != made_with:
        pytest.skip(f"built with {made_with}, here are {here}")
    build_script().build_tiny(tmp_path)
    assert (tmp_path / "tiny_german" / "model.onnx").read_bytes() == checked_in.read_bytes()


def test_no_protected_attribute_is_in_the_data() -> None:
    _, _, names = german()
    assert not {n for n in names if any(word in n for word in ("sex", "personal", "foreign", "age_", "job"))}


@pytest.mark.parametrize("file", FOREIGN, ids=lambda f: f.stem)
def test_a_foreign_model_runs(file: Path) -> None:
    assert file.stat().st_size <= 200_000
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    x, bad, names = german()
    x = np.where(np.isnan(x), np.float32(-1), x)
    if len(session.get_inputs()) > 1:
        feed = {name: x[:, [i]] for i, name in enumerate(names)}
    else:
        wide = "double" in session.get_inputs()[0].type
        feed = {session.get_inputs()[0].name: x.astype(np.float64) if wide else x}
    answer = session.run(None, feed)[-1]
    risk = np.array([row[1] for row in answer]) if isinstance(answer, list) else answer[:, -1]
    assert len(risk) == 1000
    assert risk[bad == 1].mean() - risk[bad == 0].mean() > 0.1


def test_there_are_all_the_foreign_shapes() -> None:
    assert [f.stem for f in FOREIGN] == [
        "forest_columns",
        "forest_double",
        "forest_plain",
        "forest_regressor",
        "forest_zipmap",
        "logistic",
    ]
