"""Plots as inline SVG. Colours are CSS variables of the page, so that they fit light and dark."""

from __future__ import annotations

import html
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from loadtest.report.scales import Scale, linear, logarithmic, number, seconds

WIDTH, HEIGHT = 920, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 14, 14, 40


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a plot. values: one for each x, None where there is none; style: solid, dashed, area or faint."""

    name: str
    colour: str
    values: Sequence[float | None]
    style: Literal["solid", "dashed", "area", "faint"] = "solid"


def over_time(
    title: str,
    unit: str,
    interval_s: float,
    lines: Sequence[Line],
    *,
    log: bool = False,
    warm_up_s: float = 0.0,
    height: int = HEIGHT,
) -> str:
    """A plot over the seconds of a run: one value an interval, drawn at its middle."""
    count = max((len(line.values) for line in lines), default=0)
    places = [(index + 0.5) * interval_s for index in range(count)]
    across = seconds(count * interval_s, _LEFT, WIDTH - _RIGHT)
    shown = [f"{place - interval_s / 2:g} s" for place in places]
    return _plot(title, unit, "time since the start (min:s)", across, places, shown, lines, log, warm_up_s, height)


def readings(title: str, unit: str, duration_s: float, line: Line, times_s: Sequence[float], height: int = 190) -> str:
    """A plot of readings at moments of their own."""
    across = seconds(duration_s, _LEFT, WIDTH - _RIGHT)
    shown = [f"{time_s:.0f} s" for time_s in times_s]
    label = "time since the start (min:s)"
    return _plot(title, unit, label, across, list(times_s), shown, [line], False, 0.0, height)


def percentiles(title: str, curves: Sequence[tuple[str, str, Sequence[tuple[float, float]]]], height: int = 320) -> str:
    """Latency by percentile as HdrHistogram shows it: the axis gives each further nine the same room.

    curves: (name, colour, (percentile, milliseconds) rising); they may have different percentiles.
    """
    highest = max((curve[-1][0] for _, _, curve in curves if curve), default=99.0)
    nines = max(2.0, math.log10(100.0 / max(100.0 - highest, 1e-7)))
    ticks = [(0.0, "0 %"), (_nines(50.0), "50"), (1.0, "90"), (2.0, "99")]
    ticks += [(float(n), f"99.{'9' * (n - 2)}") for n in range(3, int(nines) + 1)]
    across = Scale(0.0, nines, _LEFT, WIDTH - _RIGHT, False, tuple(ticks))
    every = sorted({percentile for _, _, curve in curves for percentile, _ in curve})
    lines = [Line(name, colour, [_at(curve, percentile) for percentile in every]) for name, colour, curve in curves]
    shown = [f"{percentile:.10g} %" for percentile in every]
    places = [_nines(percentile) for percentile in every]
    return _plot(title, "ms", "percentile of calls", across, places, shown, lines, True, 0.0, height)


def _nines(percentile: float) -> float:
    return math.log10(100.0 / max(100.0 - percentile, 1e-7))


def _at(curve: Sequence[tuple[float, float]], percentile: float) -> float | None:
    """The value of a curve at a percentile, as far as the curve goes."""
    before = None
    for at, value in curve:
        if at > percentile:
            return value if before is None else before
        before = value
    return before if curve and percentile <= curve[-1][0] else None


def _plot(
    title: str,
    unit: str,
    x_label: str,
    across: Scale,
    places: Sequence[float],
    shown: Sequence[str],
    lines: Sequence[Line],
    log: bool,
    warm_up_s: float,
    height: int,
) -> str:
    values = [value for line in lines for value in line.values if value is not None]
    bottom = height - _BOTTOM
    up = logarithmic(values, bottom, _TOP) if log else linear(values, bottom, _TOP)
    parts = [_grid(across, up, x_label, unit, height)]
    if warm_up_s:
        width = across(warm_up_s) - _LEFT
        parts.append(f'<rect class="warm" x="{_LEFT}" y="{_TOP}" width="{width:g}" height="{bottom - _TOP}"/>')
        parts.append(f'<text class="note" x="{_LEFT + 6}" y="{bottom - 7}">warm-up</text>')
    parts += [_drawn(line, places, across, up, bottom) for line in lines]
    parts.append(f'<line class="cursor" x1="0" x2="0" y1="{_TOP}" y2="{bottom}" visibility="hidden"/>')
    data = {
        "x": [across(place) for place in places],
        "at": list(shown),
        "unit": unit,
        "lines": [
            {"name": line.name, "colour": line.colour, "values": [_short(value) for value in line.values]}
            for line in lines
        ],
    }
    legend = "".join(
        f'<span class="key {line.style}"><i style="--c:var(--{line.colour})"></i>{html.escape(line.name)}</span>'
        for line in lines
    )
    told = html.escape(json.dumps(data, separators=(",", ":")), quote=True)
    return (
        f'<figure class="plot"><figcaption><b>{html.escape(title)}</b><span class="legend">{legend}</span></figcaption>'
        f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{html.escape(title, quote=True)}" '
        f'data-plot="{told}">{"".join(parts)}</svg></figure>'
    )


def _short(value: float | None) -> str | None:
    return None if value is None else number(value)


def _grid(across: Scale, up: Scale, x_label: str, unit: str, height: int) -> str:
    bottom, right = height - _BOTTOM, WIDTH - _RIGHT
    parts = []
    for value, text in up.ticks:
        y = up(value)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{right}" y1="{y}" y2="{y}"/>')
        parts.append(f'<text class="tick" x="{_LEFT - 8}" y="{y + 4}" text-anchor="end">{text}</text>')
    for value, text in across.ticks:
        x = across(value)
        parts.append(f'<line class="grid" x1="{x}" x2="{x}" y1="{_TOP}" y2="{bottom}"/>')
        parts.append(f'<text class="tick" x="{x}" y="{bottom + 17}" text-anchor="middle">{html.escape(text)}</text>')
    parts.append(f'<line class="axis" x1="{_LEFT}" x2="{right}" y1="{bottom}" y2="{bottom}"/>')
    middle = (_LEFT + right) / 2
    below = f'x="{middle}" y="{height - 5}"'
    beside = f'transform="translate(12 {(_TOP + bottom) / 2}) rotate(-90)"'
    for place, text in ((below, x_label), (beside, unit)):
        parts.append(f'<text class="label" {place} text-anchor="middle">{html.escape(text)}</text>')
    return "".join(parts)


def _drawn(line: Line, places: Sequence[float], across: Scale, up: Scale, bottom: float) -> str:
    """A line, broken where there is no value; a lone value is a dot."""
    runs: list[list[str]] = [[]]
    for place, value in zip(places, line.values, strict=False):
        if value is None:
            runs.append([])
        else:
            runs[-1].append(f"{across(place)},{up(value)}")
    style = f'style="--c:var(--{line.colour})"'
    drawn = []
    for run in runs:
        if not run:
            continue
        if len(run) == 1:
            x, y = run[0].split(",")
            drawn.append(f'<circle class="dot" {style} cx="{x}" cy="{y}" r="2"/>')
            continue
        if line.style == "area":
            first, last = run[0].split(",")[0], run[-1].split(",")[0]
            drawn.append(f'<polygon class="fill" {style} points="{first},{bottom} {" ".join(run)} {last},{bottom}"/>')
        drawn.append(f'<polyline class="line {line.style}" {style} points="{" ".join(run)}"/>')
    return "".join(drawn)
