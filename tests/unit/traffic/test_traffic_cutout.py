"""The safety cut-out: what its window holds, when it alerts, trips and rests."""

from __future__ import annotations

import logging
import sys
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.domain.enums import Verdict
from engine.telemetry.counters import Counters
from engine.traffic.cutout import CutOut, CutOuts, Level, RateWindow
from engine.traffic.model import Bound, CutOutRule

APPROVE, DECLINE, REFER = Verdict.APPROVE, Verdict.DECLINE, Verdict.REFER
FLOW = "tiny_loan.application"
RULE = CutOutRule(
    bounds=(Bound(DECLINE, None, 0.5), Bound(APPROVE, 0.2, 0.9)),
    window_s=600.0,
    decisions_min=100,
    trip_after_s=60.0,
    margin=0.05,
)


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now_s = 1_000.0

    def __call__(self) -> float:
        return self.now_s


def _feed(one: CutOut, now_s: float, **counts: int) -> Level:
    for name, count in counts.items():
        for _ in range(count):
            one.window.add(Verdict[name], now_s)
    return one.judge(now_s)


# --- the window ---------------------------------------------------------------------------------------------------


@given(
    st.lists(st.tuples(st.floats(0, 300, allow_nan=False), st.sampled_from(list(Verdict))), max_size=200),
    st.floats(60, 86_400),
)
def test_a_window_holds_the_last_stretch_but_for_one_part(steps: list[tuple[float, Verdict]], window_s: float) -> None:
    window, now_s, added = RateWindow(window_s), 0.0, []
    for step_s, verdict in steps:
        now_s += step_s * window_s / 600
        window.add(verdict, now_s)
        added.append((now_s, verdict))
    counts = window.counts(now_s)
    part_s = window_s / 60
    for verdict in Verdict:
        within = sum(1 for at, v in added if v is verdict and at > now_s - window_s)
        surely = sum(1 for at, v in added if v is verdict and at > now_s - window_s + part_s)
        # What lies exactly on the edge of a part may fall on either side of it.
        assert surely - 1 <= counts[verdict] <= within + 1


def test_a_long_silence_empties_the_window() -> None:
    window = RateWindow(60.0)
    for _ in range(1_000):
        window.add(DECLINE, 5.0)
    assert window.counts(64.0)[DECLINE] == 1_000
    assert sum(window.counts(1e9).values()) == 0
    window.add(APPROVE, 1e9)
    assert window.counts(1e9) == {APPROVE: 1, DECLINE: 0, REFER: 0, Verdict.COUNTER_OFFER: 0}


def test_a_thread_that_was_overtaken_is_counted_all_the_same() -> None:
    window = RateWindow(60.0)
    window.add(APPROVE, 50.0)
    window.add(APPROVE, 40.0)
    assert window.counts(50.0)[APPROVE] == 2


def test_threads_lose_no_count() -> None:
    window = RateWindow(600.0)

    def fill() -> None:
        for number in range(5_000):
            window.add(DECLINE, number / 100)

    usual_s = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        threads = [threading.Thread(target=fill) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(usual_s)
    assert window.counts(50.0)[DECLINE] == 20_000


# --- the levels ---------------------------------------------------------------------------------------------------


def test_rates_inside_their_bounds_are_no_alert() -> None:
    one = CutOut(RULE)
    assert _feed(one, 0.0, APPROVE=60, DECLINE=40) is Level.OK
    assert one.facts == ""


def test_a_rate_outside_alerts_at_once_and_trips_after_a_while() -> None:
    one = CutOut(RULE)
    assert _feed(one, 0.0, APPROVE=40, DECLINE=60) is Level.ALERT
    assert "DECLINE is 0.6000 of 100 decisions" in one.facts and "0.5" in one.facts
    assert one.judge(59.0) is Level.ALERT
    assert one.judge(60.0) is Level.TRIPPED


def test_a_rate_that_is_too_low_alerts_too() -> None:
    one = CutOut(RULE)
    assert _feed(one, 0.0, REFER=90, APPROVE=10) is Level.ALERT
    assert "APPROVE is 0.1000" in one.facts


def test_an_alert_ends_only_well_inside() -> None:
    one = CutOut(RULE)
    _feed(one, 0.0, APPROVE=40, DECLINE=60)
    assert _feed(one, 10.0, APPROVE=30) is Level.ALERT  # 60 of 130: 46 %, inside, but not by 5 %
    assert _feed(one, 20.0, APPROVE=10) is Level.OK  # 60 of 140: 43 %


def test_what_came_inside_in_between_does_not_trip() -> None:
    one = CutOut(RULE)
    _feed(one, 0.0, APPROVE=40, DECLINE=60)
    _feed(one, 50.0, APPROVE=25)  # 48 %
    assert _feed(one, 70.0, DECLINE=20) is Level.ALERT  # outside again, for no time yet
    assert one.judge(129.0) is Level.ALERT
    assert one.judge(130.0) is Level.TRIPPED


def test_a_tripped_one_rests_once_rates_are_well_inside() -> None:
    one = CutOut(RULE)
    _feed(one, 0.0, APPROVE=40, DECLINE=60)
    assert one.judge(61.0) is Level.TRIPPED
    assert _feed(one, 62.0, APPROVE=100) is Level.OK


def test_too_few_decisions_say_nothing() -> None:
    one = CutOut(RULE)
    assert _feed(one, 0.0, DECLINE=99) is Level.OK
    assert _feed(one, 1.0, DECLINE=1) is Level.ALERT


def test_an_alert_stands_while_too_few_come_to_say_otherwise_and_does_not_trip_by_that() -> None:
    one = CutOut(RULE)
    _feed(one, 0.0, DECLINE=100)
    assert one.judge(5_000.0) is Level.ALERT  # the window is empty
    assert _feed(one, 5_001.0, DECLINE=100) is Level.ALERT
    assert one.judge(5_062.0) is Level.TRIPPED


@pytest.mark.parametrize(("least", "most"), [(0.0, 0.3), (0.7, 1.0), (0.4, 0.44), (None, 0.0), (1.0, None)])
def test_some_rate_ends_every_alert(least: float | None, most: float | None) -> None:
    rule = CutOutRule((Bound(DECLINE, least, most),), decisions_min=100, margin=0.1)
    found = set()
    for declined in range(101):
        one = CutOut(rule)
        one.level = Level.ALERT
        found.add(_feed(one, 0.0, DECLINE=declined, APPROVE=100 - declined))
    assert Level.OK in found


@given(st.lists(st.tuples(st.floats(0, 120), st.integers(0, 40), st.integers(0, 40)), max_size=60))
def test_nothing_trips_that_did_not_stay_outside(steps: list[tuple[float, int, int]]) -> None:
    one, now_s, outside_since = CutOut(RULE), 0.0, None
    for step_s, approved, declined in steps:
        now_s += step_s
        before = one.level
        level = _feed(one, now_s, APPROVE=approved, DECLINE=declined)
        counts = one.window.counts(now_s)
        total = sum(counts.values())
        outside = total >= 100 and not (counts[DECLINE] / total <= 0.5 and 0.2 <= counts[APPROVE] / total <= 0.9)
        if not outside:
            outside_since = None
            assert level <= before
        elif outside_since is None:
            outside_since = now_s
        if level is Level.TRIPPED and before is not Level.TRIPPED:
            assert outside_since is not None and now_s - outside_since >= 60.0


# --- all of them --------------------------------------------------------------------------------------------------


def test_a_change_is_logged_counted_and_asks_to_fall_back(caplog: pytest.LogCaptureFixture) -> None:
    clock, counters = Clock(), Counters()
    ours = CutOuts(clock, counters)
    ours.use({FLOW: CutOutRule(RULE.bounds, window_s=600, decisions_min=10, trip_after_s=30, fall_back=True)}, 7)
    for _ in range(20):
        ours.note(FLOW, DECLINE)
        ours.note("another.application", DECLINE)
    with caplog.at_level(logging.INFO, "assay.traffic"):
        assert ours.judge() == []
        clock.now_s += 30
        (trip,) = ours.judge()
    assert (trip.flow, trip.generation) == (FLOW, 7) and "DECLINE is 1.0000 of 20" in trip.facts
    assert [record.levelname for record in caplog.records] == ["WARNING", "WARNING"]
    assert [record.__dict__["cut_out"] for record in caplog.records] == ["ALERT", "TRIPPED"]
    assert counters.get("cut_out_changes", flow=FLOW, level="TRIPPED") == 1
    (state,) = ours.states()
    assert (state["level"], state["decisions"], state["rates"]["DECLINE"]) == (3, 20, 1.0)


def test_one_that_is_not_to_fall_back_only_alerts() -> None:
    clock = Clock()
    ours = CutOuts(clock)
    ours.use({FLOW: CutOutRule(RULE.bounds, decisions_min=1, trip_after_s=0)}, 1)
    ours.note(FLOW, DECLINE)
    assert ours.judge() == []
    assert ours.states()[0]["level"] == Level.TRIPPED


def test_a_new_generation_begins_with_an_empty_window() -> None:
    clock = Clock()
    ours = CutOuts(clock)
    rule = CutOutRule(RULE.bounds, decisions_min=1, trip_after_s=0, fall_back=True)
    ours.use({FLOW: rule}, 1)
    ours.note(FLOW, DECLINE)
    assert len(ours.judge()) == 1
    ours.use({FLOW: rule}, 2)
    assert ours.judge() == [] and ours.states()[0]["decisions"] == 0
