"""What must come out of an exported graph, by the training library itself and, where it has no answer, by a second
algorithm."""

from __future__ import annotations

import numpy as np

from engine.export.additive import AdditiveModel
from engine.export.float32 import Float32Array, Float64Array
from engine.export.pairwise import interventional_contributions
from engine.export.source import Source
from engine.export.trees import Forest
from engine.export.verify import Truth

# Boosted trees: every contribution is compared on so many rows (an even sample), and their sum on all rows. The
# libraries need a third of a millisecond and more for one row's contributions.
INTERVENTIONAL_ROWS = 2_000
PATH_DEPENDENT_ROWS = 10_000


class Truths:
    """The truth about a model for any rows, against one reference.

    Raw scores and the base (the mean raw of the reference) are the library's own on every row. Contributions: for
    additive models and path-dependent SHAP the library's own, less their mean over the reference; interventional SHAP
    by `pairwise.py`.
    """

    def __init__(
        self, source: Source, structure: Forest | AdditiveModel, reference: Float32Array, *, interventional: bool
    ) -> None:
        self._source, self._structure, self._reference = source, structure, reference
        self._interventional = interventional
        self._base = float(source.raw(reference).mean())
        self._mean: Float64Array = np.zeros(source.n_features(), np.float64)
        if not interventional:
            self._mean = source.contributions(reference).mean(axis=0)

    def of(self, rows: Float32Array) -> Truth:
        """What the graph must answer for these rows."""
        some = self._sample(len(rows))
        if isinstance(self._structure, Forest) and self._interventional:
            phi = interventional_contributions(self._structure, rows[some], self._reference)
        else:
            phi = self._source.contributions(rows[some]) - self._mean
        return Truth(self._source.raw(rows), phi, some, self._base)

    def _sample(self, rows: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        if isinstance(self._structure, AdditiveModel):
            return np.arange(rows)
        most = INTERVENTIONAL_ROWS if self._interventional else PATH_DEPENDENT_ROWS
        return np.linspace(0, rows - 1, min(rows, most)).round().astype(np.int64)
