"""Reports: whole HTML, nothing from elsewhere, nothing that names a host or a user, and data that stays data."""

from __future__ import annotations

import json
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from loadtest import comparing
from loadtest.report import compare_report, run_report
from loadtest.report.plots import Line, over_time, percentiles
from loadtest.report.scales import linear, logarithmic, seconds
from tests.support.loadtests import check
from tests.unit.loadtest.test_verdicts import measured, result, scenario


def test_a_report_is_whole_and_alone(tmp_path: Path) -> None:
    made = result(measured(errors=30), scenario(p99_max_ms=5, error_max_ratio=0.5))
    run_report.write(made, tmp_path / "report.html")
    text = check(tmp_path / "report.html")
    for words in ("limits broken", "p99_max_ms", "INTERNAL", "Latency of Decide", "percentile", "sha256:00", "grpcio"):
        assert words in text
    assert "prefers-color-scheme: dark" in text


def test_a_report_says_when_the_generator_was_the_limit(tmp_path: Path) -> None:
    held = measured()
    for _ in range(100):
        held.lag.note(900_000)
    run_report.write(result(held), tmp_path / "report.html")
    assert "say nothing about the server" in check(tmp_path / "report.html")


def test_data_stays_data(tmp_path: Path) -> None:
    made = result(measured(errors=3))
    made.calls["Decide"].reasons["<script>alert('x')</script>"] = 2
    made.scenario["description"] = '"><img src=x onerror=1>'
    run_report.write(made, tmp_path / "report.html")
    text = check(tmp_path / "report.html")
    assert text.count("<script>") == 1


def test_a_comparison_is_whole_and_alone(tmp_path: Path) -> None:
    before, after = result(measured()), result(measured(slower=2, seed=4))
    compare_report.write(before, after, comparing.compare(before, after), tmp_path / "compare.html")
    text = check(tmp_path / "compare.html")
    assert "p99 before" in text
    assert "p99 after" in text
    assert "worse" in text


def test_plots_hold_their_values_for_the_cursor() -> None:
    plot = over_time("A <title>", "ms", 2.0, [Line("p50", "blue", [1.5, None, 3.0])], log=True)
    svg = ElementTree.fromstring(re.findall(r"<svg.*?</svg>", plot)[0])
    data = json.loads(svg.attrib["data-plot"])
    assert data["lines"][0]["values"] == ["1.5", None, "3"]
    assert data["at"] == ["0 s", "2 s", "4 s"]
    # A gap is a gap: two lone values are two dots and no line.
    assert len(svg.findall("circle")) == 2
    assert svg.findall("polyline") == []


def test_curves_of_different_length_share_a_plot() -> None:
    plot = percentiles("P", [("a", "blue", [(0, 1), (50, 2), (99, 9)]), ("b", "red", [(0, 1), (50, 3)])])
    data = json.loads(ElementTree.fromstring(re.findall(r"<svg.*?</svg>", plot)[0]).attrib["data-plot"])
    assert [line["values"] for line in data["lines"]] == [["1", "2", "9"], ["1", "3", None]]


@pytest.mark.parametrize("values", [[], [0.0], [3e-4], [0.2, 5000], [99.9], [1e7, 2e7]])
def test_axes_hold_all_values(values: list[float]) -> None:
    for scale in (linear(values, 300, 10), logarithmic(values, 300, 10)):
        assert scale.ticks
        assert len(scale.ticks) <= 20
        assert all(10 <= scale(value) <= 300 for value in (*values, *(tick for tick, _ in scale.ticks)))
    assert len(seconds(max(values, default=0), 0, 100).ticks) <= 13
