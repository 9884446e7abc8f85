"""Entities with more events than are kept one by one: how wrong the counters may be, and how large a state may get."""

from __future__ import annotations

import random
from bisect import bisect_left
from itertools import pairwise

import numpy as np
import pytest

from engine.features.velocity import (
    EXACT_MAX,
    WINDOWS_S,
    Counter,
    Definitions,
    Event,
    Outcome,
    VelocityReader,
    VelocityView,
    max_bytes,
)
from engine.features.velocity.buckets import BUCKETS_MAX, KEEP_US, WIDTHS_US, fold
from engine.features.velocity.sketch import SKETCH_MAX
from engine.features.velocity.state import decode
from tests.unit.velocity.brute import DAY_US, DEVICE, SECOND_US, T0_US, counted, event, same, state_of

_WIDTH_OF = dict(zip(WINDOWS_S, WIDTHS_US, strict=True))


def _stream(rng: random.Random, count: int, mean_gap_s: float, people: int) -> list[Event]:
    """Events at random distances, in bursts now and then."""
    at_us, events = T0_US, []
    for i in range(count):
        gap_s = mean_gap_s * rng.expovariate(1.0) * (0.02 if (i // 300) % 4 == 0 else 1.3)
        at_us += round(gap_s * SECOND_US)
        events.append(event(f"e{i}", at_us, rng.randrange(10**9), applicant=f"a{rng.randrange(people)}"))
    return events


@pytest.mark.parametrize("mean_gap_s", [0.02, 1.0, 20.0, 200.0, 1000.0, 4000.0])
def test_counts_are_wrong_by_less_than_what_happened_around_the_edge(mean_gap_s: float) -> None:
    rng = random.Random(round(mean_gap_s * 100))
    events = _stream(rng, 4_000, mean_gap_s, 300)
    times = [e.time_us for e in events]
    reader, state, exact_seen, rough_seen = VelocityReader(DEVICE), b"", 0, 0
    definitions = Definitions([DEVICE])
    at = 0
    while at < len(events):
        upto = min(len(events), at + rng.randrange(1, 400))
        ((_, change),) = definitions.changes(rng.sample(events[at:upto], upto - at))
        state = change(state or None) or state
        at = upto
        assert set(change.outcomes) == {Outcome.NEW}
        assert len(state) <= max_bytes(DEVICE.layout)
        for now_us in (
            times[at - 1] + 1,
            times[at - 1] + rng.randrange(3 * DAY_US),
            times[at - 1] - rng.randrange(5_000_000),
        ):
            found = reader.evaluate(state, now_us)
            expected = counted(events[:at], DEVICE, "d", now_us)
            for counter, value, truth in zip(DEVICE.counters, found, expected, strict=True):
                start_us, width_us = now_us - counter.window_us, _WIDTH_OF[counter.window]
                if at - bisect_left(times, start_us, 0, at) <= EXACT_MAX:
                    assert value == truth or (value != value and truth != truth), counter
                    exact_seen += 1
                    continue
                rough_seen += 1
                low, high = (bisect_left(times, start_us + d, 0, at) for d in (-width_us, width_us))
                edge = events[low:high]
                if counter.what == "count":
                    assert abs(value - truth) <= len(edge)
                    assert value == int(value)
                elif counter.what == "sum":
                    assert abs(value - truth) <= sum(e.amounts.get(counter.of, 0) for e in edge) / 10_000 + 0.001
                elif counter.what == "distinct" and now_us > times[at - 1]:
                    assert value == truth, counter  # fewer than are sampled
                elif counter.what == "time_since":
                    assert value == truth or abs(now_us - times[at - 1]) < 5_000_000
    assert exact_seen > 100
    assert rough_seen > 100 or mean_gap_s > 3_000


def test_more_different_ids_than_are_sampled_are_told_within_the_stated_error() -> None:
    rng, errors = random.Random(8), []
    view = VelocityView(
        "device_velocity",
        "device",
        (Counter("24h", "distinct", "applicant", "24h"), Counter("30d", "distinct", "applicant", "30d")),
    )
    reader, definitions = VelocityReader(view), Definitions([view])
    state, sent, at_us = b"", [], T0_US
    for i in range(150):
        batch = []
        for j in range(100):
            at_us += rng.randrange(2 * 120 * SECOND_US)
            batch.append(event(f"{i}-{j}", at_us, applicant=f"a{rng.randrange(9_000)}"))
        sent += batch
        ((_, change),) = definitions.changes(batch)
        state = change(state or None) or state
        found, truth = reader.evaluate(state, at_us + 1), counted(sent[-1_500:], view, "d", at_us + 1)
        assert found[0] == truth[0]  # some hundreds a day: all of them are kept, whatever the month's sample does
        month = len({e.entities["applicant"] for e in sent if e.time_us > at_us - 30 * DAY_US})
        errors.append(found[1] / month - 1)
        assert month > SKETCH_MAX or found[1] == month
    assert max(map(abs, errors)) < 0.16
    assert abs(sum(errors) / len(errors)) < 0.06


def test_buckets_are_at_most_two_percent_of_the_window_whose_edge_they_may_hold() -> None:
    for window, width_us in _WIDTH_OF.items():
        assert 0.01 < width_us / (WINDOWS_S[window] * SECOND_US) <= 0.02
    for finer, coarser in pairwise(WIDTHS_US):
        assert coarser % finer == 0
    # Whatever the moment, no window's edge falls into a wider one.
    rng = random.Random(5)
    shape = VelocityView("v", "device", (Counter("n", "count", "", "1h"),)).layout.bucket
    buckets, newest_us = b"", T0_US
    for _ in range(20_000):
        newest_us += rng.randrange(1, 200 * SECOND_US) if rng.random() < 0.8 else rng.randrange(SECOND_US)
        buckets = fold(buckets, shape, [(newest_us,)], newest_us)
        if rng.random() < 0.01:
            rows = list(shape.iter_unpack(buckets))
            starts = [mark - mark % SECOND_US for mark, _ in rows]
            ends = [start + WIDTHS_US[mark % SECOND_US] for start, (mark, _) in zip(starts, rows, strict=True)]
            assert all(end <= start for end, start in zip(ends[:-1], starts[1:], strict=True))
            for window, width_us in _WIDTH_OF.items():
                edge_us = newest_us - WINDOWS_S[window] * SECOND_US
                for start, end in zip(starts, ends, strict=True):
                    assert not start < edge_us < end or end - start <= width_us


def test_there_are_never_more_buckets_than_said() -> None:
    """An event in every second of the last minute, in every minute of the last hour, and so on: the worst there is."""
    shape = VelocityView("v", "device", (Counter("n", "count", "", "1h"),)).layout.bucket
    newest_us, most = T0_US + 40 * DAY_US, 0
    spans = ((150, 1), (6_000, 10), (120_000, 300), (800_000, 3_000), (2_680_000, 10_000))
    ages_s = [age for i, (end, step) in enumerate(spans) for age in range(spans[i - 1][0] if i else 0, end, step)]
    for phase_s in (0, 1, 59, 1_199, 10_799, 43_199, 21_600, 30):
        buckets, now_us = b"", newest_us + phase_s * SECOND_US
        for age_s in reversed(ages_s):
            # As if each had been the newest when it was folded, which makes the narrowest.
            buckets = fold(buckets, shape, [(now_us - age_s * SECOND_US,)], now_us - age_s * SECOND_US)
        buckets = fold(buckets, shape, [(now_us + SECOND_US,)], now_us + SECOND_US)
        most = max(most, len(buckets) // shape.size)
    assert 350 < most <= BUCKETS_MAX


def test_the_largest_state_is_as_large_as_said() -> None:
    """Years of heavy traffic from new people, on every scale of time."""
    rng = random.Random(2)
    view = VelocityView(
        "applicant_velocity",
        "device",
        (Counter("s", "sum", "amount", "30d"), Counter("a", "distinct", "device2", "30d"),
         Counter("p", "distinct", "phone", "30d"), Counter("c", "count", "", "30d")),
    )  # fmt: skip
    gaps_us = [400_000] * 700 + [9_000_000] * 900 + [200_000_000] * 900 + [1_500_000_000] * 900 + [5_000_000_000] * 900
    state, at_us = b"", T0_US
    definitions = Definitions([view])
    largest = 0
    for turn in range(3):
        for i, gap_us in enumerate(reversed(gaps_us)):
            at_us += gap_us + rng.randrange(1000)
            name = f"{turn}-{i}"
            ((_, change),) = definitions.changes([event(name, at_us, 5, device2=f"x{name}", phone=f"p{name}")])
            state = change(state or None) or state
            largest = max(largest, len(state))
    bound = max_bytes(view.layout)
    assert 0.8 * bound < largest <= bound
    assert bound <= 64_000


def test_a_typical_state_is_small() -> None:
    for count, bytes_max in ((1, 100), (3, 210), (10, 600)):
        assert len(state_of(DEVICE, [event(str(i), T0_US + i, applicant="a") for i in range(count)])) <= bytes_max


def test_an_event_that_may_have_been_counted_is_refused_and_said_to_be_too_late() -> None:
    events = [event(str(i), T0_US + i * SECOND_US) for i in range(EXACT_MAX + 100)]
    state = state_of(DEVICE, events)
    late = event("late", T0_US + 50 * SECOND_US)
    kept = event("kept", T0_US + 100 * SECOND_US + 1)
    sent = [events[0], events[99], events[100], events[-1], late, kept]
    ((_, change),) = Definitions([DEVICE]).changes(sent)
    state = change(state) or b""
    assert change.outcomes == [
        Outcome.TOO_LATE, Outcome.TOO_LATE, Outcome.DUPLICATE, Outcome.DUPLICATE, Outcome.TOO_LATE, Outcome.NEW,
    ]  # fmt: skip
    found = VelocityReader(DEVICE).evaluate(state, events[-1].time_us + 1)
    assert same(found, counted([*events, kept], DEVICE, "d", events[-1].time_us + 1))
    assert change(state) is None


def test_redelivered_history_never_counts_twice() -> None:
    """Ten times as many events as are kept, in order of time, then all of it again in any order."""
    rng = random.Random(9)
    events = _stream(rng, 10 * EXACT_MAX, 60.0, 50)
    state = state_of(DEVICE, events)
    again = rng.sample(events, len(events))
    for at in range(0, len(again), 97):
        ((_, change),) = Definitions([DEVICE]).changes(again[at : at + 97])
        assert change(state) is None
        assert set(change.outcomes) <= {Outcome.DUPLICATE, Outcome.TOO_LATE}


def test_after_a_quiet_month_an_entity_is_exact_again() -> None:
    state = state_of(DEVICE, [event(str(i), T0_US + i, applicant=str(i)) for i in range(EXACT_MAX + 500)])
    assert decode(state, DEVICE.layout).horizon is not None
    later = [event(f"late{i}", T0_US + KEEP_US + DAY_US + i, applicant="z") for i in range(3)]
    ((_, change),) = Definitions([DEVICE]).changes(later)
    state = change(state) or b""
    assert decode(state, DEVICE.layout).horizon is None
    assert len(state) == len(state_of(DEVICE, later))
    now_us = later[-1].time_us + 1
    assert same(VelocityReader(DEVICE).evaluate(state, now_us), counted(later, DEVICE, "d", now_us))


def test_one_great_batch_does_what_many_small_ones_do() -> None:
    rng = random.Random(6)
    events = _stream(rng, 5_000, 30.0, 2_000)
    shuffled = rng.sample(events, len(events))
    now_us = events[-1].time_us + 1
    reader = VelocityReader(DEVICE)
    whole, small = state_of(DEVICE, shuffled, batch=5_000), state_of(DEVICE, events, batch=1)
    a, b = reader.evaluate(whole, now_us), reader.evaluate(small, now_us)
    np.testing.assert_allclose(a, b, rtol=0.15)
    assert a[1] == b[1]
    assert len(whole) <= max_bytes(DEVICE.layout)
    assert SKETCH_MAX < 2_000
