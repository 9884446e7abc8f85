"""Whether a model still sees what it was trained on: the population stability index (PSI) over a sliding window.

    PSI = sum over the bins of (share now - share at training) * ln(share now / share at training)

as in N. Siddiqi, Credit Risk Scorecards (2006), chapter 9; there below 0.1 is no change and above 0.25 a great one.
A share of nothing is taken as `SHARE_LEAST`, so that one empty bin does not make it infinite. Missing values are a bin.

Without any drift PSI is about (bins - 1) / decisions on average (B. Yurdakul, Statistical Properties of Population
Stability Index, 2018), so below `SAMPLES_LEAST` decisions it is noise, and no value is given.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.telemetry.metrics.snapshot import Snapshot, Track

SHARE_LEAST = 1e-4
SAMPLES_LEAST = 1000
# Sorted into bins at a time; they wait for seconds at most where a window is of an hour.
_ROWS_TOGETHER = 1024

Ints = NDArray[np.int64]


def psi(reference: Sequence[float], counts: Sequence[int]) -> float:
    """The index of decisions by bin against the shares at training. Raises ValueError where nothing was counted."""
    total = sum(counts)
    if total <= 0:
        raise ValueError("nothing was counted")
    found = 0.0
    for expected, count in zip(reference, counts, strict=True):
        then, now = max(expected, SHARE_LEAST), max(count / total, SHARE_LEAST)
        found += (now - then) * math.log(now / then)
    return found


def put_drift(snapshot: Snapshot, samples_least: int = SAMPLES_LEAST) -> None:
    """Adds the indices of a snapshot's tracks to its points; of those that have seen enough."""
    for (model, feature), track in snapshot.tracks.items():
        seen = sum(track.counts)
        if not feature:
            snapshot.put("assay.model.drift.samples", (model,), seen)
        if seen < samples_least:
            continue
        value = psi(track.reference, track.counts)
        if feature:
            snapshot.put("assay.model.feature.psi", (model, feature), value)
        else:
            snapshot.put("assay.model.score.psi", (model,), value)


@dataclass(frozen=True, slots=True)
class TrackPlan:
    """What is counted of one value: the bins of training, (-inf, e0], (e0, e1] ... (en-1, inf), and the missing. slot:
    of the feature in the flow's plan, -1 for the score."""

    model: str
    feature: str
    slot: int
    edges: tuple[float, ...]
    shares: tuple[float, ...]
    missing_share: float

    @property
    def reference(self) -> tuple[float, ...]:
        """Shares by bin, missing values last."""
        return (*self.shares, self.missing_share)


class Binner:
    """Sorts the values of several tracks into their bins, all at once. The counts are one vector, track by track, each
    as wide as the widest."""

    def __init__(self, tracks: Sequence[TrackPlan]) -> None:
        self.tracks = tuple(tracks)
        edges_most = max((len(track.edges) for track in tracks), default=0)
        # Bins of a track: one for each gap, and the last place for missing values.
        self.width = edges_most + 2
        self._edges = np.full((edges_most, len(self.tracks)), np.inf, dtype=np.float32)
        for index, track in enumerate(self.tracks):
            self._edges[: len(track.edges), index] = [_float32_below(edge) for edge in track.edges]
        self._offsets = np.arange(len(self.tracks)) * self.width
        self.size = len(self.tracks) * self.width

    def counts(self, values: NDArray[np.float64]) -> Ints:
        """Counts of values of shape [rows, tracks], NaN for missing. Models take float32, so their bins do."""
        # Too great for float32 is above every edge as well.
        with np.errstate(over="ignore"):
            seen = values.astype(np.float32)
        if len(self.tracks) == 1:
            above = self._edges[:, 0].searchsorted(seen)
        else:
            above = np.zeros(seen.shape, dtype=np.int64)
            small = np.zeros(seen.shape, dtype=np.uint8)
            for edge in self._edges:
                small += (seen > edge).view(np.uint8)
            above += small
        above[seen != seen] = self.width - 1
        return np.bincount((above + self._offsets).ravel(), minlength=self.size)

    def put(self, snapshot: Snapshot, counts: Ints) -> None:
        """Adds counts to a snapshot's tracks."""
        for index, track in enumerate(self.tracks):
            row = counts[index * self.width : (index + 1) * self.width].tolist()
            own = [*row[: len(track.edges) + 1], row[-1]]
            snapshot.put_track(track.model, track.feature, Track(track.reference, own))


def _float32_below(edge: float) -> np.float32:
    """The greatest float32 that is not above an edge: a float32 is above the one exactly when it is above the other."""
    nearest = np.float32(edge)
    return np.nextafter(nearest, np.float32(-np.inf)) if float(nearest) > edge else nearest


class SlidingCounts:
    """Counts over the last `window_s`, forgotten slice by slice. Belongs to one thread at a time."""

    def __init__(self, size: int, window_s: float = 3600.0, slices: int = 12) -> None:
        self._size, self._slice_s = size, window_s / slices
        # The slice that is being filled makes the window a little longer than asked for, never shorter.
        self._slices: deque[tuple[int, Ints]] = deque(maxlen=slices + 1)
        self._kept = slices

    def add(self, counts: Ints, now_s: float) -> None:
        """Counts what was seen at a moment. Moments may come a little out of order."""
        number = int(now_s / self._slice_s)
        if self._slices and number <= self._slices[-1][0]:
            self._slices[-1][1][:] += counts
        else:
            self._slices.append((number, counts.astype(np.int64)))

    def total(self, now_s: float) -> Ints:
        """What is in the window."""
        oldest = int(now_s / self._slice_s) - self._kept
        return _sum((counts for number, counts in self._slices if number >= oldest), self._size)


class InputWindow:
    """The inputs of models over the same sliding window. Rows wait until there are enough to be sorted into their bins
    together, which costs each a quarter; the window's total has them all. Belongs to one thread at a time."""

    def __init__(self, binner: Binner) -> None:
        self._binner, self._counts = binner, SlidingCounts(binner.size)
        self._waiting: list[NDArray[np.float64]] = []
        self._rows = 0

    def add(self, values: NDArray[np.float64], now_s: float) -> None:
        """Counts rows of values, as `Binner.counts` takes them, that were seen at a moment."""
        self._waiting.append(values)
        self._rows += len(values)
        if self._rows >= _ROWS_TOGETHER:
            self._settle(now_s)

    def total(self, now_s: float) -> Ints:
        """What is in the window."""
        if self._waiting:
            self._settle(now_s)
        return self._counts.total(now_s)

    def _settle(self, now_s: float) -> None:
        waiting, self._waiting, self._rows = self._waiting, [], 0
        self._counts.add(self._binner.counts(np.concatenate(waiting)), now_s)


def _sum(many: Iterable[Ints], size: int) -> Ints:
    whole = np.zeros(size, dtype=np.int64)
    for one in many:
        whole += one
    return whole
