"""The feature stage: rows and request fields in, `Facts` out. Pure: no store, no clock."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from math import isfinite

import numpy as np

from engine.domain.enums import FeatureStatus, SubstitutionAction, ValueOrigin
from engine.domain.facts import UNNAMED, ByteArray, Facts, FloatArray, LastGood, Row, RowFault, Substitution
from engine.domain.outcome import DegradedVerdict
from engine.features.encoding import STATE_MAGIC, RowError
from engine.features.plan import ExpiryPlan, FeaturePlan
from engine.features.read_row import CLOCK_SKEW_US, Seen, count, fill, keep_last_good, other_row, row_status

NAN = float("nan")
_PRESENT = FeatureStatus.PRESENT
_NULL = FeatureStatus.NULL
_NOT_FOUND = FeatureStatus.NOT_FOUND
_UNAVAILABLE = FeatureStatus.UNAVAILABLE
_WITHHELD = FeatureStatus.WITHHELD
# By number; there is none of number zero.
_STATUSES = (_NULL, *FeatureStatus)


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
    seen = Seen({}, {}, {}, {}, set(), [])
    whole = True  # nothing absent so far
    view_statuses = [_PRESENT] * len(rows)
    event_times = [0] * len(rows)
    index = -1
    for (decode, offset, all_present, max_age_us, view), row in zip(plan.steps, rows, strict=True):
        index += 1
        if type(row) is bytes:
            if view.counters is not None and row[:4] == STATE_MAGIC:
                view_statuses[index], complete = count(view, row, now_us, values, statuses, seen)
                if view_statuses[index] is _PRESENT:
                    event_times[index] = now_us  # counted up to this moment, so never old
                whole &= complete
                continue
            try:
                event_time, presence = decode(row, buffer, offset)
            except RowError as error:
                status, event_times[index] = other_row(plan, view, row, error, now_us, values, statuses, seen)
                whole = False
                view_statuses[index] = status
                continue
            event_times[index] = max(event_time, 0)
            age = now_us - event_time
            if presence == all_present and -CLOCK_SKEW_US <= age <= max_age_us and event_time >= 0:
                continue
            # A row that is true only later than now is no fact yet, and would never grow old; one from before
            # 1970 is a mistake of its writer.
            if age >= -CLOCK_SKEW_US and event_time >= 0:
                whole = False
                view_statuses[index] = row_status(plan, view, presence, age, values, statuses, seen)
                continue
            seen.faults.append(RowFault(view.name, "event_time"))
            status = _UNAVAILABLE
        elif type(row) is LastGood:
            event_times[index] = keep_last_good(plan, view, row.row, now_us, seen)
            status = _UNAVAILABLE
        else:
            # Anything but bytes that a store hands over is no row; it is not "no history" either.
            status = _NOT_FOUND if row is None or row is UNNAMED else _UNAVAILABLE
            if row is UNNAMED:
                seen.unnamed.update(range(view.start, view.start + view.count))
        whole = False
        view_statuses[index] = status
        fill(values, statuses, view, status)

    if sent:
        origins = origins.copy()
        for slot, value in sent:
            values[slot], statuses[slot], origins[slot] = value, _PRESENT, ValueOrigin.CALLER
            seen.forget(slot)

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

    if plan.consents:
        whole &= _withhold(plan, values, statuses, view_statuses, event_times, seen)
    if plan.expiries:
        sent_slots = {slot for slot, _ in sent}
        whole &= _expire(plan, values, statuses, event_times, sent_slots, now_us, seen)

    read = values
    substitutions: list[Substitution] = []
    degraded: dict[int, DegradedVerdict] = {}
    if not whole:
        read = values.copy()
        for kept in (seen.stale, seen.last_good):
            for slot, value in kept.items():
                read[slot] = value
        _substitute(plan, values, statuses, seen, substitutions, degraded)

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
        faults=tuple(seen.faults),
    )


def _withhold(
    plan: FeaturePlan,
    values: FloatArray,
    statuses: ByteArray,
    view_statuses: list[FeatureStatus],
    event_times: list[int],
    seen: Seen,
) -> bool:
    """Takes away the views whose consent is not given. True when none was taken."""
    # All consents are looked at before any view is taken away, so that their order does not matter.
    taken = [index for slot, index in plan.consents if values[slot] != 1.0]
    for index in taken:
        view = plan.views[index]
        view_statuses[index], event_times[index] = _WITHHELD, 0
        fill(values, statuses, view, _WITHHELD)
        for slot in range(view.start, view.start + view.count):
            seen.forget(slot)
    return not taken


def _expire(
    plan: FeaturePlan,
    values: FloatArray,
    statuses: ByteArray,
    event_times: list[int],
    sent_slots: set[int],
    now_us: int,
    seen: Seen,
) -> bool:
    """Lets what the law has silenced count as if it had never been. True when nothing had to be."""
    due: list[ExpiryPlan] = []
    for expiry in plan.expiries:
        since = values[expiry.since]
        if since != since:
            since = seen.stale.get(expiry.since, seen.last_good.get(expiry.since, NAN))
        if since + expiry.after_s <= now_us / 1e6:
            due.append(expiry)
    found = True
    for slot, _, _, then, index in due:
        for kept in (seen.stale, seen.last_good):
            if slot in kept:
                kept[slot] = then
        if statuses[slot] == _PRESENT:
            found = False
            statuses[slot], values[slot] = _WITHHELD, NAN
            seen.expired[slot] = then
            if slot not in sent_slots:
                seen.ages[slot] = now_us - event_times[index]
    return found


def _substitute(
    plan: FeaturePlan,
    values: FloatArray,
    statuses: ByteArray,
    seen: Seen,
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
        then = seen.expired.get(slot)
        if then is not None:
            values[slot] = then
            substitutions.append(Substitution(slot, status, SubstitutionAction.EXPIRED, then, seen.ages.get(slot)))
            continue
        feature = plan.features[slot]
        rule = feature.unnamed if slot in seen.unnamed else feature.rules[status]
        used = None
        if rule.action is SubstitutionAction.LAST_GOOD_VALUE:
            used = seen.last_good.get(slot)
            if used is None and rule.otherwise is not None:
                rule = rule.otherwise
        elif rule.action is SubstitutionAction.STALE_VALUE:
            used = seen.stale.get(slot)
        action = rule.action
        if action is SubstitutionAction.DEFAULT:
            used = rule.value
        elif action is SubstitutionAction.VERDICT and rule.verdict is not None:
            degraded[slot] = DegradedVerdict(feature.name, rule.verdict, rule.reason, rule.component)
        elif used is None:
            action = SubstitutionAction.MISSING
        if used is not None:
            values[slot] = used
        # The age of a value that was not lent says nothing of what was used.
        age = (
            None if status is _UNAVAILABLE and action is not SubstitutionAction.LAST_GOOD_VALUE else seen.ages.get(slot)
        )
        substitutions.append(Substitution(slot, status, action, used, age))


def _derive(
    plan: FeaturePlan,
    vector: list[float],
    values: FloatArray,
    statuses: ByteArray,
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
