"""From a fitted credit model to its folder: the explained ONNX file, checked on all rows, the plots and the card."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.export import ManifestDraft, ReferenceDraft, calibrated_logit, export_model, quantile_bins, scaled_points
from engine.export.families import open_source
from engine.export.session import GraphSession
from engine.scoring.manifest import Calibration, Manifest, PsiReference, TrainingData
from models.training import plots
from models.training.data import Table
from models.training.fetch import ROOT
from models.training.full_check import FullCheck, full_check
from models.training.inputs import SCALING, Input, feature_inputs
from models.training.metrics import Floats, Labels
from models.training.reasons import CreditReason, groups

CREATED = "2026-11-22"
BUNDLE = ROOT / "models" / "lending"
_DOTS = 2_500


@dataclass(frozen=True, slots=True)
class Release:
    """What the command line says of one run. out: the folder that the model's folder stands in."""

    created: str = CREATED
    git_commit: str = ""
    out: Path = BUNDLE


def release(arguments: Sequence[str] | None = None) -> Release:
    """Read the command line that all training scripts share."""
    parser = argparse.ArgumentParser(description="Train a credit model and write its ONNX file, card and plots.")
    parser.add_argument("--created", default=CREATED, help="date for the manifest (default: %(default)s)")
    parser.add_argument("--git-commit", default="", help="commit for the manifest (default: none)")
    parser.add_argument("--out", type=Path, default=BUNDLE, help="where the model's folder goes (default: the bundle)")
    chosen = parser.parse_args(arguments)
    return Release(chosen.created, chosen.git_commit, chosen.out)


@dataclass(frozen=True, slots=True)
class Spec:
    """What is written of a model rather than measured. band: the points, from and below, that the reference population
    lies between; reference_rows: at most so many of them, drawn evenly by row order."""

    id: str
    version: str
    title: str
    target: str
    window: str
    intended_use: str
    limitations: str
    excluded: tuple[str, ...]
    inputs: tuple[Input, ...]
    reasons: tuple[CreditReason, ...]
    band: tuple[float, float]
    reference_rows: int = 10_000


@dataclass(frozen=True, slots=True)
class Published:
    """What came of it."""

    manifest: Manifest
    check: FullCheck
    path: Path
    points: Floats
    contributions: NDArray[np.float32]


def publish(
    native: Any, spec: Spec, table: Table, metrics: dict[str, float], run: Release, *, calibration: Calibration
) -> Published:
    """Export a model fitted on `table`, and check it on every one of its rows. Raises ExportError."""
    names = tuple(one.name for one in spec.inputs)
    assert names == table.names, "inputs stand in the order of the table"
    raw = open_source(native).raw(table.features)
    points = scaled_points(calibrated_logit(raw, calibration), SCALING)
    reference = table.features[reference_rows(points, spec)]
    low, high = spec.band
    draft = ManifestDraft(
        id=spec.id,
        version=spec.version,
        component="credit",
        title=spec.title,
        target=spec.target,
        created=run.created,
        git_commit=run.git_commit,
        features=feature_inputs(spec.inputs, table.features),
        reference=ReferenceDraft(
            name="approved_near_cutoff",
            description=f"Training rows of {low:.0f} to {high:.0f} points by this model: at or slightly above a "
            f"cut-off of {low:.0f}",
        ),
        calibration=calibration,
        scaling=SCALING,
        reasons=groups(spec.reasons),
        training=TrainingData(
            source=table.dataset.source,
            licence=table.dataset.licence,
            sha256=table.dataset.member_sha256,
            rows=len(table.bad),
            bad_rate=float(table.bad.mean()),
            target=spec.target,
            window=spec.window,
        ),
        metrics={name: round(value, 6) for name, value in metrics.items()},
        psi_reference=PsiReference(
            score=quantile_bins(points, 20),
            features={name: quantile_bins(table.features[:, at]) for at, name in enumerate(names)},
        ),
        licence="Apache-2.0",
        intended_use=spec.intended_use,
        limitations=spec.limitations,
        excluded_attributes=spec.excluded,
    )
    path = run.out / spec.id / "model.onnx"
    print(f"  export: {len(reference):,} reference rows, checked on {len(table.bad):,} rows", flush=True)
    manifest = export_model(native, draft, reference=reference, verify_rows=table.features, path=path)
    answer = GraphSession(path.read_bytes()).run(table.features)
    check = full_check(native, manifest, answer.contributions, table.features, reference)
    assert manifest.export_check is not None
    print(
        f"  export: raw differs by at most {manifest.export_check.raw_max_abs:.1e}, contributions by "
        f"{check.contribution_max_abs:.1e}, top four agree on {check.top4_agreement:.2%} of {check.rows:,} rows, "
        f"{path.stat().st_size / 1e6:.2f} MB",
        flush=True,
    )
    return Published(manifest, check, path, points, answer.contributions)


def reference_rows(points: Floats, spec: Spec) -> NDArray[np.int64]:
    """The rows of the reference population: those in the band, thinned evenly to at most `spec.reference_rows`."""
    low, high = spec.band
    inside = np.flatnonzero((points >= low) & (points < high))
    if len(inside) <= spec.reference_rows:
        return inside
    return inside[np.linspace(0, len(inside) - 1, spec.reference_rows).round().astype(np.int64)]


def draw(
    done: Published,
    spec: Spec,
    table: Table,
    folder: Path,
    judged: tuple[Labels, Floats],
    rows: str,
    probability: Floats,
) -> None:
    """The plots that all credit models have. judged: labels and raw log-odds of rows that the model did not see, and
    `probability` theirs; rows: what they are, for titles."""
    bad, raw = judged
    points = scaled_points(calibrated_logit(raw, done.manifest.calibration), SCALING)
    plots.roc(bad, raw, rows, folder / "roc.png")
    plots.ks(bad, points, rows, folder / "ks.png")
    plots.calibration(bad, probability, rows, folder / "calibration.png")
    plots.score_distribution(bad, points, spec.band, rows, folder / "score_distribution.png")
    chosen = np.linspace(0, len(table.bad) - 1, _DOTS).round().astype(np.int64)
    lost = done.contributions[chosen].astype(np.float64) * done.manifest.calibration.slope * SCALING.points_per_logit
    plots.contributions(lost, table.features[chosen], table.names, folder / "contributions.png")
