"""The credit models that ship keep their promises: figures, signs, sums, reasons and cards."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from PIL import Image

from engine.export import inspect
from engine.export.session import GraphSession
from engine.scoring.manifest import Manifest
from models.training import reasons
from models.training.data import CONSUMER_FEATURES, SECTORS, SME_FEATURES
from models.training.publish import BUNDLE

CONSUMER = ("credit_pd", "credit_scorecard", "credit_ebm")
MODELS = (*CONSUMER, "sme_pd")
PLOTS = ("calibration", "contributions", "ks", "roc", "score_distribution")


@cache
def _manifest(model: str) -> Manifest:
    return inspect(BUNDLE / model / "model.onnx")


@cache
def _session(model: str) -> GraphSession:
    return GraphSession((BUNDLE / model / "model.onnx").read_bytes())


def _rows(manifest: Manifest, count: int = 3_000) -> np.ndarray:
    """Rows within what training saw, by the PSI reference: values at random edges of the bins, some missing."""
    rng = np.random.default_rng(0)
    columns = []
    for feature in manifest.features:
        assert feature.range is not None
        edges = np.array([feature.range[0], *manifest.psi_reference.features[feature.name].edges, feature.range[1]])
        at = rng.integers(0, len(edges) - 1, count)
        column = rng.uniform(edges[at], edges[at + 1])
        if feature.type != "float":
            column = np.round(column)
        column[rng.random(count) < 0.05] = np.nan
        columns.append(column)
    return np.column_stack(columns).astype(np.float32)


@pytest.mark.parametrize("model", MODELS)
def test_base_and_contributions_make_the_score(model: str) -> None:
    manifest = _manifest(model)
    answer = _session(model).run(_rows(manifest))
    total = manifest.attribution.base_value + answer.contributions.astype(np.float64).sum(axis=1)
    assert np.abs(total - answer.raw).max() < 1e-5


@pytest.mark.parametrize("model", MODELS)
def test_no_constrained_input_works_against_its_sign(model: str) -> None:
    manifest = _manifest(model)
    rows = _rows(manifest)
    before = _session(model).run(rows)
    for at, feature in enumerate(manifest.features):
        if not feature.monotone:
            continue
        assert feature.range is not None
        for step in (0.01, 0.5, 1, 5, 1_000, 100_000):
            higher = rows.copy()
            higher[:, at] = np.minimum(rows[:, at] + np.float32(step), feature.range[1])
            after = _session(model).run(higher)
            worst = ((before.raw - after.raw) * feature.monotone).max()
            assert worst < 1e-5, f"{feature.name} + {step}"


@pytest.mark.parametrize("model", MODELS)
def test_no_constrained_input_gives_a_reversed_reason(model: str) -> None:
    """More of a risk never takes fewer points away, whatever the rest of the row."""
    manifest = _manifest(model)
    rows = _rows(manifest, 1_000)
    before = _session(model).run(rows).contributions
    for at, feature in enumerate(manifest.features):
        if feature.monotone:
            higher = rows.copy()
            higher[:, at] += 3
            after = _session(model).run(higher).contributions
            assert ((before[:, at] - after[:, at]) * feature.monotone).max() < 1e-5, feature.name


@pytest.mark.parametrize("model", CONSUMER)
def test_age_is_never_a_reason_for_the_elderly(model: str) -> None:
    manifest = _manifest(model)
    rows = _rows(manifest)
    age = CONSUMER_FEATURES.index("age_years")
    rows[:, age] = np.random.default_rng(1).integers(62, 110, len(rows))
    assert _session(model).run(rows).contributions[:, age].max() <= 0


def test_figures_that_were_promised() -> None:
    metrics = _manifest("credit_pd").metrics
    assert metrics["cv_auc_mean"] >= 0.863
    assert metrics["cv_ks_mean"] >= 0.570
    assert _manifest("credit_scorecard").metrics["cv_auc_mean"] >= 0.857
    assert _manifest("credit_ebm").metrics["cv_auc_mean"] >= 0.860
    assert all(_manifest(model).metrics["cv_ece20_mean"] <= 0.01 for model in CONSUMER)
    assert _manifest("sme_pd").metrics["test_auc"] >= 0.66


@pytest.mark.parametrize("model", MODELS)
def test_export_was_checked_on_every_row(model: str) -> None:
    manifest = _manifest(model)
    check = manifest.export_check
    assert check is not None
    assert check.rows == manifest.training.rows
    assert check.top4_agreement == 1.0
    assert max(check.raw_max_abs, check.probability_max_abs, check.contribution_max_abs) <= 1e-5


@pytest.mark.parametrize("model", MODELS)
def test_every_input_can_be_a_reason_that_has_a_text(model: str) -> None:
    manifest = _manifest(model)
    listed = reasons.SME_REASONS if model == "sme_pd" else reasons.CONSUMER_REASONS
    assert manifest.reasons == reasons.groups(listed)
    grouped = [name for group in manifest.reasons for name in group.features]
    assert sorted(grouped) == sorted(feature.name for feature in manifest.features)
    assert all(reason.applicant_en and reason.applicant_zh and reason.regulation_b for reason in listed)


def test_inputs_stand_in_the_order_of_training() -> None:
    for model in CONSUMER:
        assert tuple(feature.name for feature in _manifest(model).features) == CONSUMER_FEATURES
    sme = _manifest("sme_pd").features
    assert tuple(feature.name for feature in sme) == SME_FEATURES
    assert sme[-1].categories == SECTORS


def test_what_gives_the_outcome_away_is_no_input() -> None:
    names = {feature.name for feature in _manifest("sme_pd").features}
    assert not [
        name for name in names for leak in ("term", "disburs", "charge", "guarant", "state", "zip") if leak in name
    ]


@pytest.mark.parametrize("model", MODELS)
def test_card_and_plots_stand_beside_the_model(model: str) -> None:
    manifest, folder = _manifest(model), BUNDLE / model
    card = (folder / "card.md").read_text(encoding="utf-8")
    assert manifest.training.sha256 in card
    assert manifest.attribution.reference.sha256 in card
    for plot in (*PLOTS, *(("drift",) if model == "sme_pd" else ())):
        assert f"plots/{plot}.png" in card
        file = folder / "plots" / f"{plot}.png"
        assert file.stat().st_size < 60_000
        with Image.open(file) as image:
            assert image.width > 400


def test_list_of_reasons_is_current() -> None:
    written = BUNDLE.parent / "training" / "reason_codes.md"
    assert written.read_text(encoding="utf-8") == reasons.markdown()
