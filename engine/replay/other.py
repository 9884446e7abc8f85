"""Back-test: what another bundle would have decided, held against what was decided."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from assay.decision.v1 import decision_pb2 as pb
from assay.decision.v1.decision_record_pb2 import DecisionRecord
from engine.domain.enums import Component, FeatureStatus
from engine.domain.outcome import Offer
from engine.domain.score import ModelScore, ScoreStatus
from engine.errors import RecordError
from engine.features.refit import Note
from engine.pipeline import Conclusion
from engine.record.read import parse_record
from engine.replay.again import Impossible, OtherPlan, Ready, Refused, decide
from engine.replay.compare import verdict_name
from engine.replay.items import Item
from engine.replay.outcomes import Outcome
from engine.replay.same import what_is_gone
from engine.replay.segments import Segmenter, credit_score, probability_band
from engine.replay.shelf import OnShelf
from engine.replay.tally import LOSS_STEPS, PERCENT_STEPS, PROBABILITY_STEPS, Swap, Tally

REFUSED = "REFUSED"
# An offer was made: the money would be lent.
LENT = frozenset({"APPROVE", "COUNTER_OFFER"})
# Bins of the histograms: how wide, and the furthest.
POINTS_BIN, POINTS_FURTHEST = 10, 200
RATE_BIN, RATE_FURTHEST = 0.5, 10.0
_MINOR = 10**9


class _Side(NamedTuple):
    """One of the two decisions. Amounts in billionths of a unit; None for what there is not."""

    verdict: str
    amount_nanos: int | None
    rate_percent: float | None
    probability: float | None
    points: int | None
    reasons: tuple[str, ...]


class OtherReplay:
    """Back-tests chunks of records against one bundle. One process, one of these."""

    def __init__(self, bundle: OnShelf, absent: FeatureStatus, segments: Sequence[str]) -> None:
        self._bundle, self._plan = bundle, OtherPlan(bundle.loaded.plan, absent)
        self._segmenter = Segmenter(segments)

    def run(self, items: Sequence[Item], outcomes: Mapping[str, Outcome]) -> Tally:
        """What came of these records."""
        tally = Tally()
        taken: list[tuple[Item, DecisionRecord]] = []
        ready: list[Ready] = []
        refused: dict[int, Refused] = {}
        for item in items:
            tally.count("records")
            tally.saw(item.decided_us)
            try:
                record = parse_record(item.record)
            except RecordError as error:
                tally.count("unreadable")
                tally.keep("unreadable", (item.decision_id, str(error)))
                continue
            if (gone := what_is_gone(item, record)) is not None:
                tally.count(gone)
                continue
            bundle, notes = record.decision.bundle, list[Note]()
            tally.count("bundle", bundle.name, bundle.version, bundle.digest)
            tally.count("flow", record.decision.flow)
            tally.count("engine", record.engine_version)
            try:
                ready.append(self._plan.ready(len(taken), record, item.catalogue, notes))
            except Refused as error:
                refused[len(taken)] = error
            except Impossible as error:
                tally.count("not carried")
                tally.keep("not carried", (item.decision_id, str(error)))
                continue
            for note in set(notes):
                tally.count("note", record.decision.flow, note.feature, note.why)
            taken.append((item, record))
        concluded = decide(ready)
        for place, (item, record) in enumerate(taken):
            after = concluded.get(place)
            if isinstance(after, Exception):
                tally.count("not carried")
                tally.keep("not carried", (item.decision_id, str(after)))
                continue
            if after is None:
                tally.count("refused", refused[place].field, refused[place].why)
            self._compare(item, record, after, outcomes.get(item.decision_id), tally)
        return tally

    def _compare(
        self, item: Item, record: DecisionRecord, concluded: Conclusion | None, outcome: Outcome | None, tally: Tally
    ) -> None:
        before = _recorded(record.decision)
        after = _REFUSED if concluded is None else _concluded(concluded)
        tally.count("compared")
        tally.count("same verdict" if before.verdict == after.verdict else "other verdict")
        segments = self._segmenter.of(record, item.catalogue, item.decided_us)
        measures = _measures(record.application, before, after, outcome)
        for dimension, segment in segments:
            for measure, number in measures:
                tally.count("cell", dimension, segment, before.verdict, after.verdict, measure, by=number)
        _histograms(before, after, tally)
        if outcome is not None:
            _calibrate("recorded", before, outcome, tally)
            _calibrate("other", after, outcome, tally)
        if (before.verdict in LENT) != (after.verdict in LENT):
            kind = "swap in" if after.verdict in LENT else "swap out"
            currency = record.application.amount.currency_code
            asked = f"{record.application.amount.units:,} {currency}"
            tally.keep(kind, Swap(item.decision_id, record.decision.flow, *_told(before, after, asked, currency)))


_REFUSED = _Side(REFUSED, None, None, None, None, ())


def _recorded(decision: pb.Decision) -> _Side:
    score = credit_score(decision)
    offer = decision.offer if decision.HasField("offer") else None
    return _Side(
        verdict_name(decision.verdict),
        None if offer is None else offer.amount.units * _MINOR + offer.amount.nanos,
        None if offer is None else offer.annual_rate_percent,
        score.probability if score is not None and score.HasField("probability") else None,
        score.points if score is not None and score.HasField("points") else None,
        tuple(r.code for r in (*decision.policy_reasons, *decision.fraud_reasons, *decision.credit_reasons)),
    )


def _concluded(concluded: Conclusion) -> _Side:
    flow, outcome = concluded.prepared.flow, concluded.outcome
    score: ModelScore | None = None
    for plan, one in zip(flow.models, concluded.scores, strict=True):
        if plan.component is Component.CREDIT:
            score = one if one.status is ScoreStatus.OK else None
            break
    offer: Offer | None = outcome.offer
    reasons = concluded.reasons
    return _Side(
        outcome.verdict.name,
        None if offer is None else offer.amount_minor * (_MINOR // flow.minor_per_major),
        None if offer is None else offer.annual_rate_percent,
        None if score is None else score.probability,
        None if score is None else score.points,
        tuple(r.code for r in (*reasons.policy, *reasons.fraud, *reasons.credit)),
    )


def _measures(
    application: pb.Application, before: _Side, after: _Side, outcome: Outcome | None
) -> list[tuple[str, int]]:
    """What is added up in every segment and cell, in whole numbers; see `engine.replay.tally`."""
    currency = application.amount.currency_code
    asked = application.amount.units * _MINOR + application.amount.nanos
    found = [("count", 1), (f"asked {currency}", asked)]
    for name, side in (("recorded", before), ("other", after)):
        if side.amount_nanos is not None:
            found.append((f"lent {name} {currency}", side.amount_nanos))
            if side.probability is not None:
                loss = round(side.probability * LOSS_STEPS) * side.amount_nanos // LOSS_STEPS
                found.append((f"expected loss {name} {currency}", loss))
    if before.points is not None and after.points is not None:
        found += [("scored", 1), ("points recorded", before.points), ("points other", after.points)]
    if before.probability is not None and after.probability is not None:
        found += [
            ("estimated", 1),
            ("probability recorded", round(before.probability * PROBABILITY_STEPS)),
            ("probability other", round(after.probability * PROBABILITY_STEPS)),
        ]
    if before.rate_percent is not None and after.rate_percent is not None:
        found += [
            ("priced", 1),
            ("rate recorded", round(before.rate_percent * PERCENT_STEPS)),
            ("rate other", round(after.rate_percent * PERCENT_STEPS)),
        ]
    if outcome is not None:
        found += [("known", 1), ("bad", int(outcome.bad))]
        if outcome.loss is not None:
            found.append((f"lost {currency}", round(outcome.loss * _MINOR)))
    return found


def _histograms(before: _Side, after: _Side, tally: Tally) -> None:
    if before.points is not None and after.points is not None:
        tally.count("shift", "points", _bin(after.points - before.points, POINTS_BIN, POINTS_FURTHEST))
    if before.rate_percent is not None and after.rate_percent is not None:
        tally.count("shift", "rate", _bin(after.rate_percent - before.rate_percent, RATE_BIN, RATE_FURTHEST))
    if before.amount_nanos is not None and after.amount_nanos is not None:
        change = after.amount_nanos - before.amount_nanos
        tally.count("shift", "amount", "same" if change == 0 else "more" if change > 0 else "less")


def _bin(shift: float, width: float, furthest: float) -> str:
    """The middle of the bin that a shift falls in, in widths: -1, 0, 1; those beyond the furthest fall in the last."""
    held = min(max(shift, -furthest), furthest)
    return str(int(held / width + (0.5 if held >= 0 else -0.5)))


def _calibrate(name: str, side: _Side, outcome: Outcome, tally: Tally) -> None:
    if side.probability is None:
        return
    band = probability_band(side.probability)
    tally.count("calibration", name, band, "count")
    tally.count("calibration", name, band, "bad", by=int(outcome.bad))
    tally.count("calibration", name, band, "probability", by=round(side.probability * PROBABILITY_STEPS))


def _told(before: _Side, after: _Side, asked: str, currency: str) -> tuple[str, ...]:
    def offer(side: _Side) -> str:
        if side.amount_nanos is None or side.rate_percent is None:
            return ""
        return f"{side.amount_nanos / _MINOR:,.0f} {currency} at {side.rate_percent:g} %"

    def probability(side: _Side) -> str:
        return "" if side.probability is None else f"{side.probability:.2%}"

    why = ", ".join((before if after.verdict in LENT else after).reasons[:3])
    return (
        before.verdict,
        after.verdict,
        asked,
        offer(before),
        offer(after),
        probability(before),
        probability(after),
        why,
    )
