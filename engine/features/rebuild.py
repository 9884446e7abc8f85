"""Facts of an earlier decision made into facts again, in the plan that they were had with: what was read is taken as it
stands, and the catalogue's rules and the derived features are worked out anew. Pure: no store, no clock."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

import numpy as np

from engine.domain.enums import FeatureStatus, ValueOrigin
from engine.domain.facts import ByteArray, Facts, FloatArray, Substitution
from engine.features.plan import FeaturePlan
from engine.features.read_row import Seen
from engine.features.rules import derive, substitute

NAN = float("nan")
# Plain numbers: to ask an enum for a member is a call.
_PRESENT, _NULL, _NOT_FOUND, _STALE, _UNAVAILABLE, _WITHHELD = (int(status) for status in FeatureStatus)
_CALLER = int(ValueOrigin.CALLER)
# By number; there is none of number zero.
_STATUSES = (FeatureStatus.NULL, *FeatureStatus)


class Known(NamedTuple):
    """What was known at an earlier decision, by the slots of its plan.

    values: as read, before anything stood in; statuses and origins: uint8; view_statuses: the numbers of the statuses;
    event_times_us: by view, 0 without a row.
    """

    values: FloatArray
    statuses: ByteArray
    origins: ByteArray
    view_statuses: Sequence[int]
    event_times_us: Sequence[int]


def known_of(facts: Facts) -> Known:
    """What facts at hand were made from."""
    return Known(facts.read, facts.statuses, facts.origins, facts.view_statuses, facts.event_times_us)


class Asked(NamedTuple):
    """What a decision is about besides facts that are read. amount: in whole currency units; now_us: microseconds since
    1970 UTC; unnamed: the places of the views whose entity the application does not name."""

    amount: float
    term_months: float
    now_us: int
    unnamed: Collection[int] = ()


class Rebuild:
    """Makes the facts of one plan from what was known with the same plan. Threads may call it at once."""

    def __init__(self, plan: FeaturePlan) -> None:
        self._plan = plan
        self._view_of = views_by_slot(plan)
        self._expiring = {expiry.slot: expiry.then for expiry in plan.expiries}

    def facts(self, known: Known, asked: Asked) -> Facts:
        """The facts as they were. Raises ValueError for what does not fit the plan."""
        plan = self._plan
        if not len(known.values) == len(known.statuses) == len(known.origins) == plan.count:
            raise ValueError(f"{len(known.values)} values for {plan.count} features")
        if not len(known.view_statuses) == len(known.event_times_us) == len(plan.views):
            raise ValueError(f"{len(known.view_statuses)} rows for {len(plan.views)} views")
        end = plan.derived_start
        values, statuses = known.values.copy(), known.statuses.copy()
        seen = Seen({}, {}, {}, {}, unnamed_slots(plan, asked), [])
        absent = np.flatnonzero(statuses[:end] != _PRESENT)
        self._note(absent.tolist(), known, asked.now_us, seen)
        values[absent] = NAN
        views = tuple([_STATUSES[status] for status in known.view_statuses])
        return settle(plan, values, statuses, known.origins, seen, views, tuple(known.event_times_us), asked)

    def _note(self, absent: list[int], known: Known, now_us: int, seen: Seen) -> None:
        """What was noted of values that are not PRESENT; see `engine.features.read_row`."""
        statuses, values, times = known.statuses.tolist(), known.values.tolist(), known.event_times_us
        for slot in absent:
            status, view, value = statuses[slot], self._view_of[slot], values[slot]
            if view < 0 or status in (_NULL, _NOT_FOUND):
                continue
            age = now_us - times[view]
            if status == _STALE:
                seen.ages[slot] = age
                if value == value:
                    seen.stale[slot] = value
            elif status == _UNAVAILABLE:
                if value == value:
                    seen.ages[slot], seen.last_good[slot] = age, value
            elif slot in self._expiring and known.view_statuses[view] != _WITHHELD:
                # The law silenced it, for a view whose consent lacks is withheld as a whole.
                seen.expired[slot] = self._expiring[slot]
                if known.origins[slot] != _CALLER:
                    seen.ages[slot] = age


def at_terms(plan: FeaturePlan, facts: Facts, asked: Asked) -> Facts:
    """The same facts at another amount and term: only derived features may differ."""
    end = plan.derived_start
    values, statuses, read = facts.values.copy(), facts.statuses.copy(), facts.read.copy()
    vector, lacking = _derived(plan, values, statuses, read, asked)
    return Facts(
        values=values,
        read=read,
        statuses=statuses,
        origins=facts.origins,
        vector=vector,
        substitutions=tuple([one for one in facts.substitutions if one.slot < end]) + lacking,
        degraded=facts.degraded,
        blocked=facts.blocked,
        view_statuses=facts.view_statuses,
        event_times_us=facts.event_times_us,
        faults=facts.faults,
    )


def views_by_slot(plan: FeaturePlan) -> list[int]:
    """The place of each slot's view; -1 for slots of none."""
    found = [-1] * plan.count
    for place, view in enumerate(plan.views):
        found[view.start : view.start + view.count] = [place] * view.count
    return found


def unnamed_slots(plan: FeaturePlan, asked: Asked) -> set[int]:
    """The slots of what the application names no entity for."""
    views = [plan.views[place] for place in asked.unnamed]
    return {slot for view in views for slot in range(view.start, view.start + view.count)}


def settle(
    plan: FeaturePlan,
    values: FloatArray,
    statuses: ByteArray,
    origins: ByteArray,
    seen: Seen,
    view_statuses: tuple[FeatureStatus, ...],
    event_times_us: tuple[int, ...],
    asked: Asked,
) -> Facts:
    """The end of the feature stage, as in `gather`: the catalogue's rules, then the derived features."""
    read = values.copy()
    for kept in (seen.stale, seen.last_good):
        for slot, value in kept.items():
            read[slot] = value
    _, _, substitutions, degraded, blocked = substitute(plan, values, statuses, seen)
    vector, lacking = _derived(plan, values, statuses, read, asked)
    return Facts(
        values=values,
        read=read,
        statuses=statuses,
        origins=origins,
        vector=vector,
        substitutions=substitutions + lacking,
        degraded=degraded,
        blocked=blocked,
        view_statuses=view_statuses,
        event_times_us=event_times_us,
    )


def _derived(
    plan: FeaturePlan, values: FloatArray, statuses: ByteArray, read: FloatArray, asked: Asked
) -> tuple[list[float], tuple[Substitution, ...]]:
    """Works the derived features out, into values, statuses and read. Gives the vector, and what is recorded of those
    that cannot be computed."""
    end = plan.derived_start
    values[end:], statuses[end:] = NAN, _PRESENT
    vector: list[float] = values.tolist()
    vector += (asked.amount, asked.term_months, asked.now_us / 1e6)
    vector += plan.constants
    lacking = derive(plan, vector, values, statuses)
    read[end:] = values[end:]
    return vector, lacking
