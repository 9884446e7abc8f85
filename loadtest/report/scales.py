"""Axes: from values to places on a plot, with ticks that people would choose."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Scale:
    """From a value to a place. log: logarithmic; ticks: (value, text)."""

    low: float
    high: float
    start: float
    end: float
    log: bool
    ticks: tuple[tuple[float, str], ...]

    def __call__(self, value: float) -> float:
        """The place of a value; values outside the axis lie on its ends."""
        value = min(max(value, self.low), self.high)
        if self.log:
            share = (math.log(value) - math.log(self.low)) / (math.log(self.high) - math.log(self.low))
        else:
            share = (value - self.low) / (self.high - self.low)
        return round(self.start + share * (self.end - self.start), 2)


def number(value: float) -> str:
    """A value in as few characters as tell it apart."""
    if value == 0:
        return "0"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    digits = 3 if abs(value) < 1 else 2 if abs(value) < 10 else 1
    text = f"{value:.{digits}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def linear(values: Sequence[float], start: float, end: float) -> Scale:
    """From zero to above the highest value, with some five ticks."""
    highest = max([value for value in values if math.isfinite(value)], default=1.0) or 1.0
    step = _step(highest / 4)
    count = max(1, math.ceil(highest / step - 1e-9))
    ticks = tuple((index * step, number(round(index * step, 9))) for index in range(count + 1))
    return Scale(0.0, count * step, start, end, False, ticks)


def logarithmic(values: Sequence[float], start: float, end: float) -> Scale:
    """Around all values above zero, with ticks at 1, 2 and 5 where there is room."""
    above = [value for value in values if value > 0 and math.isfinite(value)]
    low, high = (min(above), max(above)) if above else (1.0, 10.0)
    low, high = low / 1.15, max(high * 1.15, low * 3)
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    parts = (1, 2, 5) if last - first <= 3 else (1,)
    ticks = [part * 10.0**power for power in range(first, last + 1) for part in parts]
    shown = tuple((tick, number(tick)) for tick in ticks if low <= tick <= high)
    return Scale(low, high, start, end, True, shown)


def seconds(longest_s: float, start: float, end: float) -> Scale:
    """A time axis from zero, ticks at whole seconds or minutes."""
    longest_s = max(longest_s, 1.0)
    step = next((s for s in (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600) if longest_s / s <= 8), 7200)
    while longest_s / step > 12:
        step *= 2
    ticks = tuple((float(at), _clock(at)) for at in range(0, int(longest_s) + 1, step))
    return Scale(0.0, longest_s, start, end, False, ticks)


def _clock(at_s: int) -> str:
    if at_s >= 3600:
        return f"{at_s // 3600}:{at_s % 3600 // 60:02d} h"
    return f"{at_s // 60}:{at_s % 60:02d}"


def _step(wanted: float) -> float:
    power = 10.0 ** math.floor(math.log10(wanted))
    return next(part * power for part in (1, 2, 2.5, 5, 10) if part * power >= wanted * (1 - 1e-9))
