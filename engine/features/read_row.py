"""One row as a store gave it: its values into their slots, a status for each, and what it may lend. Pure."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from engine.domain.enums import FeatureStatus
from engine.domain.facts import ByteArray, FloatArray, RowFault
from engine.features.encoding import RowError, RowOtherSchema
from engine.features.plan import FeaturePlan, ViewPlan

NAN = float("nan")
_PRESENT = FeatureStatus.PRESENT
_NULL = FeatureStatus.NULL
_NOT_FOUND = FeatureStatus.NOT_FOUND
_STALE = FeatureStatus.STALE
_UNAVAILABLE = FeatureStatus.UNAVAILABLE
# The same as plain numbers: an array takes those several times as fast.
PRESENT, NULL, NOT_FOUND, STALE = int(_PRESENT), int(_NULL), int(_NOT_FOUND), int(_STALE)
UNAVAILABLE, WITHHELD = int(_UNAVAILABLE), int(FeatureStatus.WITHHELD)
# Clocks of two machines differ a little.
CLOCK_SKEW_US = 5 * 60 * 1_000_000


class Seen(NamedTuple):
    """What was noted of values that are not PRESENT, by slot: ages in microseconds, stale and last good values, what
    stands in for expired ones; the slots of entities not named; rows that could not be used."""

    ages: dict[int, int]
    stale: dict[int, float]
    last_good: dict[int, float]
    expired: dict[int, float]
    unnamed: set[int]
    faults: list[RowFault]

    def forget(self, slot: int) -> None:
        """The slot has another value now, or may have none."""
        for noted in (self.ages, self.stale, self.last_good):
            noted.pop(slot, None)


def count(
    view: ViewPlan, state: bytes, now_us: int, values: FloatArray, statuses: ByteArray, seen: Seen
) -> tuple[FeatureStatus, bool]:
    """Fills a view from a state of its counters. Gives the status of the row, and whether all of it is there: a time
    since nothing is not."""
    assert view.counters is not None
    try:
        counted = view.counters(state, now_us)
    except RowError as error:
        seen.faults.append(_fault(view, error))
        fill(values, statuses, view, _UNAVAILABLE)
        return _UNAVAILABLE, False
    whole = True
    for slot, value, cap in zip(range(view.start, view.start + view.count), counted, view.caps, strict=True):
        values[slot] = value if value <= cap or value != value else cap
        if value != value:
            statuses[slot], whole = NULL, False
    return _PRESENT, whole


def _fault(view: ViewPlan, error: RowError) -> RowFault:
    if isinstance(error, RowOtherSchema):
        return RowFault(view.name, "other_schema", error.fingerprint)
    return RowFault(view.name, "corrupt")


def other_row(
    plan: FeaturePlan,
    view: ViewPlan,
    row: bytes,
    error: RowError,
    now_us: int,
    values: FloatArray,
    statuses: ByteArray,
    seen: Seen,
) -> tuple[FeatureStatus, int]:
    """A row that is not of the view's own schema: read by name where its schema is known, else UNAVAILABLE. Gives the
    status of the row and its event time."""
    translator = view.translators.get(error.fingerprint) if isinstance(error, RowOtherSchema) else None
    if translator is not None:
        try:
            event_time, presence, known = translator.decode_into(row, values, view.start)
        except RowError as refused:
            error = refused
        else:
            age = now_us - event_time
            if age >= -CLOCK_SKEW_US and event_time >= 0:
                status = row_status(plan, view, presence, age, values, statuses, seen)
                for offset in range(view.count):
                    if not known >> offset & 1:
                        statuses[view.start + offset] = NOT_FOUND
                return status, event_time
            seen.faults.append(RowFault(view.name, "event_time"))
            fill(values, statuses, view, _UNAVAILABLE)
            return _UNAVAILABLE, max(event_time, 0)
    seen.faults.append(_fault(view, error))
    fill(values, statuses, view, _UNAVAILABLE)
    return _UNAVAILABLE, 0


def keep_last_good(plan: FeaturePlan, view: ViewPlan, row: bytes, now_us: int, seen: Seen) -> int:
    """Notes what a row that was read earlier may lend: values that are not too old and in range. Gives its event
    time; 0 when it lends nothing."""
    scratch = np.empty(view.count)
    try:
        event_time, presence = view.decoder.decode_into(row, scratch, 0)
    except RowError:
        return 0
    age = now_us - event_time
    if age < -CLOCK_SKEW_US or event_time < 0:
        return 0
    for offset, value in enumerate(scratch.tolist()):
        slot, limit = view.start + offset, view.max_age_us[offset]
        fresh = limit is None or age <= limit
        if presence >> offset & 1 and fresh and plan.lower[slot] <= value <= plan.upper[slot]:
            seen.last_good[slot], seen.ages[slot] = value, age
    return event_time


def fill(values: FloatArray, statuses: ByteArray, view: ViewPlan, status: FeatureStatus) -> None:
    """No row: every feature of the view has the same status and no value."""
    values[view.start : view.start + view.count] = NAN
    statuses[view.start : view.start + view.count] = int(status)


def row_status(
    plan: FeaturePlan,
    view: ViewPlan,
    presence: int,
    age_us: int,
    values: FloatArray,
    statuses: ByteArray,
    seen: Seen,
) -> FeatureStatus:
    """A row with nulls or with values that are too old: each feature gets its own status. Gives STALE for the row when
    any of its features is."""
    row_status = _PRESENT
    absent = ~presence & (1 << view.count) - 1
    while absent:
        slot = view.start + absent.bit_length() - 1
        absent ^= 1 << slot - view.start
        statuses[slot], values[slot] = NULL, NAN
    if age_us <= view.max_age_us_min:
        return row_status
    for offset, limit in enumerate(view.max_age_us):
        if limit is not None and age_us > limit and presence >> offset & 1:
            slot = view.start + offset
            row_status = _STALE
            value = float(values[slot])
            if plan.lower[slot] <= value <= plan.upper[slot]:
                seen.stale[slot] = value
            seen.ages[slot] = age_us
            statuses[slot], values[slot] = STALE, NAN
    return row_status
