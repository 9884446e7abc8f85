"""What the exporter asks of a trained model, whichever library made it."""

from __future__ import annotations

from typing import Protocol

from engine.errors import Problem
from engine.export.additive import AdditiveModel
from engine.export.float32 import Float32Array, Float64Array
from engine.export.trees import Forest

MODEL = "model"


class Source(Protocol):
    """One trained model. The library's own answers are the truth that the exported graph is held against."""

    @property
    def kind(self) -> str:
        """The family, as the manifest names it: "lightgbm", "xgboost", "catboost", "ebm" or "woe_scorecard"."""

    @property
    def library(self) -> tuple[str, ...]:
        """The distributions whose versions the manifest names."""

    def feature_names(self) -> tuple[str, ...] | None:
        """The names the model was trained with, or None when it only knows numbers."""

    def n_features(self) -> int:
        """How many columns the model takes."""

    def read(self) -> Forest | AdditiveModel:
        """The structure. Raises `ExportError` naming every part that cannot be exported."""

    def raw(self, rows: Float32Array) -> Float64Array:
        """[n]: raw scores by the library itself."""

    def contributions(self, rows: Float32Array) -> Float64Array:
        """[n, features]: contributions by the library itself (path-dependent SHAP, or terms), not centred."""


def problem(place: str, message: str, fix: str) -> Problem:
    """A problem with the model itself."""
    return Problem(MODEL, place, message, fix)
