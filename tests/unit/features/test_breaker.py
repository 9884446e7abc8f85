"""When a breaker opens, how long it waits and when it closes, by a clock and dice of the test's own."""

from __future__ import annotations

import itertools

import pytest

from engine.features.store import StoreUnavailable
from engine.features.stores.breaker import Breaker, BreakerSettings

CAUSE = StoreUnavailable("no route to 10.0.0.1:6379")


class Clock:
    now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


def breaker(clock: Clock, dice: float = 0.0, **settings: float) -> Breaker:
    return Breaker("redis", "reads", BreakerSettings(**settings), clock, lambda: dice)  # type: ignore[arg-type]


def call(b: Breaker, good: bool) -> bool:
    assert b.window is not None
    if good:
        b.window.append(False)
        return False
    return b.failed(b.window, CAUSE)


def test_failures_in_a_row_open_it_and_one_good_call_between_does_not_count_as_a_row(clock: Clock) -> None:
    b = breaker(clock, failures=3, window_calls=100)
    for good in (False, False, True, False, False):
        assert not call(b, good)
    assert b.state.value == "closed"
    assert call(b, False)
    assert b.state.value == "open"
    assert b.window is None


def test_a_share_of_failures_opens_it_only_over_a_whole_window(clock: Clock) -> None:
    b = breaker(clock, failures=100, window_calls=10, failure_ratio=0.5)
    for good in (False, True) * 4 + (True,):
        assert not call(b, good)
    assert call(b, False)


def test_failures_that_left_the_window_are_forgotten(clock: Clock) -> None:
    b = breaker(clock, failures=100, window_calls=10, failure_ratio=0.5)
    for good in (False, True) * 4 + (True,) * 10 + (False,):
        assert not call(b, good)


def test_a_call_from_before_a_change_says_nothing_about_the_new_state(clock: Clock) -> None:
    b = breaker(clock, failures=2, probes_good=1)
    old = b.window
    assert old is not None
    call(b, False)
    assert call(b, False)
    assert not b.failed(old, CAUSE), "it is open already"
    b.probe_begins()
    assert b.probe_ended(True)
    for _ in range(5):
        assert not b.failed(old, CAUSE)
    assert b.state.value == "closed"
    call(b, False)
    assert call(b, False)


def test_waits_double_up_to_a_bound(clock: Clock) -> None:
    b = breaker(clock, failures=1, probe_interval_ms=100, probe_interval_max_ms=1000)
    call(b, False)
    waits = []
    for _ in range(6):
        waits.append(b.wait_s())
        b.probe_begins()
        assert b.state.value == "half_open"
        assert not b.probe_ended(False)
        assert b.state.value == "open"
    assert waits == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.0, 1.0])
    for _ in range(5000):
        b.probe_ended(False)
    assert b.wait_s() == pytest.approx(1.0)


def test_waits_are_cut_by_up_to_half_at_random(clock: Clock) -> None:
    b = breaker(clock, dice=1.0, failures=1, probe_interval_ms=100)
    call(b, False)
    assert b.wait_s() == pytest.approx(0.05)


def test_it_closes_after_good_probes_in_a_row(clock: Clock) -> None:
    b = breaker(clock, failures=1, probes_good=3)
    call(b, False)
    answers = [True, True, False, True, True, True]
    assert [b.probe_ended(good) for good in answers] == [False] * 5 + [True]
    assert b.state.value == "closed"
    assert b.window is not None
    assert not b.window


def test_between_good_probes_it_waits_the_shortest_time(clock: Clock) -> None:
    b = breaker(clock, failures=1, probe_interval_ms=100)
    call(b, False)
    b.probe_ended(False)
    b.probe_ended(False)
    b.probe_ended(True)
    assert b.wait_s() == pytest.approx(0.1)


def test_one_that_opens_again_soon_waits_longer_and_one_that_was_long_well_does_not(clock: Clock) -> None:
    b = breaker(clock, failures=1, probes_good=1, probe_interval_ms=100, probe_interval_max_ms=1000)
    waits = []
    for gap_s in (0.0, 0.5, 0.5, 0.5, 60.0):
        clock.now_s += gap_s
        assert call(b, False)
        waits.append(b.wait_s())
        b.probe_begins()
        assert b.probe_ended(True)
    assert waits == pytest.approx([0.1, 0.2, 0.4, 0.8, 0.1])


def test_a_refusal_says_what_had_failed_and_is_counted(clock: Clock) -> None:
    b = breaker(clock, failures=2)
    call(b, False)
    call(b, False)
    for number in itertools.count(1):
        error = b.refuse()
        assert str(CAUSE) in str(error)
        assert "redis" in str(error)
        assert b.counts["refused_open"] == number
        if number == 3:
            break
    assert (b.counts["failed"], b.counts["opened"], b.counts["closed"]) == (2, 1, 0)


def test_it_can_be_given_up(clock: Clock) -> None:
    b = breaker(clock, failures=1)
    call(b, False)
    b.give_up()
    assert b.state.value == "closed"
    assert call(b, False)
