"""Shows decisions to a person."""

from __future__ import annotations

from collections.abc import Sequence

from google.protobuf.duration_pb2 import Duration
from google.type.money_pb2 import Money
from rich.console import Console, Group
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from assay.decision.v1 import decision_pb2 as pb

_COLOURS = {"APPROVE": "green", "COUNTER_OFFER": "yellow", "REFER": "cyan", "DECLINE": "red"}
_ACTIONS = {
    "MISSING": "told the model that it is missing",
    "DEFAULT": "used the default",
    "STALE_VALUE": "used the stale value",
    "VERDICT": "asked for a person to look",
}
_STAGES = ("validate", "features", "scoring", "policy", "reasons")


def verdict_of(decision: pb.Decision) -> Text:
    """The verdict, coloured."""
    name = pb.Verdict.Name(decision.verdict).removeprefix("VERDICT_")
    return Text(name, style=f"bold {_COLOURS.get(name, 'white')}")


def money(amount: Money) -> str:
    """An amount as people write it."""
    return f"{amount.units + amount.nanos / 1e9:,.2f} {amount.currency_code}"


def offer_of(decision: pb.Decision) -> str:
    """The offer in one line; a dash without one."""
    if not decision.HasField("offer"):
        return "-"
    offer = decision.offer
    return f"{money(offer.amount)}, {offer.annual_rate_percent:.2f} %, {offer.term_months} months"


def score_of(decision: pb.Decision, component: int) -> str:
    """The points of a component's score; a dash without one."""
    for score in decision.scores:
        if score.component == component and score.HasField("points"):
            return str(score.points)
    return "-"


def micros(duration: Duration) -> float:
    """A duration in microseconds."""
    return duration.seconds * 1e6 + duration.nanos / 1e3


def decision_panel(title: str, asked: str, decision: pb.Decision) -> Panel:
    """One decision in full."""
    parts: list[object] = [Text.assemble("asked for  ", (asked, "bold")), _facts(decision)]
    for heading, reasons in (
        ("why (credit)", decision.credit_reasons),
        ("why (fraud; for staff)", decision.fraud_reasons),
        ("why (policy)", decision.policy_reasons),
    ):
        if reasons:
            parts.append(_reasons(heading, reasons))
    if decision.substitutions:
        parts.append(_substitutions(decision.substitutions))
    parts.append(_times(decision))
    return Panel(Group(*parts), title=title, title_align="left", border_style="dim")  # type: ignore[arg-type]


def _facts(decision: pb.Decision) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_row("verdict", verdict_of(decision))
    if decision.HasField("offer"):
        offer = decision.offer
        table.add_row(
            "offer",
            f"{money(offer.amount)} over {offer.term_months} months at {offer.annual_rate_percent:.2f} % a year, "
            f"{money(offer.monthly_payment)} a month, all-in {offer.annual_cost_percent:.2f} % a year",
        )
    for score in decision.scores:
        name = pb.Component.Name(score.component).removeprefix("COMPONENT_").lower()
        if score.status != pb.SCORE_STATUS_OK:
            table.add_row(name, f"{score.model} gave no score")
            continue
        probability = f", probability {score.probability:.2%}" if score.HasField("probability") else ""
        table.add_row(name, f"{score.points} points{probability} ({score.model} {score.version})")
    return table


def _reasons(heading: str, reasons: Sequence[pb.Reason]) -> Table:
    table = Table(box=None, pad_edge=False, show_header=True, header_style="dim")
    table.add_column(heading, no_wrap=False)
    table.add_column("code", style="dim")
    table.add_column("points", justify="right")
    for reason in reasons:
        # Credit points fall with risk, fraud points rise with it; staff read more of fraud than applicants may.
        fraud = reason.component == pb.COMPONENT_FRAUD
        points = f"{'+' if fraud else '-'}{reason.contribution:.0f}" if reason.HasField("contribution") else ""
        table.add_row(f"{reason.rank}. {reason.internal_text if fraud else reason.text}", reason.code, points)
    return table


def _substitutions(substitutions: Sequence[pb.Substitution]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("not known")
    table.add_column("because", style="dim")
    table.add_column("so the engine")
    groups: dict[tuple[str, str], list[str]] = {}
    for one in substitutions:
        status = pb.FeatureStatus.Name(one.status).removeprefix("FEATURE_STATUS_").replace("_", " ").lower()
        action = pb.SubstitutionAction.Name(one.action).removeprefix("SUBSTITUTION_ACTION_")
        text = _ACTIONS.get(action, action)
        if one.HasField("value_used"):
            text += f" {one.value_used:g}"
        if one.HasField("age"):
            status += f", {one.age.seconds / 86_400:.0f} days old"
        groups.setdefault((status, text), []).append(one.feature)
    for (status, text), names in groups.items():
        shown = ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
        table.add_row(shown, status, text)
    return table


def _times(decision: pb.Decision) -> Text:
    times = decision.stage_times
    parts = [f"{name} {micros(getattr(times, name)):.0f}" for name in _STAGES]
    return Text(f"server time, microseconds: {', '.join(parts)}; total {micros(times.total):.0f}", style="dim")


def overview(console: Console, rows: Sequence[tuple[str, str, pb.Decision]]) -> None:
    """One line a decision."""
    table = Table(header_style="bold", title=None)
    for column in ("applicant", "asked for", "verdict", "credit", "fraud", "offer", "first reason against"):
        table.add_column(column, justify="right" if column in ("credit", "fraud") else "left", overflow="fold")
    for name, asked, decision in rows:
        table.add_row(
            name,
            asked,
            verdict_of(decision),
            score_of(decision, pb.COMPONENT_CREDIT),
            score_of(decision, pb.COMPONENT_FRAUD),
            offer_of(decision),
            _first_reason(decision),
        )
    console.print(table)


def _first_reason(decision: pb.Decision) -> str:
    """The first reason of the component that the verdict turned on."""
    if decision.verdict == pb.VERDICT_APPROVE:
        return ""
    by_component = {
        pb.COMPONENT_POLICY: decision.policy_reasons,
        pb.COMPONENT_FRAUD: decision.fraud_reasons,
        pb.COMPONENT_CREDIT: decision.credit_reasons,
    }
    for component in decision.deciding_components:
        reasons = by_component.get(component)
        if reasons:
            return str(reasons[0].text)
    return ""
