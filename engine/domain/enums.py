"""The closed sets of words. Numbers are those of the protos (`assay.decision.v1`); a test holds the two together."""

from __future__ import annotations

from enum import IntEnum


class Verdict(IntEnum):
    """What the engine decided."""

    APPROVE = 1
    DECLINE = 2
    REFER = 3
    COUNTER_OFFER = 4


class FeatureStatus(IntEnum):
    """What is known about one feature: six different facts, never folded together."""

    PRESENT = 1
    NULL = 2
    NOT_FOUND = 3
    STALE = 4
    UNAVAILABLE = 5
    WITHHELD = 6


class ValueOrigin(IntEnum):
    """Where a feature's value came from."""

    NONE = 0
    STORE = 1
    CALLER = 2
    DERIVED = 3


class Component(IntEnum):
    """Which part of the decision a score or reason belongs to."""

    CREDIT = 1
    FRAUD = 2
    POLICY = 3


class SubstitutionAction(IntEnum):
    """What stood in for a feature that was not PRESENT."""

    MISSING = 1
    DEFAULT = 2
    STALE_VALUE = 3
    VERDICT = 4
    LAST_GOOD_VALUE = 5
    EXPIRED = 6


class RecordState(IntEnum):
    """What became of the decision record."""

    RECORDED = 1
    NOT_RECORDED = 2
