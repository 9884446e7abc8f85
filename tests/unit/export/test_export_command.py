"""`assay model export` over files: each kind of model file, of rows and of draft."""

from __future__ import annotations

import gzip
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from engine.export import ExportError, WoeFeature, WoeScorecard, calibrated_logit, inspect, quantile_bins, sigmoid
from engine.export.command import read_draft, read_native, read_rows, run
from tests.unit.export.export_cases import draft, german

X, BAD, NAMES = german()
CARD = WoeScorecard(tuple(WoeFeature(n, (2.0,), (0.3, -0.1), 0.2, 0.9) for n in NAMES), -1.0)


def write_csv(path: Path, names: list[str], rows: np.ndarray) -> None:
    lines = [",".join(names), *(",".join("" if np.isnan(v) else repr(float(v)) for v in row) for row in rows)]
    content = ("\n".join(lines) + "\n").encode()
    path.write_bytes(gzip.compress(content, mtime=0) if path.suffix == ".gz" else content)


@pytest.fixture
def files(tmp_path: Path) -> Path:
    np.save(tmp_path / "rows.npy", X)
    write_csv(tmp_path / "reference.csv.gz", NAMES, X[:100])
    plain = json.loads(draft(NAMES).model_dump_json())
    (tmp_path / "draft.json").write_text(json.dumps(plain))
    (tmp_path / "draft.yaml").write_text(yaml.safe_dump(plain))
    (tmp_path / "card.json").write_text(CARD.to_json())
    return tmp_path


def export(files: Path, model: str, **changes: Any) -> Any:
    paths = {"draft_path": "draft.json", "reference_path": "reference.csv.gz", "rows_path": "rows.npy"}
    named = {key: files / changes.pop(key, name) for key, name in paths.items()}
    return run(files / model, **named, out=files / "out.onnx", **changes)


@pytest.mark.parametrize("draft_path", ["draft.json", "draft.yaml"])
def test_a_scorecard_file(files: Path, draft_path: str) -> None:
    manifest = export(files, "card.json", draft_path=draft_path)
    assert manifest.kind == "woe_scorecard"
    assert manifest == inspect(files / "out.onnx")
    assert manifest.attribution.reference.rows == 100


def test_a_lightgbm_file(files: Path) -> None:
    lightgbm = pytest.importorskip("lightgbm")
    data = lightgbm.Dataset(X, BAD, feature_name=NAMES)
    parameters = {"objective": "binary", "max_depth": 3, "verbose": -1, "num_threads": 1}
    lightgbm.train(parameters, data, 5).save_model(files / "model.txt")
    assert export(files, "model.txt", method="path_dependent_shap").attribution.method == "path_dependent_shap"


@pytest.mark.parametrize("name", ["model.json", "model.ubj"])
def test_an_xgboost_file(files: Path, name: str) -> None:
    xgboost = pytest.importorskip("xgboost")
    xgboost.train({"objective": "binary:logistic", "max_depth": 3}, xgboost.DMatrix(X, BAD), 5).save_model(files / name)
    assert export(files, name).kind == "xgboost"


def test_a_catboost_file(files: Path) -> None:
    catboost = pytest.importorskip("catboost")
    model = catboost.CatBoostClassifier(iterations=5, verbose=False, thread_count=1, allow_writing_files=False)
    model.fit(X, BAD).save_model(str(files / "model.cbm"))
    assert export(files, "model.cbm").kind == "catboost"


def test_a_pickle_is_not_opened_unless_allowed(files: Path) -> None:
    class Trap:
        def __reduce__(self) -> Any:
            return (Path.touch, (files / "sprung",))

    (files / "model.pkl").write_bytes(pickle.dumps(Trap()))
    with pytest.raises(ExportError, match="runs whatever code is in it"):
        export(files, "model.pkl")
    assert not (files / "sprung").exists()


def test_a_pickle_that_is_allowed_is_read(files: Path) -> None:
    (files / "model.pkl").write_bytes(pickle.dumps(CARD))
    assert export(files, "model.pkl", allow_pickle=True).kind == "woe_scorecard"


def test_every_broken_file_is_told_at_once(files: Path) -> None:
    (files / "draft.json").write_text('{"id": "x"}')
    (files / "card.json").write_text("{")
    (files / "rows.npy").write_bytes(b"nothing")
    with pytest.raises(ExportError) as caught:
        export(files, "card.json", reference_path="absent.csv")
    told = {Path(p.file).name for p in caught.value.problems}
    assert told == {"draft.json", "card.json", "rows.npy", "absent.csv"}
    assert not (files / "out.onnx").exists()


def test_columns_are_put_in_the_order_of_the_draft(tmp_path: Path) -> None:
    write_csv(tmp_path / "rows.csv", ["b", "a"], np.array([[1.5, np.nan], [3.0, 4.0]]))
    np.testing.assert_array_equal(read_rows(tmp_path / "rows.csv", ("a", "b")), [[np.nan, 1.5], [4.0, 3.0]])
    with pytest.raises(ExportError, match=r"absent: \['c'\], unknown: \['b'\]"):
        read_rows(tmp_path / "rows.csv", ("a", "c"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("a,b\n", "has a header and no rows"),
        ("a,b\n1,2\n3\n", "line 3.*has 1 cells, and the header has 2"),
        ("a,b\n1,none\n", "line 2.*'none'"),
    ],
)
def test_a_table_that_cannot_be_read_is_told_plainly(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "rows.csv").write_text(text)
    with pytest.raises(ExportError, match=message):
        read_rows(tmp_path / "rows.csv", ("a", "b"))


def test_a_psi_reference_that_is_given_is_kept(files: Path) -> None:
    assert export(files, "card.json").psi_reference == draft(NAMES).psi_reference


def test_a_model_without_points_has_the_bins_of_its_probability(files: Path) -> None:
    plain = json.loads(draft(NAMES, scaling=None, psi_reference=None).model_dump_json())
    (files / "draft.json").write_text(json.dumps(plain))
    manifest = export(files, "card.json")
    probability = sigmoid(calibrated_logit(CARD.raw(X), manifest.calibration))
    assert manifest.psi_reference.score == quantile_bins(probability, 20)


@pytest.mark.parametrize("name", ["model.bin", "rows.parquet"])
def test_unknown_endings_are_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    with pytest.raises(ExportError, match="no known kind"):
        read_native(tmp_path / name) if name == "model.bin" else read_rows(tmp_path / name, None)


def test_a_draft_with_an_unknown_field_is_refused(files: Path) -> None:
    text = (files / "draft.yaml").read_text() + "\nspelt_wrong: 1\n"
    (files / "draft.yaml").write_text(text)
    with pytest.raises(ExportError, match="spelt_wrong"):
        read_draft(files / "draft.yaml")
