"""What was known at the moment of a decision."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from engine.domain.enums import FeatureStatus, SubstitutionAction
from engine.domain.outcome import DegradedVerdict

FloatArray = NDArray[np.float64]
ByteArray = NDArray[np.uint8]


class NoRow:
    """Why there are no bytes: UNREAD or UNNAMED."""

    __slots__ = ("_name",)

    def __init__(self, name: str) -> None:
        self._name = name

    def __repr__(self) -> str:
        return self._name


# The store failed, was late or held bytes that do not decode.
UNREAD = NoRow("UNREAD")
# The application names no such entity, so nothing was read. A default for "no history" does not stand in here: that
# nothing is known of a device is another fact than that there is no device.
UNNAMED = NoRow("UNNAMED")


class LastGood(NamedTuple):
    """The store failed; `row` is what it last gave for the key, while it could."""

    row: bytes


# One row as it was had: its bytes, None when the store has no such row, UNREAD, UNNAMED, or the last good one.
Row = bytes | None | NoRow | LastGood


class RowFault(NamedTuple):
    """A row that was there and could not be used. kind: `corrupt`, `other_schema` or `event_time` (in the future, or
    before 1970). fingerprint: of the schema that is not known."""

    view: str
    kind: str
    fingerprint: bytes = b""


class Substitution(NamedTuple):
    """One feature that was not PRESENT and what stood in for it. age_us: of the value in the store, None without."""

    slot: int
    status: FeatureStatus
    action: SubstitutionAction
    value_used: float | None
    age_us: int | None


@dataclass(slots=True)
class Facts:
    """All feature values of one decision, by slot of the flow's plan.

    values: float64, NaN for missing, after substitution; read: the same before it, stale values among them; statuses
    and origins: uint8, `FeatureStatus` and `ValueOrigin`; vector: the values as Python floats, with the plan's
    built-ins and constants behind them; view_statuses and event_times_us: by view of the plan, 0 without a row;
    blocked: the slots for whose absence the catalogue names a verdict: a model that takes one of them gives no score,
    for a score without it would be no fact to decline by.
    """

    values: FloatArray
    read: FloatArray
    statuses: ByteArray
    origins: ByteArray
    vector: list[float]
    substitutions: tuple[Substitution, ...]
    degraded: tuple[DegradedVerdict, ...]
    blocked: frozenset[int]
    view_statuses: tuple[FeatureStatus, ...]
    event_times_us: tuple[int, ...]
    faults: tuple[RowFault, ...] = ()
