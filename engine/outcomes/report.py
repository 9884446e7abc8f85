"""The report: what models, arms and people were worth, measured by what happened later. Pure; shown elsewhere."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from assay.decision.v1 import decision_pb2 as pb
from assay.outcome.v1 import outcome_pb2
from engine.outcomes import metrics
from engine.outcomes.figures import (
    COMPONENTS,
    VERDICTS,
    FraudCapture,
    Overrides,
    PsiMonth,
    Report,
    Segment,
    Share,
    Verdicts,
    Vintage,
)
from engine.outcomes.labels import Definition, State, add_months
from engine.outcomes.metrics import Floats
from engine.outcomes.rows import ModelKey, Row, month_text


def share(part: int, whole: int) -> Share:
    """A share with its interval."""
    low, high = metrics.wilson(part, whole)
    return Share(part, whole, part / whole if whole else None, low, high)


def make_report(
    rows: Sequence[Row], definition: Definition, as_of_us: int, as_of: str, psi_base: int | None = None
) -> Report:
    """The report over rows that were made as of the same moment. psi_base: the month that stability is measured
    against; absent, the first in which a model decided."""
    given = [row for row in rows if not row.shadow]
    report = Report(as_of, definition, len(given))
    models: dict[tuple[str, int], None] = {}
    for row in rows:
        for one in row.scores:
            models.setdefault((one.key.model, one.key.component))
    for model, component in sorted(models):
        report.segments += _segments(rows, model, component, psi_base)
    report.vintages = _vintages(given, as_of_us)
    report.verdicts = _verdicts(given)
    report.overrides = _overrides(given)
    report.fraud = _fraud(given)
    return report


# --- models -------------------------------------------------------------------------------------------------------

_Scored = tuple[Row, ModelKey, float, float]


def _segments(rows: Sequence[Row], model: str, component: int, psi_base: int | None) -> list[Segment]:
    scored: list[_Scored] = [
        (row, one.key, one.raw, one.probability)
        for row in rows
        for one in row.scores
        if one.key.model == model and one.key.component == component
    ]
    groupings: list[tuple[str, Callable[[_Scored], str]]] = [
        ("all", lambda one: ""),
        ("version", lambda one: one[1].version),
        ("arm", lambda one: one[0].arm),
        ("flow", lambda one: one[0].flow),
    ]
    # What a challenger said behind an answer stands in an arm of its own, so that no outcome counts twice.
    given = [one for one in scored if not one[0].shadow] or scored
    found = []
    for by, key in groupings:
        groups: dict[str, list[_Scored]] = {}
        for item in scored if by == "arm" else given:
            groups.setdefault(key(item), []).append(item)
        found += [_segment(model, component, by, value, groups[value], psi_base) for value in sorted(groups)]
    return found


def _segment(
    model: str, component: int, by: str, value: str, scored: Sequence[_Scored], psi_base: int | None
) -> Segment:
    fraud = component == pb.COMPONENT_FRAUD
    states = np.array([row.fraud if fraud else row.credit for row, *_ in scored], dtype=np.int8)
    raw = np.array([one[2] for one in scored])
    probability = np.array([one[3] for one in scored])
    labelled = (states == State.GOOD) | (states == State.BAD)
    labels = (states[labelled] == State.BAD).astype(np.float64)
    scores = raw[labelled]
    known = np.isfinite(probability[labelled])
    predicted, actual = probability[labelled][known], labels[known]
    bands = metrics.calibration(predicted, actual)
    auc = metrics.auc(scores, labels)
    base, psi = _psi(np.array([row.month for row, *_ in scored]), raw, psi_base)
    return Segment(
        model=model,
        component=COMPONENTS.get(component, ""),
        by=by,
        value=value,
        decisions=len(scored),
        states={state.name.lower(): int((states == state).sum()) for state in State},
        early_bads=0 if fraud else sum(row.early_bad for row, *_ in scored),
        bad_rate=share(int(labels.sum()), len(labels)),
        auc=auc,
        gini=None if auc is None else auc.gini,
        ks=metrics.ks(scores, labels),
        brier=metrics.brier(predicted, actual),
        brier_of_base_rate=metrics.brier(np.full(len(actual), actual.mean()), actual) if len(actual) else None,
        expected_bads=float(predicted.sum()) if len(predicted) else None,
        calibration_error=metrics.calibration_error(bands),
        calibration=bands,
        roc=metrics.roc(scores, labels),
        ks_curves=metrics.ks_curves(scores, labels),
        psi_base=base,
        psi=psi,
    )


def _psi(months: Floats, raw: Floats, base: int | None) -> tuple[str, list[PsiMonth]]:
    first = int(months.min()) if base is None else base
    reference = raw[months == first]
    found = []
    for month in np.unique(months):
        one = metrics.psi(reference, raw[months == month]) if month != first else None
        if one is not None:
            found.append(PsiMonth(month_text(int(month)), int((months == month).sum()), one))
    return month_text(first), found


# --- portfolio ----------------------------------------------------------------------------------------------------


def _vintages(rows: Iterable[Row], as_of_us: int) -> list[Vintage]:
    cohorts: dict[tuple[str, int], list[Row]] = {}
    for row in rows:
        if row.booked:
            cohorts.setdefault((row.arm, row.month), []).append(row)
    found = []
    for (arm, month), members in sorted(cohorts.items()):
        # A cohort has come as far as its youngest loan.
        youngest = max(row.decided_us for row in members)
        age = 0
        while add_months(youngest, age + 1) <= as_of_us:
            age += 1
        bads = Counter(row.bad_after for row in members if row.bad_after is not None)
        vintage, total = Vintage(arm, month_text(month), len(members), [], [], []), 0
        for months in range(age):
            total += bads[months]
            low, high = metrics.wilson(total, len(members))
            vintage.curve.append(total / len(members))
            vintage.lows.append(low)
            vintage.highs.append(high)
        found.append(vintage)
    return found


def _verdicts(rows: Sequence[Row]) -> list[Verdicts]:
    groupings: list[tuple[str, Callable[[Row], str]]] = [
        ("all", lambda row: ""),
        ("arm", lambda row: row.arm),
        ("flow", lambda row: row.flow),
    ]
    found = []
    for by, key in groupings:
        groups: dict[str, Counter[int]] = {}
        for row in rows:
            groups.setdefault(key(row), Counter())[row.verdict] += 1
        for value, counts in sorted(groups.items()):
            whole = counts.total()
            shares = {name: share(counts[verdict], whole) for verdict, name in VERDICTS.items()}
            found.append(Verdicts(by, value, whole, shares))
    return found


def _overrides(rows: Sequence[Row]) -> Overrides:
    changes: dict[str, Counter[str]] = {}
    decided, changed, referred = Counter[int](), Counter[int](), 0
    performance: dict[str, Counter[State]] = {}
    approvals = (pb.VERDICT_APPROVE, pb.VERDICT_COUNTER_OFFER)
    for row in rows:
        decided[row.verdict] += 1
        engine = VERDICTS.get(row.verdict, "none")
        if row.override:
            changes.setdefault(engine, Counter())[VERDICTS.get(row.override, "none")] += 1
            changed[row.verdict] += row.override != row.verdict
            referred += row.verdict == pb.VERDICT_REFER and row.override != pb.VERDICT_REFER
        if row.override in approvals and row.verdict not in approvals:
            performance.setdefault(f"{engine}, approved by a person", Counter())[row.credit] += 1
        elif row.verdict in approvals and row.override in (0, *approvals):
            performance.setdefault("approved by the engine", Counter())[row.credit] += 1
    rated = (*approvals, pb.VERDICT_DECLINE)
    return Overrides(
        changes={name: dict(counts) for name, counts in sorted(changes.items())},
        rates={VERDICTS[verdict]: share(changed[verdict], decided[verdict]) for verdict in rated},
        referred=share(referred, decided[pb.VERDICT_REFER]),
        performance={
            name: share(counts[State.BAD], counts[State.BAD] + counts[State.GOOD])
            for name, counts in sorted(performance.items())
        },
    )


def _fraud(rows: Sequence[Row]) -> FraudCapture:
    confirmed = [row for row in rows if row.finding == outcome_pb2.FRAUD_RESULT_CONFIRMED]
    flagged = [row for row in rows if row.fraud_gate]
    investigated = [row for row in flagged if row.finding]
    caught = sum(row.fraud_gate for row in confirmed)
    return FraudCapture(
        flagged=len(flagged),
        investigated=len(investigated),
        confirmed=len(confirmed),
        recall=share(caught, len(confirmed)),
        precision=share(caught, len(investigated)),
    )
