"""`export_model` as a whole: the file, its manifest, its golden rows, and the refusal that leaves nothing behind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from engine.export import ExportError, WoeFeature, WoeScorecard, export_model, inspect
from engine.export.additive_trees import additive_ensemble
from engine.export.graph import build_graph
from engine.export.read_woe import WoeSource
from engine.export.session import GraphSession
from engine.scoring.manifest import FeatureInput, Scaling
from tests.unit.export.export_cases import draft

CARD = WoeScorecard(
    (
        WoeFeature("income", (1000.0, 3000.0), (0.9, 0.1, -0.7), 0.4, 0.8),
        WoeFeature("delays", (1.0, 3.0), (-0.5, 0.6, 1.9), 0.2, 1.1),
    ),
    -2.0,
)
NAMES = ["income", "delays"]
ROWS = np.column_stack(
    [np.random.default_rng(1).gamma(2, 1200, 500), np.random.default_rng(2).poisson(0.7, 500)]
).astype(np.float32)
ROWS[::9, 0] = np.nan


def exported(path: Path, **changes: Any) -> bytes:
    export_model(CARD, draft(NAMES, **changes), reference=ROWS[:200], verify_rows=ROWS, path=path)
    return path.read_bytes()


def test_the_same_inputs_give_the_same_bytes(tmp_path: Path) -> None:
    assert exported(tmp_path / "a.onnx") == exported(tmp_path / "deep" / "b.onnx")


def test_golden_rows_are_what_the_file_answers(tmp_path: Path) -> None:
    content = exported(tmp_path / "model.onnx")
    golden = inspect(tmp_path / "model.onnx").golden_rows
    assert 8 <= len(golden) <= 12
    x = np.array([[np.nan if v is None else v for v in row.inputs] for row in golden], np.float32)
    answer = GraphSession(content).run(x)
    assert answer.points is not None
    assert answer.raw.tolist() == [row.raw for row in golden]
    assert answer.probability.tolist() == [row.probability for row in golden]
    assert answer.points.tolist() == [row.points for row in golden]
    assert answer.contributions.tolist() == [list(row.contributions) for row in golden]
    assert np.isnan(x).all(axis=1).any()
    np.testing.assert_allclose(answer.raw, CARD.raw(x), atol=1e-5)
    # They span the scores, and are nobody's row.
    assert answer.raw.max() - answer.raw.min() > 0.8 * np.ptp(CARD.raw(ROWS))


def test_a_feature_that_must_not_be_missing_is_never_missing_in_a_golden_row(tmp_path: Path) -> None:
    features = [
        FeatureInput(name="income", type="float"),
        FeatureInput(name="delays", type="integer", missing="not_allowed"),
    ]
    exported(tmp_path / "model.onnx", features=features)
    golden = inspect(tmp_path / "model.onnx").golden_rows
    assert all(row.inputs[1] is not None for row in golden)
    assert any(row.inputs[0] is None for row in golden)


@pytest.mark.parametrize("higher_is", ["safer", "riskier"])
def test_points_follow_the_definition_and_are_clipped(higher_is: Any, tmp_path: Path) -> None:
    scaling = Scaling(
        anchor_points=500,
        anchor_odds=10,
        points_to_double=50,
        points_min=480,
        points_max=560,
        higher_is=higher_is,
    )
    content = exported(tmp_path / "model.onnx", scaling=scaling)
    answer = GraphSession(content).run(ROWS)
    odds = (1 - answer.probability.astype(np.float64)) / answer.probability
    sign = 1 if higher_is == "safer" else -1
    wanted = np.clip(500 + sign * 50 * np.log2(odds / 10), 480, 560)
    assert answer.points is not None
    np.testing.assert_allclose(answer.points, wanted, atol=2e-3)
    assert {480.0, 560.0} <= set(answer.points.tolist())


def test_without_a_scaling_there_are_no_points(tmp_path: Path) -> None:
    answer = GraphSession(exported(tmp_path / "model.onnx", scaling=None)).run(ROWS)
    assert answer.points is None
    assert inspect(tmp_path / "model.onnx").golden_rows[0].points is None


@pytest.mark.parametrize("width", [2, 7, 14, 33])
def test_rows_get_the_same_bits_alone_and_in_a_batch(width: int) -> None:
    random = np.random.default_rng(width)
    features = [WoeFeature(f"f{i}", (0.0,), tuple(random.normal(size=2)), 0.3, 1.0) for i in range(width)]
    x = random.normal(size=(130, width)).astype(np.float32)
    ensemble = additive_ensemble(WoeSource(WoeScorecard(tuple(features), 0.1)).read(), x)
    model = build_graph(ensemble, draft(NAMES).calibration, draft(NAMES).scaling)
    session = GraphSession(model.SerializeToString())
    alone = [session.run(x[i : i + 1]) for i in range(len(x))]
    for size in (2, 15, 16, 17, 64, 130):
        together = session.run(x[:size])
        assert together.points is not None
        for i in range(size):
            one = alone[i]
            assert one.points is not None
            assert (one.raw[0], one.probability[0], one.points[0]) == (
                together.raw[i],
                together.probability[i],
                together.points[i],
            )
            assert one.contributions[0].tolist() == together.contributions[i].tolist()


def test_a_model_beyond_the_tolerance_leaves_no_file(tmp_path: Path) -> None:
    file = tmp_path / "model.onnx"
    with pytest.raises(ExportError, match="raw: differs from the training library by") as caught:
        export_model(CARD, draft(NAMES), reference=ROWS, verify_rows=ROWS, path=file, tolerance=1e-12)
    assert list(tmp_path.iterdir()) == []
    assert any("golden rows" in p.file for p in caught.value.problems)


def test_a_failed_export_leaves_the_file_that_was_there(tmp_path: Path) -> None:
    before = exported(tmp_path / "model.onnx")
    with pytest.raises(ExportError):
        export_model(
            CARD, draft(NAMES), reference=ROWS, verify_rows=ROWS, path=tmp_path / "model.onnx", tolerance=1e-12
        )
    assert (tmp_path / "model.onnx").read_bytes() == before


def test_a_file_that_cannot_take_its_name_leaves_no_part(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").mkdir()
    with pytest.raises(OSError, match=r"model\.onnx"):
        exported(tmp_path / "model.onnx")
    assert [p.name for p in tmp_path.iterdir()] == ["model.onnx"]


def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
    strict = [FeatureInput(name=n, type="float", missing="not_allowed") for n in NAMES]
    with pytest.raises(ExportError) as caught:
        export_model(
            CARD,
            draft(NAMES, features=strict, kind="ebm"),
            reference=ROWS.astype(np.float64),
            verify_rows=np.where(ROWS > 4000, np.float32(np.inf), ROWS),
            path=tmp_path / "model.onnx",
        )
    told = "\n".join(str(p) for p in caught.value.problems)
    for words in ("says 'ebm'", "is float64, not a float32", "income: holds infinite", "income: has missing values"):
        assert words in told


def test_a_draft_that_makes_no_manifest_is_told(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"draft: version"):
        exported(tmp_path / "model.onnx", version="one")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("shape", [(0, 2), (5, 3)])
def test_rows_of_the_wrong_shape_are_refused(shape: tuple[int, int], tmp_path: Path) -> None:
    wrong = np.zeros(shape, np.float32)
    with pytest.raises(ExportError, match="has shape"):
        export_model(CARD, draft(NAMES), reference=wrong, verify_rows=ROWS, path=tmp_path / "model.onnx")


def test_float64_trees_stand_in_where_float32_sums_miss_the_tolerance(tmp_path: Path) -> None:
    lightgbm = pytest.importorskip("lightgbm")
    random = np.random.default_rng(3)
    x = random.normal(size=(800, 2)).astype(np.float32)
    bad = (x[:, 0] + random.normal(size=800) > 0).astype(int)
    # Two thousand large steps up and down again.
    parameters = {"objective": "binary", "max_depth": 2, "learning_rate": 0.5, "verbose": -1, "num_threads": 1}
    model = lightgbm.train(parameters, lightgbm.Dataset(x, bad), 2000)
    manifest = export_model(
        model, draft(["a", "b"]), reference=x[:100], verify_rows=x, path=tmp_path / "model.onnx", tolerance=2e-6
    )
    assert manifest.export_check is not None
    assert manifest.export_check.raw_max_abs <= 2e-6
    written = onnx.load(tmp_path / "model.onnx")
    assert "Cast" in [n.op_type for n in written.graph.node]
    assert GraphSession((tmp_path / "model.onnx").read_bytes()).run(x).raw.dtype == np.float32


def test_a_model_without_splits_exports(tmp_path: Path) -> None:
    card = WoeScorecard((WoeFeature("income", (), (0.0,), 0.0, 1.0), WoeFeature("delays", (), (0.3,), 0.3, 1.0)), -1.0)
    manifest = export_model(card, draft(NAMES), reference=ROWS, verify_rows=ROWS, path=tmp_path / "model.onnx")
    assert manifest.attribution.base_value == pytest.approx(-0.7)
    assert {row.raw for row in manifest.golden_rows} == {np.float32(-0.7)}


def test_inspect_refuses_what_is_no_exported_model(tmp_path: Path) -> None:
    text = tmp_path / "text.onnx"
    text.write_text("not a model")
    with pytest.raises(ExportError, match="no ONNX file"):
        inspect(text)
    with pytest.raises(ExportError):
        inspect(tmp_path / "absent.onnx")
    bare = tmp_path / "bare.onnx"
    ensemble = additive_ensemble(WoeSource(CARD).read(), ROWS)
    bare.write_bytes(build_graph(ensemble, draft(NAMES).calibration, None).SerializeToString())
    with pytest.raises(ExportError, match=r"has no assay\.manifest"):
        inspect(bare)
