"""The report of two runs beside each other."""

from __future__ import annotations

import html
from collections.abc import Iterator
from pathlib import Path

from loadtest.comparing import Comparison
from loadtest.measures import ALL
from loadtest.report import plots
from loadtest.report.page import badge, notice, page, picked, table
from loadtest.report.plots import Line
from loadtest.report.run_report import VERDICTS
from loadtest.report.scales import number
from loadtest.results import Result

_STANDING = {"same": "", "better": "good", "worse": "bad", "not judged": "warn"}
_VERDICT = {
    "no worse": ("good", "no worse"),
    "worse": ("bad", "worse"),
    "generator_limited": ("warn", "not comparable: a generator was the limit"),
}


def write(before: Result, after: Result, found: Comparison, path: Path) -> None:
    """Writes the report of two runs."""
    title = f"{before.name}: two runs" if before.name == after.name else f"{before.name} and {after.name}"
    path.write_text(page(title, _body(title, before, after, found)), encoding="utf-8")


def _body(title: str, before: Result, after: Result, found: Comparison) -> Iterator[str]:
    kind, words = _VERDICT[found.verdict]
    yield f"<header><h1>{html.escape(title)}{badge(kind, words)}</h1>"
    yield f'<p class="soft">No figure of the second may be more than {found.tolerance:.0%} worse.</p></header>'
    if found.notes:
        yield notice("warn", "Before you compare", found.notes)
    rows = []
    for name, run in (("before", before), ("after", after)):
        badge_kind, badge_words = VERDICTS[run.verdict]
        moment = run.began.replace("T", " ").replace("+00:00", " UTC")
        cpu = f"{run.machine['cpu']}, {run.machine['cores']} cores"
        cells = [name, run.name, moment, run.commit or "–", cpu]
        rows.append([*(html.escape(str(cell)) for cell in cells), badge(badge_kind, badge_words)])
    yield table(["", "scenario", "began", "commit", "machine", ""], rows, left=5)
    both = [rpc for rpc in before.calls if rpc in after.calls]
    yield "<h2>Over time</h2>"
    yield picked("time", [(rpc, _over_time(before, after, rpc)) for rpc in both])
    yield "<h2>Latency by percentile</h2>"
    yield picked("percentiles", [(rpc, _percentiles(before, after, rpc)) for rpc in both])
    yield "<h2>Figures</h2>"
    yield table(["RPC", "figure", "before", "after", "after / before", ""], _rows(found), left=2)
    if found.only_in_one:
        yield f'<p class="soft">In one run only: {html.escape(", ".join(found.only_in_one))}.</p>'


def _rows(found: Comparison) -> Iterator[list[str]]:
    for one in found.figures:
        ratio = "–" if one.ratio is None else f"{one.ratio:.2f}"
        kind = _STANDING[one.standing]
        word = badge(kind, one.standing) if kind else '<span class="soft">same</span>'
        if one.why:
            word += f' <span class="soft">{html.escape(one.why)}</span>'
        yield [one.rpc, one.name, number(one.before), number(one.after), ratio, word]


def _over_time(before: Result, after: Result, rpc: str) -> str:
    name = "all calls" if rpc == ALL else rpc
    first, second = before.series[rpc], after.series[rpc]
    interval_s = max(before.interval_s, after.interval_s)
    if before.interval_s != after.interval_s:
        return '<div class="card soft">The runs last too differently long to be drawn over each other.</div>'
    latency = plots.over_time(
        f"Latency of {name}",
        "ms",
        interval_s,
        [
            Line("p50 before", "blue", first["p50_ms"], "dashed"),
            Line("p99 before", "blue", first["p99_ms"]),
            Line("p50 after", "orange", second["p50_ms"], "dashed"),
            Line("p99 after", "orange", second["p99_ms"]),
        ],
        log=True,
        warm_up_s=float(before.scenario["warm_up_s"]),
    )
    rate = plots.over_time(
        "Calls answered",
        "per second",
        interval_s,
        [Line("before", "blue", first["answered_rps"]), Line("after", "orange", second["answered_rps"])],
        height=220,
    )
    return latency + rate


def _percentiles(before: Result, after: Result, rpc: str) -> str:
    name = "all calls" if rpc == ALL else rpc
    curves = [("before", "blue", before.calls[rpc].curve), ("after", "orange", after.calls[rpc].curve)]
    return plots.percentiles(f"Latency of {name} by percentile", curves)
