"""What may become of a value on its way into a store. Numbers are those of `assay.feature.v1`; a test holds the two
together."""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple


class RejectReason(IntEnum):
    """Why a row or an event was not taken."""

    UNKNOWN_VIEW = 1
    KEPT_BY_ENGINE = 2
    INVALID_ID = 3
    EVENT_TIME_MISSING = 4
    EVENT_TIME_INVALID = 5
    EVENT_TIME_IN_FUTURE = 6
    UNKNOWN_FEATURE = 7
    WRONG_TYPE = 8
    NOT_FINITE = 9
    OUT_OF_RANGE = 10
    UNKNOWN_CATEGORY = 11
    UNKNOWN_UNIT = 12
    NO_VALUE = 13
    UNKNOWN_ENTITY = 14
    NAMED_TWICE = 15
    UNKNOWN_AMOUNT = 16
    UNREADABLE = 17


class CleaningRule(IntEnum):
    """What cleaning did to a value that was taken."""

    UNIT_CONVERTED = 1
    OUT_OF_RANGE_DROPPED = 2
    OUT_OF_RANGE_CLIPPED = 3
    CATEGORY_MAPPED = 4
    CATEGORY_DROPPED = 5


class Fault(NamedTuple):
    """One thing that is wrong with a row or an event: where (`values["debt_ratio"]`), what, and the same for a person.
    Holds neither ids nor values."""

    field: str
    reason: RejectReason
    message: str


class Rejected(Exception):
    """A value that cannot be taken. It has no place yet; who catches it knows where the value stood."""

    def __init__(self, reason: RejectReason, message: str) -> None:
        self.reason, self.message = reason, message
        super().__init__(message)

    def at(self, field: str) -> Fault:
        """The fault, with its place."""
        return Fault(field, self.reason, self.message)


def value_path(name: str) -> str:
    """The path of one value of a row. A name comes from the writer, so it is cut where it is too long to be one."""
    return f'values["{name if len(name) <= 64 else name[:61] + "..."}"]'
