"""The plots beside the credit models' cards, each a small PNG."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from numpy.typing import NDArray

matplotlib.use("Agg")

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator
from PIL import Image

from models.training import metrics
from models.training.metrics import Floats, Labels

_BLUE, _RED, _GREY = "#2b6cb0", "#c0392b", "#8a8f98"


def _new(title: str, x: str, y: str, size: tuple[float, float] = (6.4, 4.2)) -> Axes:
    _figure, axes = plt.subplots(figsize=size)
    axes.set_title(title, loc="left", fontsize=11)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.spines[["top", "right"]].set_visible(False)
    return axes


def _save(axes: Axes, path: Path) -> None:
    """With at most 96 colours, and neither date nor version: small, and the same bytes every time."""
    figure = axes.figure
    assert isinstance(figure, Figure)
    figure.tight_layout()
    drawn = BytesIO()
    figure.savefig(drawn, dpi=92, format="png")
    plt.close(figure)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.open(drawn).convert("RGB").quantize(96, dither=Image.Dither.NONE).save(path, optimize=True)


def roc(bad: Labels, raw: Floats, rows: str, path: Path) -> None:
    """The ROC curve. `rows` says which rows they are, for the title."""
    goods, bads = metrics.roc(bad, raw)
    kept = np.unique(np.linspace(0, len(goods) - 1, 2000).round().astype(np.int64))
    axes = _new(f"ROC, {rows}: AUC {metrics.auc(bad, raw):.4f}", "share of goods refused", "share of bads refused")
    axes.plot(goods[kept], bads[kept], color=_BLUE)
    axes.plot([0, 1], [0, 1], color=_GREY, lw=0.8, ls="--")
    _save(axes, path)


def ks(bad: Labels, points: Floats, rows: str, path: Path) -> None:
    """Cumulative shares of goods and bads over the points, with the largest distance."""
    grid = np.arange(300, 851)
    good_share = np.searchsorted(np.sort(points[bad == 0]), grid, side="right") / (bad == 0).sum()
    bad_share = np.searchsorted(np.sort(points[bad == 1]), grid, side="right") / (bad == 1).sum()
    at = int(np.argmax(bad_share - good_share))
    distance = bad_share[at] - good_share[at]
    axes = _new(f"KS, {rows}: {distance:.3f} at {grid[at]} points", "points", "share at or below")
    axes.plot(grid, bad_share, color=_RED, label="bad")
    axes.plot(grid, good_share, color=_BLUE, label="good")
    axes.vlines(grid[at], good_share[at], bad_share[at], color=_GREY, ls="--", lw=1)
    axes.legend(frameon=False, loc="upper left")
    _save(axes, path)


def calibration(bad: Labels, probability: Floats, rows: str, path: Path) -> None:
    """Predicted against observed bad rate in 20 bands of equal size, on logarithmic axes."""
    predicted, seen, size = metrics.calibration_bands(bad, probability)
    error = 1.96 * np.sqrt(np.maximum(seen, 1 / size) * (1 - seen) / size)
    floor = max(float(min(predicted.min(), seen[seen > 0].min())) / 2, 1e-4)
    axes = _new(f"Calibration, {rows}: 20 equal bands", "mean predicted", "observed bad rate (95 % interval)")
    shown = np.maximum(seen, floor)
    axes.errorbar(
        predicted,
        shown,
        yerr=[np.minimum(error, shown - floor), error],
        fmt="o",
        ms=4,
        lw=1,
        color=_BLUE,
        label=f"band (ECE {metrics.ece(bad, probability):.4f})",
    )
    ends = [floor, min(1.0, float(max(predicted.max(), seen.max())) * 1.3)]
    axes.plot(ends, ends, color=_GREY, lw=0.8, ls="--", label="perfect")
    axes.set_xscale("log")
    axes.set_yscale("log")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(FixedLocator([0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0]))
        axis.set_major_formatter(FuncFormatter(lambda share, _: f"{share * 100:.3g} %"))
        axis.set_minor_locator(NullLocator())
    axes.legend(frameon=False)
    _save(axes, path)


def score_distribution(bad: Labels, points: Floats, band: tuple[float, float], rows: str, path: Path) -> None:
    """Shares of goods and bads over the points, with the band that the reference population comes from."""
    axes = _new(f"Points, {rows}", "points", "share of its kind in 10 points")
    edges = list(range(300, 861, 10))
    for values, colour, name in ((points[bad == 0], _BLUE, "good"), (points[bad == 1], _RED, "bad")):
        axes.hist(
            values, bins=edges, weights=np.full(len(values), 1 / len(values)), color=colour, alpha=0.55, label=name
        )
    axes.axvspan(*band, color=_GREY, alpha=0.25, lw=0, label="reference")
    axes.legend(frameon=False, loc="upper left")
    _save(axes, path)


def contributions(points_lost: Floats, values: NDArray[Any], names: Sequence[str], path: Path) -> None:
    """Contributions in points, a dot a row, coloured by the rank of the feature's own value."""
    order = np.argsort(np.abs(points_lost).mean(axis=0))
    axes = _new("Contributions against the reference", "points (left: taken away)", "", (7.2, 4.4))
    rng = np.random.default_rng(0)
    dots = None
    for line, at in enumerate(order):
        value, phi = values[:, at], -points_lost[:, at]
        known = ~np.isnan(value)
        ranked = np.sort(value[known])
        middle = np.searchsorted(ranked, value[known], "left") + np.searchsorted(ranked, value[known], "right")
        height = line + rng.uniform(-0.3, 0.3, len(value))
        axes.scatter(phi[~known], height[~known], s=3, color="#bbbbbb")
        dots = axes.scatter(
            phi[known], height[known], c=middle / 2 / max(known.sum(), 1), s=3, cmap="coolwarm", vmin=0, vmax=1
        )
    axes.set_yticks(range(len(order)), [names[at] for at in order], fontsize=8)
    axes.axvline(0, color=_GREY, lw=0.8)
    assert dots is not None
    bar = axes.figure.colorbar(dots, ax=axes, ticks=[0, 1], pad=0.01)
    bar.ax.set_yticklabels(["low", "high"], fontsize=8)
    bar.set_label("value (grey: missing)", fontsize=8)
    _save(axes, path)


def drift(years: Sequence[int], predicted: Floats, seen: Floats, psi: Floats, first_test: int, path: Path) -> None:
    """Predicted and observed bad rate by year of approval, and the score's PSI."""
    axes = _new("Drift by year of approval", "year", "bad rate")
    axes.plot(years, seen, color=_RED, marker="o", ms=4, label="observed")
    axes.plot(years, predicted, color=_BLUE, marker="o", ms=4, label="predicted")
    axes.axvspan(min(years) - 0.5, first_test - 0.5, color=_GREY, alpha=0.15, lw=0, label="training")
    axes.set_xlim(min(years) - 0.5, max(years) + 0.5)
    axes.set_ylim(0, None)
    axes.set_xticks(list(years))
    right = axes.twinx()
    right.bar(years, psi, width=0.5, color=_GREY, alpha=0.5, label="PSI of points")
    right.set_ylim(0, max(0.5, float(psi.max()) * 2.5))
    right.set_ylabel("PSI")
    right.spines[["top"]].set_visible(False)
    lines, names = axes.get_legend_handles_labels()
    more, more_names = right.get_legend_handles_labels()
    axes.legend([*lines, *more], [*names, *more_names], frameon=False, fontsize=8, loc="upper left")
    _save(axes, path)
