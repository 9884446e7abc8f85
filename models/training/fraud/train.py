"""Train, check and export the application-fraud model: `python -m models.training.fraud.train`.

Learns from the early weeks of a generated stream with no label that was not known then, is tested on the later weeks,
and writes model.onnx, card.md and plots/. One thread, fixed seeds: a second run gives the same model.
"""

from __future__ import annotations

import argparse
import hashlib
import time
from dataclasses import dataclass
from pathlib import Path

import lightgbm
import numpy as np
import numpy.typing as npt

from engine.export import (
    ManifestDraft,
    ReferenceDraft,
    calibrated_logit,
    export_model,
    quantile_bins,
    scaled_points,
    sigmoid,
)
from engine.scoring.manifest import (
    Calibration,
    FeatureInput,
    Manifest,
    PsiReference,
    ReasonGroup,
    Scaling,
    TrainingData,
)
from models.training.fraud import plots
from models.training.fraud.card import write_card
from models.training.fraud.difficulty import DEFAULT_LEVEL, LEVELS
from models.training.fraud.evaluate import Figures, calibration_error, figures, threshold_at
from models.training.fraud.features import FEATURES, NAMES, feature_matrix
from models.training.fraud.labels import expected_to_known_odds
from models.training.fraud.population import DAY_SECONDS
from models.training.fraud.reasons import REASONS, write_table
from models.training.fraud.stream import Stream, generate

HERE = Path(__file__).resolve().parent
OUTPUT = HERE.parents[1] / "lending" / "fraud_application"
VERSION, CREATED = "1.0.0", "2026-11-22"
SEED, DAYS, DAILY = 1, 252, 500.0
WARM_UP_DAYS = 30  # the longest window: earlier counters are not full
CUT_OFF_DAY = 168  # what is known on this day is what the model may learn from
RIPENING_DAYS = 28  # the last weeks before it are left out: hardly any of their frauds are known
REFERENCE_ROWS = 10_000
TREES = 220
# Half of the inputs a tree, so that no single sign carries the model: the best ones wear out first. Monotone
# constraints cost about 0.006 AUC, and are what lets a reason speak of "many" or "new" and be right.
RECIPE = {
    "objective": "binary",
    "max_depth": 4,
    "num_leaves": 14,
    "learning_rate": 0.05,
    "min_data_in_leaf": 60,
    "lambda_l2": 10.0,
    "feature_fraction": 0.5,
    "bagging_fraction": 0.8,
    "bagging_freq": 1,
    "monotone_constraints_method": "intermediate",
    "num_threads": 1,
    "deterministic": True,
    "force_row_wise": True,
    "seed": 7,
    "verbosity": -1,
}
SCALING = Scaling(
    anchor_points=500, anchor_odds=50, points_to_double=60, points_min=0, points_max=999, higher_is="riskier"
)

Matrix = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Trained:
    """A model of one difficulty level with all that was measured. `label`: what was known on the day of training."""

    stream: Stream
    matrix: Matrix
    early: Mask
    late: Mask
    label: Mask
    native: lightgbm.Booster
    raw: npt.NDArray[np.float64]
    calibration: Calibration
    figures: Figures

    @property
    def probability(self) -> npt.NDArray[np.float64]:
        """Calibrated probability of fraud, one a row of the whole stream."""
        return sigmoid(calibrated_logit(self.raw, self.calibration))

    @property
    def points(self) -> npt.NDArray[np.float64]:
        """Scaled score, one a row of the whole stream."""
        return scaled_points(calibrated_logit(self.raw, self.calibration), SCALING)


def train(level: str, seed: int = SEED) -> Trained:
    """Generate the stream of this level, learn from its early weeks, measure on its late ones."""
    stream = generate(seed, days=DAYS, daily=DAILY, level=level)
    matrix = feature_matrix(stream)
    now_s = CUT_OFF_DAY * DAY_SECONDS
    early = (stream.t_s >= WARM_UP_DAYS * DAY_SECONDS) & (stream.t_s < now_s - RIPENING_DAYS * DAY_SECONDS)
    late = stream.t_s >= now_s
    label = stream.known_fraud(now_s)
    native = lightgbm.train(
        {**RECIPE, "monotone_constraints": [f.monotone for f in FEATURES]},
        lightgbm.Dataset(matrix[early], label[early].astype(np.float32), feature_name=list(NAMES)),
        num_boost_round=TREES,
    )
    raw = np.asarray(native.predict(matrix, raw_score=True), np.float64)
    shift = float(np.log(expected_to_known_odds(stream, early, now_s)))
    found = figures(raw[late], stream.kind[late], stream.known_fraud()[late])
    calibration = Calibration(method="prior_shift", intercept=shift)
    return Trained(stream, matrix, early, late, label, native, raw, calibration, found)


def reference_rows(t: Trained) -> Matrix:
    """Applications of the early weeks that no one knows to be fraud and that a gate at 5 % would pass, drawn evenly."""
    honest = t.early & ~t.label
    passed = np.flatnonzero(honest & (t.raw <= threshold_at(t.raw[honest], np.zeros(honest.sum(), bool), 0.05)))
    drawn: Matrix = t.matrix[np.sort(np.random.default_rng(SEED).choice(passed, REFERENCE_ROWS, replace=False))]
    return drawn


def draft_of(t: Trained, levels: dict[str, Figures]) -> ManifestDraft:
    """All that the trainer knows of the model."""
    rows = t.matrix[t.early]
    psi = {name: quantile_bins(rows[:, i].astype(np.float64)) for i, name in enumerate(NAMES)}
    return ManifestDraft(
        id="fraud_application",
        version=VERSION,
        component="fraud",
        title="Application fraud, generated stream",
        target="The application is fraudulent: ring, stolen identity, synthetic identity or first-party bust-out",
        created=CREATED,
        features=tuple(
            FeatureInput(
                name=f.name, type=f.type, unit=f.unit, description=f"{f.description} (missing: {f.missing})",
                missing="learned", range=f.range, monotone=f.monotone,
            )
            for f in FEATURES
        ),
        reference=ReferenceDraft(
            name="legitimate_applications",
            description="Applications of the training weeks not known to be fraud, in the 95 % with the lowest score",
        ),
        calibration=t.calibration,
        scaling=SCALING,
        reasons=tuple(ReasonGroup(code=r.code, features=r.features) for r in REASONS),
        training=TrainingData(
            source=f"Generated event stream, models.training.fraud.stream, seed {SEED}, level {t.stream.level}",
            licence="Apache-2.0",
            sha256=hashlib.sha256(np.ascontiguousarray(rows).astype("<f4").tobytes()).hexdigest(),
            rows=len(rows),
            bad_rate=float(t.label[t.early].mean()),
            target="Known as fraud on the day of training; frauds found later or never stand as honest",
            window=f"days {WARM_UP_DAYS} to {CUT_OFF_DAY - RIPENING_DAYS - 1} of the stream, labels known on day "
            f"{CUT_OFF_DAY}; tested on days {CUT_OFF_DAY} to {DAYS - 1}",
        ),
        metrics=metrics_of(t, levels),
        psi_reference=PsiReference(score=quantile_bins(t.points[t.early]), features=psi),
        licence="Apache-2.0",
        intended_use="Demonstration and test of fraud gates, velocity counters, reasons and drift monitoring",
        limitations="Made from a generated stream: no evidence of detection in the wild. Train on your own labels",
        excluded_attributes=("age", "sex", "nationality", "ethnic origin", "religion", "marital status"),
    )  # fmt: skip


def metrics_of(t: Trained, levels: dict[str, Figures]) -> dict[str, float]:
    """The figures that travel in the manifest, rounded to six places."""
    fraud = t.stream.kind[t.late] > 0
    observed = t.stream.known_fraud()[t.late]
    p = t.probability[t.late]
    f = t.figures
    found = {
        "auc": f.auc, "auc_observed_labels": f.auc_observed, "average_precision": f.average_precision, "ks": f.ks,
        "brier": float(np.mean((p - fraud) ** 2)), "ece_20": calibration_error(p, fraud),
        "ece_20_observed_labels": calibration_error(p, observed),
        "mean_predicted": float(p.mean()), "fraud_rate": float(fraud.mean()),
        "fraud_rate_observed_labels": float(observed.mean()),
        **{f"recall_at_{rate:.0%}_fpr".replace("%", "pct"): value for rate, value in f.recall.items()},
        **{f"recall_at_5pct_fpr_{kind}": value for kind, value in f.recall_by_type.items()},
        **{f"auc_{name}": other.auc for name, other in levels.items()},
        **{f"recall_at_5pct_fpr_{name}": other.recall[0.05] for name, other in levels.items()},
    }  # fmt: skip
    return {name: round(value, 6) for name, value in found.items()}


def draw(t: Trained, curves: dict[str, tuple[npt.NDArray[np.float64], Mask]], levels: dict[str, Figures],
         phi: npt.NDArray[np.float64], shown: npt.NDArray[np.int64], folder: Path) -> None:  # fmt: skip
    """All plots. phi: contributions of the rows `shown` of the stream."""
    folder.mkdir(parents=True, exist_ok=True)
    fraud = t.stream.kind[t.late] > 0
    points = t.points[t.late]
    plots.roc(curves, {name: f.auc for name, f in levels.items()}, folder / "roc.png")
    plots.ks(points, fraud, folder / "ks.png")
    plots.calibration(t.probability[t.late], fraud, folder / "calibration.png")
    plots.score_distribution(points, fraud, threshold_at(points, fraud, 0.05), folder / "score_distribution.png")
    plots.contributions(phi, t.matrix[shown].astype(np.float64), NAMES, folder / "contributions.png")
    plots.recall_by_type(levels, folder / "recall_by_type.png")


def contributions_of(path: Path, rows: Matrix) -> npt.NDArray[np.float64]:
    """The contributions that the exported file itself gives."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(["contributions"], {"features": rows})[0], np.float64)


def main() -> Manifest:
    """Train every level, export the default one, and write everything beside it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=OUTPUT, help="folder for model.onnx, card.md and plots/")
    output: Path = parser.parse_args().output
    began = time.monotonic()
    levels: dict[str, Figures] = {}
    curves: dict[str, tuple[npt.NDArray[np.float64], Mask]] = {}
    chosen: Trained | None = None
    for level in LEVELS:
        trained = train(level)
        levels[level] = trained.figures
        curves[level] = (trained.raw[trained.late], trained.stream.kind[trained.late] > 0)
        print(f"{level}: AUC {trained.figures.auc:.4f}, recall at 5 % {trained.figures.recall[0.05]:.3f}", flush=True)
        if level == DEFAULT_LEVEL:
            chosen = trained
    assert chosen is not None
    manifest = export_model(
        chosen.native,
        draft_of(chosen, levels),
        reference=reference_rows(chosen),
        verify_rows=chosen.matrix[chosen.early],
        path=output / "model.onnx",
    )
    # All frauds and four times as many others of the late weeks: enough of both to see in one plot.
    late, fraud = np.flatnonzero(chosen.late), np.flatnonzero(chosen.late & (chosen.stream.kind > 0))
    others = np.random.default_rng(SEED).choice(late, 1_000, replace=False)
    shown = np.union1d(fraud, others)
    draw(chosen, curves, levels, contributions_of(output / "model.onnx", chosen.matrix[shown]), shown, output / "plots")
    write_table(HERE / "reason_codes.md")
    used = chosen.native.feature_importance("split") > 0
    write_card(
        output / "card.md",
        manifest,
        levels,
        recipe=f"{TREES} trees of depth {RECIPE['max_depth']} at most (LightGBM)",
        unused=[name for name, is_used in zip(NAMES, used, strict=True) if not is_used],
    )
    print(f"exported in {time.monotonic() - began:.0f} s: {manifest.export_check}")
    return manifest


if __name__ == "__main__":
    main()
