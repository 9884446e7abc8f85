"""Fills the tables of docs/performance.md from bench.json.

python -m bench.tables
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from bench.run import ROOT

PAGE = ROOT / "docs" / "performance.md"


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines: list[tuple[str, ...]] = [head, ("---",) * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _w1(figures: Mapping[str, Any]) -> str:
    rows = [
        (
            one["variant"],
            str(one["concurrency"]),
            f"{one['cpu_us']:,.0f}",
            f"{one['ratio_to_echo']:.2f}",
            f"{one['rps']:,}",
            f"{one['p50_ms']:.1f} / {one['p99_ms']:.1f}" if one["p50_ms"] else "",
        )
        for one in sorted(figures["results"], key=lambda one: (one["concurrency"], one["cpu_us"]))
    ]
    return (
        _table(("variant", "in flight", "CPU µs", "to echo", "a second", "p50 / p99 ms"), rows)
        + f"\n\nMemory of the server afterwards: {figures['memory_mib']} MiB."
    )


def _stages(figures: Mapping[str, Any]) -> str:
    stages = figures["stages_us"]
    return _table(tuple(stages), [tuple(f"{value:,.0f}" for value in stages.values())])


def _watched(figures: Mapping[str, Any]) -> str:
    rows = [
        (
            one["variant"],
            str(one["concurrency"]),
            f"{one['cpu_us']:,.0f}",
            f"{one['ratio_to_no_traces']:.2f}",
            f"{one['ratio_to_echo']:.2f}",
            f"{one['p50_ms']:.1f} / {one['p99_ms']:.1f}",
        )
        for one in sorted(figures["results"], key=lambda one: one["concurrency"])
    ]
    return _table(("variant", "in flight", "CPU µs", "to no traces", "to echo", "p50 / p99 ms"), rows)


def _soak(figures: Mapping[str, Any]) -> str:
    samples = figures["samples"]
    step = max(1, len(samples) // 8)
    rows = [
        (f"{one['calls']:,}", str(one["s"]), str(one["memory_mib"]), str(one["own_mib"])) for one in samples[::step]
    ]
    return _table(("calls", "seconds", "MiB resident", "of it its own"), rows)


_BLOCKS: Mapping[str, tuple[str, Callable[[Mapping[str, Any]], str]]] = {
    "w1": ("w1", _w1),
    "stages": ("w1", _stages),
    "watched": ("watched", _watched),
    "soak": ("soak", _soak),
}


def fill(page: str, figures: Mapping[str, Any]) -> str:
    """The page with the tables of all figures that there are. Raises ValueError for a block that the page lacks."""
    for block, (key, make) in _BLOCKS.items():
        if key not in figures:
            continue
        begin, end = f"<!-- {block} -->", f"<!-- /{block} -->"
        before, opened, rest = page.partition(begin)
        _, closed, after = rest.partition(end)
        if not opened or not closed:
            raise ValueError(f"{PAGE.name} has no block {block}")
        page = f"{before}{begin}\n{make(figures[key])}\n{end}{after}"
    return page


def main() -> None:
    """Fills them."""
    try:
        figures = json.loads((ROOT / "bench.json").read_text(encoding="utf-8"))
        PAGE.write_text(fill(PAGE.read_text(encoding="utf-8"), figures), encoding="utf-8")
    except (OSError, ValueError) as error:
        sys.exit(f"bench: {error}")


if __name__ == "__main__":
    main()
