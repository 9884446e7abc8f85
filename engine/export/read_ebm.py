"""Explainable boosting machines of interpret-core: binary, continuous features, single terms and pairs."""

from __future__ import annotations

from typing import Any

import numpy as np

from engine.errors import Problem
from engine.export.additive import AdditiveModel, Term
from engine.export.errors import refuse_if
from engine.export.float32 import Float32Array, Float64Array, ceil_float32
from engine.export.source import problem


class EbmSource:
    """An `ExplainableBoostingClassifier`."""

    kind = "ebm"
    library = ("interpret-core",)

    def __init__(self, native: Any) -> None:
        self._ebm = native

    def feature_names(self) -> tuple[str, ...] | None:
        names = tuple(self._ebm.feature_names_in_)
        return None if all(n == f"feature_{i:04}" for i, n in enumerate(names)) else names

    def n_features(self) -> int:
        return int(self._ebm.n_features_in_)

    def raw(self, rows: Float32Array) -> Float64Array:
        return np.asarray(self._ebm.decision_function(rows), np.float64)

    def contributions(self, rows: Float32Array) -> Float64Array:
        """The library's own term scores; a pair is shared half to each of its features."""
        terms = np.asarray(self._ebm.eval_terms(rows), np.float64)
        total = np.zeros((len(rows), self.n_features()), np.float64)
        for column, features in enumerate(self._ebm.term_features_):
            for feature in features:
                total[:, feature] += terms[:, column] / len(features)
        return total

    def read(self) -> AdditiveModel:
        refuse_if(self._refusals())
        terms = tuple(self._term(i, tuple(features)) for i, features in enumerate(self._ebm.term_features_))
        return AdditiveModel(self.n_features(), terms, float(np.ravel(self._ebm.intercept_)[0]))

    def _refusals(self) -> list[Problem]:
        problems = []
        if getattr(self._ebm, "link_", "logit") != "logit" or np.size(self._ebm.intercept_) != 1:
            problems.append(problem("classes", "it does not score binary log-odds", "Train on two classes."))
        for name, kind in zip(self._ebm.feature_names_in_, self._ebm.feature_types_in_, strict=True):
            if kind != "continuous":
                problems.append(
                    problem(f"feature {name}", f"it is {kind}", "Pass feature_types=['continuous', ...] when training.")
                )
        for features in self._ebm.term_features_:
            if len(features) > 2:
                problems.append(
                    problem(f"term {tuple(features)}", "it joins more than two features", "Train with pairs only.")
                )
        return problems

    def _term(self, index: int, features: tuple[int, ...]) -> Term:
        # bins_[f] lists the cuts of f for terms of one feature, of two, ...; the last serves all larger terms.
        resolutions = [self._ebm.bins_[f] for f in features]
        cuts = tuple(ceil_float32(r[min(len(features), len(r)) - 1]) for r in resolutions)
        # The last bin of every axis is for unknown categories, which a continuous feature does not have.
        known = tuple(slice(0, -1) for _ in features)
        return Term(features, cuts, np.asarray(self._ebm.term_scores_[index], np.float64)[known])
