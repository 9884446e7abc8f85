"""The fraud model that ships: what its file says of itself, what it answers, and the sample that shows it off."""

from __future__ import annotations

import math
import time
from collections import Counter
from functools import cache
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from engine.scoring.manifest import MANIFEST_KEY, Manifest
from models.training.fraud.features import FEATURES, NAMES, FraudFeature
from models.training.fraud.population import ENTITIES
from models.training.fraud.reasons import OTHER, REASONS, as_table
from models.training.fraud.sample import LEGITIMATE_NAME, fraud_rows, vector
from models.training.fraud.schemes import FRAUD_TYPES

ROOT = Path(__file__).resolve().parents[3]
MODEL = ROOT / "models" / "lending" / "fraud_application"

# The sample reasons of Regulation B, appendix C, form C-1, that are used here.
C1 = {
    "Limited credit experience",
    "Unable to verify residence",
    "Unable to verify employment",
    "Unable to verify income",
    "Income insufficient for amount of credit requested",
}


@pytest.fixture(scope="module")
def session() -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(str(MODEL / "model.onnx"), options, providers=["CPUExecutionProvider"])


@pytest.fixture(scope="module")
def manifest(session: onnxruntime.InferenceSession) -> Manifest:
    return Manifest.model_validate_json(session.get_modelmeta().custom_metadata_map[MANIFEST_KEY])


def test_the_file_states_the_features_and_reasons_of_the_code(manifest: Manifest) -> None:
    assert [(f.name, f.type, f.unit, f.range, f.monotone) for f in manifest.features] == [
        (f.name, f.type, f.unit, f.range, f.monotone) for f in FEATURES
    ]
    assert [(r.code, r.features) for r in manifest.reasons] == [(r.code, r.features) for r in REASONS]
    assert manifest.component == "fraud"
    assert manifest.scaling is not None
    assert manifest.scaling.higher_is == "riskier"


def test_every_feature_has_one_reason_and_every_reason_its_texts() -> None:
    assert Counter(name for r in REASONS for name in r.features) == Counter(NAMES)
    for r in REASONS:
        assert r.code.startswith("FR_")
        assert all((r.internal_en, r.internal_zh, r.applicant_en, r.applicant_zh))
        assert r.regulation_b == OTHER or r.regulation_b in C1
        # The applicant must not learn that fraud is suspected, nor which sign was seen.
        told = (r.applicant_en + r.applicant_zh).lower()
        assert not any(word in told for word in ("fraud", "device", "agent", "proxy", "欺诈", "设备", "代理"))


def test_the_table_of_reasons_is_the_one_in_the_repository() -> None:
    written = (ROOT / "models" / "training" / "fraud" / "reason_codes.md").read_text(encoding="utf-8")
    assert written == as_table()


def test_contributions_add_up_and_frauds_score_higher_on_fresh_rows(
    session: onnxruntime.InferenceSession, manifest: Manifest
) -> None:
    rows = fraud_rows(600, seed=21, fraud_share=0.5)
    x = np.array([vector(row) for row in rows], np.float32)
    raw, probability, points, phi = session.run(["raw", "probability", "points", "contributions"], {"features": x})
    np.testing.assert_allclose(manifest.attribution.base_value + phi.sum(axis=1, keepdims=True), raw, atol=1e-4)
    assert np.all((probability > 0) & (probability < 1))
    fraud = np.array([row["truth"] != LEGITIMATE_NAME for row in rows])
    better = points[fraud] > points[~fraud].T
    assert 0.88 < better.mean() < 0.98  # the AUC, of a stream that must be neither hopeless nor too easy


@cache
def vectors() -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    """Some of a fresh stream, made once for all features."""
    return np.array([vector(row) for row in fraud_rows(150, seed=5)], np.float32)


@pytest.mark.parametrize("feature", [f for f in FEATURES if f.monotone], ids=lambda f: f.name)
def test_a_monotone_feature_never_moves_the_score_the_other_way(
    session: onnxruntime.InferenceSession, feature: FraudFeature
) -> None:
    at = FEATURES.index(feature)
    x = vectors().copy()
    steps = np.concatenate([np.geomspace(1e-3, feature.range[1], 24), [0.0]])
    raws = []
    for value in np.sort(steps):
        x[:, at] = value
        raws.append(session.run(["raw"], {"features": x})[0][:, 0])
    change = np.diff(np.array(raws), axis=0) * feature.monotone
    assert change.min() >= -1e-5


def test_a_sample_is_quick_plain_complete_and_the_same_again() -> None:
    began = time.process_time()
    rows = fraud_rows(300, seed=9)
    assert time.process_time() - began < 10.0
    assert rows == fraud_rows(300, seed=9)
    assert len(rows) == 300
    kinds = Counter(row["truth"] for row in rows)
    assert kinds == {LEGITIMATE_NAME: 240, **dict.fromkeys(FRAUD_TYPES, 15)}
    for row in rows:
        held = {name for view in row["rows"].values() for name in view} | set(row["application"])
        absent = {f.name for f in FEATURES if f.name not in held}
        assert {f.entity for f in FEATURES if f.name in absent} <= set(ENTITIES) - set(row["entities"])
        for view, values in row["rows"].items():
            assert view.rsplit("_", 1)[0] in row["entities"]
            for value in values.values():
                assert value is None or (type(value) in (int, float, bool) and math.isfinite(value))


@pytest.mark.parametrize(("n", "share"), [(0, 0.2), (7, 0.0), (7, 1.0)])
def test_samples_of_odd_sizes(n: int, share: float) -> None:
    rows = fraud_rows(n, fraud_share=share)
    assert len(rows) == n
    assert sum(row["truth"] != LEGITIMATE_NAME for row in rows) == round(n * share)


def test_samples_refuse_nonsense() -> None:
    with pytest.raises(ValueError, match="n is -1"):
        fraud_rows(-1)
