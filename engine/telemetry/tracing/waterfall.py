"""One trace as a waterfall in the terminal: what took how long, one beneath the other, with what there is to know."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from engine.telemetry.tracing import names
from engine.telemetry.tracing.search import StoredSpan, StoredTrace

_BAR_CELLS = 24
_FAILED = 2
_EIGHTHS = " ▏▎▍▌▋▊▉█"
# Said in the heading already, or the same in every trace.
_HIDDEN = frozenset({names.RPC_SYSTEM, names.RPC_METHOD, names.DECISION_ID, names.VERDICT})
_STYLES = {1: "cyan", 2: "green", 3: "magenta"}
_FACTS_MAX = 6


def waterfall(trace: StoredTrace) -> RenderableType:
    """The trace, to be printed with rich."""
    begin_ns = min(span.start_ns for span in trace.spans)
    total_ns = max(1, max(span.end_ns for span in trace.spans) - begin_ns)
    table = Table(box=None, padding=(0, 1), pad_edge=False, header_style="dim")
    table.add_column("span", no_wrap=True)
    table.add_column("ms", justify="right", no_wrap=True)
    table.add_column("", no_wrap=True, min_width=_BAR_CELLS)
    table.add_column("", overflow="fold")
    ordered = list(_in_order(trace.spans))
    for span, depth in ordered:
        failed = span.status_code == _FAILED
        name = Text("  " * depth + _name(span), style="bold red" if failed else "bold" if depth == 0 else "")
        bar = _bar(span.start_ns - begin_ns, span.end_ns - span.start_ns, total_ns)
        table.add_row(
            name,
            f"{(span.end_ns - span.start_ns) / 1e6:.3f}",
            Text(bar, style="red" if failed else _STYLES.get(span.kind, "cyan")),
            Text(_facts(span) if depth else span.status_message, style="dim"),
        )
    return Group(_heading(trace, begin_ns, total_ns), "", table, "", _root_facts(ordered))


def _name(span: StoredSpan) -> str:
    """Short enough for a narrow terminal: a call without its package, a model by its own name."""
    if "/" in span.name:
        return span.name.rpartition(".")[2]
    model = span.attributes.get(names.MODEL_ID)
    return f"{span.name} {model}" if model else span.name


def _heading(trace: StoredTrace, begin_ns: int, total_ns: int) -> Text:
    text = Text.assemble(("trace ", "dim"), (trace.trace_id, "bold"))
    begun = datetime.fromtimestamp(begin_ns / 1e9, UTC).isoformat(timespec="milliseconds")
    text.append(f"  {begun}  {total_ns / 1e6:.3f} ms  {len(trace.spans)} spans", style="dim")
    for span in trace.spans:
        if decision_id := span.attributes.get(names.DECISION_ID):
            text.append(f"\ndecision {decision_id}", style="dim")
            text.append(f"  {span.attributes.get(names.VERDICT, '')}", style="bold")
    return text


def _root_facts(ordered: list[tuple[StoredSpan, int]]) -> Table:
    """The attributes of the server spans, in full."""
    facts = Table(box=None, show_header=False, padding=(0, 1), pad_edge=False)
    facts.add_column(style="dim", no_wrap=True)
    facts.add_column(overflow="fold")
    for span, depth in ordered:
        if depth == 0:
            for key, value in span.attributes.items():
                if key not in _HIDDEN:
                    facts.add_row(key, Text(_shown(value)))
    return facts


def _in_order(spans: tuple[StoredSpan, ...]) -> Iterator[tuple[StoredSpan, int]]:
    """Parents before their children, children by their start; each with its depth. A span whose parent is elsewhere
    (the caller's) or lost stands at the top."""
    known = {span.span_id for span in spans}
    children: dict[str, list[StoredSpan]] = defaultdict(list)
    for span in spans:
        children[span.parent_id if span.parent_id in known and span.parent_id != span.span_id else ""].append(span)
    seen: set[str] = set()
    stack = [(span, 0) for span in reversed(children[""])]
    while stack:
        span, depth = stack.pop()
        if span.span_id not in seen:
            seen.add(span.span_id)
            yield span, depth
            stack += [(child, depth + 1) for child in reversed(children[span.span_id])]


def _bar(offset_ns: int, duration_ns: int, total_ns: int) -> str:
    """A bar with eighths of a cell; never so short that it cannot be seen."""
    begin = round(offset_ns / total_ns * _BAR_CELLS * 8)
    end = max(begin + 1, round((offset_ns + duration_ns) / total_ns * _BAR_CELLS * 8))
    end = min(end, _BAR_CELLS * 8)
    begin = min(begin, end - 1)
    cells = []
    for cell in range(_BAR_CELLS):
        low, high = max(begin, cell * 8), min(end, cell * 8 + 8)
        if high <= low:
            cells.append(" ")
        elif low > cell * 8 and high == cell * 8 + 8:
            # Blocks grow from the left; a right half is all there is of the others.
            cells.append("▐" if low - cell * 8 >= 3 else "█")
        else:
            cells.append(_EIGHTHS[high - low])
    return "".join(cells)


def _facts(span: StoredSpan) -> str:
    shown = []
    for key, value in span.attributes.items():
        if key not in _HIDDEN and value not in ("", 0, False, ()):
            shown.append(f"{key.removeprefix(span.name + '.').removeprefix('assay.')}={_shown(value)}")
    more = [f"+{len(shown) - _FACTS_MAX}"] if len(shown) > _FACTS_MAX else []
    failed = [span.status_message] if span.status_code == _FAILED and span.status_message else []
    return " ".join([*failed, *shown[:_FACTS_MAX], *more])


def _shown(value: Any) -> str:
    if isinstance(value, tuple):
        return ", ".join(map(_shown, value))
    return f"{value:g}" if isinstance(value, float) else str(value).lower() if isinstance(value, bool) else str(value)
