"""The exporter: turns a trained model into one ONNX file that scores, explains every answer exactly, and carries its
manifest. It runs at training time; a serving engine needs none of the training libraries.

    from engine.export import ManifestDraft, export_model
    manifest = export_model(booster, draft, reference=X[approved], verify_rows=X, path=Path("model.onnx"))
"""

from __future__ import annotations

from engine.export.bins import calibrated_logit, quantile_bins, scaled_points, sigmoid
from engine.export.draft import ManifestDraft, ReferenceDraft
from engine.export.errors import ExportError
from engine.export.exporter import export_model, inspect
from engine.export.woe import WoeFeature, WoeScorecard

__all__ = [
    "ExportError",
    "ManifestDraft",
    "ReferenceDraft",
    "WoeFeature",
    "WoeScorecard",
    "calibrated_logit",
    "export_model",
    "inspect",
    "quantile_bins",
    "scaled_points",
    "sigmoid",
]
