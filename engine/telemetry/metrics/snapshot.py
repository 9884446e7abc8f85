"""All metrics of a process, or of several, at one moment; and how several become one.

Counters and histograms of several processes are added, gauges are put together as the catalogue says, and drift is
counted in bins, so that the PSI of several workers is that of all their decisions and not a mean of means.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from engine.telemetry.metrics.catalogue import METRICS, OTHER, Metric

Labels = tuple[str, ...]
_FORMAT = 1


class Exemplar(NamedTuple):
    """One observation that stands for its bucket: the trace that it is of, its value, and when."""

    trace_id: str
    value: float
    time_s: float


@dataclass(slots=True)
class Histogram:
    """Counts by bucket: `counts[i]` of values up to and including `bounds[i]` and above the one before; the last of
    those above all bounds. exemplars: the latest by bucket."""

    bounds: tuple[float, ...]
    counts: list[int]
    total: float = 0.0
    exemplars: dict[int, Exemplar] = field(default_factory=dict)

    @property
    def count(self) -> int:
        """All values."""
        return sum(self.counts)

    def add(self, other: Histogram) -> None:
        """Adds another of the same bounds."""
        self.counts = [a + b for a, b in zip(self.counts, other.counts, strict=True)]
        self.total += other.total
        for bucket, exemplar in other.exemplars.items():
            held = self.exemplars.get(bucket)
            if held is None or held.time_s <= exemplar.time_s:
                self.exemplars[bucket] = exemplar


@dataclass(slots=True)
class Track:
    """Decisions by bin of one value of a model, over the window: its score (name "") or an input. reference: the share
    of each bin at training; the last bin is of missing values in both."""

    reference: tuple[float, ...]
    counts: list[int]


Value = float | Histogram


@dataclass(slots=True)
class Snapshot:
    """points: by metric's name, then by the values of its labels in the catalogue's order. tracks: by model and value.
    Times: seconds since 1970."""

    time_s: float = 0.0
    start_s: float = 0.0
    points: dict[str, dict[Labels, Value]] = field(default_factory=dict)
    tracks: dict[tuple[str, str], Track] = field(default_factory=dict)

    def put(self, name: str, labels: Sequence[str], value: float) -> None:
        """Adds to a counter or gauge, as its metric says. Raises KeyError for one that the catalogue does not have."""
        metric = METRICS[name]
        series = self.points.setdefault(name, {})
        key = _bounded(metric, series, tuple(labels))
        held = series.get(key)
        if held is None:
            series[key] = value
        elif not isinstance(held, Histogram):
            series[key] = _together(metric, held, value)

    def put_histogram(self, name: str, labels: Sequence[str], histogram: Histogram) -> None:
        """Adds a histogram, which is the snapshot's own from then on. Of two with different bounds, as a model has
        that was replaced, the later one stays."""
        metric = METRICS[name]
        series = self.points.setdefault(name, {})
        key = _bounded(metric, series, tuple(labels))
        held = series.get(key)
        if isinstance(held, Histogram) and held.bounds == histogram.bounds:
            held.add(histogram)
        else:
            series[key] = histogram

    def put_track(self, model: str, name: str, track: Track) -> None:
        """Adds decisions by bin. Of two with different references the later one stays."""
        held = self.tracks.get((model, name))
        if held is not None and held.reference == track.reference:
            held.counts = [a + b for a, b in zip(held.counts, track.counts, strict=True)]
        else:
            self.tracks[model, name] = track

    def value(self, name: str, *labels: str) -> float:
        """One number; 0 for what never happened."""
        found = self.points.get(name, {}).get(labels, 0.0)
        return found.count if isinstance(found, Histogram) else found

    def histogram(self, name: str, *labels: str) -> Histogram:
        """One histogram. Raises KeyError for what never happened."""
        found = self.points[name][labels]
        if not isinstance(found, Histogram):
            raise KeyError(f"{name} is no histogram")
        return found


def _bounded(metric: Metric, series: Mapping[Labels, Value], labels: Labels) -> Labels:
    if len(labels) != len(metric.labels):
        raise ValueError(f"{metric.name} has the labels {metric.labels}, not {len(labels)} of them")
    if labels in series or len(series) < metric.series_max or not labels:
        return labels
    return (OTHER,) * len(labels)


def _together(metric: Metric, a: float, b: float) -> float:
    if metric.kind == "gauge" and metric.merge != "sum":
        return max(a, b) if metric.merge == "max" else min(a, b)
    return a + b


def merge(live: Iterable[Snapshot], retired: Iterable[Snapshot] = ()) -> Snapshot:
    """One snapshot of several, none of which is changed. retired: of processes that are gone: what they counted still
    counts, or counters would go down; their gauges and their drift do not."""
    whole = Snapshot()
    for gone, snapshots in ((True, retired), (False, live)):
        for one in snapshots:
            if not gone:
                whole.time_s = max(whole.time_s, one.time_s)
            whole.start_s = one.start_s if not whole.start_s else min(whole.start_s, one.start_s)
            for name, series in one.points.items():
                if name not in METRICS or (gone and METRICS[name].kind == "gauge"):
                    continue
                for labels, value in series.items():
                    if isinstance(value, Histogram):
                        whole.put_histogram(name, labels, _copy(value))
                    else:
                        whole.put(name, labels, value)
            if not gone:
                for (model, track_name), track in one.tracks.items():
                    whole.put_track(model, track_name, Track(track.reference, list(track.counts)))
    return whole


def _copy(histogram: Histogram) -> Histogram:
    return Histogram(histogram.bounds, list(histogram.counts), histogram.total, dict(histogram.exemplars))


def dump(snapshot: Snapshot) -> bytes:
    """A snapshot as bytes, for another process of the same engine."""
    points = [
        [name, [[labels, _plain(value)] for labels, value in series.items()]]
        for name, series in snapshot.points.items()
    ]
    tracks = [[*key, track.reference, track.counts] for key, track in snapshot.tracks.items()]
    whole = {"format": _FORMAT, "time_s": snapshot.time_s, "start_s": snapshot.start_s}
    return json.dumps(whole | {"points": points, "tracks": tracks}, separators=(",", ":")).encode()


def load(content: bytes) -> Snapshot:
    """The snapshot that `dump` was given. Raises ValueError for anything else."""
    try:
        whole = json.loads(content)
        if whole["format"] != _FORMAT:
            raise ValueError(f"format {whole['format']} is not known")
        snapshot = Snapshot(whole["time_s"], whole["start_s"])
        for name, series in whole["points"]:
            snapshot.points[name] = {tuple(labels): _value(value) for labels, value in series}
        for model, name, reference, counts in whole["tracks"]:
            snapshot.tracks[model, name] = Track(tuple(reference), counts)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError("no snapshot of metrics") from error
    return snapshot


def _plain(value: Value) -> Any:
    if not isinstance(value, Histogram):
        return value
    return [value.bounds, value.counts, value.total, list(value.exemplars.items())]


def _value(plain: Any) -> Value:
    if not isinstance(plain, list):
        return float(plain) if isinstance(plain, float) else int(plain)
    bounds, counts, total, exemplars = plain
    return Histogram(tuple(bounds), counts, total, {bucket: Exemplar(*one) for bucket, one in exemplars})
