"""What the command line puts over a scenario's file."""

from __future__ import annotations

import tomllib
from typing import Any

from loadtest.problems import CouldNotRun
from loadtest.scenario import Scenario, find, read


def overridden(
    name: str,
    changes: list[str] | None,
    processes: int | None,
    duration_s: float | None,
    *,
    users: int | None = None,
    rate: float | None = None,
    arrivals: str | None = None,
) -> Scenario:
    """The scenario with what the command line puts over it, checked as a whole."""
    path = find(name)
    over: dict[str, Any] = {}
    for one in changes or ():
        place, equals, text = one.partition("=")
        if not equals or not place:
            raise CouldNotRun(f"--set {one}: write PLACE=VALUE")
        over[place] = _plain(text)
    wanted = read(path, over)
    driver = "locust" if wanted.locust is not None else "open"
    if processes is not None:
        over[f"{driver}.processes"] = processes
    if users is not None:
        if wanted.locust is None:
            raise CouldNotRun(f"{wanted.name} has no users: its rate is set with python -m loadtest open --rate")
        over["locust.shape.users"] = users
    if rate is not None and wanted.open is not None:
        over["open.stages"] = [{"duration_s": wanted.duration_s, "rate_per_s": rate}]
    if arrivals is not None and wanted.open is not None:
        over["open.arrivals"] = arrivals
    wanted = read(path, over)
    return read(path, over | _stretched(wanted, duration_s)) if duration_s is not None else wanted


def _stretched(scenario: Scenario, duration_s: float) -> dict[str, Any]:
    """The changes that make a scenario last so long, each of its parts in proportion."""
    factor = duration_s / scenario.duration_s
    over: dict[str, Any] = {"warm_up_s": scenario.warm_up_s * factor}
    if scenario.open is not None:
        stages = [stage.model_dump(exclude_none=True) for stage in scenario.open.stages]
        over["open.stages"] = [{**stage, "duration_s": stage["duration_s"] * factor} for stage in stages]
    elif scenario.locust is not None:
        shape = scenario.locust.shape.model_dump()
        over |= {
            f"locust.shape.{name}": value * factor
            for name, value in shape.items()
            if name.endswith("_s") and name != "spawn_per_s"
        }
    return over


def _plain(text: str) -> Any:
    """A value as TOML has it; what is none is a word."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text
