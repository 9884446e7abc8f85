"""The report on a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.table import Table

from engine.outcomes.figures import Report, Segment, Share

_MONTHS = (1, 2, 3, 6, 9, 12, 18, 24, 36)


def show(report: Report, console: Console) -> None:
    """Prints the report."""
    say = _Lines(console)
    say(f"{report.decisions:,} decisions, as known at {report.as_of}; bad: {report.definition}")
    for source in report.sources:
        say(f"  from {source}")
    for what, count in report.left_out.items():
        if count:
            say(f"  left out: {count:,} {what}")
    if not report.decisions:
        return
    console.print(_models(report.segments))
    console.print(_states(report.segments))
    for one in report.segments:
        if one.by == "all" and one.calibration:
            console.print(_calibration(one))
    for one in report.segments:
        if one.by == "all" and one.psi:
            console.print(_psi(one))
    if any(one.curve for one in report.vintages):
        console.print(_vintages(report))
    console.print(_verdicts(report))
    _people(report, say)
    say("* the predicted rate is outside the interval, or the score moved further than chance and 0.1")
    say(f"note: {report.note}")


class _Lines:
    def __init__(self, console: Console) -> None:
        self._console = console

    def __call__(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)


def shown_segments(segments: Sequence[Segment]) -> list[Segment]:
    """Without those that repeat the model as a whole: it has one version, arm or flow."""
    counts: dict[tuple[str, str, str], int] = {}
    for one in segments:
        key = (one.model, one.component, one.by)
        counts[key] = counts.get(key, 0) + 1
    return [one for one in segments if one.by == "all" or counts[one.model, one.component, one.by] > 1]


def number(value: float | None, form: str = ".4f") -> str:
    """A figure, or a dash for one that is not defined."""
    return "–" if value is None else f"{value:{form}}"


def percent(one: Share) -> str:
    """A share in percent with its interval."""
    return "–" if one.value is None else f"{one.value:.2%} ({one.low:.2%} to {one.high:.2%})"


def segment_name(one: Segment) -> str:
    """What a segment is called."""
    return "all" if one.by == "all" else f"{one.by} {one.value}"


def _table(title: str, heads: Iterable[str], left: int = 1) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", show_edge=False, pad_edge=False)
    for place, head in enumerate(heads):
        table.add_column(head, justify="left" if place < left else "right", no_wrap=place >= left)
    return table


def _models(segments: Sequence[Segment]) -> Table:
    heads = ("model", "over", "good", "bad", "AUC", "95 % interval (DeLong)", "Gini", "KS", "Brier", "of base rate")
    table = _table("Models", heads, 2)
    for one in shown_segments(segments):
        auc = one.auc
        interval = "–" if auc is None or auc.low is None else f"{auc.low:.4f} to {auc.high:.4f}"
        table.add_row(
            f"{one.model} ({one.component})",
            segment_name(one),
            f"{one.states['good']:,}",
            f"{one.states['bad']:,}",
            number(None if auc is None else auc.value),
            interval,
            number(one.gini),
            number(None if one.ks is None else one.ks.value),
            number(one.brier),
            number(one.brier_of_base_rate),
        )
    return table


def _states(segments: Sequence[Segment]) -> Table:
    heads = ("model", "over", "decisions", "immature", "bad already", "unobserved", "not taken up", "bad rate")
    table = _table("Who has a label", heads, 2)
    for one in shown_segments(segments):
        table.add_row(
            f"{one.model} ({one.component})",
            segment_name(one),
            f"{one.decisions:,}",
            f"{one.states['immature']:,}",
            f"{one.early_bads:,}",
            f"{one.states['unobserved']:,}",
            f"{one.states['not_taken_up']:,}",
            percent(one.bad_rate),
        )
    return table


def _calibration(one: Segment) -> Table:
    error = f"expected calibration error {number(one.calibration_error)}"
    expected = f"{number(one.expected_bads, ',.1f')} bad expected, {one.bad_rate.part:,} seen"
    heads = ("predicted from", "to", "decisions", "bad", "predicted", "observed", "95 % interval (Wilson)")
    table = _table(f"Calibration of {one.model}: {error}; {expected}", heads, 0)
    for band in one.calibration:
        inside = band.observed_low <= band.predicted <= band.observed_high
        table.add_row(
            f"{band.low:.4f}",
            f"{band.high:.4f}",
            f"{band.count:,}",
            f"{band.bads:,}",
            f"{band.predicted:.4f}",
            f"{band.observed:.4f}",
            f"{band.observed_low:.4f} to {band.observed_high:.4f}" + ("" if inside else " *"),
        )
    return table


def _psi(one: Segment) -> Table:
    table = _table(f"Stability of {one.model} against {one.psi_base}", ("month", "decisions", "PSI", "by chance"))
    for month in one.psi:
        mark = " *" if month.psi.value > max(month.psi.chance, 0.1) else ""
        table.add_row(month.month, f"{month.count:,}", f"{month.psi.value:.4f}{mark}", f"below {month.psi.chance:.4f}")
    return table


def _vintages(report: Report) -> Table:
    longest = max(len(one.curve) for one in report.vintages)
    months = [month for month in _MONTHS if month <= longest]
    table = _table("Cumulative share of bad by months on book", ("arm", "decided", "loans", *map(str, months)), 2)
    for one in report.vintages:
        cells = [f"{one.curve[m - 1]:.2%}" if m <= len(one.curve) else "" for m in months]
        table.add_row(one.arm, one.month, f"{one.booked:,}", *cells)
    return table


def _verdicts(report: Report) -> Table:
    names = list(report.verdicts[0].shares)
    table = _table("Verdicts", ("over", "decisions", *(name.replace("_", " ") for name in names)))
    for one in report.verdicts:
        if one.by == "all" or sum(other.by == one.by for other in report.verdicts) > 1:
            name = "all" if one.by == "all" else f"{one.by} {one.value}"
            table.add_row(name, f"{one.decisions:,}", *(number(one.shares[n].value, ".2%") for n in names))
    return table


def _people(report: Report, say: _Lines) -> None:
    overrides, fraud = report.overrides, report.fraud
    if overrides is not None and (overrides.changes or overrides.performance):
        say("People")
        for verdict, rate in overrides.rates.items():
            engine = verdict.replace("_", " ")
            of = f"{rate.part:,} of {rate.whole:,}, {percent(rate)}"
            say(f"  {engine} by the engine, another verdict by a person: {of}")
        referred = overrides.referred
        say(f"  referred, decided by a person: {referred.part:,} of {referred.whole:,}, {percent(referred)}")
        for engine, counts in overrides.changes.items():
            said = ", ".join(f"{count:,} {verdict}" for verdict, count in sorted(counts.items()))
            say(f"  {engine} by the engine became: {said}")
        for name, rate in overrides.performance.items():
            say(f"  bad rate, {name}: {rate.part:,} of {rate.whole:,}, {percent(rate)}")
    if fraud is not None and (fraud.flagged or fraud.confirmed):
        say("Fraud gate")
        say(f"  stopped {fraud.flagged:,}, of which {fraud.investigated:,} were looked into")
        recall, precision = fraud.recall, fraud.precision
        say(f"  recall: {recall.part:,} of {recall.whole:,} confirmed, {percent(recall)}")
        say(f"  precision: {precision.part:,} of {precision.whole:,} looked into, {percent(precision)}")
