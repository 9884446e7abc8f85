"""Velocity counters: their declarations, and that one pass gives what a recount of the past gives."""

from __future__ import annotations

import math

import numpy as np
import pytest

from models.training.fraud.counters import DECLARATIONS, WINDOW_SECONDS, Counter, count_stream, counters_from
from models.training.fraud.features import COUNTERS, FEATURES, feature_columns
from models.training.fraud.population import ENTITIES
from models.training.fraud.stream import Stream, generate


@pytest.fixture(scope="module")
def stream() -> Stream:
    """A small stream, dense in frauds, longer than the longest window."""
    return generate(5, days=40, daily=45, fraud_share=0.1)


def recount(stream: Stream, c: Counter, at: int) -> float:
    """The counter's value by its definition: look at every event, and count those that belong."""
    key, now = stream.ids[c.entity][at], stream.t_s[at]
    if key < 0:
        return math.nan
    seen = [
        i
        for i in range(len(stream))
        if stream.ids[c.entity][i] == key and now - c.window_seconds <= stream.t_s[i] < now
    ]
    if c.what == "count":
        return len(seen)
    if c.what == "sum":
        return float(sum(stream.facts[c.of][i] for i in seen))
    if c.what == "distinct":
        return len({int(stream.ids[c.of][i]) for i in seen} - {-1})
    return float(now - max(stream.t_s[i] for i in seen)) if seen else math.nan


@pytest.mark.parametrize("counter", COUNTERS, ids=lambda c: c.name)
def test_one_pass_equals_a_recount(stream: Stream, counter: Counter) -> None:
    values = count_stream((counter,), stream.t_s, stream.ids, {"amount": stream.facts["amount"].astype(np.int64)})
    rows = np.random.default_rng(0).choice(len(stream), 250, replace=False)
    expected = [recount(stream, counter, int(at)) for at in rows]
    np.testing.assert_array_equal(values[counter.name][rows], expected)
    assert np.nanmax(values[counter.name]) > 0  # the recount would agree on an empty stream as well


def test_features_do_not_see_what_comes_later(stream: Stream) -> None:
    half = len(stream) // 2
    past = Stream(
        t_s=stream.t_s[:half],
        ids={name: v[:half] for name, v in stream.ids.items()},
        facts={name: v[:half] for name, v in stream.facts.items()},
        kind=stream.kind[:half],
        known_s=stream.known_s[:half],
        days=stream.days,
        level=stream.level,
    )
    whole = feature_columns(stream)
    for name, values in feature_columns(past).items():
        np.testing.assert_array_equal(values, whole[name][:half], err_msg=name)


def _count(times: list[int], keys: list[int], window: str = "1h", what: str = "count") -> list[float]:
    counters = counters_from([{"name": "n", "entity": "device", "what": what, "window": window}], ENTITIES)
    ids = {"device": np.array(keys, np.int64)}
    return list(count_stream(counters, np.array(times, np.int64), ids, {})["n"])


def test_events_of_the_same_second_do_not_see_one_another() -> None:
    assert _count([10, 10, 10, 11], [1, 1, 1, 1]) == [0, 0, 0, 3]


def test_the_window_holds_its_first_second_and_not_the_one_before() -> None:
    hour = WINDOW_SECONDS["1h"]
    assert _count([0, hour], [1, 1]) == [0, 1]
    assert _count([0, hour + 1], [1, 1]) == [0, 0]


def test_an_absent_entity_is_missing_and_an_unknown_one_counts_nought() -> None:
    first, absent, other = _count([0, 1, 2], [1, -1, 2])
    assert (first, other) == (0, 0)
    assert math.isnan(absent)


def test_time_since_is_missing_without_a_past_and_measured_with_one() -> None:
    first, second = _count([5, 65], [1, 1], what="time_since")
    assert math.isnan(first)
    assert second == 60


def test_a_busy_entity_is_counted_right_after_many_have_expired() -> None:
    times = [60 * i for i in range(500)]
    assert _count(times, [1] * 500)[-1] == 60


def test_time_that_falls_is_refused() -> None:
    with pytest.raises(ValueError, match="order of time"):
        _count([5, 4], [1, 1])


def test_declarations_are_plain_strings_and_name_entity_and_window() -> None:
    for row, counter in zip(DECLARATIONS, COUNTERS, strict=True):
        assert all(isinstance(value, str) for value in row.values())
        assert counter.name.startswith(f"{counter.entity}_")
        assert counter.name.endswith("_seconds" if counter.what == "time_since" else f"_{counter.window}")
    assert {c.name for c in COUNTERS} == {f.name for f in FEATURES if f.view.endswith("_velocity")}


def test_every_mistake_in_declarations_is_reported_at_once() -> None:
    with pytest.raises(ValueError) as caught:
        counters_from(
            [
                {"name": "a", "entity": "car", "what": "count", "window": "1h"},
                {"name": "b", "entity": "device", "what": "sum", "window": "1h"},
                {"name": "c", "entity": "device", "what": "median", "window": "2h"},
                {"name": "d", "entity": "device", "what": "count", "of": "phone", "window": "1h"},
                {"name": "d", "entity": "device", "what": "distinct", "of": "phone", "window": "1h", "unit": "x"},
                {"name": "e", "entity": "device"},
            ],
            ENTITIES,
        )
    text = str(caught.value)
    for part in ("'car'", "(b): of is ''", "'median'", "'2h'", "(d): of is 'phone'", "stands twice", "['unit']",
                 "['what', 'window']"):  # fmt: skip
        assert part in text
