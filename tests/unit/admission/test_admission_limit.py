"""The limit finds its level, on a server on paper."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.admission.gate import GateSettings, Lane
from engine.admission.limit import GradientLimit, LimitSettings
from tests.unit.admission.simulated import SimulatedServer

CAPACITY = 1000.0


@pytest.mark.parametrize("factor", [1.2, 1.5, 2.0, 3.0])
@pytest.mark.parametrize("extra_s", [0.0, 0.002], ids=["worker only", "with a store"])
def test_more_than_can_be_done_leaves_goodput_and_time_as_they_were(factor: float, extra_s: float) -> None:
    unloaded = SimulatedServer(GateSettings(), extra_s=lambda _: extra_s).run(5, {"interactive": CAPACITY / 10})
    assert not unloaded.refused
    server = SimulatedServer(GateSettings(), extra_s=lambda _: extra_s)
    server.run(1.5, {"interactive": CAPACITY * factor})
    loaded = server.run(3, {"interactive": CAPACITY * factor})
    assert len(loaded.took_s) / 3 >= 0.9 * CAPACITY
    assert loaded.p99_s <= 3 * unloaded.p99_s
    assert server.gate.pressed


@pytest.mark.parametrize("factor", [0.1, 0.5, 0.8])
def test_less_than_can_be_done_is_all_done(factor: float) -> None:
    server = SimulatedServer(GateSettings())
    assert not server.run(5, {"interactive": CAPACITY * factor}).refused
    assert not server.gate.pressed


def test_the_limit_falls_with_a_slow_store_and_comes_back() -> None:
    slow_from_s, slow_until_s = 106.0, 107.0

    def extra_s(now_s: float) -> float:
        return 0.05 if slow_from_s <= now_s < slow_until_s else 0.002

    server = SimulatedServer(GateSettings(), extra_s=extra_s)
    rates: dict[Lane, float] = {"interactive": CAPACITY * 1.5}
    before = server.run(6, rates)
    slow = server.run(1, rates)
    after = server.run(6, rates)
    usual = before.levels[-1]
    assert min(slow.levels + after.levels) < usual
    assert min(slow.levels + after.levels) >= GateSettings().limit.least
    assert after.levels[-1] >= usual - 2
    assert len(after.took_s) / 6 >= 0.85 * CAPACITY


def test_a_server_with_many_workers_gets_a_limit_that_keeps_them_busy() -> None:
    # Each decision waits for a store for ten times what it takes of a worker.
    server = SimulatedServer(GateSettings(), extra_s=lambda _: 0.02)
    server.run(8, {"interactive": CAPACITY * 2})
    loaded = server.run(5, {"interactive": CAPACITY * 2})
    assert server.gate.limit.level >= 20
    assert len(loaded.took_s) / 5 >= 0.9 * CAPACITY


def test_a_call_alone_is_measured_again_under_standing_pressure() -> None:
    """The measure is wrong at first: all calls came at once, and none was alone."""
    server = SimulatedServer(GateSettings(LimitSettings(probe_every_s=1.0), burst_max=400))
    server.gate.limit.alone_s = 0.2
    server.run(4, {"interactive": CAPACITY * 2})
    assert server.gate.limit.alone_s < 0.003
    loaded = server.run(4, {"interactive": CAPACITY * 2})
    assert loaded.mean_s < 0.006


def test_the_press_is_over_once_calls_come_slowly_enough() -> None:
    server = SimulatedServer(GateSettings())
    server.run(2, {"interactive": CAPACITY * 2})
    assert server.gate.pressed
    server.run(6, {"interactive": CAPACITY / 2})
    assert not server.gate.pressed
    # And a burst is worked off again, with nobody refused.
    tickets = [server.gate.arrive("interactive") for _ in range(GateSettings().burst_max)]
    assert all(hasattr(ticket, "done") for ticket in tickets)


def test_calls_that_are_late_bring_the_limit_down() -> None:
    limit = GradientLimit(LimitSettings(initial=20, least=4), 0.0)
    for step in range(1, 200):
        limit.failed(step * 0.2)
        assert 4 <= limit.level <= 20
    assert limit.level == 4


def test_one_moment_of_late_calls_is_one_step() -> None:
    limit = GradientLimit(LimitSettings(initial=20), 0.0)
    for _ in range(50):
        limit.failed(1.0)
    assert limit.level == 18


calls = st.lists(
    st.tuples(
        st.floats(0, 2),  # until the next call ends
        st.floats(0, 5),  # what it took
        st.integers(0, 500),  # how many were ahead
        st.sampled_from(["answered", "failed", "full"]),
    ),
    max_size=200,
)


@settings(max_examples=100, deadline=None)
@given(calls, st.integers(1, 20), st.integers(0, 100), st.integers(1, 200))
def test_whatever_happens_the_limit_stays_within_its_bounds(
    happened: list[tuple[float, float, int, str]], least: int, more: int, initial: int
) -> None:
    bounds = LimitSettings(initial=initial, least=least, most=least + more)
    limit, now_s = GradientLimit(bounds, 0.0), 0.0
    for passes_s, took_s, ahead, what in happened:
        now_s += passes_s
        if what == "answered":
            limit.answered(now_s - took_s, now_s, ahead, ahead == 0)
        elif what == "failed":
            limit.failed(now_s)
        else:
            limit.was_full()
            limit.refresh(now_s)
        assert least <= limit.level <= least + more
        assert limit.now == (1 if limit.probing else limit.level)
        assert limit.alone_s >= 0
    # A measurement ends, whatever came before.
    limit.refresh(now_s + 1)
    limit.refresh(now_s + 3)
    assert not limit.probing
