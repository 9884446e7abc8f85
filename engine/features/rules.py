"""What holds for every feature once the rows are read: consent, expiry, the catalogue's stand-ins, derived features."""

from __future__ import annotations

import numpy as np

from engine.domain.enums import FeatureStatus, SubstitutionAction
from engine.domain.facts import ByteArray, FloatArray, Substitution
from engine.domain.outcome import DegradedVerdict
from engine.features.plan import ExpiryPlan, FeaturePlan, StandIns
from engine.features.read_row import PRESENT, WITHHELD, Seen, fill

NAN = float("nan")
_NULL = FeatureStatus.NULL
_UNAVAILABLE = FeatureStatus.UNAVAILABLE
_WITHHELD = FeatureStatus.WITHHELD
# By number; there is none of number zero.
_STATUSES = (_NULL, *FeatureStatus)
_MISSING, _DEFAULT, _EXPIRED = SubstitutionAction.MISSING, SubstitutionAction.DEFAULT, SubstitutionAction.EXPIRED
_VERDICT = SubstitutionAction.VERDICT
_STALE_VALUE, _LAST_GOOD_VALUE = SubstitutionAction.STALE_VALUE, SubstitutionAction.LAST_GOOD_VALUE
# Patterns of absence that are kept worked out for a flow.
_PATTERNS_MAX = 500


def withhold(
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


def expire(
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
    now_s = now_us / 1e6
    for expiry in plan.expiries:
        since = values.item(expiry.since)
        if since != since:
            since = seen.stale.get(expiry.since, seen.last_good.get(expiry.since, NAN))
        if since + expiry.after_s <= now_s:
            due.append(expiry)
    found = True
    for slot, _, _, then, index in due:
        for kept in (seen.stale, seen.last_good):
            if slot in kept:
                kept[slot] = then
        if statuses[slot] == PRESENT:
            found = False
            statuses[slot], values[slot] = WITHHELD, NAN
            seen.expired[slot] = then
            if slot not in sent_slots:
                seen.ages[slot] = now_us - event_times[index]
    return found


def substitute(plan: FeaturePlan, values: FloatArray, statuses: ByteArray, seen: Seen) -> StandIns:
    """Lets the catalogue's rule stand in for each used feature that is not PRESENT, in `values`.

    Where no value of the applicant lends itself, what stands in follows from the statuses alone, so it is worked out
    once for each pattern of them.
    """
    end = plan.derived_start
    if seen.ages or seen.stale or seen.last_good or seen.expired:
        found = _stand_ins(plan, statuses[:end], seen)
    else:
        pattern: object = statuses[:end].tobytes()
        if seen.unnamed:
            pattern = (pattern, frozenset(seen.unnamed))
        known = plan.patterns.get(pattern)
        if known is None:
            known = _stand_ins(plan, statuses[:end], seen)
            if len(plan.patterns) >= _PATTERNS_MAX:
                plan.patterns.clear()
            plan.patterns[pattern] = known
        found = known
    if found.slots.size:
        values[found.slots] = found.values
    return found


def _stand_ins(plan: FeaturePlan, statuses: ByteArray, seen: Seen) -> StandIns:
    slots: list[int] = []
    values: list[float] = []
    substitutions: list[Substitution] = []
    degraded: dict[int, DegradedVerdict] = {}
    codes = statuses.tolist()
    for slot in np.flatnonzero(statuses != PRESENT).tolist():
        if not plan.used[slot]:
            continue
        status = _STATUSES[codes[slot]]
        then = seen.expired.get(slot)
        if then is not None:
            slots.append(slot)
            values.append(then)
            substitutions.append(Substitution(slot, status, _EXPIRED, then, seen.ages.get(slot)))
            continue
        feature = plan.features[slot]
        rule = feature.unnamed if slot in seen.unnamed else feature.rules[status]
        used = None
        if rule.action is _LAST_GOOD_VALUE:
            used = seen.last_good.get(slot)
            if used is None and rule.otherwise is not None:
                rule = rule.otherwise
        elif rule.action is _STALE_VALUE:
            used = seen.stale.get(slot)
        action = rule.action
        if action is _DEFAULT:
            used = rule.value
        elif action is _VERDICT and rule.verdict is not None:
            degraded[slot] = DegradedVerdict(feature.name, rule.verdict, rule.reason, rule.component)
        elif used is None:
            action = _MISSING
        if used is not None:
            slots.append(slot)
            values.append(used)
        # The age of a value that was not lent says nothing of what was used.
        age = None if status is _UNAVAILABLE and action is not _LAST_GOOD_VALUE else seen.ages.get(slot)
        substitutions.append(Substitution(slot, status, action, used, age))
    places, used_values = np.array(slots, dtype=np.intp), np.array(values, dtype=np.float64)
    return StandIns(places, used_values, tuple(substitutions), tuple(degraded.values()), frozenset(degraded))


def derive(plan: FeaturePlan, vector: list[float], values: FloatArray, statuses: ByteArray) -> tuple[Substitution, ...]:
    """Computes the derived features in order, into `vector` and `values`. One that cannot be computed takes the status
    of the first argument that is not there, or NULL. Gives what is recorded of those."""
    start, end = plan.derived_start, plan.count
    bad = plan.derive_all(vector)
    values[start:end] = vector[start:end]
    if not bad:
        return ()
    substitutions = []
    for number in bad:
        derived = plan.derived[number]
        slot, status = derived.slot, _NULL
        for argument in derived.arguments:
            if argument < end and vector[argument] != vector[argument] and statuses[argument] != PRESENT:
                status = _STATUSES[statuses[argument]]
                break
        statuses[slot] = int(status)
        if plan.used[slot]:
            substitutions.append(Substitution(slot, status, _MISSING, None, None))
    return tuple(substitutions)
