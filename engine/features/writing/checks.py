"""What ids and event times must be, whatever the view."""

from __future__ import annotations

import re
from datetime import UTC, datetime

from engine.features.read_row import CLOCK_SKEW_US
from engine.features.writing.outcome import Fault, Rejected, RejectReason

# The same rule as for the ids of an application: a row under any other id could never be read.
ID_RULE = "1 to 128 characters of A-Z a-z 0-9 . _ : @ -"
is_id = re.compile(r"[A-Za-z0-9._:@-]{1,128}").fullmatch

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def id_fault(field: str, value: str) -> Fault | None:
    """What is wrong with an id; None when nothing is."""
    if is_id(value) is not None:
        return None
    message = "holds a character that is not allowed, or too many" if value else "is required"
    return Fault(field, RejectReason.INVALID_ID, f"{message}: {ID_RULE}")


def event_time_fault(event_time_us: int | None, now_us: int) -> Fault | None:
    """What is wrong with an event time, microseconds since 1970 UTC (None: there is none); None when nothing is."""
    if event_time_us is None:
        return Fault("event_time", RejectReason.EVENT_TIME_MISSING, "is required: the moment when this was true")
    if event_time_us < 0:
        return Fault("event_time", RejectReason.EVENT_TIME_INVALID, "lies before 1970")
    if event_time_us > now_us + CLOCK_SKEW_US:
        return Fault(
            "event_time",
            RejectReason.EVENT_TIME_IN_FUTURE,
            "lies more than five minutes ahead; check the source's clock",
        )
    return None


def microseconds_of(moment: datetime) -> int:
    """Microseconds since 1970 UTC, exactly. Raises Rejected for a moment that does not say its time zone."""
    if moment.tzinfo is None:
        raise Rejected(RejectReason.WRONG_TYPE, "must say its time zone")
    span = moment - _EPOCH
    return (span.days * 86_400 + span.seconds) * 1_000_000 + span.microseconds
