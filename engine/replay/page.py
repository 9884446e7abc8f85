"""The report of a replay as one HTML page: nothing is fetched from anywhere; it prints, and reads in light and dark."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

from engine.replay import svg
from engine.replay.page_style import STYLE
from engine.replay.report import VERDICTS

_POLICY = "default-src 'none'; style-src 'unsafe-inline'"
_KEY = (
    '<div class="key"><span><i style="background:var(--recorded)"></i>as recorded</span>'
    '<span><i style="background:var(--other)"></i>other bundle</span></div>'
)
_CORNERS = {
    "kept in": "lent, and would be lent",
    "swap out": "lent, and would no longer be",
    "swap in": "not lent, and would be",
    "kept out": "not lent, and would not be",
}


def make_page(report: dict[str, Any]) -> str:
    """The page for a report that `make_report` made."""
    back_test = report["kind"] == "back-test"
    title = _title(report)
    body = _back_test(report) if back_test else _replay(report)
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head><body><main>"
        f"<h1>{escape(title)}</h1>{_lead(report)}{body}{_made_from(report)}</main></body></html>\n"
    )


def _title(report: dict[str, Any]) -> str:
    if report["kind"] == "replay":
        return "Replay of recorded decisions"
    return f"Back-test of {report['other']['name']} {report['other']['version']}"


def _lead(report: dict[str, Any]) -> str:
    period = "" if report["since"] is None else f", decided {_day(report['since'])} to {_day(report['until'])} UTC"
    return f'<p class="lead">{report["records"]:,} recorded decisions{escape(period)}; {escape(report["source"])}</p>'


def _day(moment: str) -> str:
    return moment[:16].replace("T", "\u00a0")


# --- back-test ----------------------------------------------------------------------------------------------------


def _back_test(report: dict[str, Any]) -> str:
    whole = next((s for s in report["segments"] if s["dimension"] == "all"), None)
    if whole is None:
        return "<p>No recorded decision could be decided by the other bundle.</p>"
    parts = [_figures(report, whole), _matrix(report), _corners(report), _shifts(report), _by_segment(report)]
    if report["outcomes_known"]:
        parts.append(_calibrated(report))
    parts += [_not_as_recorded(report), _examples(report)]
    return "".join(parts)


def _figures(report: dict[str, Any], whole: dict[str, Any]) -> str:
    compared = report["compared"] or 1
    cards = [
        (f"{report['compared']:,}", "decisions compared"),
        (f"{report['same_verdict'] / compared:.1%}", "came out with the same verdict"),
        (
            f"{whole['lent_rate_recorded']:.1%} → {whole['lent_rate_other']:.1%}",
            "would be lent (approved or countered)",
        ),
        (f"{whole['swap_out']:,} out, {whole['swap_in']:,} in", "the swap set"),
    ]
    if "mean_rate_recorded" in whole:
        cards.append(
            (f"{whole['mean_rate_recorded']:.2f} → {whole['mean_rate_other']:.2f} %", "mean annual rate of both")
        )
    for currency in sorted({*whole.get("expected_loss_recorded", {}), *whole.get("expected_loss_other", {})}):
        before, after = (whole.get(f"expected_loss_{s}", {}).get(currency, 0.0) for s in ("recorded", "other"))
        cards.append((f"{before:,.0f} → {after:,.0f}", f"expected loss, {currency}"))
    shown = "".join(f'<div class="card"><b>{escape(b)}</b><span>{escape(s)}</span></div>' for b, s in cards)
    return f'<div class="cards">{shown}</div>'


def _matrix(report: dict[str, Any]) -> str:
    cells = {(v["recorded"], v["other"]): v["records"] for v in report["verdicts"]}
    columns = [*VERDICTS, *(["REFUSED"] if any(other == "REFUSED" for _, other in cells) else [])]
    rows = []
    for before in VERDICTS:
        total = sum(cells.get((before, after), 0) for after in columns)
        row = f'<th scope="row">{before}</th>'
        for after in columns:
            number = cells.get((before, after), 0)
            share = number / total if total else 0.0
            same = ' class="same"' if before == after else ""
            row += (
                f'<td{same} style="background:rgba(var(--heat),{0.45 * share:.3f})"><b>{number:,}</b>'
                f"<span>{share:.1%}</span></td>"
            )
        rows.append(f"<tr>{row}<td>{total:,}</td></tr>")
    head = "".join(f'<th scope="col">{after}</th>' for after in columns)
    return (
        "<h2>Verdict by verdict</h2><p>Rows are what was decided, columns what the other bundle decides on the same "
        "facts; shares are of the row. REFUSED: the other bundle does not take the application.</p>"
        f'<div class="wide"><table class="heat"><caption>Recorded verdict (rows) by other verdict (columns)</caption>'
        f'<thead><tr><td></td>{head}<th scope="col">all</th></tr></thead><tbody>{"".join(rows)}</tbody></table></div>'
    )


def _corners(report: dict[str, Any]) -> str:
    known = report["outcomes_known"]
    cells = [report["swap_set"][kind] for kind in _CORNERS]
    rows = [["Records", *(f"{cell['records']:,}" for cell in cells)]]
    for name, told in (
        ("asked", "Asked for"),
        ("lent_recorded", "Lent as recorded"),
        ("lent_other", "Lent by the other bundle"),
        ("expected_loss_recorded", "Expected loss as recorded"),
        ("expected_loss_other", "Expected loss of the other bundle"),
    ):
        rows.append([told, *(_money(cell.get(name)) for cell in cells)])
    if known:
        rows.append(["Outcomes known", *(f"{cell.get('outcomes', 0):,}" for cell in cells)])
        rows.append(["Bad of these", *(f"{cell['bad_rate']:.2%}" if "bad_rate" in cell else "" for cell in cells)])
        rows.append(["Lost", *(_money(cell.get("lost")) for cell in cells)])
    note = (
        "Expected loss is the credit model's probability of the bad event, the recorded model's or the other's, times "
        "the amount that would have been lent by it; all of an exposure counts as lost."
    )
    if known:
        note += " Outcomes exist for loans that were made, so next to none are known of those who would be swapped in."
    head = ["", *(f"{kind}: {told}" for kind, told in _CORNERS.items())]
    return f"<h2>The swap set</h2><p>{note}</p>{_table('The four corners of the swap set', head, rows)}"


def _shifts(report: dict[str, Any]) -> str:
    parts = []
    for key, heading, unit in (
        ("points_shift", "Shift of the credit score", "points, other less recorded"),
        ("rate_shift", "Shift of the annual rate, where both would lend", "percentage points, other less recorded"),
    ):
        bins = [(b["middle"], b["records"]) for b in report[key]]
        if bins:
            rows = [[f"{middle:+g}" if middle else "0", f"{number:,}"] for middle, number in bins if number]
            parts.append(
                f"<h2>{heading}</h2>{svg.bars(heading, unit, bins)}"
                f"{_folded('The same as a table', _table(heading, [unit, 'Records'], rows))}"
            )
    amounts = report["amount_shift"]
    if amounts:
        told = ", ".join(f"{amounts[k]:,} {k}" for k in ("less", "same", "more") if k in amounts)
        parts.append(f"<p>Amounts where both would lend: {told}.</p>")
    return "".join(parts)


def _by_segment(report: dict[str, Any]) -> str:
    parts = ["<h2>Share that would be lent, by segment</h2>", _KEY]
    dimensions = dict.fromkeys(s["dimension"] for s in report["segments"] if s["dimension"] != "all")
    head = ["", "Records", "Lent recorded", "Lent other", "Swap out", "Swap in", "Rate recorded", "Rate other"]
    head += ["Loss recorded", "Loss other"]
    for dimension in dimensions:
        found = [s for s in report["segments"] if s["dimension"] == dimension]
        rows = [(s["segment"], s["records"], s["lent_rate_recorded"], s["lent_rate_other"]) for s in found]
        table = [
            [
                s["segment"],
                f"{s['records']:,}",
                f"{s['lent_rate_recorded']:.1%}",
                f"{s['lent_rate_other']:.1%}",
                f"{s['swap_out']:,}",
                f"{s['swap_in']:,}",
                *(f"{s[f'mean_rate_{n}']:.2f} %" if f"mean_rate_{n}" in s else "" for n in ("recorded", "other")),
                *(_money(s.get(f"expected_loss_{n}")) for n in ("recorded", "other")),
            ]
            for s in found
        ]
        heading = f"By {dimension}"
        parts.append(f"<h3>{escape(heading)}</h3>{svg.pairs(heading, rows[:40])}")
        parts.append(_folded("The same as a table", _table(heading, head, table)))
    return "".join(parts)


def _calibrated(report: dict[str, Any]) -> str:
    sides = [
        (side, [(b["predicted"], b["observed"], b["records"]) for b in report["calibration"][side]])
        for side in ("recorded", "other")
    ]
    rows = [
        [side, b["band"], f"{b['records']:,}", f"{b['predicted']:.2%}", f"{b['observed']:.2%}"]
        for side in ("recorded", "other")
        for b in report["calibration"][side]
    ]
    heading = "Probability against outcome"
    table = _table(heading, ["", "Band", "Records", "Predicted", "Observed"], rows)
    return (
        f"<h2>{heading}</h2><p>Of {report['outcomes_known']:,} decisions whose outcome is known.</p>{_KEY}"
        f"{svg.calibration(heading, sides)}{_folded('The same as a table', table)}"
    )


def _not_as_recorded(report: dict[str, Any]) -> str:
    parts = []
    if report["not_as_recorded"]:
        rows = [[n["feature"], n["flow"], n["why"], f"{n['records']:,}"] for n in report["not_as_recorded"]]
        parts.append(
            "<h2>Features that could not be carried as they were</h2><p>A feature that a record does not have has the "
            f"status {escape(report['absent'])}, and the other bundle's own rule for that applies.</p>"
            + _table("Features not carried", ["Feature", "Flow", "Why", "Records"], rows, text=3)
        )
    if report["refused"]:
        rows = [[r["field"], r["why"], f"{r['records']:,}"] for r in report["refused"]]
        parts.append("<h2>Applications that the other bundle refuses</h2>")
        parts.append(_table("Refused applications", ["Field", "Why", "Records"], rows, text=2))
    return "".join(parts)


def _examples(report: dict[str, Any]) -> str:
    parts = []
    head = [
        "Decision",
        "Recorded",
        "Other",
        "Asked for",
        "Offer recorded",
        "Offer other",
        "PD recorded",
        "PD other",
        "Why",
    ]
    for kind in ("swap out", "swap in"):
        found = report["examples"][kind]
        if found:
            rows = [
                [one[k] for k in ("decision_id", "before", "after", "asked", "offer_before", "offer_after")]
                + [one[k] for k in ("pd_before", "pd_after", "why")]
                for one in found
            ]
            parts.append(_folded(f"{kind}: the first {len(found)}", _table(kind, head, rows, text=9)))
    return "<h2>Examples</h2>" + "".join(parts) if parts else ""


# --- replay -------------------------------------------------------------------------------------------------------


def _replay(report: dict[str, Any]) -> str:
    different = report["different"]
    told = "Every decision came out the same, bit for bit." if not different else f"{different:,} came out otherwise."
    cards = [(report["identical"], "identical"), (different, "different"), (report["erased"], "erased, not replayed")]
    cards += [(report[k], t) for k, t in (("locked", "sealed, no key"), ("unreadable", "unreadable")) if report[k]]
    shown = "".join(f'<div class="card"><b>{n:,}</b><span>{t}</span></div>' for n, t in cards)
    parts = [f'<div class="cards">{shown}</div><p class="card {"bad" if different else "good"}">{told}</p>']
    if report["first_differences"]:
        rows = [[d["stage"], d["path"], d["cause"], f"{d['records']:,}"] for d in report["first_differences"]]
        parts.append("<h2>Where decisions first differ</h2>")
        parts.append(_table("First differences", ["Stage", "Value", "Cause", "Records"], rows, text=3))
    if report["examples"]:
        keys = ("decision_id", "stage", "path", "recorded", "replayed", "cause", "detail")
        rows = [[one[key] for key in keys] for one in report["examples"]]
        head = ["Decision", "Stage", "Value", "Recorded", "Replayed", "Cause", "What is known of it"]
        parts.append(_folded(f"The first {len(rows)}", _table("Examples", head, rows, text=7)))
    if report["other_environments"]:
        rows = [
            [e["differs"] or "not kept with the records", f"{e['records']:,}"] for e in report["other_environments"]
        ]
        parts.append("<h2>Recorded in other environments</h2>")
        parts.append(_table("Environments", ["Recorded -> here", "Records"], rows, text=1))
    return "".join(parts)


# --- shared -------------------------------------------------------------------------------------------------------


def _made_from(report: dict[str, Any]) -> str:
    rows = [[b["name"], b["version"], b["digest"], f"{b['records']:,}"] for b in report["bundles"]]
    facts = [
        ["Source", report["source"]],
        ["Engine", f"assay {report['engine']['version']}, {report['engine']['ran_on']}"],
    ]
    if report["kind"] == "back-test":
        facts.append(["Other bundle", " ".join(report["other"].values())])
    facts += [["Erased, not replayed", f"{report['erased']:,}"], ["Sealed, no key given", f"{report['locked']:,}"]]
    facts += [["Unreadable", f"{report['unreadable']:,}"], ["Damaged stretches", f"{report['damaged_stretches']:,}"]]
    return (
        "<h2>What this was made from</h2>"
        + _table("The replay", ["", ""], facts, text=2)
        + _table("Bundles that decided", ["Bundle", "Version", "Digest", "Records"], rows, text=3)
    )


def _table(caption: str, head: Sequence[str], rows: Iterable[Sequence[str]], text: int = 1) -> str:
    """text: how many columns from the left hold words."""
    kind = [' class="text"' if place < text else "" for place in range(len(head))]
    top = "".join(f'<th scope="col"{kind[place]}>{escape(name)}</th>' for place, name in enumerate(head))
    body = ""
    for row in rows:
        cells = "".join(f"<td{kind[place]}>{escape(cell)}</td>" for place, cell in enumerate(row) if place)
        body += f'<tr><th scope="row">{escape(row[0])}</th>{cells}</tr>'
    top = f"<thead><tr>{top}</tr></thead>" if any(head) else ""
    return f'<div class="wide"><table><caption>{escape(caption)}</caption>{top}<tbody>{body}</tbody></table></div>'


def _folded(summary: str, content: str) -> str:
    return f"<details><summary>{escape(summary)}</summary>{content}</details>"


def _money(amounts: dict[str, float] | None) -> str:
    return " + ".join(f"{amount:,.0f} {currency}" for currency, amount in (amounts or {}).items())
