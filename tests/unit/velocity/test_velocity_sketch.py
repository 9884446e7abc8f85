"""How far distinct counts may be off beyond what is kept of them: measured over many draws."""

from __future__ import annotations

import random

import numpy as np
import pytest

from engine.features.velocity.definition import hash_of
from engine.features.velocity.sketch import ALL, HEAD, ID, SKETCH_MAX, Sketch, estimate
from tests.unit.velocity.brute import DAY_US, T0_US

_MONTH_US = 30 * DAY_US


def _estimate(sketch: Sketch, start_us: int) -> int:
    ids = np.frombuffer(sketch.rows, "<i8").reshape(-1, 2)
    return estimate(ids, sketch.complete, sketch.admitted, sketch.since_us, start_us)


def _hash(rng: random.Random) -> int:
    return rng.randrange(1, ALL)


def test_ids_are_hashed_evenly_and_never_to_nought() -> None:
    hashes = [hash_of(f"device-{i}") for i in range(20_000)]
    assert len(set(hashes)) == len(hashes)
    assert all(0 < h <= ALL for h in hashes)
    shares = np.histogram(np.array(hashes, np.float64), bins=20, range=(0, ALL))[0] / len(hashes)
    assert np.all(np.abs(shares - 0.05) < 0.008)


def test_it_is_exact_up_to_its_size_with_ids_seen_again_and_again() -> None:
    rng = random.Random(1)
    ids = [_hash(rng) for _ in range(SKETCH_MAX)]
    seen: dict[int, int] = {}
    sketch, now_us = Sketch(_MONTH_US), T0_US
    for i in range(5_000):
        now_us += rng.randrange(600_000_000)
        # Late ones as well.
        at_us, hashed = (
            now_us - rng.choice((0, 0, 0, DAY_US)),
            ids[i % SKETCH_MAX if i < SKETCH_MAX else rng.randrange(700)],
        )
        sketch.add([(at_us, hashed)], now_us)
        seen[hashed] = max(at_us, seen.get(hashed, 0))
    assert sketch.complete == ALL
    for window_us in (DAY_US, 7 * DAY_US, 20 * DAY_US, _MONTH_US):
        assert _estimate(sketch, now_us - window_us) == sum(t >= now_us - window_us for t in seen.values())


@pytest.mark.parametrize(("distinct", "draws"), [(1_100, 100), (3_000, 100), (30_000, 40)])
def test_beyond_its_size_the_error_is_what_is_said(distinct: int, draws: int) -> None:
    """The mean and the spread of the relative error over many draws."""
    errors, kept = [], []
    for seed in range(draws):
        rng = random.Random(seed)
        sketch = Sketch(_MONTH_US)
        hashes = [_hash(rng) for _ in range(distinct)]
        sketch.add([(T0_US + i, h) for i, h in enumerate(hashes)], T0_US + distinct)
        errors.append(_estimate(sketch, T0_US) / distinct - 1)
        kept.append(len(sketch))
        assert len(sketch) <= SKETCH_MAX
    spread, mean = float(np.std(errors)), float(np.mean(errors))
    assert min(kept) >= 900
    assert spread < 1.3 / 900**0.5
    assert abs(mean) < 3 * 0.033 / draws**0.5
    assert max(map(abs, errors)) < 0.15


def test_a_part_of_the_window_is_estimated_from_its_share_of_the_ids() -> None:
    rng, errors = random.Random(3), []
    for _ in range(40):
        sketch = Sketch(_MONTH_US)
        hashes = [_hash(rng) for _ in range(20_000)]
        sketch.add([(T0_US + i, h) for i, h in enumerate(hashes)], T0_US + 20_000)
        errors.append(_estimate(sketch, T0_US + 15_000) / 5_000 - 1)
    assert float(np.std(errors)) < 1.4 / (900 / 4) ** 0.5


def test_a_steady_stream_keeps_its_error_for_months() -> None:
    """Two thousand new ids a window, ten windows long: ids leave as others come."""
    rng, sketch, errors, gap_us = random.Random(4), Sketch(DAY_US), [], DAY_US // 2_000
    for i in range(20_000):
        sketch.add([(T0_US + i * gap_us, _hash(rng))], T0_US + i * gap_us)
        if i > 4_000 and i % 200 == 0:
            errors.append(_estimate(sketch, T0_US + i * gap_us - DAY_US) / 2_001 - 1)
            assert 300 < len(sketch) <= SKETCH_MAX
    assert float(np.std(errors)) < 0.07
    assert abs(float(np.mean(errors))) < 0.05


def test_after_a_storm_it_grows_exact_again() -> None:
    rng, sketch = random.Random(5), Sketch(DAY_US)
    at_us = T0_US
    sketch.add([(at_us + i, _hash(rng)) for i in range(100_000)], at_us + 100_000)
    assert sketch.complete < ALL // 50
    worst = 0.0
    for i in range(4 * 300):  # four quiet days of 300 ids each
        at_us += DAY_US // 300
        sketch.add([(at_us, _hash(rng))], at_us)
        if i >= 300:
            worst = max(worst, abs(_estimate(sketch, at_us - DAY_US + 1) / 300 - 1))
    assert worst < 1.5  # the first window after the storm rests on a hundredth of the ids
    assert (sketch.complete, sketch.admitted) == (ALL, ALL)
    assert _estimate(sketch, at_us - DAY_US + 1) == 300


def test_ids_admitted_anew_do_not_count_before_all_of_them_are_there() -> None:
    """The estimate stays fair in the window after the threshold has risen."""
    totals = []
    for seed in range(20):
        rng, sketch = random.Random(seed), Sketch(DAY_US)
        sketch.add([(T0_US + i, _hash(rng)) for i in range(20_000)], T0_US + 20_000)
        gap_us = DAY_US // 4_000
        at_us = T0_US + DAY_US
        for i in range(6_000):
            sketch.add([(at_us + i * gap_us, _hash(rng))], at_us + i * gap_us)
        assert sketch.admitted > sketch.complete or len(sketch) > 400
        totals.append(_estimate(sketch, at_us + 6_000 * gap_us - DAY_US))
    assert np.mean(totals) == pytest.approx(4_000, rel=0.08)


def test_what_is_packed_holds_all_of_it() -> None:
    sketch = Sketch(DAY_US)
    sketch.add([(T0_US, 5), (T0_US + 1, 0), (T0_US - 5, 9)], T0_US + 1)
    packed = sketch.pack()
    assert HEAD.unpack_from(packed) == (2, ALL, ALL, 0)
    assert list(ID.iter_unpack(packed[HEAD.size :])) == [(T0_US - 5, 9), (T0_US, 5)]
