"""Which family a trained model belongs to. Looks at where its class comes from, so no training library is imported
that the caller does not already use."""

from __future__ import annotations

from typing import Any

from engine.export.errors import ExportError
from engine.export.read_catboost import CatBoostSource
from engine.export.read_ebm import EbmSource
from engine.export.read_lightgbm import LightGbmSource
from engine.export.read_woe import WoeSource
from engine.export.read_xgboost import XgboostSource
from engine.export.source import Source, problem
from engine.export.woe import WoeScorecard


def open_source(native: Any) -> Source:
    """The `Source` of a trained model. Raises `ExportError` for a class that is not known or not trained."""
    if isinstance(native, WoeScorecard):
        return WoeSource(native)
    packages = {base.__module__.split(".")[0] for base in type(native).__mro__}
    name = type(native).__name__
    if "lightgbm" in packages:
        return LightGbmSource(native)
    if "xgboost" in packages:
        return XgboostSource(native)
    if "catboost" in packages:
        return CatBoostSource(native)
    if "interpret" in packages and hasattr(native, "term_scores_"):
        return EbmSource(native)
    raise ExportError(
        [
            problem(
                type(native).__module__,
                f"{name} is not a trained model of a known family",
                "Give a LightGBM, XGBoost or CatBoost booster, an ExplainableBoostingClassifier or a WoeScorecard.",
            )
        ]
    )
