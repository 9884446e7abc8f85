"""The checks on what `export_model` was given, before any work is done."""

from __future__ import annotations

from typing import Any

import numpy as np

from engine.errors import Problem
from engine.export.draft import ManifestDraft
from engine.export.source import Source, problem


def input_problems(source: Source, draft: ManifestDraft, reference: Any, verify_rows: Any) -> list[Problem]:
    """Everything that does not fit between the model, its draft and the two matrices of rows."""
    problems = []
    names = tuple(f.name for f in draft.features)
    if draft.kind and draft.kind != source.kind:
        problems.append(
            Problem("draft", "kind", f"says {draft.kind!r}, but the model is {source.kind!r}", "Leave kind out.")
        )
    if source.n_features() != len(names):
        problems.append(
            Problem(
                "draft",
                "features",
                f"names {len(names)} features, but the model takes {source.n_features()}",
                "Name every column, in the order of training.",
            )
        )
    trained = source.feature_names()
    if trained is not None and trained != names:
        differing = [f"{i}: {a!r} / {b!r}" for i, (a, b) in enumerate(zip(trained, names, strict=False)) if a != b]
        if differing:
            problems.append(
                problem(
                    "feature names",
                    f"the model was trained with other names than the draft has ({'; '.join(differing[:5])})",
                    "Give the draft's features the names and the order of training.",
                )
            )
    for name, rows in (("reference", reference), ("verify_rows", verify_rows)):
        problems += _matrix_problems(name, rows, draft)
    return problems


def _matrix_problems(name: str, rows: Any, draft: ManifestDraft) -> list[Problem]:
    if not isinstance(rows, np.ndarray) or rows.dtype != np.float32:
        kind = rows.dtype if isinstance(rows, np.ndarray) else type(rows).__name__
        return [Problem(name, "", f"is {kind}, not a float32 array", "Cast with .astype(float32) before training.")]
    if rows.ndim != 2 or rows.shape[1] != len(draft.features) or not len(rows):
        return [Problem(name, "", f"has shape {rows.shape}", f"Give [n, {len(draft.features)}] with n > 0.")]
    problems = []
    for i, feature in enumerate(draft.features):
        if np.isinf(rows[:, i]).any():
            problems.append(Problem(name, feature.name, "holds infinite values", "Write missing values as NaN."))
        if feature.missing == "not_allowed" and np.isnan(rows[:, i]).any():
            problems.append(
                Problem(name, feature.name, "has missing values", "Say missing: learned, or remove those rows.")
            )
    return problems
