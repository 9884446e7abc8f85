"""Good or bad: what the outcomes of a decision come to under a definition, as known at a moment.

The label looks at a window that begins with the decision and is as long for every decision. A decision whose window
has not passed yet is immature and has no label, also when it went bad already: to count the early bad ones without the
good ones of the same age would overstate the bad rate.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import IntEnum
from typing import Literal

from assay.outcome.v1 import outcome_pb2 as pb
from engine.outcomes.standing import Kind, Observed

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MONTH_DAYS = (31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)


class State(IntEnum):
    """What can be said of a decision."""

    GOOD = 0
    BAD = 1
    # The window has not passed.
    IMMATURE = 2
    # The window has passed, and nothing or not enough is known of how it was repaid.
    UNOBSERVED = 3
    # There was no loan: the offer was not taken up.
    NOT_TAKEN_UP = 4


@dataclass(frozen=True, slots=True)
class Definition:
    """What counts as bad, and how long one waits for it.

    days_past_due: that many or more are bad; horizon_months: the window after the decision, in calendar months.
    coverage_months: a decision is good when its last status within the window is at most that much older than the
    window's end (or it was repaid in full), so that silence is not taken for repayment; silence: `good` takes it for
    repayment all the same, for sources that send bad news only. fraud_horizon_months: how long after a decision a
    fraud would have been found.
    """

    days_past_due: int = 90
    horizon_months: int = 12
    coverage_months: int = 3
    silence: Literal["unobserved", "good"] = "unobserved"
    fraud_horizon_months: int = 6

    def __str__(self) -> str:
        return f"{self.days_past_due}+ days past due (or default) within {self.horizon_months} months of the decision"


@dataclass(frozen=True, slots=True)
class Label:
    """at_us: when a bad one became bad, or when it was known that a good one is good; known_us: when that was
    recorded. None without a label, and where no single outcome says so."""

    state: State
    at_us: int | None = None
    known_us: int | None = None


def add_months(moment_us: int, months: int) -> int:
    """The same day and time so many calendar months later, UTC; the month's last day where there is no such day."""
    moment = moment_of(moment_us)
    year, month = divmod(moment.year * 12 + moment.month - 1 + months, 12)
    last = _MONTH_DAYS[month] + (month == 1 and year % 4 == 0 and (year % 100 != 0 or year % 400 == 0))
    later = moment.replace(year=year, month=month + 1, day=min(moment.day, last))
    return (later - _EPOCH) // timedelta(microseconds=1)


def moment_of(moment_us: int) -> datetime:
    """A moment in UTC."""
    return _EPOCH + timedelta(microseconds=moment_us)


def is_bad(one: Observed, definition: Definition) -> bool:
    """Whether an outcome says that the loan is bad. Arrears whose threshold is below the definition's do not."""
    if one.kind is Kind.REPAYMENT_STATUS:
        return one.days_past_due >= definition.days_past_due
    if one.kind is Kind.DEFAULT:
        return one.result != pb.DEFAULT_CAUSE_ARREARS or one.days_past_due >= definition.days_past_due
    return False


def credit_label(decided_us: int, held: Sequence[Observed], definition: Definition, as_of_us: int) -> Label:
    """The label for credit models. held: what holds as known at `as_of_us`, by time of observation."""
    end_us = add_months(decided_us, definition.horizon_months)
    if not taken_up(held):
        return Label(State.NOT_TAKEN_UP)
    if end_us > as_of_us:
        return Label(State.IMMATURE)
    inside = [one for one in held if one.observed_us <= end_us]
    for one in inside:
        if is_bad(one, definition):
            return Label(State.BAD, one.observed_us, one.recorded_us)
    covered_us = add_months(end_us, -definition.coverage_months)
    for one in reversed(inside):
        repaid = one.kind is Kind.REPAID_IN_FULL
        if repaid or (one.kind is Kind.REPAYMENT_STATUS and one.observed_us >= covered_us):
            return Label(State.GOOD, end_us, one.recorded_us)
    return Label(State.GOOD, end_us) if definition.silence == "good" else Label(State.UNOBSERVED)


def fraud_label(decided_us: int, held: Sequence[Observed], definition: Definition, as_of_us: int) -> Label:
    """The label for fraud models: bad is confirmed fraud. Without a finding it is good once the window has passed."""
    end_us = add_months(decided_us, definition.fraud_horizon_months)
    if end_us > as_of_us:
        return Label(State.IMMATURE)
    finding = fraud_finding([one for one in held if one.observed_us <= end_us])
    if finding is None:
        return Label(State.GOOD, end_us)
    state = State.BAD if finding.result == pb.FRAUD_RESULT_CONFIRMED else State.GOOD
    return Label(state, finding.observed_us, finding.recorded_us)


def taken_up(held: Sequence[Observed]) -> bool:
    """False when the last word on it is that the offer was not taken up."""
    last = [one for one in held if one.kind is Kind.TAKE_UP]
    return not last or last[-1].result != pb.TAKE_UP_RESULT_NOT_TAKEN_UP


def fraud_finding(held: Sequence[Observed]) -> Observed | None:
    """The last finding of an investigation, or None."""
    return next((one for one in reversed(held) if one.kind is Kind.FRAUD_FINDING), None)


def manual_override(held: Sequence[Observed]) -> Observed | None:
    """The last word of a person, or None."""
    return next((one for one in reversed(held) if one.kind is Kind.MANUAL_OVERRIDE), None)


def first_bad_us(held: Sequence[Observed], definition: Definition) -> int | None:
    """When the loan became bad, however late; None while it has not."""
    return next((one.observed_us for one in held if is_bad(one, definition)), None)


def loss_of(held: Sequence[Observed]) -> float | None:
    """What was lost, as last stated; None where nobody said."""
    return next((one.loss for one in reversed(held) if one.loss == one.loss), None)
