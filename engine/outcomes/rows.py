"""Decisions with what became of them: one small row each, for millions of them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

from assay.decision.v1 import decision_pb2 as pb
from assay.decision.v1.decision_record_pb2 import DecisionRecord
from engine.errors import RecordError
from engine.outcomes.book import OutcomeBook
from engine.outcomes.labels import (
    Definition,
    State,
    credit_label,
    first_bad_us,
    fraud_finding,
    fraud_label,
    manual_override,
    moment_of,
    taken_up,
)
from engine.record.read import parse_record
from engine.replay.items import Item

CHAMPION = "champion"


class ModelKey(NamedTuple):
    """One version of a model."""

    model: str
    version: str
    component: int


class ModelValue(NamedTuple):
    """What a model said. raw rises with risk; probability is NaN for models that give none."""

    key: ModelKey
    raw: float
    probability: float


@dataclass(frozen=True, slots=True)
class Row:
    """One decision.

    arm: of the experiment; of what a challenger decided behind the answer, "shadow" and its bundle. month: of the
    decision, as year * 12 + month - 1. fraud_gate: whether the verdict turned on fraud. early_bad: immature, and bad
    already. finding: the result of an investigation, 0 without one. override: a person's verdict, 0 without one.
    booked: approved, by whomever, and not known not to be taken up. bad_after: whole months from the decision until
    the loan was bad, None while it is not.
    """

    flow: str
    arm: str
    decided_us: int
    month: int
    verdict: int
    fraud_gate: bool
    scores: tuple[ModelValue, ...]
    credit: State
    fraud: State
    early_bad: bool
    finding: int
    override: int
    booked: bool
    bad_after: int | None
    shadow: bool = False


@dataclass(slots=True)
class Tally:
    """What was met on the way to the rows, and left out."""

    decisions: int = 0
    later: int = 0
    unwanted: int = 0
    unreadable: int = 0


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which decisions to look at. since_us is taken, until_us is not; flows: empty for all."""

    since_us: int | None = None
    until_us: int | None = None
    flows: frozenset[str] = frozenset()

    def takes(self, decided_us: int, flow: str) -> bool:
        """Whether a decision is wanted."""
        return (
            (self.since_us is None or decided_us >= self.since_us)
            and (self.until_us is None or decided_us < self.until_us)
            and (not self.flows or flow in self.flows)
        )


def parsed(items: Iterable[Item], wanted: Wanted, as_of_us: int, tally: Tally) -> Iterator[tuple[Item, DecisionRecord]]:
    """The wanted decisions that had been made at a moment, each once; and so with what challengers decided."""
    met: set[tuple[str, str]] = set()
    for item in items:
        try:
            record = parse_record(item.record)
        except RecordError:
            tally.unreadable += 1
            continue
        # Several challengers may have decided behind one answer.
        key = (record.shadow_of or item.decision_id, record.decision.bundle.digest if record.shadow_of else "")
        if key in met:
            continue
        met.add(key)
        decided_us = record.decision.decided_at.ToMicroseconds()
        if decided_us > as_of_us:
            tally.later += 1
        elif not wanted.takes(decided_us, record.decision.flow):
            tally.unwanted += 1
        else:
            tally.decisions += 1
            yield item, record


def make_row(record: DecisionRecord, book: OutcomeBook, definition: Definition, as_of_us: int) -> Row:
    """The row of one decision, as known at a moment."""
    decision = record.decision
    decided_us = decision.decided_at.ToMicroseconds()
    given = record.shadow_of or decision.decision_id
    held = book.holding(given, decision.request_id, record.tenant, as_of_us)
    credit = credit_label(decided_us, held, definition, as_of_us)
    override, finding, bad_us = manual_override(held), fraud_finding(held), first_bad_us(held, definition)
    made_verdict = override.result if override is not None else int(decision.verdict)
    return Row(
        flow=decision.flow,
        arm=arm_of(record),
        decided_us=decided_us,
        month=month_of(decided_us),
        verdict=int(decision.verdict),
        fraud_gate=pb.COMPONENT_FRAUD in decision.deciding_components,
        scores=tuple(_scores(decision)),
        credit=credit.state,
        fraud=fraud_label(decided_us, held, definition, as_of_us).state,
        early_bad=credit.state is State.IMMATURE and bad_us is not None,
        finding=0 if finding is None else finding.result,
        override=0 if override is None else override.result,
        booked=made_verdict in (pb.VERDICT_APPROVE, pb.VERDICT_COUNTER_OFFER) and taken_up(held),
        bad_after=None if bad_us is None else months_between(decided_us, bad_us),
        shadow=bool(record.shadow_of),
    )


def arm_of(record: DecisionRecord) -> str:
    """The arm that decided; without an experiment it is the champion."""
    if record.shadow_of:
        return f"shadow {record.decision.bundle.name} {record.decision.bundle.version}"
    return record.arm or CHAMPION


def month_of(moment_us: int) -> int:
    """The calendar month of a moment, UTC, as year * 12 + month - 1."""
    moment = moment_of(moment_us)
    return moment.year * 12 + moment.month - 1


def month_text(month: int) -> str:
    """ "2025-03" """
    return f"{month // 12:04d}-{month % 12 + 1:02d}"


def months_between(first_us: int, second_us: int) -> int:
    """Whole calendar months from one moment to a later one."""
    first, second = moment_of(first_us), moment_of(second_us)
    months = (second.year - first.year) * 12 + second.month - first.month
    return max(months - (_in_month(second) < _in_month(first)), 0)


def _in_month(moment: datetime) -> tuple[int, int, int, int, int]:
    return moment.day, moment.hour, moment.minute, moment.second, moment.microsecond


_keys: dict[tuple[str, str, int], ModelKey] = {}


def _scores(decision: pb.Decision) -> Iterator[ModelValue]:
    for score in decision.scores:
        if score.status == pb.SCORE_STATUS_OK and math.isfinite(score.raw):
            name = (score.model, score.version, int(score.component))
            probability = score.probability if score.HasField("probability") else math.nan
            yield ModelValue(_keys.setdefault(name, ModelKey(*name)), score.raw, probability)
