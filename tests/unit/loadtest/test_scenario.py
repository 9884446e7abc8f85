"""Scenarios are checked wholly before anything is started, and say every mistake with its place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from loadtest.problems import CouldNotRun
from loadtest.scenario import SCENARIOS, checked, find, read

OPEN: dict[str, Any] = {
    "name": "mine",
    "open": {"stages": [{"duration_s": 4, "rate_per_s": 10}], "mix": [{"ask": "decide_any"}]},
}
LOCUST: dict[str, Any] = {
    "name": "mine",
    "locust": {"users": [{"kind": "interactive_los"}], "shape": {"kind": "steady", "users": 3, "duration_s": 5}},
}


@pytest.mark.parametrize("file", sorted(SCENARIOS.glob("*.toml")), ids=lambda file: str(file.stem))
def test_shipped_scenarios_are_whole(file: Path) -> None:
    scenario = read(file)
    assert scenario.name == file.stem
    assert scenario.description
    # A run without a limit can break none: CI would pass whatever happens.
    assert scenario.limits.error_max_ratio is not None


def test_two_minutes_take_two_minutes() -> None:
    assert read(find("two_minutes")).duration_s == 120


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"limits": {"p99_max": 5}}, "limits.p99_max"),
        ({"limits": {"p99_max_ms": -1}}, "limits.p99_max_ms"),
        ({"limits": {"error_max_ratio": 1.5}}, "limits.error_max_ratio"),
        ({"limits": {"rpc": {"Decid": {"p99_max_ms": 5}}}}, "Decid"),
        ({"locust": LOCUST["locust"]}, "exactly one"),
        ({"warm_up_s": 4}, "warm_up_s"),
        ({"server": {"settings": {"PATH": "/"}}}, "server"),
        ({"open": {**OPEN["open"], "mix": [{"ask": "decide_nobody"}]}}, "decide_nobody"),
        ({"open": {**OPEN["open"], "stages": []}}, "open.stages"),
        ({"open": {**OPEN["open"], "arrivals": "sometimes"}}, "open.arrivals"),
        ({"name": "a/b"}, "name"),
    ],
)
def test_a_mistake_is_named(change: dict[str, Any], place: str) -> None:
    with pytest.raises(CouldNotRun, match=place):
        checked(OPEN | change, "mine.toml")


def test_all_mistakes_are_named_at_once() -> None:
    wrong = OPEN | {"timeout_ms": 0, "population": {"consumers": 0}, "colour": "blue"}
    with pytest.raises(CouldNotRun) as caught:
        checked(wrong, "mine.toml")
    for place in ("timeout_ms", "population.consumers", "colour", "mine.toml"):
        assert place in str(caught.value)


@pytest.mark.parametrize(
    ("shape", "duration_s"),
    [
        ({"kind": "ramp", "users": 9, "over_s": 3, "hold_s": 4}, 7),
        ({"kind": "spike", "users": 2, "spike_users": 9, "before_s": 1, "spike_s": 2, "after_s": 3}, 6),
        ({"kind": "soak", "users": 9, "ramp_s": 2, "hold_s": 5}, 9),
    ],
)
def test_shapes_know_how_long_they_last(shape: dict[str, Any], duration_s: float) -> None:
    locust = {**LOCUST["locust"], "shape": shape}
    assert checked(LOCUST | {"locust": locust}, "mine.toml").duration_s == duration_s


def test_long_runs_have_bounded_plots() -> None:
    shape = {"kind": "soak", "users": 9, "ramp_s": 60, "hold_s": 36_000}
    scenario = checked(LOCUST | {"locust": {**LOCUST["locust"], "shape": shape}}, "mine.toml")
    assert scenario.duration_s / scenario.interval_s <= 240


def test_changes_are_put_over_the_file() -> None:
    scenario = read(find("steady_open"), {"open.processes": 3, "limits.rpc.Decide.p99_max_ms": 7.5})
    assert scenario.open is not None
    assert scenario.open.processes == 3
    assert scenario.limits.rpc["Decide"].p99_max_ms == 7.5


def test_what_is_no_scenario_is_said(tmp_path: Path) -> None:
    with pytest.raises(CouldNotRun, match="two_minutes"):
        find("no_such_scenario")
    file = tmp_path / "broken.toml"
    file.write_text("name = ", encoding="utf-8")
    with pytest.raises(CouldNotRun, match=r"broken\.toml"):
        read(file)
