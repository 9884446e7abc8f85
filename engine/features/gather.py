"""The feature stage: rows and request fields in, `Facts` out. Pure: no store, no clock."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from math import isfinite

import numpy as np

from engine.domain.enums import FeatureStatus, SubstitutionAction, ValueOrigin
from engine.domain.facts import UNNAMED, Facts, Row, Substitution
from engine.domain.outcome import DegradedVerdict
from engine.features.encoding import RowCorrupt, RowOtherSchema
from engine.features.plan import FeaturePlan, ViewPlan

NAN = float("nan")
_PRESENT = FeatureStatus.PRESENT
_NULL = FeatureStatus.NULL
_NOT_FOUND = FeatureStatus.NOT_FOUND
_STALE = FeatureStatus.STALE
_UNAVAILABLE = FeatureStatus.UNAVAILABLE
# By number; there is none of number zero.
_STATUSES = (_NULL, *FeatureStatus)
# Clocks of two machines differ a little.
_CLOCK_SKEW_US = 5 * 60 * 1_000_000


def gather(
    plan: FeaturePlan,
    rows: Sequence[Row],
    request: Sequence[float],
    sent: Sequence[tuple[int, float]],
    amount: float,
    term_months: float,
    now_us: int,
) -> Facts:
    """Puts every value into its slot, gives it a status, and lets the catalogue's rules stand in for what is absent.

    rows: one for each of `plan.views`, in order. request: the request fields in slot order, NaN for those not sent.
    sent: (slot, value) of view features that the caller sent; they go before what the store holds. amount: in whole
    currency units. now_us: the moment of the decision, microseconds since 1970 UTC.
    """
    values = plan.values_template.copy()
    buffer = memoryview(values.data).cast("B")
    statuses = plan.statuses_template.copy()
    origins = plan.origins_template
    ages: dict[int, int] = {}
    stale: dict[int, float] = {}
    unnamed: set[int] = set()
    whole = True  # nothing absent so far
    view_statuses = [_PRESENT] * len(rows)
    event_times = [0] * len(rows)
    index = -1
    for (decode, offset, all_present, max_age_us, view), row in zip(plan.steps, rows, strict=True):
        index += 1
        if type(row) is bytes:
            try:
                event_time, presence = decode(row, buffer, offset)
            except (RowCorrupt, RowOtherSchema):
                status = _UNAVAILABLE
            else:
                event_times[index] = max(event_time, 0)
                age = now_us - event_time
                if presence == all_present and -_CLOCK_SKEW_US <= age <= max_age_us and event_time >= 0:
                    continue
                # A row that is true only later than now is no fact yet, and would never grow old; one from before
                # 1970 is a mistake of its writer.
                if age >= -_CLOCK_SKEW_US and event_time >= 0:
                    whole = False
                    view_statuses[index] = _row_status(plan, view, presence, age, values, statuses, ages, stale)
                    continue
                status = _UNAVAILABLE
        else:
            # Anything but bytes that a store hands over is no row; it is not "no history" either.
            status = _NOT_FOUND if row is None or row is UNNAMED else _UNAVAILABLE
            if row is UNNAMED:
                unnamed.update(range(view.start, view.start + view.count))
        whole = False
        view_statuses[index] = status
        _fill(values, statuses, view, status)

    if sent:
        origins = origins.copy()
        for slot, value in sent:
            values[slot], statuses[slot], origins[slot] = value, _PRESENT, ValueOrigin.CALLER
            stale.pop(slot, None)
            ages.pop(slot, None)

    start, end = plan.request_start, plan.derived_start
    if end > start:
        values[start:end] = request
    # Whatever is absent is NaN by now, and NaN is in no range; what is called PRESENT and is in no range is no fact.
    known = values[:end]
    inside = (known >= plan.lower[:end]) & (known <= plan.upper[:end])
    if not inside.all():
        whole = False
        for offset, value in enumerate(request):
            if value != value:
                statuses[start + offset] = _NOT_FOUND
        outside = np.flatnonzero(~inside & (statuses[:end] == _PRESENT))
        statuses[outside], values[outside] = _UNAVAILABLE, NAN

    read = values
    substitutions: list[Substitution] = []
    degraded: dict[int, DegradedVerdict] = {}
    if not whole:
        read = values.copy()
        for slot, value in stale.items():
            read[slot] = value
        _substitute(plan, values, statuses, ages, stale, unnamed, substitutions, degraded)

    vector: list[float] = values.tolist()
    vector += (amount, term_months, now_us / 1e6)
    vector += plan.constants
    if plan.derived:
        _derive(plan, vector, values, statuses, substitutions)
        if read is not values:
            read[end:] = values[end:]
    return Facts(
        values=values,
        read=read,
        statuses=statuses,
        origins=origins,
        vector=vector,
        substitutions=tuple(substitutions),
        degraded=tuple(degraded.values()),
        blocked=frozenset(degraded),
        view_statuses=tuple(view_statuses),
        event_times_us=tuple(event_times),
    )


def _fill(values: np.ndarray, statuses: np.ndarray, view: ViewPlan, status: FeatureStatus) -> None:
    """No row: every feature of the view has the same status and no value."""
    values[view.start : view.start + view.count] = NAN
    statuses[view.start : view.start + view.count] = status


def _row_status(
    plan: FeaturePlan,
    view: ViewPlan,
    presence: int,
    age_us: int,
    values: np.ndarray,
    statuses: np.ndarray,
    ages: dict[int, int],
    stale: dict[int, float],
) -> FeatureStatus:
    """A row with nulls or with values that are too old: each feature gets its own status. Gives STALE for the row when
    any of its features is."""
    row_status = _PRESENT
    for offset in range(view.count):
        slot = view.start + offset
        if not presence >> offset & 1:
            statuses[slot], values[slot] = _NULL, NAN
            continue
        limit = view.max_age_us[offset]
        if limit is not None and age_us > limit:
            row_status = _STALE
            value = float(values[slot])
            if plan.lower[slot] <= value <= plan.upper[slot]:
                stale[slot] = value
            ages[slot] = age_us
            statuses[slot], values[slot] = _STALE, NAN
    return row_status


def _substitute(
    plan: FeaturePlan,
    values: np.ndarray,
    statuses: np.ndarray,
    ages: dict[int, int],
    stale: dict[int, float],
    unnamed: set[int],
    substitutions: list[Substitution],
    degraded: dict[int, DegradedVerdict],
) -> None:
    """Lets the catalogue's rule stand in for each used feature that is not PRESENT."""
    end = plan.derived_start
    codes = statuses[:end].tolist()
    for slot in np.flatnonzero(statuses[:end] != _PRESENT).tolist():
        if not plan.used[slot]:
            continue
        status = _STATUSES[codes[slot]]
        feature = plan.features[slot]
        rule = feature.unnamed if slot in unnamed else feature.rules[status]
        action, used = rule.action, None
        if action is SubstitutionAction.DEFAULT:
            used = rule.value
        elif action is SubstitutionAction.STALE_VALUE:
            used = stale.get(slot)
            if used is None:
                action = SubstitutionAction.MISSING
        elif action is SubstitutionAction.VERDICT and rule.verdict is not None:
            degraded[slot] = DegradedVerdict(feature.name, rule.verdict, rule.reason, rule.component)
        if used is not None:
            values[slot] = used
        substitutions.append(Substitution(slot, status, action, used, ages.get(slot)))


def _derive(
    plan: FeaturePlan,
    vector: list[float],
    values: np.ndarray,
    statuses: np.ndarray,
    substitutions: list[Substitution],
) -> None:
    """Computes the derived features in order. One that cannot be computed takes the status of the first argument that
    is not there, or NULL."""
    end = plan.count
    for derived in plan.derived:
        slot, arguments = derived.slot, derived.arguments
        given = [vector[i] for i in arguments]
        value = NAN
        if derived.takes_missing or all(x == x for x in given):
            with suppress(OverflowError, ValueError, ZeroDivisionError):
                value = derived.call(*given)
        # Outside the range that the catalogue states: no number to decide by.
        if not (isfinite(value) and plan.lower[slot] <= value <= plan.upper[slot]):
            value = NAN
            status = _NULL
            for argument in arguments:
                if argument < end and vector[argument] != vector[argument] and statuses[argument] != _PRESENT:
                    status = _STATUSES[int(statuses[argument])]
                    break
            statuses[slot] = status
            if plan.used[slot]:
                substitutions.append(Substitution(slot, status, SubstitutionAction.MISSING, None, None))
        vector[slot] = value
        values[slot] = value
