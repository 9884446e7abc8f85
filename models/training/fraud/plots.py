"""The plots beside the model card, each a PNG under 60 KB."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import numpy.typing as npt

matplotlib.use("Agg")

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from models.training.fraud.evaluate import Figures, calibration_bands
from models.training.fraud.schemes import FRAUD_TYPES

Floats = npt.NDArray[np.float64]
_SIZE = (6.4, 4.2)
_BLUE, _RED, _GREY = "#2b6cb0", "#c0392b", "#8a8f98"
_LEVEL_COLOURS = {"easy": "#7fb77e", "medium": "#e0a030", "hard": _RED}


def _new(title: str, x: str, y: str) -> Axes:
    _, axes = plt.subplots(figsize=_SIZE)
    axes.set_title(title, loc="left", fontsize=11)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.spines[["top", "right"]].set_visible(False)
    return axes


def _save(axes: Axes, path: Path) -> None:
    """Written with at most 128 colours, and neither date nor version: small, and the same bytes every time."""
    figure = axes.figure
    assert isinstance(figure, Figure)
    figure.tight_layout()
    drawn = BytesIO()
    figure.savefig(drawn, dpi=88, format="png")
    plt.close(figure)
    image = Image.open(drawn).convert("RGB").quantize(128, dither=Image.Dither.NONE)
    image.save(path, optimize=True)


def roc(curves: Mapping[str, tuple[Floats, npt.NDArray[np.bool_]]], aucs: Mapping[str, float], path: Path) -> None:
    """One curve a difficulty level: raw scores and whether each was fraud."""
    axes = _new("ROC on later weeks, by difficulty of the stream", "honest applications stopped", "frauds caught")
    for name, (raw, fraud) in curves.items():
        order = np.argsort(-raw, kind="stable")
        caught, stopped = np.cumsum(fraud[order]) / fraud.sum(), np.cumsum(~fraud[order]) / (~fraud).sum()
        axes.plot(stopped, caught, color=_LEVEL_COLOURS.get(name), label=f"{name} (AUC {aucs[name]:.3f})")
    axes.plot([0, 1], [0, 1], color=_GREY, lw=0.8, ls="--")
    axes.axvline(0.05, color=_GREY, lw=0.8, ls=":")
    axes.text(0.06, 0.05, "5 % of honest", color=_GREY, fontsize=8)
    axes.legend(frameon=False, loc="lower right")
    _save(axes, path)


def ks(points: Floats, fraud: npt.NDArray[np.bool_], path: Path) -> None:
    """Cumulative shares of honest applications and frauds over the score."""
    grid = np.arange(0, 1000)
    passed = np.searchsorted(np.sort(points[~fraud]), grid, side="right") / (~fraud).sum()
    caught = np.searchsorted(np.sort(points[fraud]), grid, side="right") / fraud.sum()
    at = int(np.argmax(passed - caught))
    axes = _new(f"Kolmogorov-Smirnov distance {passed[at] - caught[at]:.3f} at {at} points", "points", "share below")
    axes.plot(grid, passed, color=_BLUE, label="honest")
    axes.plot(grid, caught, color=_RED, label="fraud")
    axes.vlines(at, caught[at], passed[at], color=_GREY, ls="--", lw=1)
    axes.legend(frameon=False)
    _save(axes, path)


def calibration(probability: Floats, fraud: npt.NDArray[Any], path: Path) -> None:
    """Predicted against observed in 20 bands of equal size, on logarithmic axes."""
    predicted, seen, size = calibration_bands(probability, fraud)
    axes = _new(
        "Calibration on later weeks, 20 bands of equal size", "mean predicted", "share of frauds (95 % interval)"
    )
    error = 1.96 * np.sqrt(np.maximum(seen, 1 / size) * (1 - seen) / size)
    floor = 2e-4
    low = np.minimum(error, np.maximum(seen - floor, 0))
    shown = np.maximum(seen, floor)
    axes.errorbar(predicted, shown, yerr=[low, error], fmt="o", ms=4, color=_BLUE, lw=1, label="band")
    ends = np.array([min(predicted.min(), floor), 1.0])
    axes.plot(ends, ends, color=_GREY, lw=0.8, ls="--", label="perfect")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.legend(frameon=False)
    _save(axes, path)


def score_distribution(points: Floats, fraud: npt.NDArray[np.bool_], gate: float, path: Path) -> None:
    """Shares of honest applications and frauds over the score."""
    axes = _new("Score on later weeks (higher is riskier)", "points", "share of its kind in 20 points")
    edges = list(range(0, 1001, 20))
    for values, colour, name in ((points[~fraud], _BLUE, "honest"), (points[fraud], _RED, "fraud")):
        axes.hist(
            values, bins=edges, weights=np.full(len(values), 1 / len(values)), color=colour, alpha=0.55, label=name
        )
    axes.axvline(gate, color=_GREY, ls="--", lw=1)
    axes.annotate("5 % of honest above", (gate, axes.get_ylim()[1] * 0.92), xytext=(6, 0),
                  textcoords="offset points", color=_GREY, fontsize=8)  # fmt: skip
    axes.legend(frameon=False, loc="upper right", bbox_to_anchor=(0.93, 1.0))
    _save(axes, path)


def contributions(phi: Floats, values: Floats, names: Sequence[str], path: Path, top: int = 15) -> None:
    """Contributions of the weightiest features, a dot an application, coloured by the feature's own rank."""
    order = np.argsort(-np.abs(phi).mean(axis=0))[:top][::-1]
    figure, axes = plt.subplots(figsize=(7.0, 5.2))
    figure.suptitle("Contributions, in log-odds against honest applications passed (grey: missing)", fontsize=11)
    rng = np.random.default_rng(0)
    dots = None
    for row, at in enumerate(order):
        value = values[:, at]
        known = ~np.isnan(value)
        rank = np.full(len(value), np.nan)
        rank[known] = np.searchsorted(np.sort(value[known]), value[known], side="right") / known.sum()
        height = row + rng.uniform(-0.3, 0.3, len(value))
        axes.scatter(phi[~known, at], height[~known], s=3, color="#cccccc")
        dots = axes.scatter(phi[known, at], height[known], c=rank[known], s=3, cmap="coolwarm", vmin=0, vmax=1)
    axes.set_yticks(range(len(order)), [names[at] for at in order], fontsize=8)
    axes.axvline(0, color=_GREY, lw=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    if dots is not None:
        bar = figure.colorbar(dots, ax=axes, ticks=[0, 1], pad=0.01)
        bar.ax.set_yticklabels(["low", "high"], fontsize=8)
    _save(axes, path)


def recall_by_type(levels: Mapping[str, Figures], path: Path) -> None:
    """Share of each type caught at 5 % false positives, by difficulty."""
    axes = _new("Frauds caught when 5 % of honest applications are stopped", "", "share caught")
    width = 0.8 / len(levels)
    for i, (name, found) in enumerate(levels.items()):
        heights = [found.recall_by_type[kind] for kind in FRAUD_TYPES]
        places = np.arange(len(FRAUD_TYPES)) + (i - (len(levels) - 1) / 2) * width
        bars = axes.bar(places, heights, width * 0.92, color=_LEVEL_COLOURS.get(name), label=name)
        axes.bar_label(bars, fmt="%.2f", fontsize=8)
    axes.set_xticks(range(len(FRAUD_TYPES)), [kind.replace("_", "-") for kind in FRAUD_TYPES])
    axes.set_ylim(0, 1.18)
    axes.legend(frameon=False, ncols=3, loc="upper right")
    _save(axes, path)
