"""The report as one HTML file: tables and plots, no script, nothing from elsewhere."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from engine.outcomes.figures import Report, Segment, Vintage
from engine.outcomes.show_text import number, percent, segment_name, shown_segments
from engine.outcomes.svg import COLOURS, Plot

_STYLE = """
:root { color-scheme: light; }
body { font: 15px/1.5 system-ui, sans-serif; color: #1a1a1a; max-width: 1000px; margin: 2em auto; padding: 0 1em; }
h1 { font-size: 1.6em; } h2 { font-size: 1.25em; margin-top: 2em; border-bottom: 1px solid #ccc; }
table { border-collapse: collapse; font-size: 13px; margin: 1em 0; width: 100%; }
th, td { text-align: right; padding: 3px 8px; border-bottom: 1px solid #e5e5e5; white-space: nowrap; }
th { border-bottom: 2px solid #888; } td.name, th.name { text-align: left; white-space: normal; }
.plots { display: flex; flex-wrap: wrap; gap: 12px; } figure { margin: 0; flex: 1 1 300px; max-width: 440px; }
figcaption { font-size: 13px; } svg { width: 100%; height: auto; } svg text { font-size: 11px; fill: #333; }
svg .grid { stroke: #e5e5e5; stroke-width: 1; } .note { background: #f6f6f6; padding: .6em 1em; font-size: 14px; }
.scroll { overflow-x: auto; }
"""


def as_html(report: Report) -> str:
    """The whole page."""
    parts = [
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Outcomes report</title>',
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{_STYLE}</style></head><body>',
        "<h1>What the decisions came to</h1>",
        f"<p>{report.decisions:,} decisions, as known at {escape(report.as_of)}. "
        f"Bad: {escape(str(report.definition))}. "
        f"{''.join(f'From {escape(one)}. ' for one in report.sources)}</p>",
    ]
    left_out = [f"{count:,} {escape(what)}" for what, count in report.left_out.items() if count]
    if left_out:
        parts.append(f"<p>Left out: {'; '.join(left_out)}.</p>")
    parts.append(f'<p class="note">{escape(report.note)}</p>')
    if report.decisions:
        parts += ["<h2>Models</h2>", _models(report.segments)]
        for one in report.segments:
            if one.by == "all":
                parts.append(_model(one, report.segments))
        parts += ["<h2>Vintages</h2>", _vintages(report.vintages)]
        parts += ["<h2>Verdicts, people and fraud</h2>", _verdicts(report), _people(report)]
    parts.append("</body></html>")
    return "".join(parts)


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]], names: int = 1) -> str:
    def cells(tag: str, values: Sequence[str]) -> str:
        return "".join(
            f"<{tag}{' class=name' if place < names else ''}>{escape(value)}</{tag}>"
            for place, value in enumerate(values)
        )

    body = "".join(f"<tr>{cells('td', row)}</tr>" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{cells("th", heads)}</tr></thead><tbody>{body}</tbody></table></div>'


def _models(segments: Sequence[Segment]) -> str:
    heads = ("model", "over", "good", "bad", "AUC", "95 % interval (DeLong)", "Gini", "KS", "Brier", "of base rate")
    rows, states_rows = [], []
    for one in shown_segments(segments):
        auc, states, name = one.auc, one.states, f"{one.model} ({one.component})"
        rows.append(
            (
                name,
                segment_name(one),
                f"{states['good']:,}",
                f"{states['bad']:,}",
                _auc(one),
                "–" if auc is None or auc.low is None else f"{auc.low:.4f} to {auc.high:.4f}",
                number(one.gini),
                number(None if one.ks is None else one.ks.value),
                number(one.brier),
                number(one.brier_of_base_rate),
            )
        )
        counts = (one.decisions, states["immature"], one.early_bads, states["unobserved"], states["not_taken_up"])
        states_rows.append((name, segment_name(one), *(f"{count:,}" for count in counts), percent(one.bad_rate)))
    told = ("model", "over", "decisions", "immature", "bad already", "unobserved", "not taken up", "bad rate")
    return _table(heads, rows, 2) + _table(told, states_rows, 2)


def _model(one: Segment, segments: Sequence[Segment]) -> str:
    parts = [f"<h2>{escape(one.model)} ({escape(one.component)})</h2>"]
    if one.auc is not None:
        arms = [s for s in segments if (s.model, s.component, s.by) == (one.model, one.component, "arm") and s.roc]
        parts.append(f'<div class="plots">{_roc(one, arms)}{_ks(one)}{_calibration_plot(one)}</div>')
    if one.calibration:
        heads = ("predicted from", "to", "decisions", "bad", "predicted", "observed", "95 % interval")
        parts.append(
            _table(
                heads,
                [
                    (
                        f"{band.low:.4f}",
                        f"{band.high:.4f}",
                        f"{band.count:,}",
                        f"{band.bads:,}",
                        f"{band.predicted:.4f}",
                        f"{band.observed:.4f}",
                        f"{band.observed_low:.4f} to {band.observed_high:.4f}",
                    )
                    for band in one.calibration
                ],
                0,
            )
        )
        expected = number(one.expected_bads, ",.1f")
        parts.append(
            f"<p>Expected calibration error {number(one.calibration_error)}; {expected} bad expected, "
            f"{one.bad_rate.part:,} seen.</p>"
        )
    if one.psi:
        parts.append(f"<p>Stability of the score against {escape(one.psi_base)}:</p>")
        rows = [(m.month, f"{m.count:,}", f"{m.psi.value:.4f}", f"below {m.psi.chance:.4f}") for m in one.psi]
        parts.append(_table(("month", "decisions", "PSI", "by chance, 95 of 100 times"), rows))
    return "".join(parts)


def _figure(svg: str, caption: str) -> str:
    return f"<figure>{svg}<figcaption>{escape(caption)}</figcaption></figure>"


def _roc(one: Segment, arms: Sequence[Segment]) -> str:
    plot = Plot((0, 1), (0, 1), "share of good above the cut", "share of bad above the cut")
    plot.line([(0, 0), (1, 1)], "#999999", dashed=True)
    curves = [(f"{arm.value}, AUC {_auc(arm)}", arm.roc) for arm in arms]
    if len(curves) < 2:
        curves = [(f"AUC {_auc(one)}", one.roc)]
    for (name, points), colour in zip(curves, COLOURS, strict=False):
        plot.line(points, colour, name)
    return _figure(plot.draw(f"ROC curve of {one.model}"), "ROC curve")


def _ks(one: Segment) -> str:
    scores = [score for score, _, _ in one.ks_curves]
    plot = Plot((scores[0], scores[-1]), (0, 1), "raw score", "share at or below")
    plot.line([(score, bad) for score, bad, _ in one.ks_curves], COLOURS[1], "bad")
    plot.line([(score, good) for score, _, good in one.ks_curves], COLOURS[0], "good")
    if one.ks is not None:
        plot.line([(one.ks.at, 0), (one.ks.at, 1)], "#999999", f"KS {one.ks.value:.4f}", dashed=True)
    return _figure(plot.draw(f"Cumulative shares of bad and good by score of {one.model}"), "Kolmogorov-Smirnov")


def _calibration_plot(one: Segment) -> str:
    if not one.calibration:
        return ""
    most = max(max(band.observed_high, band.predicted) for band in one.calibration)
    plot = Plot((0, most), (0, most), "predicted", "observed")
    plot.line([(0, 0), (most, most)], "#999999", dashed=True)
    plot.bars([(band.predicted, band.observed_low, band.observed_high) for band in one.calibration], COLOURS[0])
    plot.dots([(band.predicted, band.observed) for band in one.calibration], COLOURS[0])
    return _figure(plot.draw(f"Calibration of {one.model}"), "Calibration by tenths, with 95 % Wilson intervals")


def _vintages(vintages: Sequence[Vintage]) -> str:
    shown = [one for one in vintages if one.curve]
    if not shown:
        return "<p>No loan has been on book for a month.</p>"
    longest = max(len(one.curve) for one in shown)
    most = max(max(one.curve) for one in shown) or 0.01
    plots = []
    for arm in sorted({one.arm for one in shown}):
        of_arm = [one for one in shown if one.arm == arm]
        newest = of_arm[-len(COLOURS) :]
        plot = Plot((0, longest), (0, most), "months on book", "cumulative share of bad", as_percent=True)
        for one, colour in zip(newest, COLOURS, strict=False):
            points = [(0.0, 0.0), *((float(month), value) for month, value in enumerate(one.curve, 1))]
            plot.line(points, colour, one.month)
        of = f"the last {len(newest)} cohorts" if len(newest) < len(of_arm) else "by month of decision"
        plots.append(_figure(plot.draw(f"Vintage curves of {arm}"), f"{arm}, {of}"))
    months = [month for month in (1, 2, 3, 6, 9, 12, 18, 24, 36) if month <= longest]
    rows = [
        (
            one.arm,
            one.month,
            f"{one.booked:,}",
            *(f"{one.curve[m - 1]:.2%}" if m <= len(one.curve) else "" for m in months),
        )
        for one in vintages
    ]
    table = _table(("arm", "decided", "loans", *(f"{month} months" for month in months)), rows, 2)
    return f'<div class="plots">{"".join(plots)}</div>{table}'


def _verdicts(report: Report) -> str:
    names = list(report.verdicts[0].shares)
    rows = []
    for one in report.verdicts:
        if one.by == "all" or sum(other.by == one.by for other in report.verdicts) > 1:
            name = "all" if one.by == "all" else f"{one.by} {one.value}"
            rows.append((name, f"{one.decisions:,}", *(percent(one.shares[verdict]) for verdict in names)))
    return _table(("over", "decisions", *(name.replace("_", " ") for name in names)), rows)


def _people(report: Report) -> str:
    rows: list[tuple[str, str, str]] = []
    if report.overrides is not None:
        for engine, rate in report.overrides.rates.items():
            rows.append(
                (f"{engine} by the engine, another verdict by a person", _of(rate.part, rate.whole), percent(rate))
            )
        referred = report.overrides.referred
        rows.append(("referred, decided by a person", _of(referred.part, referred.whole), percent(referred)))
        for name, rate in report.overrides.performance.items():
            rows.append((f"bad rate, {name}", _of(rate.part, rate.whole), percent(rate)))
    if report.fraud is not None:
        recall, precision = report.fraud.recall, report.fraud.precision
        rows.append(("fraud gate: recall, of confirmed fraud", _of(recall.part, recall.whole), percent(recall)))
        rows.append(
            ("fraud gate: precision, of what was looked into", _of(precision.part, precision.whole), percent(precision))
        )
    return _table(("", "count", "share, 95 % interval"), rows)


def _of(part: int, whole: int) -> str:
    return f"{part:,} of {whole:,}"


def _auc(one: Segment) -> str:
    return number(None if one.auc is None else one.auc.value)
