"""Snapshots: bounds on what they hold, sums of several, and the way through a file."""

from __future__ import annotations

import pytest

from engine.telemetry.metrics.catalogue import DEFAULT_SERIES_MAX, METRICS
from engine.telemetry.metrics.snapshot import Exemplar, Histogram, Snapshot, Track, dump, load, merge


def _snapshot(time_s: float, decisions: int, in_flight: int, state: int) -> Snapshot:
    found = Snapshot(time_s, 1.0)
    found.put("assay.decisions", ("loan", "APPROVE"), decisions)
    found.put("assay.requests.in_flight", (), in_flight)
    found.put("assay.store.breaker.state", ("redis", "reads"), state)
    found.put("assay.ready", (), int(state == 0))
    histogram = Histogram((1.0, 2.0), [decisions, 0, 1], decisions * 0.5)
    histogram.exemplars[0] = Exemplar(f"{decisions:032x}", 0.5, time_s)
    found.put_histogram("assay.decision.duration", ("loan", "APPROVE"), histogram)
    found.put_track("m", "x", Track((0.5, 0.5), [decisions, 1]))
    return found


def test_several_workers_become_one() -> None:
    whole = merge([_snapshot(10.0, 3, 2, 0), _snapshot(12.0, 4, 5, 2)])
    assert whole.value("assay.decisions", "loan", "APPROVE") == 7
    assert whole.value("assay.requests.in_flight") == 7
    assert whole.value("assay.store.breaker.state", "redis", "reads") == 2
    assert whole.value("assay.ready") == 0
    histogram = whole.histogram("assay.decision.duration", "loan", "APPROVE")
    assert (histogram.counts, histogram.total, histogram.count) == ([7, 0, 2], 3.5, 9)
    assert histogram.exemplars[0].time_s == 12.0
    assert whole.tracks["m", "x"].counts == [7, 2]
    assert whole.time_s == 12.0


def test_what_a_dead_worker_counted_still_counts_and_its_gauges_do_not() -> None:
    whole = merge([_snapshot(12.0, 4, 5, 0)], [_snapshot(10.0, 3, 2, 2)])
    assert whole.value("assay.decisions", "loan", "APPROVE") == 7
    assert whole.value("assay.requests.in_flight") == 5
    assert whole.value("assay.store.breaker.state", "redis", "reads") == 0
    assert whole.tracks["m", "x"].counts == [4, 1]


def test_merging_changes_none_of_them() -> None:
    one = _snapshot(10.0, 3, 2, 0)
    before = dump(one)
    merge([one, one])
    assert dump(one) == before


def test_of_two_scales_the_later_stays() -> None:
    one, other = Snapshot(), Snapshot()
    one.put_histogram("assay.model.score.points", ("f", "m"), Histogram((1.0,), [5, 5], 1.0))
    other.put_histogram("assay.model.score.points", ("f", "m"), Histogram((2.0,), [1, 0], 1.0))
    assert merge([one, other]).histogram("assay.model.score.points", "f", "m").counts == [1, 0]


def test_through_a_file() -> None:
    one = _snapshot(10.25, 3, 2, 0)
    assert load(dump(one)) == one


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b'{"format": 9}', b"\xff", b'{"format":1,"time_s":1}'])
def test_what_is_no_snapshot_is_refused(content: bytes) -> None:
    with pytest.raises(ValueError):
        load(content)


def test_labels_beyond_the_bound_count_as_other() -> None:
    found = Snapshot()
    for number in range(DEFAULT_SERIES_MAX + 50):
        found.put("assay.decision.reasons", ("loan", "CREDIT", f"CR_{number}"), 1)
    series = found.points["assay.decision.reasons"]
    assert len(series) == DEFAULT_SERIES_MAX + 1
    assert found.value("assay.decision.reasons", "other", "other", "other") == 50
    found.put("assay.decision.reasons", ("loan", "CREDIT", "CR_1"), 1)
    assert found.value("assay.decision.reasons", "loan", "CREDIT", "CR_1") == 2


def test_the_wrong_number_of_labels_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="labels"):
        Snapshot().put("assay.decisions", ("loan",), 1)


def test_no_label_can_hold_an_id() -> None:
    allowed = {
        "flow", "verdict", "stage", "component", "code", "method", "reason", "model", "status", "feature", "view",
        "kind", "store", "operation", "outcome", "side", "event", "queue", "rule", "bundle", "version", "digest",
        "level", "result", "shadow", "lane", "cause", "tenant", "how",
    }  # fmt: skip
    assert {label for metric in METRICS.values() for label in metric.labels} == allowed


def test_names_end_with_their_units() -> None:
    for metric in METRICS.values():
        name = metric.prometheus
        assert name.endswith("_total") == (metric.kind == "counter"), name
        if metric.unit in {"s", "By"}:
            assert f"_{metric.prometheus_unit}" in name, name
        assert metric.help.endswith((".", "...")), name
    assert len({metric.prometheus for metric in METRICS.values()}) == len(METRICS)
