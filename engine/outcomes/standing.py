"""Which outcomes hold, as known at a moment: nothing is rewritten, so the answer for a moment that has passed stays.

Two times go with every outcome: when it was true (observed), and when it was recorded. What was known at a moment is
what was recorded by then; of that, an outcome that another one names in `supersedes` does not hold, and of those of
one kind and one day of observation (UTC) the one recorded last does.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from assay.outcome.v1 import outcome_pb2 as pb

_DAY_US = 86_400_000_000
NOW_US = 2**63 - 1


class Kind(IntEnum):
    """What an outcome says; numbers are those of the fields of `Outcome.kind`."""

    REPAYMENT_STATUS = 10
    REPAID_IN_FULL = 11
    DEFAULT = 12
    FRAUD_FINDING = 13
    MANUAL_OVERRIDE = 14
    TAKE_UP = 15
    RETRACTION = 16


_KIND_OF = {field.name: Kind(field.number) for field in pb.Outcome.DESCRIPTOR.oneofs_by_name["kind"].fields}


class Standing(IntEnum):
    """What became of an outcome; numbers are those of the proto."""

    HOLDS = 1
    SUPERSEDED = 2
    CORRECTED = 3


@dataclass(frozen=True, slots=True)
class Observed:
    """One outcome as analyses see it: no note and no officer.

    observed_us, recorded_us: microseconds since 1970 UTC. days_past_due: of a status; of a default the threshold.
    result: the cause of a default, the result of a finding or take-up, the verdict of an override, by number. reason:
    of an override. exposure, loss: in the loan's currency, NaN where they are not stated.
    """

    outcome_id: str
    kind: Kind
    observed_us: int
    recorded_us: int
    supersedes: str = ""
    days_past_due: int = 0
    result: int = 0
    reason: str = ""
    exposure: float = math.nan
    loss: float = math.nan


def observed(record: pb.OutcomeRecord) -> Observed:
    """What analyses need of a record. Raises ValueError for a kind that this version does not know."""
    outcome = record.outcome
    name = outcome.WhichOneof("kind")
    if name is None:
        raise ValueError("the outcome is of a kind that this version does not know")
    kind, content = _KIND_OF[name], getattr(outcome, name)
    days, result, reason = 0, 0, ""
    exposure = loss = math.nan
    if kind is Kind.REPAYMENT_STATUS:
        days, exposure = content.days_past_due, _money(content, "balance")
    elif kind is Kind.DEFAULT:
        days, result = content.days_past_due, content.cause
        exposure, loss = _money(content, "exposure_at_default"), _money(content, "loss")
    elif kind is Kind.FRAUD_FINDING:
        result, loss = content.result, _money(content, "loss")
    elif kind is Kind.MANUAL_OVERRIDE:
        result, reason = content.verdict, content.reason_code
    elif kind is Kind.TAKE_UP:
        result, exposure = content.result, _money(content, "amount")
    return Observed(
        outcome.outcome_id,
        kind,
        outcome.observed_at.ToMicroseconds(),
        record.recorded_at.ToMicroseconds(),
        outcome.supersedes,
        days,
        result,
        reason,
        exposure,
        loss,
    )


def standings(outcomes: Iterable[Observed], as_of_us: int = NOW_US) -> list[tuple[Observed, Standing]]:
    """What was known of one decision at a moment, in the order of recording, and what holds of it.

    An outcome id that stands twice (a call repeated after a crash) counts once, as recorded last.
    """
    by_id: dict[str, Observed] = {}
    for one in sorted(outcomes, key=_order):
        if one.recorded_us <= as_of_us:
            by_id[one.outcome_id] = one
    known = sorted(by_id.values(), key=_order)
    superseded = _superseded(known, by_id)
    last: dict[tuple[Kind, int], str] = {}
    for one in known:
        if one.outcome_id not in superseded:
            last[one.kind, one.observed_us // _DAY_US] = one.outcome_id
    found = []
    for one in known:
        if one.outcome_id in superseded:
            found.append((one, Standing.SUPERSEDED))
        elif last[one.kind, one.observed_us // _DAY_US] != one.outcome_id:
            found.append((one, Standing.CORRECTED))
        else:
            found.append((one, Standing.HOLDS))
    return found


def holding(outcomes: Iterable[Observed], as_of_us: int = NOW_US) -> list[Observed]:
    """The outcomes that hold, as known at a moment, by time of observation. Retractions have done their work."""
    held = [one for one, standing in standings(outcomes, as_of_us) if standing is Standing.HOLDS]
    return sorted((one for one in held if one.kind is not Kind.RETRACTION), key=lambda one: one.observed_us)


def _order(one: Observed) -> tuple[int, str]:
    return one.recorded_us, one.outcome_id


def _superseded(known: Sequence[Observed], by_id: dict[str, Observed]) -> set[str]:
    """The ids that others name. Order does not matter: a correction may overtake what it corrects. Should outcomes
    from several hosts name each other in a circle, the one recorded last holds."""
    targets = {one.supersedes for one in known if one.supersedes in by_id and one.supersedes != one.outcome_id}
    seen: set[str] = set()

    def walk(one: Observed | None) -> None:
        while one is not None and one.outcome_id not in seen:
            seen.add(one.outcome_id)
            one = by_id.get(one.supersedes)

    for one in known:
        if one.outcome_id not in targets:
            walk(one)
    for one in reversed(known):
        if one.outcome_id not in seen:
            targets.discard(one.outcome_id)
            walk(one)
    return targets


def _money(message: Any, name: str) -> float:
    if not message.HasField(name):
        return math.nan
    money = getattr(message, name)
    return float(money.units + money.nanos / 1e9)
