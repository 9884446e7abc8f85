"""The credit models' cards, written from the manifest and the figures, so that neither can be out of date."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from models.training.data import Table
from models.training.metrics import CrossValidation
from models.training.publish import Published, Spec

Section = tuple[str, str]
_SIGN = {1: "up", -1: "down", 0: "free"}


def write(done: Published, spec: Spec, table: Table, sections: Sequence[Section], path: Path) -> None:
    """Write `card.md`. sections: what is particular to the model, in order, between features and export check."""
    manifest = done.manifest
    parts: list[Section] = [
        ("Purpose", spec.intended_use),
        ("Target", spec.target),
        ("Data", _data(done, table)),
        ("Features", _features(spec, table)),
        *sections,
        ("Points", _points(done)),
        ("Reference population", _reference(done, spec)),
        ("Export check", _check(done)),
        ("Limits", spec.limitations),
    ]
    head = f"# {manifest.title}\n\n`{manifest.id}` {manifest.version}, {manifest.kind}, {manifest.created}. "
    head += f"Licence of the model: {manifest.licence}. Rebuilt by `python -m models.training.{manifest.id}`.\n"
    body = "".join(f"\n## {title}\n\n{text.strip()}\n" for title, text in parts)
    path.write_text(head + body, encoding="utf-8")


def _data(done: Published, table: Table) -> str:
    training = done.manifest.training
    return (
        f"{training.source}. Licence: {training.licence}. Window: {training.window}.\n\n"
        f"{training.rows:,} rows, {training.bad_rate:.2%} bad. SHA-256 of the table `{table.dataset.member}`: "
        f"`{training.sha256}`."
    )


def _features(spec: Spec, table: Table) -> str:
    lines = ["| input | type | unit | meaning | risk | why | missing in training |", "|---|---|---|---|---|---|---|"]
    for at, one in enumerate(spec.inputs):
        missing = float(np.isnan(table.features[:, at]).mean())
        lines.append(
            f"| `{one.name}` | {one.type} | {one.unit} | {one.description} | {_SIGN[one.monotone]} | {one.why} | "
            f"{missing:.2%} |"
        )
    lines += ["", "Risk: up means that a higher value never lowers the risk, down that it never raises it."]
    if spec.excluded:
        lines += ["", f"Kept out: {'; '.join(spec.excluded)}."]
    return "\n".join(lines)


def _points(done: Published) -> str:
    scaling, calibration = done.manifest.scaling, done.manifest.calibration
    assert scaling is not None
    low, middle, high = np.quantile(done.points, (0.05, 0.5, 0.95))
    return (
        f"{scaling.anchor_points:.0f} points at odds of {scaling.anchor_odds:.0f} good to 1 bad, "
        f"{scaling.points_to_double:.0f} points double the odds, {scaling.points_min:.0f} to "
        f"{scaling.points_max:.0f}, higher is safer. Calibration in the graph: {calibration.method}. On the training "
        f"rows: 5 % below {low:.0f}, median {middle:.0f}, 5 % above {high:.0f}.\n\n"
        "![Points](plots/score_distribution.png)"
    )


def _reference(done: Published, spec: Spec) -> str:
    reference, attribution = done.manifest.attribution.reference, done.manifest.attribution
    return (
        f"`{reference.name}`: {reference.description}; {reference.rows:,} rows, SHA-256 of the float32 matrix "
        f"`{reference.sha256}`. Contributions ({attribution.method}) are measured against it: the factors that "
        f"explain why an applicant stands below those who just passed. A lender with another cut-off should export "
        f"the model again with its own reference. Base value {attribution.base_value:.4f}.\n\n"
        "![Contributions](plots/contributions.png)"
    )


def _check(done: Published) -> str:
    check = done.manifest.export_check
    assert check is not None
    return (
        f"Against the training library on all {check.rows:,} rows: raw log-odds within {check.raw_max_abs:.1e}, "
        f"probability within {check.probability_max_abs:.1e}. Contributions on {done.check.rows:,} rows, by the "
        f"library or a second algorithm: within {done.check.contribution_max_abs:.1e}, the four main reasons agree on "
        f"{done.check.top4_agreement:.2%} of them (values that are equal within the tolerance may swap). "
        f"File: {done.path.stat().st_size / 1e6:.2f} MB. Golden rows are made up from quantiles, no applicant's row "
        "is in the file."
    )


def cross_validation_table(found: dict[str, CrossValidation]) -> str:
    """One line a model: mean and standard deviation over the folds."""
    lines = ["| 5-fold, stratified, seed 0 | AUC | KS | ECE (20 bins) | Brier |", "|---|---|---|---|---|"]
    for name, one in found.items():
        cells = " | ".join(one.text(metric) for metric in ("auc", "ks", "ece20", "brier"))
        lines.append(f"| {name} | {cells} |")
    return "\n".join(lines)
