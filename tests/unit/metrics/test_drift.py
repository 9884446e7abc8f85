"""The population stability index by tables worked out by hand, and the window it is taken over."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest

from engine.telemetry.metrics.drift import SHARE_LEAST, Binner, SlidingCounts, TrackPlan, psi, put_drift
from engine.telemetry.metrics.snapshot import Snapshot, Track, merge


def test_no_change_is_nothing() -> None:
    assert psi((0.2, 0.3, 0.5), (20, 30, 50)) == pytest.approx(0.0, abs=1e-15)


def test_a_table_by_hand() -> None:
    # share then  now   now - then   ln(now / then)   product
    #   0.50      0.30    -0.20         -0.510826      0.1021651
    #   0.30      0.30     0.00          0             0
    #   0.20      0.40     0.20          0.693147      0.1386294
    assert psi((0.5, 0.3, 0.2), (300, 300, 400)) == pytest.approx(0.2407946, abs=1e-7)


def test_an_empty_bin_is_taken_as_one_in_ten_thousand() -> None:
    expected = (0.5 - 1.0) * math.log(0.5 / 1.0) * 1 + (SHARE_LEAST - 0.5) * math.log(SHARE_LEAST / 0.5)
    assert psi((0.5, 0.5), (10, 0)) == pytest.approx((1.0 - 0.5) * math.log(2) + expected - 0.5 * math.log(2))
    assert psi((1.0, 0.0), (1, 0)) == 0.0


def test_nothing_counted_has_no_index() -> None:
    with pytest.raises(ValueError, match="nothing"):
        psi((1.0,), (0,))


def _track(name: str, edges: tuple[float, ...], slot: int = 0) -> TrackPlan:
    share = 1.0 / (len(edges) + 1)
    return TrackPlan("m", name, slot, edges, (share,) * (len(edges) + 1), 0.0)


@pytest.mark.parametrize("others", [0, 2])
def test_a_bin_holds_its_upper_edge(others: int) -> None:
    binner = Binner([_track("x", (1.0, 2.0, 3.0)), *[_track(f"y{i}", (5.0,)) for i in range(others)]])
    column = np.array([0.0, 1.0, 1.5, 2.0, 3.0, 3.5, 1e300, -1e300, np.nan])
    counts = binner.counts(np.column_stack([column, *[np.zeros(len(column))] * others]))
    snapshot = Snapshot()
    binner.put(snapshot, counts)
    # (-inf, 1], (1, 2], (2, 3], (3, inf), missing
    assert snapshot.tracks["m", "x"].counts == [3, 2, 1, 2, 1]
    for index in range(others):
        assert snapshot.tracks["m", f"y{index}"].counts == [9, 0, 0]


def test_values_are_binned_as_the_float32_that_the_model_takes() -> None:
    edge = 0.1  # float32(0.1) is above it
    counts = Binner([_track("x", (edge,))]).counts(np.array([[0.1], [np.nextafter(np.float32(0.1), np.float32(0))]]))
    assert counts.tolist()[:2] == [1, 1]


def test_bins_agree_with_the_plain_way() -> None:
    dice = random.Random(7)
    tracks = [_track(f"t{i}", tuple(sorted({dice.uniform(-5, 5) for _ in range(i)}))) for i in range(1, 8)]
    values = np.array([[dice.choice([dice.uniform(-6, 6), math.nan]) for _ in tracks] for _ in range(300)])
    snapshot, binner = Snapshot(), Binner(tracks)
    binner.put(snapshot, binner.counts(values))
    for column, track in enumerate(tracks):
        expected = [0] * (len(track.edges) + 2)
        for value in values[:, column].astype(np.float32).tolist():
            place = len(track.edges) + 1 if math.isnan(value) else sum(value > edge for edge in track.edges)
            expected[place] += 1
        assert snapshot.tracks["m", track.feature].counts == expected


def test_the_window_slides() -> None:
    window = SlidingCounts(1, window_s=60.0, slices=6)
    one = np.array([1])
    for second in range(0, 60, 5):
        window.add(one, float(second))
    assert window.total(59.0).tolist() == [12]
    assert window.total(75.0).tolist() == [10], "of the first slice nothing is left"
    window.add(one, 200.0)
    assert window.total(200.0).tolist() == [1]
    assert window.total(10_000.0).tolist() == [0]


def test_the_window_holds_no_more_than_its_slices() -> None:
    window = SlidingCounts(1, window_s=60.0, slices=6)
    for second in range(0, 100_000, 10):
        window.add(np.array([1]), float(second))
    assert len(window._slices) == 7


def test_too_few_decisions_give_no_value() -> None:
    snapshot = Snapshot()
    snapshot.put_track("m", "", Track((0.5, 0.5, 0.0), [499, 500, 0]))
    put_drift(snapshot)
    assert snapshot.value("assay.model.drift.samples", "m") == 999
    assert "assay.model.score.psi" not in snapshot.points
    snapshot.put_track("m", "", Track((0.5, 0.5, 0.0), [1, 0, 0]))
    put_drift(snapshot)
    assert snapshot.value("assay.model.score.psi", "m") == pytest.approx(0.0, abs=1e-6)


def test_noise_at_the_least_number_is_below_what_alerts() -> None:
    dice = np.random.default_rng(3)
    reference = (0.05,) * 20
    found = [psi(reference, np.bincount(dice.integers(0, 20, 1000), minlength=20).tolist()) for _ in range(200)]
    # On average (bins - 1) / decisions = 0.019.
    assert 0.015 < sum(found) / len(found) < 0.023
    assert max(found) < 0.1


def test_workers_are_judged_together() -> None:
    reference = (0.5, 0.5, 0.0)
    workers = []
    for counts in ([1000, 0, 0], [0, 1000, 0]):
        one = Snapshot()
        one.put_track("m", "x", Track(reference, counts))
        workers.append(one)
    whole = merge(workers)
    put_drift(whole)
    assert whole.value("assay.model.feature.psi", "m", "x") == 0.0
