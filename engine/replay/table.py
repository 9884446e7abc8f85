"""The report of a replay for a person at a terminal."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table

from engine.replay.report import VERDICTS

_EXAMPLES = 5


def show(report: dict[str, Any], console: Console) -> None:
    """Prints what there is to know at first sight; the rest is in the JSON file and the page."""
    period = "" if report["since"] is None else f", decided from {report['since']} to {report['until']}"
    _say(console, f"{report['records']:,} recorded decisions from {report['source']}{period}")
    for bundle in report["bundles"]:
        _say(console, f"  {bundle['records']:>10,}  {bundle['name']} {bundle['version']}  {bundle['digest']}")
    for key, told in (
        ("erased", "erased: their personal part is gone, so they were not replayed"),
        ("locked", "sealed, and no key was given: not replayed (--master-key)"),
        ("unreadable", "unreadable"),
        ("damaged_stretches", "damaged stretches of the journal"),
    ):
        if report[key]:
            _say(console, f"  {report[key]:>10,}  {told}")
    if report["kind"] == "replay":
        _replay(report, console)
    else:
        _back_test(report, console)


def _say(console: Console, text: str, style: str = "") -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True, style=style)


def _replay(report: dict[str, Any], console: Console) -> None:
    for one in report["other_environments"]:
        what = one["differs"] or "the recorded environment is not kept with them"
        _say(console, f"  {one['records']:>10,}  recorded in another environment: {what}")
    style = "bold red" if report["different"] else "bold green"
    _say(console, f"{report['identical']:,} identical, {report['different']:,} different", style)
    if not report["different"]:
        return
    table = Table("stage", "value", "cause", "records", title="where they first differ", title_justify="left")
    table.columns[-1].justify = "right"
    for one in report["first_differences"][:20]:
        table.add_row(one["stage"], one["path"], one["cause"], f"{one['records']:,}")
    console.print(table, markup=False)
    for one in report["examples"][:_EXAMPLES]:
        _say(console, f"{one['decision_id']}  {one['stage']}: {one['path']}")
        _say(console, f"    recorded  {one['recorded']}")
        _say(console, f"    replayed  {one['replayed']}")
        _say(console, f"    cause     {one['cause']}: {one['detail']}")


def _back_test(report: dict[str, Any], console: Console) -> None:
    other, compared = report["other"], report["compared"]
    _say(console, f"against {other['name']} {other['version']}  {other['digest']}")
    if report["not_carried"]:
        _say(console, f"  {report['not_carried']:>10,}  could not be carried into it", "bold red")
    if not compared:
        _say(console, "nothing to compare", "bold red")
        return
    cells = {(one["recorded"], one["other"]): one["records"] for one in report["verdicts"]}
    columns = [*VERDICTS, *(["REFUSED"] if any(after == "REFUSED" for _, after in cells) else [])]
    table = Table("recorded \\ other", *columns, "all", title="verdicts", title_justify="left")
    for column in table.columns[1:]:
        column.justify = "right"
    for before in VERDICTS:
        row = [cells.get((before, after), 0) for after in columns]
        table.add_row(before, *(f"{n:,}" if n else "." for n in row), f"{sum(row):,}")
    console.print(table, markup=False)
    swaps = Table("swap set", "records", "asked for", "expected loss", "bad rate", title_justify="left")
    for column in swaps.columns[1:]:
        column.justify = "right"
    for kind, cell in report["swap_set"].items():
        rate = f"{cell['bad_rate']:.2%} of {cell['outcomes']:,}" if "bad_rate" in cell else ""
        losses = [_money(cell.get(f"expected_loss_{side}")) or "0" for side in ("recorded", "other")]
        loss = "" if losses == ["0", "0"] else " → ".join(losses)
        swaps.add_row(kind, f"{cell['records']:,}", _money(cell.get("asked")), loss, rate)
    console.print(swaps, markup=False)
    segments = Table("", "segment", "records", "lent", "out", "in", "mean rate %", title_justify="left")
    for column, width in zip(segments.columns, (8, 8, 9, 14, 5, 5, 14), strict=True):
        # Names give way before numbers do.
        column.no_wrap, column.min_width = True, width
        column.justify = "left" if width == 8 else "right"
    before_dimension = ""
    for one in report["segments"]:
        dimension = one["dimension"]
        if dimension in ("month", "amount band"):
            continue  # long, and in the page
        rates = " → ".join(f"{one[k]:.2f}" for k in ("mean_rate_recorded", "mean_rate_other") if k in one)
        lent = " → ".join(f"{one[k]:.1%}" for k in ("lent_rate_recorded", "lent_rate_other"))
        segments.add_row(
            "" if dimension == before_dimension else dimension,
            "" if dimension == "all" else one["segment"],
            f"{one['records']:,}",
            lent,
            f"{one['swap_out']:,}",
            f"{one['swap_in']:,}",
            rates,
        )
        before_dimension = dimension
    console.print(segments, markup=False)
    for note in report["not_as_recorded"][:20]:
        _say(console, f"  {note['records']:>10,}  {note['flow']}: {note['feature']} {note['why']}")
    for one in report["refused"][:10]:
        _say(console, f"  {one['records']:>10,}  refused: {one['field']} {one['why']}")


def _money(amounts: dict[str, float] | None) -> str:
    return " + ".join(f"{amount:,.0f} {currency}" for currency, amount in (amounts or {}).items())
