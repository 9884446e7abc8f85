"""The counts of one flow, and how notes of decisions are folded into them: many at a time, by a few vector operations.

Everything is resolved when a bundle is put in service; folding looks nothing up by name. Belongs to one thread at a
time: `DecisionMetrics` holds a lock around all of it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from operator import itemgetter
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from engine.domain.enums import FeatureStatus, Verdict
from engine.domain.facts import ByteArray, FloatArray
from engine.domain.reason import Reasons
from engine.domain.score import ModelScore, ScoreStatus
from engine.telemetry.metrics.buckets import Buckets
from engine.telemetry.metrics.catalogue import (
    AGE_BOUNDS,
    CALL_BOUNDS,
    OTHER,
    PROBABILITY_BOUNDS,
    STAGE_BOUNDS,
    STAGES,
)
from engine.telemetry.metrics.drift import Binner, InputWindow, SlidingCounts, TrackPlan
from engine.telemetry.metrics.snapshot import Histogram, Snapshot

_STATUSES = len(FeatureStatus) + 1  # by number; there is none of number zero
_VERDICTS = tuple(verdict.name for verdict in Verdict)
_MARKS = len(STAGES)
_PRESENT = int(FeatureStatus.PRESENT)
# Places in a ModelScore.
_PROBABILITY, _POINTS = 2, 3
# Of an AdverseReason.
_CODE = itemgetter(0)
_STAGE_EDGES = np.array([round(bound * 1e9) for bound in STAGE_BOUNDS])
_TOTAL_EDGES = np.array([round(bound * 1e9) for bound in CALL_BOUNDS])
_AGE_EDGES = np.array([round(bound * 1e6) for bound in AGE_BOUNDS])


class Note(NamedTuple):
    """What is kept of a decision until it is folded. marks: 7 moments; end_ns: when it was answered."""

    series: FlowSeries
    verdict: int
    marks: Sequence[int]
    end_ns: int
    values: FloatArray
    statuses: ByteArray
    view_statuses: tuple[int, ...]
    event_times_us: tuple[int, ...]
    scores: Sequence[ModelScore]
    reasons: Reasons
    now_us: int
    trace_id: str
    degraded: bool
    recorded: bool


@dataclass(frozen=True, slots=True)
class ModelSeries:
    """One model of a flow. bounds: of the histogram of its points; None for a model that has a probability only."""

    id: str
    bounds: tuple[float, ...] | None


@dataclass(frozen=True, slots=True)
class FlowShape:
    """What there is to count of a flow.

    views: names, in the plan's order; aged: whether the age of each is worth knowing; groups: of each slot the view or
    kind of feature it belongs to, by its place in `group_names`; codes: the component of each reason code; recodes:
    (place among the tracks of features, table of codes) for categories that a model numbers otherwise.
    """

    name: str
    views: tuple[str, ...]
    aged: tuple[bool, ...]
    group_names: tuple[str, ...]
    groups: tuple[int, ...]
    models: tuple[ModelSeries, ...]
    codes: Mapping[str, str]
    tracks: tuple[TrackPlan, ...]
    recodes: tuple[tuple[int, NDArray[np.float64]], ...] = ()


class FlowSeries:
    """All counts of one flow of one bundle."""

    def __init__(self, shape: FlowShape) -> None:
        self.shape = shape
        models, views = len(shape.models), len(shape.views)
        self._verdicts = np.zeros(len(_VERDICTS), dtype=np.int64)
        self._degraded = self._substituted = self._unrecorded = 0
        self._stages = Buckets(len(STAGES), _STAGE_EDGES)
        self._totals = Buckets(len(_VERDICTS), _TOTAL_EDGES)
        self._ages = Buckets(views, _AGE_EDGES)
        self._groups = np.array(shape.groups, dtype=np.int16) * _STATUSES
        self._values = np.zeros(len(shape.group_names) * _STATUSES, dtype=np.int64)
        self._view_cells = np.arange(views, dtype=np.int16) * _STATUSES
        self._rows = np.zeros(views * _STATUSES, dtype=np.int64)
        self._aged = np.array(shape.aged, dtype=bool)
        self._runs = [np.zeros(len(ScoreStatus) + 1, dtype=np.int64) for _ in range(models)]
        self._score_edges = [np.array(PROBABILITY_BOUNDS if m.bounds is None else m.bounds) for m in shape.models]
        self._scores = [np.zeros(len(edges) + 1, dtype=np.int64) for edges in self._score_edges]
        self._score_sums = [0.0] * models
        self._reasons = dict.fromkeys((*shape.codes, OTHER), 0)
        features = [track for track in shape.tracks if track.slot >= 0]
        self._feature_bins = Binner(features)
        self._slots = np.array([track.slot for track in features], dtype=np.intp)
        self._score_bins = [Binner([t for t in shape.tracks if t.slot < 0 and t.model == m.id]) for m in shape.models]
        self.feature_window = InputWindow(self._feature_bins)
        self.score_windows = [SlidingCounts(binner.size) for binner in self._score_bins]

    def continue_drift_of(self, earlier: FlowSeries) -> None:
        """Goes on with the windows of the same flow in the bundle before, where models and inputs are the same."""
        if earlier.shape.tracks == self.shape.tracks and earlier.shape.models == self.shape.models:
            self.feature_window, self.score_windows = earlier.feature_window, earlier.score_windows

    def fold(self, notes: Sequence[Note]) -> None:
        """Counts decisions. Raises ValueError, IndexError, TypeError or AttributeError for a note that is of another
        plan or makes no sense; then nothing is counted of any, so that they can be tried one by one."""
        count, slots, views = len(notes), len(self._groups), len(self.shape.views)
        # Columns instead of rows; `Note` has the order.
        (
            _, verdict, mark, end_ns, value, status, view_status, event_time, score, reason, now_us, trace_id, degraded,
            recorded,
        ) = zip(*notes, strict=True)  # fmt: skip
        marks = _matrix(mark, count, _MARKS)
        ends = np.array(end_ns, dtype=np.int64)
        # Through bytes: numpy and hashing ask a member of an enum by calls in Python.
        verdicts = np.frombuffer(bytes(verdict), np.uint8) - np.uint8(1)
        _check(verdicts, len(_VERDICTS) - 1)
        values = np.concatenate(value).reshape(count, slots)
        statuses = np.concatenate(status).reshape(count, slots)
        _check(statuses, _STATUSES - 1)
        view_statuses = np.frombuffer(b"".join(map(bytes, view_status)), np.uint8).reshape(count, views)
        _check(view_statuses, _STATUSES - 1)
        event_times = _matrix(event_time, count, views)
        moments = np.array(now_us, dtype=np.int64)
        # By model, and of each (status, raw, probability, points, contributions) by decision.
        answers = [list(zip(*[one[model] for one in score], strict=True)) for model in range(len(self.shape.models))]
        runs = [np.frombuffer(bytes(columns[0]), np.uint8) for columns in answers]
        for column in runs:
            _check(column, len(ScoreStatus))
        found = [[*r.credit, *r.fraud, *r.policy] for r in reason]
        codes = Counter(map(_CODE, chain.from_iterable(found)))

        self._verdicts += np.bincount(verdicts, minlength=len(_VERDICTS))
        self._degraded += sum(degraded)
        self._unrecorded += count - sum(recorded)
        self._substituted += int(np.count_nonzero((statuses != _PRESENT).any(axis=1)))
        for code, given in codes.items():
            self._reasons[code if code in self._reasons else OTHER] += given
        self._fold_times(marks, ends, verdicts.astype(np.int64), trace_id, now_us)
        self._values += np.bincount((statuses + self._groups).ravel(), minlength=len(self._values))
        if views:
            self._rows += np.bincount((view_statuses + self._view_cells).ravel(), minlength=len(self._rows))
            ages = np.maximum(moments[:, None] - event_times, 0)
            self._ages.add_columns(ages, (event_times > 0) & self._aged)
        now_s = now_us[-1] / 1e6
        for index, column in enumerate(runs):
            self._runs[index] += np.bincount(column, minlength=len(ScoreStatus) + 1)
        self._fold_scores(answers, now_s)
        if len(self._slots):
            inputs = values.take(self._slots, axis=1)
            for place, table in self.shape.recodes:
                _recode(inputs[:, place], table)
            self.feature_window.add(inputs, now_s)

    def _fold_times(
        self,
        marks: NDArray[np.int64],
        ends: NDArray[np.int64],
        verdicts: NDArray[np.int64],
        trace_ids: Sequence[str],
        now_us: Sequence[int],
    ) -> None:
        spans = np.diff(marks, axis=1, append=ends[:, None])
        totals = ends - marks[:, 0]
        stage_places = self._stages.add_columns(spans)
        total_places = self._totals.add(verdicts, totals)
        if not all(trace_ids):
            traced = [index for index, trace_id in enumerate(trace_ids) if trace_id]
            trace_ids, now_us = [trace_ids[index] for index in traced], [now_us[index] for index in traced]
            stage_places, spans = stage_places[traced], spans[traced]
            total_places, totals = total_places[traced], totals[traced]
        if trace_ids:
            self._stages.exemplify(stage_places.ravel(), spans.ravel(), trace_ids, now_us)
            self._totals.exemplify(total_places, totals, trace_ids, now_us)

    def _fold_scores(self, answers: Sequence[Sequence[Sequence[Any]]], now_s: float) -> None:
        for index, (model, columns) in enumerate(zip(self.shape.models, answers, strict=True)):
            wanted = columns[_PROBABILITY if model.bounds is None else _POINTS]
            given = np.array([value for value in wanted if value is not None], dtype=np.float64)
            if not len(given):
                continue
            edges = self._score_edges[index]
            self._scores[index] += np.bincount(edges.searchsorted(given), minlength=len(edges) + 1)
            self._score_sums[index] += float(given.sum())
            if self._score_bins[index].size:
                self.score_windows[index].add(self._score_bins[index].counts(given.reshape(-1, 1)), now_s)

    def put(self, snapshot: Snapshot, now_s: float, drift: bool = True) -> None:
        """Adds all counts to a snapshot. drift: False for what is not in service any more."""
        flow = self.shape.name
        for index, verdict in enumerate(_VERDICTS):
            if count := int(self._verdicts[index]):
                snapshot.put("assay.decisions", (flow, verdict), count)
                snapshot.put_histogram(
                    "assay.decision.duration", (flow, verdict), self._totals.histogram(index, CALL_BOUNDS, 1e9)
                )
        snapshot.put("assay.decisions.degraded", (flow,), self._degraded)
        snapshot.put("assay.decisions.substituted", (flow,), self._substituted)
        snapshot.put("assay.decisions.unrecorded", (flow,), self._unrecorded)
        for index, stage in enumerate(STAGES):
            found = self._stages.histogram(index, STAGE_BOUNDS, 1e9)
            snapshot.put_histogram("assay.decision.stage.duration", (flow, stage), found)
        for code, count in self._reasons.items():
            if count:
                snapshot.put("assay.decision.reasons", (flow, self.shape.codes.get(code, OTHER), code), count)
        _put_statuses(snapshot, "assay.feature.values", flow, self.shape.group_names, self._values)
        _put_statuses(snapshot, "assay.feature.rows", flow, self.shape.views, self._rows)
        for index, view in enumerate(self.shape.views):
            if self.shape.aged[index]:
                ages = self._ages.histogram(index, AGE_BOUNDS, 1e6)
                snapshot.put_histogram("assay.feature.age", (flow, view), ages)
        for index, model in enumerate(self.shape.models):
            for status in ScoreStatus:
                snapshot.put("assay.model.runs", (flow, model.id, status.name), int(self._runs[index][status]))
            name = "assay.model.score.probability" if model.bounds is None else "assay.model.score.points"
            bounds = PROBABILITY_BOUNDS if model.bounds is None else model.bounds
            histogram = Histogram(bounds, self._scores[index].tolist(), self._score_sums[index])
            snapshot.put_histogram(name, (flow, model.id), histogram)
            if drift and self._score_bins[index].size:
                self._score_bins[index].put(snapshot, self.score_windows[index].total(now_s))
        if drift and len(self._slots):
            self._feature_bins.put(snapshot, self.feature_window.total(now_s))


def _put_statuses(snapshot: Snapshot, name: str, flow: str, names: Sequence[str], counts: NDArray[np.int64]) -> None:
    for index, one in enumerate(names):
        for status in FeatureStatus:
            if count := int(counts[index * _STATUSES + status]):
                snapshot.put(name, (flow, one, status.name), count)


def _recode(column: NDArray[np.float64], table: NDArray[np.float64]) -> None:
    """Puts a model's codes in the place of the catalogue's, as the scoring stage does."""
    known = ~np.isnan(column)
    column[known] = table.take(column[known].astype(np.intp), mode="clip")


def _matrix(rows: Sequence[Sequence[int]], count: int, width: int) -> NDArray[np.int64]:
    """Whole numbers, row by row. Raises ValueError for rows of another width."""
    if set(map(len, rows)) - {width}:
        raise ValueError(f"a note has not {width} of what it should")
    return np.fromiter(chain.from_iterable(rows), np.int64, count * width).reshape(count, width)


def _check(numbers: NDArray[np.uint8], most: int) -> None:
    """Raises ValueError for a number that is not in a closed set."""
    if numbers.size and int(numbers.max()) > most:
        raise ValueError(f"a number is above {most}")
