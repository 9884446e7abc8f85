"""The way that docs/models.md describes: train, draft, export by the command, into a copy of the shipped bundle."""

from __future__ import annotations

import re
import runpy
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

from engine.bundle.load import load_bundle
from engine.cli import app
from engine.export import ManifestDraft, calibrated_logit, inspect, quantile_bins, scaled_points
from engine.export.command import read_draft

ROOT = Path(__file__).parents[3]


def documented_draft() -> ManifestDraft:
    text = (ROOT / "docs/models.md").read_text(encoding="utf-8")
    shown = re.search(r"<!-- draft -->\n```yaml\n(.*?)```", text, flags=re.S)
    assert shown is not None
    return ManifestDraft.model_validate(yaml.safe_load(shown[1]))


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the script ran, and then the command that it printed."""
    pytest.importorskip("lightgbm")
    folder = tmp_path_factory.mktemp("example")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["train_and_export.py", str(folder)])
        printed: list[str] = []
        patch.setattr("builtins.print", lambda *words: printed.append(" ".join(words)))
        runpy.run_path(str(ROOT / "examples/train_and_export.py"), run_name="__main__")
    command, *arguments = shlex.split(printed[-1])
    assert command == ".venv/bin/assay"
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    return folder


def test_the_documented_draft_is_the_one_that_the_script_writes(example: Path) -> None:
    written, shown = read_draft(example / "draft.yaml"), documented_draft()
    # What is measured may differ in its last digits with another version of the library.
    same: dict[str, object] = {"created": written.created, "metrics": written.metrics}
    same |= {"training": shown.training.model_copy(update={"sha256": written.training.sha256})}
    assert shown.model_copy(update=same) == written
    assert shown.metrics["auc"] == pytest.approx(written.metrics["auc"], abs=0.02)
    assert shown.psi_reference is None


def test_without_a_psi_reference_it_is_taken_from_the_rows_and_points(example: Path) -> None:
    import lightgbm

    manifest, rows = inspect(example / "model.onnx"), np.load(example / "rows.npy")
    assert manifest.scaling is not None
    raw = lightgbm.Booster(model_file=str(example / "model.txt")).predict(rows, raw_score=True)
    points = scaled_points(calibrated_logit(np.asarray(raw), manifest.calibration), manifest.scaling)
    assert manifest.psi_reference.score == quantile_bins(points, 20)
    assert len(manifest.psi_reference.score.shares) == 20
    for at, feature in enumerate(manifest.features):
        assert manifest.psi_reference.features[feature.name] == quantile_bins(rows[:, at])
    assert manifest.psi_reference.features["monthly_income"].missing_share == pytest.approx(0.1, abs=0.02)


def test_the_model_serves_in_a_copy_of_the_shipped_bundle(example: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(ROOT / "models/lending", bundle)
    (bundle / "my_model").mkdir()
    shutil.copy(example / "model.onnx", bundle / "my_model/model.onnx")
    listed = (bundle / "bundle.yaml").read_text(encoding="utf-8")
    listed = listed.replace("\nmodels:\n", "\nmodels:\n  my_model: {file: my_model/model.onnx}\n")
    (bundle / "bundle.yaml").write_text(listed, encoding="utf-8")
    file = bundle / "flows/consumer_loan.yaml"
    flow = file.read_text(encoding="utf-8")
    file.write_text(flow.replace("credit: {model: credit_pd,", "credit: {model: my_model,"), encoding="utf-8")

    loaded = load_bundle(bundle, scenarios=False)
    role = next(m for m in loaded.plan.flows["consumer_loan.application"].models if m.role == "credit")
    assert role.model.id == "my_model"
    golden = inspect(example / "model.onnx").golden_rows[0]
    score = role.model.run(np.array([golden.inputs], np.float64))[0]
    assert score.raw == pytest.approx(golden.raw, abs=1e-5)
    assert score.points == pytest.approx(golden.points, abs=0.51)
