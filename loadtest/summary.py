"""What is said on the terminal when a run, or a comparison, is over."""

from __future__ import annotations

from pathlib import Path

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from loadtest.comparing import Comparison
from loadtest.measures import ALL
from loadtest.report.scales import number
from loadtest.results import Result

_STYLES = {"passed": "bold green", "limits_broken": "bold red", "generator_limited": "bold yellow"}
_WORDS = {
    "passed": "PASSED: every limit was kept",
    "limits_broken": "LIMITS BROKEN",
    "generator_limited": "THE GENERATOR WAS THE LIMIT: these figures say nothing about the server",
}


def show(console: Console, result: Result, report: Path) -> None:
    """A run."""
    table = Table(box=box.SIMPLE, padding=(0, 1), pad_edge=False)
    for column in ("", "calls", "per s", "p50 ms", "p99 ms", "p99.9 ms", "max ms", "errors", "shed"):
        table.add_column(column, justify="right" if column else "left", no_wrap=True)
    for rpc, calls in result.calls.items():
        latency = [number(calls.latency.get(key, 0.0)) for key in ("p50_ms", "p99_ms", "p999_ms", "max_ms")]
        cells = [
            rpc,
            f"{calls.calls:,}",
            number(calls.throughput_rps),
            *latency,
            f"{calls.errors:,}",
            f"{calls.shed:,}",
        ]
        table.add_row(*cells, style="bold" if rpc == ALL else None)
    console.print(table)
    every = result.calls[ALL]
    for reason, count in every.reasons.items():
        console.print(f"error {escape(reason)}: {count:,}")
    console.print(f"{every.decisions:,} decisions, {number(every.decisions_per_s)} a second")
    for one in result.limits:
        found = "nothing to measure" if one.found is None else number(one.found)
        sign, word = ("≤" if one.kind == "max" else "≥"), ("kept  " if one.kept else "BROKEN")
        style = None if one.kept else "red"
        console.print(f"{word} {one.where} {one.limit}: {found}, wanted {sign} {number(one.bound)}", style=style)
    for why in result.generator.why:
        console.print(escape(why), style="yellow")
    console.print(_WORDS[result.verdict], style=_STYLES[result.verdict])
    console.print(f"Report: {report}")


def show_comparison(console: Console, found: Comparison, report: Path) -> None:
    """Two runs."""
    table = Table(box=box.SIMPLE, padding=(0, 1), pad_edge=False)
    for column in ("", "figure", "before", "after", "ratio", ""):
        table.add_column(column, justify="right" if column in ("before", "after", "ratio") else "left", no_wrap=True)
    for one in found.figures:
        ratio = "" if one.ratio is None else f"{one.ratio:.2f}"
        style = {"worse": "red", "better": "green", "not judged": "dim"}.get(one.standing)
        table.add_row(one.rpc, one.name, number(one.before), number(one.after), ratio, one.standing, style=style)
    console.print(table)
    for note in found.notes:
        console.print(f"note: {escape(note)}", style="yellow")
    words = {
        "no worse": ("bold green", "NO WORSE"),
        "worse": ("bold red", "WORSE"),
        "generator_limited": ("bold yellow", "NOT COMPARABLE: a generator was the limit"),
    }
    style, word = words[found.verdict]
    console.print(f"{word} (tolerance {found.tolerance:.0%})", style=style)
    console.print(f"Report: {report}")
