"""Real decisions, told to the metrics: every one is counted once, where it belongs."""

from __future__ import annotations

import threading
import time
from collections import Counter
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

from engine.domain.enums import FeatureStatus, Verdict
from engine.domain.facts import UNREAD
from engine.pipeline import Conclusion, conclude, prepare
from engine.telemetry.metrics.catalogue import CALL_BOUNDS, METRICS, STAGE_BOUNDS, STAGES
from engine.telemetry.metrics.decisions import DecisionMetrics
from engine.telemetry.metrics.flow_series import FlowSeries
from engine.telemetry.metrics.registry import Metrics
from engine.telemetry.metrics.resolve import shapes_of
from engine.telemetry.metrics.snapshot import Snapshot
from tests.support import tiny

NOW_US = 1_780_000_000_000_000
MS = 1_000_000
# Moments of a made-up call: 1 ms to check, 3 to read, 0.2 to gather, 0.5 to score, 0.1, 0.05, and 2 to record.
MARKS = [0, 1 * MS, 4 * MS, 4_200_000, 4_700_000, 4_800_000, 4_850_000]
END = 6_850_000


@dataclass
class Decided:
    """One real decision of the tiny bundle."""

    metrics: Metrics
    series: FlowSeries
    made: Conclusion

    def observe(self, **changes: Any) -> None:
        told: dict[str, Any] = {
            "series": self.series,
            "verdict": self.made.outcome.verdict,
            "marks": MARKS,
            "end_ns": END,
            "facts": self.made.facts,
            "scores": self.made.scores,
            "reasons": self.made.reasons,
            "now_us": NOW_US,
        }
        self.metrics.decisions.observe(**(told | changes))


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return tiny.load_tiny(tmp_path_factory)


@pytest.fixture
def decided(loaded: Any) -> Decided:
    metrics = Metrics(clock=lambda: NOW_US / 1e6)
    prepared = prepare(loaded.plan, tiny.request(), NOW_US, time.perf_counter_ns)
    made = conclude(prepared, [UNREAD] * len(prepared.reads), NOW_US, time.perf_counter_ns)
    return Decided(metrics, metrics.serve(loaded.plan)[prepared.flow.name], made)


def test_one_decision_is_in_every_metric_it_belongs_to(decided: Decided) -> None:
    decided.observe(degraded=True)
    found = decided.metrics.snapshot()
    made, flow = decided.made, decided.series.shape.name
    verdict = made.outcome.verdict.name
    assert found.value("assay.decisions", flow, verdict) == 1
    assert found.value("assay.decisions.degraded", flow) == 1
    assert found.value("assay.decisions.substituted", flow) == 1
    assert found.value("assay.decisions.unrecorded", flow) == 0
    total = found.histogram("assay.decision.duration", flow, verdict)
    assert total.total == pytest.approx(0.00685)
    assert total.counts[CALL_BOUNDS.index(0.0075)] == 1 == total.count
    expected = dict(zip(STAGES, (0.001, 0.003, 0.0002, 0.0005, 0.0001, 0.00005, 0.002), strict=True))
    for stage, seconds in expected.items():
        histogram = found.histogram("assay.decision.stage.duration", flow, stage)
        assert histogram.count == 1
        assert histogram.total == pytest.approx(seconds)
        bucket = next(index for index, bound in enumerate(STAGE_BOUNDS) if seconds <= bound)
        assert histogram.counts[bucket] == 1, stage
    given = [*made.reasons.credit, *made.reasons.fraud, *made.reasons.policy]
    assert given
    for code, count in Counter(reason.code for reason in given).items():
        component = next(reason.component.name for reason in given if reason.code == code)
        assert found.value("assay.decision.reasons", flow, component, code) == count


def test_values_are_counted_by_view_and_status(decided: Decided) -> None:
    decided.observe()
    found = decided.metrics.snapshot()
    features = decided.made.prepared.flow.features
    expected = Counter(
        (feature.view or "derived", FeatureStatus(status).name)
        for feature, status in zip(features.features, decided.made.facts.statuses.tolist(), strict=True)
        if feature.view in {view.name for view in features.views}
    )
    assert expected
    flow = decided.series.shape.name
    for (view, status), count in expected.items():
        assert found.value("assay.feature.values", flow, view, status) == count
    everything = [value for value in found.points["assay.feature.values"].values() if isinstance(value, int)]
    assert sum(everything) == features.count
    assert [found.value("assay.feature.rows", flow, plan.name, "UNAVAILABLE") for plan in features.views] == [1, 1]


def test_scores_and_runs(decided: Decided) -> None:
    scores = [score._replace(points=612, probability=0.1) for score in decided.made.scores]
    scores = [score._replace(status=type(score.status).OK) for score in scores]
    decided.observe(scores=scores)
    found, flow = decided.metrics.snapshot(), decided.series.shape.name
    for model in decided.series.shape.models:
        assert found.value("assay.model.runs", flow, model.id, "OK") == 1
        if model.bounds is not None:
            histogram = found.histogram("assay.model.score.points", flow, model.id)
            assert (histogram.count, histogram.total) == (1, 612)


def test_ages_of_rows(decided: Decided) -> None:
    times = tuple(NOW_US - 3_600_000_000 if index == 0 else 0 for index in range(len(decided.series.shape.views)))
    decided.observe(facts=replace(decided.made.facts, event_times_us=times))
    found, shape = decided.metrics.snapshot(), decided.series.shape
    assert shape.aged[0]
    first = found.histogram("assay.feature.age", shape.name, shape.views[0])
    assert (first.count, first.total, first.counts[first.bounds.index(3600.0)]) == (1, 3600, 1)
    for view, aged in list(zip(shape.views, shape.aged, strict=True))[1:]:
        if aged:
            assert found.histogram("assay.feature.age", shape.name, view).count == 0


def test_a_bucket_holds_its_upper_bound(decided: Decided) -> None:
    for off in (0, 1):
        decided.observe(marks=[0] * 7, end_ns=round(0.002 * 1e9) + off)
    found = decided.metrics.snapshot()
    total = found.histogram("assay.decision.duration", decided.series.shape.name, decided.made.outcome.verdict.name)
    at = CALL_BOUNDS.index(0.002)
    assert (total.counts[at], total.counts[at + 1]) == (1, 1)


def test_beyond_the_last_bound(decided: Decided) -> None:
    decided.observe(marks=[0] * 7, end_ns=60_000_000_000)
    found = decided.metrics.snapshot()
    total = found.histogram("assay.decision.duration", decided.series.shape.name, decided.made.outcome.verdict.name)
    assert (total.counts[-1], total.total) == (1, 60)


def test_the_latest_exemplar_of_each_bucket_stays(decided: Decided) -> None:
    for number, end_ms in enumerate((3, 3, 30)):
        end_ns = end_ms * MS
        decided.observe(marks=[0] * 7, end_ns=end_ns, trace_id=f"{number + 1:032x}", now_us=NOW_US + number)
    decided.observe(marks=[0] * 7, end_ns=400 * MS)  # without a trace
    found = decided.metrics.snapshot()
    total = found.histogram("assay.decision.duration", decided.series.shape.name, decided.made.outcome.verdict.name)
    by_bucket = {total.bounds[bucket]: (one.trace_id, one.value) for bucket, one in total.exemplars.items()}
    assert by_bucket == {0.003: (f"{2:032x}", 0.003), 0.05: (f"{3:032x}", 0.03)}
    record = found.histogram("assay.decision.stage.duration", decided.series.shape.name, "record")
    assert {one.trace_id for one in record.exemplars.values()} == {f"{2:032x}", f"{3:032x}"}


def test_nothing_is_lost_or_counted_twice_under_threads(decided: Decided) -> None:
    threads, each, snapshots = 8, 2000, []
    stop = threading.Event()

    def look() -> None:
        while not stop.is_set():
            snapshots.append(decided.metrics.snapshot())

    def tell() -> None:
        for number in range(each):
            decided.observe(verdict=1 + number % 4, trace_id="ab" * 16)

    looking = [threading.Thread(target=look) for _ in range(2)]
    telling = [threading.Thread(target=tell) for _ in range(threads)]
    decided.metrics.start()
    for thread in (*looking, *telling):
        thread.start()
    for thread in telling:
        thread.join()
    stop.set()
    for thread in looking:
        thread.join()
    decided.metrics.stop()
    found, flow = decided.metrics.snapshot(), decided.series.shape.name
    counts = [found.value("assay.decisions", flow, verdict.name) for verdict in Verdict]
    assert counts == [threads * each / 4] * 4
    assert sum(found.histogram("assay.decision.duration", flow, v.name).count for v in Verdict) == threads * each
    assert found.value("assay.metrics.dropped") == 0
    assert len(snapshots) > 1


def test_what_has_no_room_is_dropped_and_counted(loaded: Any, decided: Decided) -> None:
    small = DecisionMetrics(notes_max=3)
    [series] = small.serve(shapes_of(loaded.plan)).values()
    decided.metrics.decisions = small
    for _ in range(5):
        decided.observe(series=series)
    snapshot = Snapshot()
    small.put(snapshot)
    assert snapshot.value("assay.metrics.dropped") == 2
    assert snapshot.value("assay.decisions", series.shape.name, decided.made.outcome.verdict.name) == 3


@pytest.mark.parametrize(
    "wrong",
    [
        {"verdict": 9},
        {"marks": [0, 1]},
        {"scores": []},
        {"facts": "statuses"},
        {"facts": "views"},
    ],
)
def test_a_note_that_makes_no_sense_stands_alone(decided: Decided, wrong: dict[str, Any]) -> None:
    facts = decided.made.facts
    if wrong.get("facts") == "statuses":
        wrong = {"facts": replace(facts, statuses=np.full(len(facts.statuses), 9, dtype=np.uint8))}
    elif wrong.get("facts") == "views":
        wrong = {"facts": replace(facts, view_statuses=(), event_times_us=())}
    decided.observe()
    decided.observe(**wrong)
    decided.observe()
    found = decided.metrics.snapshot()
    flow = decided.series.shape.name
    assert found.value("assay.metrics.unread") == 1
    assert found.value("assay.decisions", flow, decided.made.outcome.verdict.name) == 2
    assert found.histogram("assay.decision.stage.duration", flow, "read").count == 2


def test_an_unknown_reason_counts_as_other(decided: Decided) -> None:
    [first, *_] = [*decided.made.reasons.credit, *decided.made.reasons.fraud, *decided.made.reasons.policy]
    reasons = decided.made.reasons._replace(credit=(first._replace(code="ZZ_NEW"),), fraud=(), policy=())
    decided.observe(reasons=reasons)
    assert decided.metrics.snapshot().value("assay.decision.reasons", decided.series.shape.name, "other", "other") == 1


def test_a_new_bundle_goes_on_counting(loaded: Any, decided: Decided) -> None:
    flow, verdict = decided.series.shape.name, decided.made.outcome.verdict.name
    for _ in range(4):
        decided.observe()
        decided.series = decided.metrics.serve(loaded.plan)[flow]
    late = decided.series
    decided.metrics.serve(loaded.plan)
    decided.observe(series=late)  # a call that began with the bundle before
    found = decided.metrics.snapshot()
    assert found.value("assay.decisions", flow, verdict) == 5
    seen = [sum(track.counts) for (_, feature), track in found.tracks.items() if feature]
    assert seen and set(seen) == {5}, "drift goes on over a bundle with the same models"


def test_the_shipped_bundle_keeps_within_the_bounds(loaded: Any) -> None:
    from tests.support.bundles import shipped

    metrics = Metrics()
    series = metrics.serve(shipped().plan)
    found = metrics.finished()
    for name, points in found.points.items():
        assert len(points) <= METRICS[name].series_max
    assert set(series) == set(shipped().plan.flows)
    assert all(shape.tracks and len(shape.codes) <= 200 for shape in (one.shape for one in series.values()))


def test_replays_are_counted(decided: Decided) -> None:
    decided.metrics.decisions.replayed()
    assert decided.metrics.snapshot().value("assay.decisions.replayed") == 1
