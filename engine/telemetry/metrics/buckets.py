"""Histograms that take many whole numbers at once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from engine.telemetry.metrics.snapshot import Exemplar, Histogram


class Buckets:
    """Rows of buckets, with a sum and the latest exemplars of each row. Belongs to one thread at a time."""

    def __init__(self, rows: int, edges: NDArray[np.int64]) -> None:
        self._edges, self._width = edges, len(edges) + 1
        # One place more: for what is not to be counted.
        self._nowhere = rows * self._width
        self._counts = np.zeros(self._nowhere + 1, dtype=np.int64)
        self._sums = np.zeros(rows, dtype=np.int64)
        self._offsets = np.arange(rows) * self._width
        self._exemplars: dict[int, Exemplar] = {}

    def add(self, rows: NDArray[np.int64], values: NDArray[np.int64]) -> NDArray[np.int64]:
        """Counts values, each in its row. Gives the places they went to."""
        places = self._edges.searchsorted(values) + rows * self._width
        self._counts += np.bincount(places, minlength=len(self._counts))
        # Not by the weights of bincount: those are doubles, and sums of nanoseconds go beyond them in a month.
        np.add.at(self._sums, rows, values)
        return places

    def add_columns(self, values: NDArray[np.int64], known: NDArray[np.bool_] | None = None) -> NDArray[np.int64]:
        """Counts values of shape [many, rows], each column in its row; only those that are known. Gives the places."""
        places = self._edges.searchsorted(values) + self._offsets
        if known is not None:
            places[~known] = self._nowhere
        self._counts += np.bincount(places.ravel(), minlength=len(self._counts))
        self._sums += values.sum(axis=0) if known is None else values.sum(axis=0, where=known)
        return places

    def exemplify(
        self,
        places: NDArray[np.int64],
        values: NDArray[np.int64],
        trace_ids: Sequence[str],
        now_us: Sequence[int],
    ) -> None:
        """Keeps the latest of each bucket. places, values: as many of each decision, decision by decision; trace_ids,
        now_us: the trace and the moment of each decision."""
        last = np.full(len(self._counts), -1)
        last[places] = np.arange(len(places))  # of several the last stays
        each = len(places) // len(trace_ids)
        for place in np.flatnonzero(last >= 0).tolist():
            at = int(last[place])
            self._exemplars[place] = Exemplar(trace_ids[at // each], int(values[at]) / 1e9, now_us[at // each] / 1e6)

    def histogram(self, row: int, bounds: tuple[float, ...], per_unit: float) -> Histogram:
        """One row. per_unit: how many of what was counted make one of the metric's unit."""
        start = row * self._width
        exemplars = {p - start: e for p, e in self._exemplars.items() if start <= p < start + self._width}
        counts = self._counts[start : start + self._width].tolist()
        return Histogram(bounds, counts, int(self._sums[row]) / per_unit, exemplars)
