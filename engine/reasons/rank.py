"""The reason stage: which factors counted against the application, the weightiest first.

Method: points below a reference average (12 CFR 1002, comment 9(b)(2)-5). A model's contributions are measured
against a reference population that is versioned with the model, so the sum over a group of inputs is what the
applicant lost in points against the average of that population. Only losses count; none is dropped silently.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from engine.domain.enums import Component, Verdict
from engine.domain.outcome import RuleFired
from engine.domain.reason import AdverseReason, Reasons
from engine.domain.score import ModelScore
from engine.reasons.plan import ReasonGroups, ReasonPlan

# Sums of float32 contributions carry noise of this size; a loss below it is no loss. In points.
_NOISE = 1e-3
_COMPONENTS = tuple(Component)
# By the number of the verdict: none, APPROVE, DECLINE, REFER, COUNTER_OFFER.
_WEIGHT = (3, 3, 0, 1, 2)


def from_model(groups: ReasonGroups, score: ModelScore) -> list[AdverseReason]:
    """The adverse reasons of one model, the weightiest first; ties in the order of the model's own groups."""
    if score.contributions is None:
        return []
    raw = np.add.reduceat(score.contributions.take(groups.order), groups.starts, dtype=np.float64).tolist()
    per_raw, noise = groups.points_per_raw, _NOISE / groups.points_per_raw
    codes, features, component = groups.codes, groups.features, groups.component
    found = []
    # Sorting is stable in reverse too: of equal losses the one that the model lists first stays first.
    for index in sorted(range(len(raw)), key=raw.__getitem__, reverse=True):
        lost = raw[index]
        if lost <= noise:
            break
        found.append(AdverseReason(codes[index], component, lost * per_raw, features[index], ""))
    return found


def rank(plan: ReasonPlan, scores: Sequence[ModelScore], rules: Sequence[RuleFired], verdict: Verdict) -> Reasons:
    """All adverse reasons of a decision.

    Reasons of one code from several models of one component are joined by their larger contribution. A rule whose
    reason belongs to credit or fraud (a score below the cut-off) speaks for its component only when no model of that
    component explained itself: a failed cut-off is not a reason by itself. Principal reasons of rules are those that
    asked for the verdict.
    """
    # By the number of the component: hashing a member of an enum is a call in Python.
    by_component: list[list[AdverseReason]] = [[], [], [], []]
    for groups, score in zip(plan.groups, scores, strict=True):
        if groups is not None:
            found, before = from_model(groups, score), by_component[groups.component]
            by_component[groups.component] = _unique(before + found) if before else found
    from_rules = _from_rules(plan, rules)
    # A rule that asked for less than the verdict is no reason for it; the full list has it all the same.
    turned = {f"{rule.table}/{rule.rule}" for rule in rules if rule.verdict is verdict}
    every: list[AdverseReason] = []
    principal: list[tuple[AdverseReason, ...]] = [(), (), (), ()]
    for component in _COMPONENTS:
        found = by_component[component]
        spoken = [reason for reason in from_rules if reason.component is component]
        principal[component] = tuple((found or [r for r in spoken if r.rule in turned])[: plan.principal_max])
        every += found
        every += spoken
    return Reasons(
        credit=principal[Component.CREDIT],
        fraud=principal[Component.FRAUD],
        policy=principal[Component.POLICY],
        every=tuple(every),
    )


def _from_rules(plan: ReasonPlan, rules: Sequence[RuleFired]) -> list[AdverseReason]:
    """Reasons of rules, declines before referrals and those before the rest, else in the order they fired."""
    if not any(rule.reason for rule in rules):
        return []
    found = [
        (_WEIGHT[rule.verdict or 0], index, rule)
        for index, rule in enumerate(rules)
        if rule.reason and rule.verdict is not Verdict.APPROVE
    ]
    found.sort(key=lambda item: item[:2])
    return _unique(
        [
            AdverseReason(rule.reason, plan.catalogue[rule.reason].component, None, (), f"{rule.table}/{rule.rule}")
            for _, _, rule in found
        ]
    )


def _unique(reasons: list[AdverseReason]) -> list[AdverseReason]:
    """Each code once, at its first place."""
    seen: set[str] = set()
    kept = []
    for reason in sorted(reasons, key=_by_contribution):
        if reason.code not in seen:
            seen.add(reason.code)
            kept.append(reason)
    return kept


def _by_contribution(reason: AdverseReason) -> float:
    return -(reason.contribution or 0.0)
