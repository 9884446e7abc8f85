"""Small plots as SVG, drawn by hand: a report is one file and asks nothing of anybody's network."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

_WIDTH, _HEIGHT = 420, 320
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 14, 14, 44
# Told apart also by who sees fewer colours (Okabe and Ito's palette).
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#999999")

Points = Sequence[tuple[float, float]]


class Plot:
    """Axes with linear scales from (x0, y0) to (x1, y1); marks are added and then drawn."""

    def __init__(
        self, x: tuple[float, float], y: tuple[float, float], x_name: str, y_name: str, *, as_percent: bool = False
    ) -> None:
        self._x, self._y = _apart(x), _apart(y)
        self._names, self._percent = (x_name, y_name), as_percent
        self._marks: list[str] = []
        self._legend: list[tuple[str, str]] = []

    def line(self, points: Points, colour: str, name: str = "", *, dashed: bool = False) -> None:
        """A line through points."""
        if points:
            path = " ".join(f"{self._at_x(x):.1f},{self._at_y(y):.1f}" for x, y in points)
            dash = ' stroke-dasharray="4 4"' if dashed else ""
            self._marks.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.6"{dash}/>')
        if name:
            self._legend.append((name, colour))

    def dots(self, points: Points, colour: str, name: str = "") -> None:
        """A dot at each point."""
        for x, y in points:
            self._marks.append(f'<circle cx="{self._at_x(x):.1f}" cy="{self._at_y(y):.1f}" r="3" fill="{colour}"/>')
        if name:
            self._legend.append((name, colour))

    def bars(self, spans: Sequence[tuple[float, float, float]], colour: str) -> None:
        """An upright bar from low to high at each x: an interval."""
        for x, low, high in spans:
            at = f"{self._at_x(x):.1f}"
            ends = f'x1="{at}" y1="{self._at_y(low):.1f}" x2="{at}" y2="{self._at_y(high):.1f}"'
            self._marks.append(f'<line {ends} stroke="{colour}" stroke-width="1"/>')

    def draw(self, title: str) -> str:
        """The SVG element. title: read to those who do not see it."""
        parts = [
            f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" xmlns="http://www.w3.org/2000/svg">',
            f"<title>{escape(title)}</title>",
            *self._axes(),
            *self._marks,
        ]
        for place, (name, colour) in enumerate(self._legend[:12]):
            y = _TOP + 14 + 15 * place
            parts.append(f'<rect x="{_LEFT + 10}" y="{y - 8}" width="14" height="3" fill="{colour}"/>')
            parts.append(f'<text x="{_LEFT + 30}" y="{y - 3}">{escape(name)}</text>')
        parts.append("</svg>")
        return "".join(parts)

    def _axes(self) -> list[str]:
        bottom, right = _HEIGHT - _BOTTOM, _WIDTH - _RIGHT
        parts = []
        for step in range(5):
            x = self._x[0] + (self._x[1] - self._x[0]) * step / 4
            y = self._y[0] + (self._y[1] - self._y[0]) * step / 4
            at_x, at_y = self._at_x(x), self._at_y(y)
            parts.append(f'<line class="grid" x1="{at_x:.1f}" y1="{_TOP}" x2="{at_x:.1f}" y2="{bottom}"/>')
            parts.append(f'<line class="grid" x1="{_LEFT}" y1="{at_y:.1f}" x2="{right}" y2="{at_y:.1f}"/>')
            parts.append(
                f'<text x="{at_x:.1f}" y="{bottom + 16}" text-anchor="middle">{self._text(x, x_axis=True)}</text>'
            )
            parts.append(f'<text x="{_LEFT - 6}" y="{at_y + 4:.1f}" text-anchor="end">{self._text(y)}</text>')
        middle_x, middle_y = (_LEFT + right) / 2, (_TOP + bottom) / 2
        parts.append(f'<text x="{middle_x}" y="{_HEIGHT - 8}" text-anchor="middle">{escape(self._names[0])}</text>')
        turned = f'transform="rotate(-90 12 {middle_y})"'
        parts.append(f'<text x="12" y="{middle_y}" text-anchor="middle" {turned}>{escape(self._names[1])}</text>')
        return parts

    def _text(self, value: float, *, x_axis: bool = False) -> str:
        span = self._x if x_axis else self._y
        if self._percent and not x_axis:
            return f"{value:.1%}"
        return f"{value:.3g}" if abs(span[1] - span[0]) < 100 else f"{value:.0f}"

    def _at_x(self, x: float) -> float:
        low, high = self._x
        return _LEFT + (x - low) / (high - low) * (_WIDTH - _LEFT - _RIGHT)

    def _at_y(self, y: float) -> float:
        low, high = self._y
        return _HEIGHT - _BOTTOM - (y - low) / (high - low) * (_HEIGHT - _TOP - _BOTTOM)


def _apart(span: tuple[float, float]) -> tuple[float, float]:
    low, high = span
    return (low, high) if high > low else (low, low + 1.0)
