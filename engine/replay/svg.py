"""Small plots as SVG that stands inside a page: bars over bins, pairs of rates, predicted against observed.

Colours come from the page's style sheet (`var(--recorded)`, `var(--other)`, `var(--ink)`, `var(--line)`), so that a
plot follows the page into the dark. Every plot has a title and a description for who cannot see it, and its numbers
stand in a table beside it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from itertools import count

_WIDTH = 720
_ids = count(1)


def bars(title: str, unit: str, bins: Sequence[tuple[float, int]]) -> str:
    """A histogram of shifts. bins: (middle, count) in order, evenly spaced; the bin at zero stands out."""
    height, left, bottom, top = 240, 56, 46, 14
    most = max((n for _, n in bins), default=0) or 1
    width = (_WIDTH - left - 10) / max(len(bins), 1)
    parts = _grid(most, left, top, height - bottom)
    every = max(1, math.ceil(len(bins) / 13))
    for place, (middle, number) in enumerate(bins):
        x = left + place * width
        tall = (height - bottom - top) * number / most
        shade = "var(--line-strong)" if middle == 0 else "var(--other)" if middle > 0 else "var(--recorded)"
        told = f"{_signed(middle)} {unit}: {number:,}"
        parts.append(
            f'<rect x="{x + width * 0.08:.1f}" y="{height - bottom - tall:.1f}" width="{width * 0.84:.1f}" '
            f'height="{tall:.1f}" fill="{shade}" rx="1.5"><title>{escape(told)}</title></rect>'
        )
        if place % every == 0 or middle == 0:
            parts.append(_text(x + width / 2, height - bottom + 16, _signed(middle), "middle"))
    parts.append(_text(left + (_WIDTH - left) / 2, height - 8, unit, "middle", "quiet"))
    total = sum(n for _, n in bins)
    still = sum(n for middle, n in bins if middle == 0)
    return _figure(title, f"{total:,} records; {still:,} in the bin around zero.", height, parts)


def pairs(title: str, rows: Sequence[tuple[str, int, float, float]]) -> str:
    """Two rates for each of several rows, as two dots on a line. rows: (name, records, recorded, other); 1 is all."""
    line, left, top, right = 24, 200, 26, 90
    height = top + line * len(rows) + 24
    span = _WIDTH - left - right

    most = max((max(before, after) for _, _, before, after in rows), default=0.0)
    end = next(e for e in (0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0) if most <= e or e == 1.0)

    def x(rate: float) -> float:
        return left + span * rate / end

    parts = []
    for step in range(5):
        tick = end * step / 4
        parts.append(_line(x(tick), top - 6, x(tick), height - 22))
        parts.append(_text(x(tick), height - 8, f"{tick:.1%}", "middle"))
    for place, (name, number, before, after) in enumerate(rows):
        y = top + line * place + line / 2
        parts.append(_text(left - 12, y + 4, _short(name), "end"))
        parts.append(
            f'<line x1="{x(before):.1f}" y1="{y}" x2="{x(after):.1f}" y2="{y}" stroke="var(--line-strong)" '
            'stroke-width="3"/>'
        )
        # A ring and a dot, so that both are seen where they are the same.
        told = f"{name}: {before:.1%} recorded, {after:.1%} other bundle, {number:,} records"
        parts.append(
            f'<g><title>{escape(told)}</title><circle cx="{x(before):.1f}" cy="{y}" r="6.5" fill="var(--paper)" '
            f'stroke="var(--recorded)" stroke-width="2.5"/><circle cx="{x(after):.1f}" cy="{y}" r="4" '
            'fill="var(--other)"/></g>'
        )
        parts.append(_text(_WIDTH - right + 14, y + 4, f"{number:,}", "start", "quiet"))
    told = "; ".join(f"{name} {before:.0%} to {after:.0%}" for name, _, before, after in rows[:20])
    return _figure(title, told, height, parts)


def calibration(title: str, sides: Sequence[tuple[str, Sequence[tuple[float, float, int]]]]) -> str:
    """Predicted against observed rates. sides: ("recorded" or "other", points (predicted, observed, records))."""
    height, left, bottom, top = 320, 56, 46, 14
    points = [point for _, found in sides for point in found]
    most = max((max(p, o) for p, o, _ in points), default=0.0) or 0.01
    end = min(1.0, most * 1.1)
    wide, tall = 460, height - bottom - top

    def place(predicted: float, observed: float) -> tuple[float, float]:
        return left + wide * predicted / end, height - bottom - tall * observed / end

    parts = []
    for step in range(5):
        rate = end * step / 4
        x, y = place(rate, rate)
        parts += [_line(left, y, left + wide, y), _line(x, top, x, height - bottom)]
        parts += [_text(left - 8, y + 4, f"{rate:.1%}", "end"), _text(x, height - bottom + 16, f"{rate:.1%}", "middle")]
    (x0, y0), (x1, y1) = place(0, 0), place(end, end)
    parts.append(
        f'<line x1="{x0:.1f}" y1="{y0:.1f}" x2="{x1:.1f}" y2="{y1:.1f}" stroke="var(--line-strong)" '
        'stroke-dasharray="4 4"/>'
    )
    largest = max((n for _, _, n in points), default=1) or 1
    for name, found in sides:
        path = " ".join(
            f"{'L' if i else 'M'}{x:.1f} {y:.1f}" for i, (x, y) in enumerate(place(p, o) for p, o, _ in found)
        )
        if path:
            parts.append(f'<path d="{path}" fill="none" stroke="var(--{name})" stroke-width="2"/>')
        for predicted, observed, number in found:
            x, y = place(predicted, observed)
            told = f"{name}: predicted {predicted:.2%}, observed {observed:.2%}, {number:,} records"
            parts.append(
                f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{3 + 6 * math.sqrt(number / largest):.1f}" '
                f'fill="var(--{name})" fill-opacity="0.75"><title>{escape(told)}</title></circle>'
            )
    parts.append(_text(left + wide / 2, height - 8, "predicted probability", "middle", "quiet"))
    parts.append(_text(left + wide + 24, top + 20, "dots: bands of probability,", "start", "quiet"))
    parts.append(_text(left + wide + 24, top + 38, "larger for more records", "start", "quiet"))
    parts.append(_text(left + wide + 24, top + 62, "dashed: as predicted", "start", "quiet"))
    told = "; ".join(f"{name}: predicted {p:.1%}, observed {o:.1%}" for name, found in sides for p, o, _ in found)
    return _figure(title, told, height, parts)


def _grid(most: int, left: float, top: float, floor: float) -> list[str]:
    parts = []
    for step in range(5):
        y = floor - (floor - top) * step / 4
        parts.append(_line(left, y, _WIDTH - 10, y))
        parts.append(_text(left - 8, y + 4, f"{most * step / 4:,.0f}", "end"))
    return parts


def _figure(title: str, told: str, height: float, parts: Sequence[str]) -> str:
    number = next(_ids)
    return (
        f'<svg viewBox="0 0 {_WIDTH} {height}" role="img" aria-labelledby="t{number} d{number}">'
        f'<title id="t{number}">{escape(title)}</title><desc id="d{number}">{escape(told)}</desc>{"".join(parts)}</svg>'
    )


def _line(x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="var(--line)"/>'


def _text(x: float, y: float, content: str, anchor: str, kind: str = "") -> str:
    quiet = ' class="quiet"' if kind else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{quiet}>{escape(content)}</text>'


def _signed(number: float) -> str:
    return f"{number:+g}" if number else "0"


def _short(name: str) -> str:
    return name if len(name) <= 27 else name[:26] + "…"
