"""WOE scorecards as additive models."""

from __future__ import annotations

import numpy as np

from engine.export.additive import AdditiveModel, Term
from engine.export.float32 import Float32Array, Float64Array, ceil_float32
from engine.export.woe import WoeScorecard


class WoeSource:
    """A `WoeScorecard`; the truth is its numpy implementation."""

    kind = "woe_scorecard"
    library = ()

    def __init__(self, native: WoeScorecard) -> None:
        self._card = native

    def feature_names(self) -> tuple[str, ...] | None:
        return tuple(f.name for f in self._card.features)

    def n_features(self) -> int:
        return len(self._card.features)

    def raw(self, rows: Float32Array) -> Float64Array:
        return self._card.raw(rows)

    def contributions(self, rows: Float32Array) -> Float64Array:
        return self._card.contributions(rows)

    def read(self) -> AdditiveModel:
        terms = tuple(
            Term((i,), (ceil_float32(f.cuts),), f.coefficient * np.array([f.woe_missing, *f.woe], np.float64))
            for i, f in enumerate(self._card.features)
        )
        return AdditiveModel(len(terms), terms, self._card.intercept)
