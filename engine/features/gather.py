"""The feature stage: rows and request fields in, `Facts` out. Pure: no store, no clock."""

from __future__ import annotations

from collections.abc import Sequence

from engine.domain.enums import FeatureStatus, ValueOrigin
from engine.domain.facts import UNNAMED, Facts, LastGood, Row, RowFault, Substitution
from engine.domain.outcome import DegradedVerdict
from engine.features.encoding import STATE_MAGIC, RowError
from engine.features.plan import FeaturePlan
from engine.features.read_row import (
    CLOCK_SKEW_US,
    NOT_FOUND,
    PRESENT,
    UNAVAILABLE,
    Seen,
    count,
    fill,
    keep_last_good,
    other_row,
    row_status,
)
from engine.features.rules import derive, expire, substitute, withhold

NAN = float("nan")
_PRESENT = FeatureStatus.PRESENT
_NOT_FOUND = FeatureStatus.NOT_FOUND
_UNAVAILABLE = FeatureStatus.UNAVAILABLE
_CALLER = int(ValueOrigin.CALLER)


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
    for index, ((read_row, all_present, max_age_us, view), row) in enumerate(zip(plan.steps, rows, strict=True)):
        if type(row) is bytes:
            if view.counters is not None and row[:4] == STATE_MAGIC:
                view_statuses[index], complete = count(view, row, now_us, values, statuses, seen)
                if view_statuses[index] is _PRESENT:
                    event_times[index] = now_us  # counted up to this moment, so never old
                whole &= complete
                continue
            try:
                event_time, presence = read_row(row, buffer)
            except RowError as error:
                status, event_times[index] = other_row(plan, view, row, error, now_us, values, statuses, seen)
                whole = False
                view_statuses[index] = status
                continue
            age = now_us - event_time
            if presence == all_present and -CLOCK_SKEW_US <= age <= max_age_us and event_time >= 0:
                event_times[index] = event_time
                continue
            event_times[index] = max(event_time, 0)
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
            values[slot], statuses[slot], origins[slot] = value, PRESENT, _CALLER
            seen.forget(slot)

    start, end = plan.request_start, plan.derived_start
    if end > start:
        values[start:end] = request
    # Whatever is absent is NaN by now, and NaN is in no range; what is called PRESENT and is in no range is no fact.
    known = values[:end]
    inside = known >= plan.lower[:end]
    inside &= known <= plan.upper[:end]
    if not inside.all():
        whole = False
        outside = ~inside
        outside &= statuses[:end] == PRESENT
        if outside.any():
            statuses[:end][outside] = UNAVAILABLE
            for slot, value in enumerate(request, start):
                if value != value:
                    statuses[slot] = NOT_FOUND
            known[outside] = NAN

    if plan.consents:
        whole &= withhold(plan, values, statuses, view_statuses, event_times, seen)
    if plan.expiries:
        sent_slots = {slot for slot, _ in sent}
        whole &= expire(plan, values, statuses, event_times, sent_slots, now_us, seen)

    read = values
    substitutions: tuple[Substitution, ...] = ()
    degraded: tuple[DegradedVerdict, ...] = ()
    blocked: frozenset[int] = frozenset()
    if not whole:
        read = values.copy()
        for kept in (seen.stale, seen.last_good):
            for slot, value in kept.items():
                read[slot] = value
        _, _, substitutions, degraded, blocked = substitute(plan, values, statuses, seen)

    vector: list[float] = values.tolist()
    vector += (amount, term_months, now_us / 1e6)
    vector += plan.constants
    if plan.derived:
        substitutions += derive(plan, vector, values, statuses)
        if read is not values:
            read[end:] = values[end:]
    return Facts(
        values=values,
        read=read,
        statuses=statuses,
        origins=origins,
        vector=vector,
        substitutions=substitutions,
        degraded=degraded,
        blocked=blocked,
        view_statuses=tuple(view_statuses),
        event_times_us=tuple(event_times),
        faults=tuple(seen.faults),
    )
