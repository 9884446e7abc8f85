"""When arrivals are due: from the stages of a scenario, before anything is sent."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator

from loadtest.loads import OpenDriver, Stage


def arrivals(driver: OpenDriver, chance: random.Random, number: int = 0, of: int = 1) -> Iterator[float]:
    """The moments of one process's arrivals in seconds from the start, rising. number, of: which process of how many.

    Poisson: a process with the stages' rate (thinning of Lewis and Shedler, 1979, where it changes). The sum of
    independent Poisson processes is one, so every process draws its own share. Constant: evenly spaced by the integral
    of the rate, the processes in turn.
    """
    start_s = 0.0
    counted = 0.0
    for stage in driver.stages:
        if driver.arrivals == "poisson":
            yield from _poisson(stage, start_s, chance, of)
        else:
            yield from _even(stage, start_s, counted, number, of)
        counted += expected(stage)
        start_s += stage.duration_s


def expected(stage: Stage) -> float:
    """How many arrivals a stage has on average."""
    return (stage.rate_per_s + stage.end_rate_per_s) / 2 * stage.duration_s


def rate_at(driver: OpenDriver, second: float) -> float:
    """The rate so many seconds after the start. 0 when it is over."""
    for stage in driver.stages:
        if second < stage.duration_s:
            return _rate(stage, second)
        second -= stage.duration_s
    return 0.0


def _rate(stage: Stage, second: float) -> float:
    return stage.rate_per_s + (stage.end_rate_per_s - stage.rate_per_s) * second / stage.duration_s


def _poisson(stage: Stage, start_s: float, chance: random.Random, of: int) -> Iterator[float]:
    highest = max(stage.rate_per_s, stage.end_rate_per_s)
    second = 0.0
    while (second := second + chance.expovariate(highest / of)) < stage.duration_s:
        if stage.to_rate_per_s is None or chance.random() * highest < _rate(stage, second):
            yield start_s + second


def _even(stage: Stage, start_s: float, counted: float, number: int, of: int) -> Iterator[float]:
    """The whole numbers that the integral of the rate passes in this stage, those of this process."""
    slope = (stage.end_rate_per_s - stage.rate_per_s) / stage.duration_s
    at = math.floor(counted) + 1
    while at <= counted + expected(stage):
        if at % of == number:
            area = at - counted
            root = math.sqrt(max(stage.rate_per_s**2 + 2 * slope * area, 0.0))
            # The stable form of the root: also right where the slope is none.
            yield start_s + min(2 * area / (stage.rate_per_s + root), stage.duration_s)
        at += 1
